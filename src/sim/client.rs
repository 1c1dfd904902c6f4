//! The client's end of a simulated connection, in the hands of the test.

use std::net::SocketAddr;
use std::rc::Rc;

use super::link::{End, Leaving, Link, Place, Side};
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

    fn with_end<T>(&self, f: impl FnOnce(&mut End) -> T) -> T {
        self.with(|link| f(link.end_mut(Side::Opener)))
    }

    fn pump(&self) {
        self.core.world.borrow_mut().pump(self.number, Side::Opener);
    }

    /// Sends `bytes`. What the node is too slow to read waits here: [`Client::unsent`].
    pub fn send(&self, bytes: &[u8]) {
        self.with(|link| {
            let is_gone = matches!(link.end(Side::Acceptor).place, Place::Gone);
            let end = link.end_mut(Side::Opener);
            let goes = end.leaving == Leaving::No && !is_gone;
            end.outbox.extend(bytes.iter().filter(|_| goes));
        });
        self.pump();
    }

    /// Takes what has arrived since the last call; so makes room for more.
    pub fn received(&self) -> Vec<u8> {
        self.core.world.borrow_mut().drain_inbox(self.number)
    }

    /// Bytes that found no room on the way yet.
    pub fn unsent(&self) -> usize {
        self.with_end(|end| end.outbox.len())
    }

    /// Whether a shard has the connection.
    pub fn is_connected(&self) -> bool {
        self.with(|link| matches!(link.end(Side::Acceptor).place, Place::Open(..)))
    }

    /// Whether nothing more will arrive: refused, closed by the shard, or the node went down.
    pub fn is_ended(&self) -> bool {
        self.with_end(|end| end.is_over)
    }

    /// The address the shard sees.
    pub fn addr(&self) -> SocketAddr {
        self.with_end(|end| end.addr)
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
        self.with(|link| link.lose_sent(Side::Opener));
        self.leave(Leaving::Closed);
    }

    fn leave(&self, leaving: Leaving) {
        self.with_end(|end| end.leaving = end.leaving.max(leaving));
        self.pump();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Borrowed only if the simulation itself panicked.
        let Ok(mut world) = self.core.world.try_borrow_mut() else { return };
        if let Some(link) = world.links.get_mut(&self.number) {
            let end = link.end_mut(Side::Opener);
            end.leaving = Leaving::Closed;
            end.dropped = true;
            if end.is_over {
                world.links.remove(&self.number);
            }
        }
        world.pump(self.number, Side::Opener);
    }
}
