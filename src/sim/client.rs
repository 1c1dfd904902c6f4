//! The client's end of a simulated connection, in the hands of the test.

use std::net::SocketAddr;
use std::rc::Rc;

use super::net::{Leaving, Link, Server};
use super::world::Core;
use crate::id::NodeId;

/// A client of a node, in the hands of the test. Dropped, it closes.
pub struct Client {
    core: Rc<Core>,
    number: u64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.number)
    }
}

impl Client {
    pub(super) fn connect(core: &Rc<Core>, node: NodeId, port: u16) -> Self {
        let number = core.world.borrow_mut().connect(node, port);
        Self { core: core.clone(), number }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Link) -> T) -> T {
        let mut world = self.core.world.borrow_mut();
        f(world.links.get_mut(&self.number).expect("a client has its link"))
    }

    /// Sends `bytes`. What the node is too slow to read waits here: [`Client::unsent`].
    pub fn send(&self, bytes: &[u8]) {
        self.with(|link| {
            let goes = link.leaving == Leaving::No && !matches!(link.server, Server::Gone);
            link.outbox.extend(bytes.iter().filter(|_| goes));
        });
        self.core.world.borrow_mut().pump_up(self.number);
    }

    /// Takes what has arrived since the last call; so makes room for more.
    pub fn received(&self) -> Vec<u8> {
        self.core.world.borrow_mut().drain_inbox(self.number)
    }

    /// Bytes that found no room on the way yet.
    pub fn unsent(&self) -> usize {
        self.with(|link| link.outbox.len())
    }

    /// Whether a shard has the connection.
    pub fn is_connected(&self) -> bool {
        self.with(|link| matches!(link.server, Server::Open(..)))
    }

    /// Whether nothing more will arrive: refused, closed by the shard, or the node went down.
    pub fn is_ended(&self) -> bool {
        self.with(|link| link.client_ended)
    }

    /// The address the shard sees.
    pub fn addr(&self) -> SocketAddr {
        self.with(|link| link.addr)
    }

    /// Sends no more, but still reads.
    pub fn half_close(&self) {
        self.leave(Leaving::Half);
    }

    /// Closes, after what was sent.
    pub fn close(&self) {
        self.leave(Leaving::Closed);
    }

    /// Closes at once; what was sent and has not arrived is lost.
    pub fn reset(&self) {
        self.with(Link::lose_sent);
        self.leave(Leaving::Closed);
    }

    fn leave(&self, leaving: Leaving) {
        self.with(|link| link.leaving = link.leaving.max(leaving));
        self.core.world.borrow_mut().pump_up(self.number);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Borrowed only if the simulation itself panicked.
        let Ok(mut world) = self.core.world.try_borrow_mut() else { return };
        if let Some(link) = world.links.get_mut(&self.number) {
            link.leaving = Leaving::Closed;
            link.client_dropped = true;
            if link.client_ended {
                world.links.remove(&self.number);
            }
        }
        world.pump_up(self.number);
    }
}
