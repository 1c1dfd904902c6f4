//! A multi-get whose keys are on several shards: each makes a part, and they are put together here.

use super::Asker;
use crate::env::Env;
use crate::id::{PartitionId, ShardId};
use crate::lsm::key;
use crate::protocol::binary::{
    FLAG_ERROR, HEADER_LEN, Header, Items, Keys, Opcode, Reply, Request,
};
use crate::server::Server;
use crate::shard::mailbox::Part;

/// The parts of one reply.
pub(super) struct Gathering {
    asker: Asker,
    /// Which part has the next key.
    order: Vec<u16>,
    /// Frames, as they come.
    parts: Vec<Vec<u8>>,
    missing: u32,
}

impl<E: Env> Server<E> {
    /// The shard of a key.
    pub(super) fn shard_of_key(&self, name: &[u8]) -> ShardId {
        self.shard.owner(self.shard.map().partition_of(key::slot_of(name)))
    }

    /// Asks every shard that has some of the keys for its part.
    pub(super) fn begin_gathering(&mut self, asker: &Asker, keys: &Keys<'_>) {
        let mut wanted: Vec<(ShardId, Vec<&[u8]>)> = Vec::new();
        let mut order = Vec::new();
        for name in keys.iter() {
            let shard = self.shard_of_key(name);
            let part = wanted.iter().position(|(of, _)| *of == shard).unwrap_or(wanted.len());
            if part == wanted.len() {
                wanted.push((shard, Vec::new()));
            }
            wanted[part].1.push(name);
            order.push(part as u16);
        }
        let (missing, parts) = (wanted.len() as u32, vec![Vec::new(); wanted.len()]);
        let gathering = self.keep_gathering(Gathering { asker: *asker, order, parts, missing });
        for (number, (shard, names)) in (0..).zip(&wanted) {
            let mut body = Vec::new();
            Keys::encode(keys.db, names, &mut body);
            let part = Some(Part { gathering, number });
            let header = Header { body_len: body.len() as u32, ..asker.header };
            let asker = Asker { part, header, ..*asker };
            if *shard == self.shard.id() {
                let request = Request::decode(Opcode::MultiGet as u8, &body).expect("ours");
                self.serve_typed(&asker, &request, &body, None);
            } else {
                self.forward_typed(*shard, &asker, &body);
            }
        }
    }

    fn keep_gathering(&mut self, gathering: Gathering) -> u32 {
        let index = self.binary.gatherings_free.pop().unwrap_or_else(|| {
            self.binary.gatherings.push(None);
            self.binary.gatherings.len() as u32 - 1
        });
        self.binary.gatherings[index as usize] = Some(gathering);
        index
    }

    /// A part has come; the last one ends the gathering.
    pub(super) fn take_typed_part(&mut self, part: Part, frame: &[u8]) {
        let place = part.gathering as usize;
        let gathering = self.binary.gatherings[place].as_mut().expect("parts come once");
        gathering.parts[part.number as usize] = frame.to_vec();
        gathering.missing -= 1;
        if gathering.missing > 0 {
            return;
        }
        let gathering = self.binary.gatherings[place].take().expect("looked at");
        self.binary.gatherings_free.push(part.gathering);
        self.end_gathering(&gathering);
    }

    fn end_gathering(&mut self, gathering: &Gathering) {
        let Gathering { asker, order, parts, .. } = gathering;
        let frames = parts.iter().map(|frame| {
            let (head, body) = frame.split_first_chunk::<HEADER_LEN>()?;
            Some((Header::decode(head).expect("we made it"), body))
        });
        let frames: Vec<_> = frames.collect();
        let is_error = |header: &Header| header.flags & FLAG_ERROR != 0;
        let error = frames.iter().flatten().find(|(header, _)| is_error(header));
        if let Some((_, body)) = error {
            return self.respond(asker, &[], FLAG_ERROR, |out| {
                out.extend_from_slice(body);
                None
            });
        }
        let mut lists: Vec<_> = frames
            .iter()
            .map(|frame| match frame.map(|(header, body)| Reply::decode(&header, body)) {
                Some(Some(Reply::MultiGet(items))) => Some((items.timestamp, items.iter())),
                _ => None,
            })
            .collect();
        let timestamp = lists.iter().flatten().map(|(timestamp, _)| *timestamp).max().unwrap_or(0);
        self.respond(asker, &[], 0, |out| {
            Items::begin(timestamp, order.len(), out);
            for part in order {
                let list = lists[usize::from(*part)].as_mut();
                let item = list.and_then(|(_, items)| items.next());
                item.expect("a part has an item per key").encode(out);
            }
            None
        });
    }

    /// The shard that a scan's cursor names.
    pub(super) fn shard_of_partition(&self, partition: u32) -> ShardId {
        let last = self.shard.map().partition_count() - 1;
        self.shard.owner(PartitionId(partition.min(last)))
    }
}
