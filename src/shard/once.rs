//! What is kept of writes that are done once: their answers, as [`crate::partition`] keeps them.
//!
//! ```text
//! reply := 0 body       done: the body of the binary protocol's reply
//!        | 1 version:u64 index:u32     the condition of that op does not hold
//! ```
//!
//! Little-endian, and in logs and tables: frozen.

use super::{ConditionFailed, Shard};
use crate::env::Env;
use crate::id::Once;
use crate::partition::{Recalled, Reply};
use crate::protocol::binary::{Outcome, Outcomes};

const DONE: u8 = 0;
const FAILED: u8 = 1;

/// The answer to a write that was asked for before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was done: the body of the reply.
    Done(Vec<u8>),
    /// It was not, since a condition did not hold.
    Failed(ConditionFailed),
}

impl Told {
    /// Back from what was kept.
    ///
    /// # Panics
    /// If this program did not write it; its checksum was right.
    pub fn decode(reply: &[u8]) -> Self {
        match reply.split_first() {
            Some((&DONE, body)) => Self::Done(body.to_vec()),
            Some((&FAILED, numbers)) if numbers.len() == 12 => {
                let version = u64::from_le_bytes(*numbers.first_chunk().expect("eight bytes"));
                let index = u32::from_le_bytes(*numbers.last_chunk().expect("four bytes"));
                Self::Failed(ConditionFailed { index: index as usize, version })
            }
            _ => panic!("a kept reply begins with {:?}", reply.first()),
        }
    }
}

fn failed(of: &ConditionFailed) -> Reply {
    let mut reply = Reply::from_slice(&[FAILED]);
    reply.extend_from_slice(&of.version.to_le_bytes());
    reply.extend_from_slice(&(of.index as u32).to_le_bytes());
    reply
}

fn done(encode: impl FnOnce(&mut Vec<u8>)) -> Reply {
    let mut reply = vec![DONE];
    encode(&mut reply);
    reply.into()
}

impl<E: Env> Shard<E> {
    /// What is known of a write that is to be done once.
    pub fn recall(&self, place: u32, once: &Once) -> Recalled {
        self.partition(place).recall(once)
    }

    /// Remembers what came of a write; returns the entry to wait for. Its partition is to be
    /// touched next.
    pub(super) fn remember(
        &mut self,
        place: u32,
        once: Once,
        written: &Result<Outcome, ConditionFailed>,
    ) -> u64 {
        let reply = match written {
            Ok(outcome) => done(|out| outcome.encode(out)),
            Err(of) => failed(of),
        };
        self.partitions[place as usize].remember(once, reply, self.now_ms)
    }

    /// As [`Shard::remember`], of a batch.
    pub(super) fn remember_all(
        &mut self,
        place: u32,
        once: Once,
        written: &Result<Vec<Outcome>, ConditionFailed>,
    ) -> u64 {
        let reply = match written {
            Ok(outcomes) => {
                let timestamp = outcomes.iter().map(|outcome| outcome.timestamp).max();
                done(|out| Outcomes::encode(timestamp.unwrap_or(0), outcomes, out))
            }
            Err(of) => failed(of),
        };
        self.partitions[place as usize].remember(once, reply, self.now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_kept_and_the_bytes_are_frozen() {
        let reply = done(|out| out.extend_from_slice(b"body"));
        assert_eq!(&*reply, b"\x00body");
        assert_eq!(Told::decode(&reply), Told::Done(b"body".to_vec()));

        let of = ConditionFailed { index: 2, version: 0x0807_0605_0403_0201 };
        let reply = failed(&of);
        assert_eq!(&*reply, b"\x01\x01\x02\x03\x04\x05\x06\x07\x08\x02\0\0\0");
        assert_eq!(Told::decode(&reply), Told::Failed(of));
    }
}
