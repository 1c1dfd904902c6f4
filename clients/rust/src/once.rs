//! Names for writes that are done once: the client's session and a number for each request; and
//! which of the servers' addresses is next. Shared by all connections of a client, and by both
//! clients.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::options::Options;
use crate::retry::random;

/// A session, as a connection says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub id: [u8; 16],
    /// When it began, as a server said; 0: none has yet.
    pub born: u64,
    /// It began after this.
    pub after: u64,
    /// Which of this client's sessions, from 1; a connection without a session has 0.
    pub number: u64,
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Names {
    session: Mutex<Identity>,
    next: AtomicU64,
    turn: AtomicUsize,
}

fn new_id() -> [u8; 16] {
    (u128::from(random()) << 64 | u128::from(random())).to_le_bytes()
}

impl Default for Names {
    fn default() -> Self {
        let session = Mutex::new(Identity { id: new_id(), born: 0, after: 0, number: 1 });
        let turn = AtomicUsize::new(random() as usize >> 1);
        Self { session, next: AtomicU64::new(1), turn }
    }
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, Identity> {
        // No step leaves it half changed.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other request of this client has.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The session that is used now.
    pub fn session(&self) -> Identity {
        *self.lock()
    }

    /// A server said that the session began then; the first word counts. When it did, or 0: there
    /// is a newer session.
    pub fn born(&self, said: Identity, born: u64) -> u64 {
        let mut session = self.lock();
        if session.number != said.number {
            return 0;
        }
        if session.born == 0 {
            session.born = born.max(session.after + 1);
        }
        session.born
    }

    /// A server has forgotten that session: the next writes are in another, which began `after`.
    pub fn renew(&self, number: u64, after: u64) {
        let mut session = self.lock();
        if session.number == number {
            let after = after.min(u64::MAX - 1);
            *session = Identity { id: new_id(), born: 0, after, number: number + 1 };
        }
    }

    /// Where to connect to.
    pub fn address<'o>(&self, options: &'o Options) -> &'o str {
        let count = options.address.split(',').count();
        let turn = self.turn.load(Ordering::Relaxed) % count;
        options.address.split(',').nth(turn).expect("it is one of them").trim()
    }

    /// That was in vain: the next one, next time.
    pub fn pass_on(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_birth_counts_and_a_new_session_has_none() {
        let names = Names::default();
        let first = names.session();

        assert_eq!((names.born(first, 7), names.born(first, 8)), (7, 7));
        names.renew(first.number, 50);
        names.renew(first.number, 50);

        let second = names.session();
        assert_eq!((second.number, second.born), (2, 0));
        assert_ne!(second.id, first.id);
        assert_eq!(names.born(first, 9), 0, "it is another's");
        assert_eq!(names.born(second, 9), 51);
        assert!(names.next() < names.next());
    }

    #[test]
    fn all_addresses_come_round() {
        let (names, options) = (Names::default(), Options::new("a:1, b:2"));
        let two = [(); 2].map(|()| {
            names.pass_on();
            names.address(&options)
        });

        assert!(two.contains(&"a:1") && two.contains(&"b:2"));
    }
}
