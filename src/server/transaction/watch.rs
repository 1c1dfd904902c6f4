//! WATCH: what a connection's keys are, each as its own shard sees it.
//!
//! Keys of this shard are looked at here, those of others by one request per shard; the reply waits
//! for all. EXEC takes what was seen to where it runs.

use super::super::Server;
use super::super::output::Part;
use super::super::remote::{self, Answered};
use super::super::together::{Group, Place};
use super::WATCHED_MAX;
use crate::command::Spec;
use crate::env::{ConnId, Env};
use crate::id::{ShardId, Slot, Timestamp};
use crate::lsm::key;
use crate::partition::Seen;
use crate::protocol::resp::Args;
use crate::shard::Watched;
use crate::shard::mailbox::Element;

impl<E: Env> Server<E> {
    pub(super) fn watch(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        if self.node.is_cluster_mode()
            && let Some(error) = self.check_slots(spec, &args)
        {
            return self.refuse(index, &error);
        }
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let pending = conn.pending.get_or_insert_default();
        if pending.watched.len() + args.len() - 1 > WATCHED_MAX {
            return self.refuse(index, &format!("ERR at most {WATCHED_MAX} keys can be watched"));
        }
        if self.parks(index, spec, args) {
            return;
        }
        self.watch_known(index, spec, args);
    }

    /// A WATCH whose keys are in memory by now.
    pub(in crate::server) fn watch_again(
        &mut self,
        id: ConnId,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        if let Some(conn) = self.conn(id) {
            conn.busy = false;
            self.watch_known(id.index, spec, args);
        }
    }

    fn watch_known(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let pending = conn.pending.get_or_insert_default();
        let (id, db, proto) = (conn.id, conn.session.db, conn.session.proto);
        let mut others: Vec<(ShardId, Vec<Place>)> = Vec::new();
        for place in Place::all(spec, &args) {
            let name = args.get(place.at as usize);
            match self.shard.locate(key::slot_of(name)) {
                Ok(_) => pending.watched.push(self.shard.watch(db, name)),
                Err(shard) => match others.iter_mut().find(|(other, _)| *other == shard) {
                    Some((_, keys)) => keys.push(place),
                    None => others.push((shard, vec![place])),
                },
            }
        }
        if others.is_empty() {
            return self.say(index, |reply| reply.simple("OK"));
        }
        pending.watching = others.len();
        conn.busy = true;
        for (shard, keys) in &others {
            let group = Group { spec, args, keys, db, proto, blobs: &[] };
            let to = remote::Address::plain(id, remote::WATCH_TICKET);
            self.forward_group(*shard, to, &group);
        }
    }

    /// Another shard's WATCH of keys of this one.
    pub(super) fn serve_watch(&mut self, args: Args<'_>, db: u8) -> Answered {
        let mut answered = Answered::default();
        for name in args.from(1) {
            let at = answered.body.len() as u32;
            let watched = self.shard.watch(db, name);
            encode_watched(&watched, &mut answered.body);
            let len = answered.body.len() as u32 - at;
            answered.elements.push(Element { part: 0, at, len });
        }
        answered
    }

    /// Another shard watches for us.
    pub(in crate::server) fn take_watched(&mut self, id: ConnId, part: Part<'_>) {
        let Some(conn) = self.conn(id) else { return };
        let Some(pending) = conn.pending.as_deref_mut() else { return };
        for Element { at, len, .. } in part.elements {
            let bytes = &part.body[*at as usize..][..*len as usize];
            pending.watched.push(decode_watched(bytes));
        }
        pending.watching -= 1;
        if pending.watching == 0 {
            conn.busy = false;
            self.say(id.index, |reply| reply.simple("OK"));
            self.mark_dirty(id.index);
        }
    }
}

/// `slot:u16 kind:u8 timestamp:u64 half:u64 key`, within this process.
fn encode_watched(watched: &Watched, out: &mut Vec<u8>) {
    let (kind, timestamp, half) = match watched.seen {
        Seen::Present(timestamp) => (1, timestamp, 0),
        Seen::Absent { since, half } => (0, since, half),
    };
    out.extend_from_slice(&watched.slot.0.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&timestamp.0.to_le_bytes());
    out.extend_from_slice(&half.to_le_bytes());
    out.extend_from_slice(&watched.key);
}

fn decode_watched(bytes: &[u8]) -> Watched {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (timestamp, half) = (Timestamp(number(3)), number(11));
    let seen = match bytes[2] {
        1 => Seen::Present(timestamp),
        _ => Seen::Absent { since: timestamp, half },
    };
    Watched { slot: Slot(u16::from_le_bytes([bytes[0], bytes[1]])), key: bytes[19..].into(), seen }
}
