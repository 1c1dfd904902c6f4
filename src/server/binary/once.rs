//! Writes that are done once, however often they are asked for: what a request and a connection
//! say of it, and the answer to whoever asks again.
//!
//! What was answered is looked up where the write would be evaluated, before anything can refuse
//! it: a retry of what was done must not be told that it was not. Not here: what is kept, and for
//! how long ([`crate::partition`]).

use std::num::NonZeroU64;
use std::time::Duration;

use super::Asker;
use crate::env::Env;
use crate::id::{Once, SessionId, Timestamp};
use crate::partition::Recalled;
use crate::protocol::binary::{
    Code, Condition, FLAG_ONCE, FLAG_STALE, FLAGS_ACK, Failure, Header, Opcode, Reply,
};
use crate::server::Server;
use crate::shard::Told;

/// How far ahead of this node's clock a session's birth may be: another node gave it.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// The session in which a request is to be done once, if it is; `of`: its connection's.
///
/// # Errors
/// Why that can not be.
pub(super) fn session_of(
    header: &Header,
    of: Option<SessionId>,
) -> Result<Option<SessionId>, &'static str> {
    if header.flags == 0 {
        return Ok(None);
    }
    let may = [Opcode::Set, Opcode::Delete, Opcode::Batch].map(|opcode| opcode as u8);
    if header.ack().is_some() && !super::is_on_keys(header.opcode) {
        return Err("only a request on keys says what its answer waits for");
    }
    match header.flags & !FLAGS_ACK {
        0 => Ok(None),
        FLAG_ONCE if !may.contains(&header.opcode) => Err("only a write is done once"),
        FLAG_ONCE if of.is_none() => Err("what is done once is in a session: say which before"),
        FLAG_ONCE => Ok(of),
        FLAG_STALE if super::may_be_stale(header) => Ok(None),
        FLAG_STALE => Err("only a get or a multi-get may be answered with what is old"),
        _ => Err("a request has no such flags"),
    }
}

impl<E: Env> Server<E> {
    /// A connection says in which session its writes are.
    pub(super) fn begin_session(&mut self, asker: &Asker, id: [u8; 16], born: u64) {
        let now_ms = self.env.unix_ms();
        let latest = Timestamp::from_ms(now_ms + AHEAD_MAX.as_millis() as u64);
        if born > latest.0 {
            let text = "the session began in the future: say 0, and after that what is answered";
            return self.fail(asker, Failure::new(Code::BadRequest, text));
        }
        let born = NonZeroU64::new(born).unwrap_or_else(|| {
            let now = Timestamp::from_ms(now_ms.max(1)).0;
            NonZeroU64::new(now).expect("it is past the epoch")
        });
        if let Some(line) = self.conn(asker.conn).and_then(|conn| conn.binary.as_deref_mut()) {
            line.session = Some(SessionId { id, born });
        }
        self.reply(asker, &Reply::Session(born.get()));
    }

    /// Whether a write was asked for before; answered as it was then.
    pub(super) fn answers_again<'c>(
        &mut self,
        asker: &Asker,
        place: u32,
        once: &Once,
        condition_of: impl FnOnce(usize) -> Condition<'c>,
    ) -> bool {
        let (reply, hold) = match self.shard.recall(place, once) {
            Recalled::New => return false,
            Recalled::TooOld => {
                let text = "what is kept of the session does not reach back so far: whether it \
                            was done before is unknown";
                let timestamp = self.shard.partition(place).sessions().forgotten().0;
                self.fail(asker, Failure { timestamp, ..Failure::new(Code::TooOld, text) });
                return true;
            }
            Recalled::Told(reply, hold) => (reply, hold),
        };
        let wait = hold.map(|entry| (place, entry));
        match Told::decode(&reply) {
            Told::Done(body) => self.respond(asker, wait.as_slice(), 0, |out| {
                out.extend_from_slice(&body);
                None
            }),
            Told::Failed(failed) => {
                let condition = condition_of(failed.index);
                self.fail_condition(asker, wait.as_slice(), failed, condition);
            }
        }
        true
    }
}
