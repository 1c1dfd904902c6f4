//! Reads that a replica which follows may answer: whose they are, and how it knows how old it is.
//!
//! A connection that has said READONLY has its reads of keys answered by the replica of this node,
//! on whichever core that is, if it can prove that what it has is not older than
//! `read-staleness-max` ([`crate::shard`]). If it can not they go to the leader, as all others do:
//! a slower answer that is right is better than none. In cluster mode the client is sent there.
//! When there is no leader to be reached either, they are refused as too old after a while.
//!
//! A connection that tracks keys reads from leaders alone: a replica that follows hears of a change
//! and not of who has to be told.

use std::time::Duration;

use super::peers::Peers;
use super::{Server, binary};
use crate::command::{Access, Run, Spec};
use crate::env::Env;
use crate::id::ShardId;
use crate::protocol::binary::Header;
use crate::protocol::peer::Closed;
use crate::shard::mailbox::{Parcel, Request};

/// What a read is answered that waited in vain, and for which the replica here was too old.
pub(super) const TOO_OLD: &str = "MASTERDOWN what this replica has is older than \
                                  read-staleness-max, and the partition's leader can not be \
                                  reached: try another node, or again when it is back";

impl<E: Env> Server<E> {
    /// How old what a command of a connection that said READONLY is answered may be.
    pub(super) fn stale_max_of_conn(&self, index: u32, spec: &Spec) -> Option<Duration> {
        let conn = self.conns[index as usize].as_deref()?;
        let is_read = spec.access == Access::Read && matches!(spec.run, Run::Keyed(_));
        let tracks = conn.session.tracking.is_some();
        self.shard.members().filter(|_| is_read && !tracks).map(|members| members.stale_max())
    }

    /// As [`Server::stale_max_of_conn`], of another shard's request.
    pub(super) fn stale_max_of(&self, request: &Request) -> Option<Duration> {
        self.shard.members().filter(|_| request.stale).map(|members| members.stale_max())
    }

    /// As [`Server::stale_max_of_conn`], of a request of the binary protocol.
    pub(super) fn stale_max_of_typed(&self, header: &Header) -> Option<Duration> {
        let may = binary::may_be_stale(header);
        self.shard.members().filter(|_| may).map(|members| members.stale_max())
    }

    /// As [`Server::stale_max_of_conn`], of the only request of a parcel.
    pub(super) fn stale_max_of_parcel(&self, parcel: &Parcel) -> Option<Duration> {
        match (parcel.requests.first(), parcel.typed.first()) {
            (Some(request), _) => self.stale_max_of(request),
            (None, Some(request)) => self.stale_max_of_typed(&request.header),
            (None, None) => None,
        }
    }

    /// A command goes to `shard`. Counted if a replica here might have answered it.
    pub(super) fn note_too_old(&self, shard: ShardId) {
        let is_far = shard >= ShardId(self.shard.map().shard_count());
        if is_far && self.shard.stale_max().is_some() {
            self.shard.stats().follower_reads_too_old.add(1);
        }
    }

    /// A connection has said READONLY: before it reads, this node may know how old it is.
    pub(super) fn note_readonly(&self) {
        if let Some(members) = self.shard.members() {
            members.want_closed(self.env.now());
        }
    }

    /// Another node's shard asks how far what is led here is committed.
    pub(super) fn take_ask(&self, peers: &mut Peers, from: ShardId, round: u64) {
        let closed = self.shard.answer_ask(round);
        if !closed.indices.is_empty() {
            peers.push_closed(from, &closed);
        }
    }

    /// Another node's shard has told how far what it leads is committed.
    pub(super) fn take_closed(&mut self, closed: &Closed) {
        self.shard.take_closed(closed);
    }
}
