//! A connection from a shard of another node: what it sends is taken in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Peers, THERE_MAX};
use crate::cluster::{ReplicaSet, Topology};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::limits::VALUE_LEN_MAX;
use crate::mvcc::BlobRef;
use crate::partition::Content;
use crate::protocol::binary;
use crate::protocol::peer::{
    BODY_LEN_MAX, Blob, Body, Endpoint, Frame, GREETING_LEN_MAX, Hello, Kind, Led, MAIL_LEN_MAX,
    Parser, Received, cloned, finish, start,
};
use crate::server::Server;
use crate::shard::mailbox::wire;

/// Large values that came before the entries that name them, by their names there.
type Blobs = BTreeMap<u64, (u64, Vec<u8>)>;

/// See the module's header.
pub(super) struct Incoming {
    pub conn: ConnId,
    /// Whose it is, once that is known.
    pub from: Option<ShardId>,
    /// That of its node's data directory, and of its process.
    pub incarnation: u32,
    life: u64,
    /// When something came last.
    pub heard: Duration,
    parser: Parser,
    blobs: Blobs,
    /// What has come of a parcel that comes in pieces.
    mail: Vec<u8>,
}

/// Why a connection is closed.
type Broken = String;

impl<E: Env> Server<E> {
    pub(in crate::server) fn accept_peer(&mut self, conn: ConnId) {
        let Some(peers) = self.peers.as_mut() else { return self.env.close(conn) };
        let (parser, blobs, mail) = Default::default();
        let (from, incarnation, life, heard) = (None, 0, 0, self.env.now());
        let new = Incoming { conn, from, incarnation, life, heard, parser, blobs, mail };
        peers.incoming.insert(conn.index, new);
    }

    /// Whether the first that comes over a connection is of the binary protocol: of a node that
    /// wants to join, which knows no other port. It is no peer's any more then.
    pub(in crate::server) fn is_client_of_peer_port(&mut self, conn: ConnId, bytes: &[u8]) -> bool {
        let Some(peers) = self.peers.as_mut() else { return false };
        let is_new = |other: &&Incoming| {
            other.conn == conn && other.from.is_none() && other.parser.buffered_len() == 0
        };
        let is_client = bytes.starts_with(&binary::MAGIC)
            && peers.incoming.get(&conn.index).as_ref().is_some_and(is_new);
        if is_client {
            peers.incoming.remove(&conn.index);
        }
        is_client
    }

    /// Bytes of a link or an incoming connection.
    pub(in crate::server) fn receive_from_peer(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(mut peers) = self.peers.take() else { return };
        let now = self.env.now();
        let number = peers.link_of(conn);
        let link = number.and_then(|number| Some((number, peers.links.get_mut(&number)?)));
        if let Some((number, link)) = link {
            let topology = self.node.topology();
            let own = topology.endpoints.get(topology.myself);
            let own = own.map_or(("", 0), |own| (own.host.as_str(), own.port));
            let known = peers.members.incarnation_of(link.node);
            if !link.receive(bytes, now, own, known) {
                self.drop_link(&mut peers, number);
            }
        } else if let Some(mut incoming) = peers.incoming.remove(&conn.index) {
            incoming.heard = now;
            match self.take_frames(&mut peers, &mut incoming, bytes) {
                Ok(()) => drop(peers.incoming.insert(conn.index, incoming)),
                Err(broken) => {
                    let from = incoming.from;
                    if peers.is_news(&broken, now) {
                        tracing::warn!(?from, "a peer's connection is closed: {broken}");
                    }
                    peers.incoming.insert(conn.index, incoming);
                    self.drop_incoming(&mut peers, conn);
                }
            }
        }
        self.peers = Some(peers);
    }

    fn take_frames(
        &mut self,
        peers: &mut Peers,
        incoming: &mut Incoming,
        mut bytes: &[u8],
    ) -> Result<(), Broken> {
        let mut parser = std::mem::take(&mut incoming.parser);
        loop {
            let len_max = incoming.from.map_or(GREETING_LEN_MAX, |_| BODY_LEN_MAX);
            let frame = parser.next(&mut bytes, len_max).map_err(|error| error.to_string())?;
            let Some(frame) = frame else { break };
            self.take_frame(peers, incoming, &frame)?;
        }
        incoming.parser = parser;
        Ok(())
    }

    fn take_frame(
        &mut self,
        peers: &mut Peers,
        incoming: &mut Incoming,
        frame: &Frame<'_>,
    ) -> Result<(), Broken> {
        let body = frame.decode().map_err(|error| error.to_string())?;
        let Some(from) = incoming.from else {
            let Body::Hello(hello) = body else { return Err("it does not say hello".to_owned()) };
            return self.take_hello(peers, incoming, &hello);
        };
        match body {
            Body::Raft(messages) => {
                for received in messages {
                    let received = received.map_err(|error| error.to_string())?;
                    self.take_message(peers, incoming, from, received)?;
                }
                Ok(())
            }
            Body::Blob(blob) => take_blob(&mut incoming.blobs, &blob),
            Body::MailPiece(piece) => take_piece(&mut incoming.mail, piece),
            Body::Mail(end) => self.take_mail(peers, incoming, from, end),
            Body::Endpoint(Endpoint { host, port }) => {
                if let Some((node, shard)) = peers.members.far(from) {
                    peers.members.note_endpoint(node, shard, host, port);
                }
                Ok(())
            }
            Body::Leads(leads) => {
                self.take_leads(peers, from, leads);
                Ok(())
            }
            Body::Topology(text) => {
                let topology = Topology::decode(text).ok_or("a topology that is none")?;
                peers.members.note_topology(topology);
                Ok(())
            }
            Body::Snapshot(step) => {
                let node = peers.members.far(from).map(|(node, _)| node);
                self.take_snapshot_step((from, node.unwrap_or_default()), &step)
            }
            Body::Slow => {
                if let Some((node, shard)) = peers.members.far(from)
                    && shard == self.shard.id()
                {
                    self.shard.note_slow(node);
                }
                Ok(())
            }
            Body::Ask(round) => {
                self.take_ask(peers, from, round);
                Ok(())
            }
            Body::Closed(closed) => {
                self.take_closed(&closed);
                Ok(())
            }
            Body::Beat(_) => Ok(()),
            Body::Hello(_) | Body::Welcome(_) | Body::Refused(_) => {
                Err("it greets again".to_owned())
            }
        }
    }

    fn take_mail(
        &mut self,
        peers: &mut Peers,
        incoming: &mut Incoming,
        from: ShardId,
        end: &[u8],
    ) -> Result<(), Broken> {
        let mut mail = std::mem::take(&mut incoming.mail);
        if !mail.is_empty() {
            take_piece(&mut mail, end)?;
        }
        let whole = if mail.is_empty() { end } else { &mail };
        let parcel = wire::decode(whole, self.env.now());
        let mut parcel = parcel.map_err(|error| error.to_string())?;
        if let Some(link) = peers.links.get_mut(&from) {
            link.note_answers(&mut parcel);
        }
        peers.mail.push_back((from, parcel));
        Ok(())
    }

    fn take_leads(&mut self, peers: &Peers, from: ShardId, leads: Vec<Led>) {
        let Some((node, _)) = peers.members.far(from) else { return };
        for Led { partition, term, applied, members, behind } in leads {
            let of = ReplicaSet { members, applied, term, behind, lacks: Vec::new() };
            self.shard.note_leader_elsewhere(partition, node, of);
        }
    }

    fn take_hello(
        &mut self,
        peers: &mut Peers,
        incoming: &mut Incoming,
        hello: &Hello,
    ) -> Result<(), Broken> {
        let mut out = Vec::new();
        let at = start(&mut out);
        let (node, shard, life) = (hello.from.node, hello.from.shard, hello.from.life);
        let now = self.env.now();
        // A process that has ended is not heard of any more, whatever its connection looks like.
        let is_twin = |before: &&Incoming| {
            before.life != life && now.saturating_sub(before.heard) < THERE_MAX
        };
        let judged = peers.own.judge(hello, &peers.members.known());
        let judged = judged.and_then(|welcome| match peers.from(node, shard).filter(is_twin) {
            Some(_) => Err(cloned(node)),
            None => Ok(welcome),
        });
        match &judged {
            Ok(welcome) => welcome.encode(&mut out),
            Err(refusal) => refusal.encode(&mut out),
        }
        let kind = if judged.is_ok() { Kind::Welcome } else { Kind::Refused };
        finish(&mut out, at, kind).map_err(|error| error.to_string())?;
        self.env.send(incoming.conn, &mut out);
        if let Err(refusal) = judged {
            return Err(refusal.text);
        }
        let stale = peers.from(node, shard).map(|before| before.conn);
        incoming.from = Some(peers.members.number(node, shard));
        (incoming.incarnation, incoming.life) = (hello.from.incarnation, life);
        peers.members.note_incarnation(node, hello.from.incarnation);
        peers.want(node, shard);
        if let Some(conn) = stale {
            self.drop_incoming(peers, conn);
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        peers: &Peers,
        incoming: &mut Incoming,
        from: ShardId,
        received: Received<'_>,
    ) -> Result<(), Broken> {
        let node = peers.members.far(from).map(|(node, _)| node);
        if node != Some(received.message.from) {
            return Err(format!("it speaks for node {}", received.message.from));
        }
        let mut contents = Vec::with_capacity(received.message.entries.len());
        for payload in received.payloads() {
            let mut content = Content { payload: payload.into(), blobs: Vec::new() };
            take_named(payload, &mut incoming.blobs, &mut content.blobs)?;
            contents.push(content);
        }
        let taken = self.shard.receive(received.partition, received.message, contents);
        taken.map_err(|error| error.to_string())
    }
}

fn take_piece(mail: &mut Vec<u8>, piece: &[u8]) -> Result<(), Broken> {
    if mail.len() + piece.len() > MAIL_LEN_MAX {
        return Err(format!("a parcel of more than {MAIL_LEN_MAX} bytes"));
    }
    mail.extend_from_slice(piece);
    Ok(())
}

fn take_blob(blobs: &mut Blobs, blob: &Blob<'_>) -> Result<(), Broken> {
    let (whole_len, bytes) = blobs.entry(blob.blob).or_default();
    if blob.offset == 0 {
        (*whole_len, *bytes) = (blob.whole_len, Vec::new());
    }
    let end = bytes.len() as u64 + blob.bytes.len() as u64;
    // The effects of an entry may be a blob too, and longer than a value.
    let len_max = 2 * VALUE_LEN_MAX as u64;
    if blob.offset != bytes.len() as u64 || end > *whole_len || *whole_len > len_max {
        return Err(format!("a piece of large value {} is not the next", blob.blob));
    }
    bytes.extend_from_slice(blob.bytes);
    Ok(())
}

/// Takes the large values that effects name, those in effects that are a blob too.
fn take_named(
    payload: &[u8],
    blobs: &mut Blobs,
    into: &mut Vec<(BlobRef, Arc<Vec<u8>>)>,
) -> Result<(), Broken> {
    for (of, is_inner) in Content::named(payload) {
        let whole = blobs.remove(&of.id).filter(|(_, bytes)| bytes.len() as u64 == of.len);
        let (_, bytes) = whole.ok_or_else(|| format!("large value {} did not come", of.id))?;
        let bytes = Arc::new(bytes);
        into.push((of, Arc::clone(&bytes)));
        if is_inner {
            take_named(&bytes, blobs, into)?;
        }
    }
    Ok(())
}
