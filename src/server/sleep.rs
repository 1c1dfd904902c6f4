//! `DEBUG SLEEP`: one connection waits, its core serves others.

use std::rc::Rc;
use std::time::Duration;

use super::Server;
use crate::env::{Class, ConnId, Env};

/// A connection whose time has come.
pub(super) struct Woken {
    conn: ConnId,
    /// Whether it is answered (`CLIENT REPLY`).
    answered: bool,
}

impl<E: Env> Server<E> {
    /// Runs nothing of a connection for so long.
    pub(super) fn put_to_sleep(&mut self, index: u32, ms: u64, answered: bool) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        conn.busy = true;
        let (conn, env, woken) = (conn.id, self.env.clone(), Rc::clone(&self.woken));
        self.env.spawn(Class::Foreground, async move {
            env.sleep(Duration::from_millis(ms)).await;
            woken.borrow_mut().push(Woken { conn, answered });
            env.notify();
        });
    }

    /// Answers those whose time has come.
    pub(super) fn wake_sleepers(&mut self) {
        for Woken { conn: id, answered } in self.woken.take() {
            let Some(conn) = self.conn(id) else { continue };
            conn.busy = false;
            if answered {
                conn.output.reply(conn.session.proto, |reply| reply.simple("OK"));
            }
            self.mark_dirty(id.index);
        }
    }
}
