//! CLUSTER: who serves which slots.
//!
//! Every shard is a cluster node of its own here, with its own id and port (charter D10). The slot
//! map is answered with or without `--cluster-mode`, so that a cluster client works either way;
//! only `INFO` tells the mode.
//!
//! A node leads some slots and follows in others, which nothing in Redis Cluster does. SLOTS and
//! SHARDS go by slots and could say so: the leader first, then who follows and answers readers. But
//! ioredis and node-redis say READONLY to nodes that lead nothing and to no others, so that a read
//! which they send to a leader that only follows in its slot is sent on, again and again. So
//! whoever leads any slot is named as a follower only to a connection that has said READONLY
//! itself, as redis-py, go-redis and redis-rs do on all of theirs when they are to read from
//! replicas; who leads none, to all. NODES has one role for each: whoever leads any slot is a
//! master, and who leads none is a slave if all that it follows has one leader. SLOTS leaves out
//! who follows and is not heard of, as Redis does; a leader stays until there is another.

use std::collections::BTreeSet;

use super::connection::settle;
use super::table::{Access, Connection, Flags, Group, Keys, Keyspace, Run, Spec};
use super::{
    Args, Endpoint, Error, Facts, Session, SlotRange, Then, Topology, help, number, slot_of,
};
use crate::id::Slot;
use crate::limits::SLOT_COUNT;
use crate::protocol::resp::Reply;

/// Ranges with neighbours of the same replicas made one: a shard has many partitions.
fn merged(ranges: impl Iterator<Item = SlotRange>) -> Vec<SlotRange> {
    let mut all: Vec<SlotRange> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if have_same(last, &range) && last.last.0 + 1 == range.first.0 => {
                last.last = range.last;
            }
            _ => all.push(range),
        }
    }
    all
}

/// The ranges with those followers that a connection is told of.
fn seen_by(session: &Session, topology: &Topology) -> Vec<SlotRange> {
    let is_told = |at: &usize| session.readonly || !leads(topology, *at);
    merged(topology.ranges.iter().map(|range| {
        let followers = range.followers.iter().copied().filter(is_told).collect();
        SlotRange { followers, ..range.clone() }
    }))
}

fn leads(topology: &Topology, index: usize) -> bool {
    topology.ranges.iter().any(|range| range.leader == index)
}

fn have_same(one: &SlotRange, other: &SlotRange) -> bool {
    (one.leader, &one.followers) == (other.leader, &other.followers)
}

/// What SLOTS tells. Who leads and follows elsewhere stands first, with one slot and nobody else:
/// redis-py takes a node for a primary or a replica by where it meets it first, and asks none but
/// primaries for DBSIZE, SCAN and the like. All other slots are in order, with all who have them.
fn heads_and_rest(mut rest: Vec<SlotRange>) -> Vec<SlotRange> {
    let mut heads = Vec::new();
    for leader in rest.iter().map(|range| range.leader).collect::<BTreeSet<_>>() {
        let follows = rest.iter().any(|range| range.followers.contains(&leader));
        let first = rest.iter_mut().find(|range| follows && range.leader == leader);
        if let Some(range) = first {
            let first = range.first;
            heads.push(SlotRange { first, last: first, leader, followers: Vec::new() });
            range.first.0 += 1;
        }
    }
    rest.retain(|range| range.first <= range.last);
    heads.append(&mut rest);
    heads
}

fn slots(session: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let endpoints = &topology.endpoints;
    let ranges = heads_and_rest(seen_by(session, topology));
    reply.array(ranges.len());
    for range in ranges {
        let followers = range.followers.iter().filter(|at| endpoints[**at].is_reached);
        reply.array(3 + followers.clone().count());
        reply.integer(i64::from(range.first.0));
        reply.integer(i64::from(range.last.0));
        for at in [range.leader].iter().chain(followers) {
            let endpoint = &endpoints[*at];
            reply.array(4);
            reply.bulk(endpoint.host.as_bytes());
            reply.integer(i64::from(endpoint.port));
            reply.bulk(endpoint.id.as_bytes());
            reply.map(0);
        }
    }
    Then::Continue
}

/// Slots that the same endpoints have: a leader, and who follows.
struct Kin {
    leader: usize,
    followers: Vec<usize>,
    slots: Vec<(Slot, Slot)>,
}

/// All slots by who has them, in the order of the leaders; and, each for itself, endpoints that
/// have none.
fn kin(ranges: Vec<SlotRange>, endpoints: usize) -> Vec<Kin> {
    let mut all: Vec<Kin> = Vec::new();
    for SlotRange { first, last, leader, followers } in ranges {
        let slots = (first, last);
        match all.iter_mut().find(|of| (of.leader, &of.followers) == (leader, &followers)) {
            Some(known) => known.slots.push(slots),
            None => all.push(Kin { leader, followers, slots: vec![slots] }),
        }
    }
    for leader in 0..endpoints {
        if !all.iter().any(|of| of.leader == leader || of.followers.contains(&leader)) {
            all.push(Kin { leader, followers: Vec::new(), slots: Vec::new() });
        }
    }
    all.sort_by_key(|of| of.leader);
    all
}

fn shards(session: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let all = kin(seen_by(session, topology), topology.endpoints.len());
    reply.array(all.len());
    for Kin { leader, followers, slots } in all {
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(2 * slots.len());
        for (first, last) in slots {
            reply.integer(i64::from(first.0));
            reply.integer(i64::from(last.0));
        }
        reply.bulk(b"nodes");
        reply.array(1 + followers.len());
        write_shard_node(&topology.endpoints[leader], "master", reply);
        for at in followers {
            write_shard_node(&topology.endpoints[at], "replica", reply);
        }
    }
    Then::Continue
}

fn write_shard_node(endpoint: &Endpoint, role: &str, reply: &mut Reply<'_>) {
    reply.map(7);
    reply.bulk(b"id");
    reply.bulk(endpoint.id.as_bytes());
    reply.bulk(b"port");
    reply.integer(i64::from(endpoint.port));
    let host = endpoint.host.as_str();
    for (name, value) in [("ip", host), ("endpoint", host), ("role", role)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"replication-offset");
    reply.integer(0);
    reply.bulk(b"health");
    reply.bulk(if endpoint.is_reached { b"online" } else { b"fail" });
}

fn nodes(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let lines = (0..topology.endpoints.len()).map(|index| line_of(topology, index) + "\n");
    reply.verbatim(&lines.collect::<String>());
    Then::Continue
}

/// An endpoint as `CLUSTER NODES` shows it.
fn line_of(topology: &Topology, index: usize) -> String {
    let Endpoint { id, host, port, peer_port, is_reached } = &topology.endpoints[index];
    let myself = if index == topology.myself { "myself," } else { "" };
    let (fails, link) = if *is_reached { ("", "connected") } else { (",fail?", "disconnected") };
    let master = master_of(topology, index);
    let role = if master.is_some() { "slave" } else { "master" };
    let master = master.map_or("-", |at| &topology.endpoints[at].id);
    let epoch = topology.epoch;
    let mut line =
        format!("{id} {host}:{port}@{peer_port} {myself}{role}{fails} {master} 0 0 {epoch} {link}");
    let of_leader = |range: &&SlotRange| range.leader == index;
    for SlotRange { first, last, .. } in of_leaders(topology).iter().filter(of_leader) {
        let range = if first == last { format!(" {first}") } else { format!(" {first}-{last}") };
        line.push_str(&range);
    }
    line
}

/// The ranges by their leaders alone.
fn of_leaders(topology: &Topology) -> Vec<SlotRange> {
    let ranges = topology.ranges.iter();
    merged(ranges.map(|range| SlotRange { followers: Vec::new(), ..range.clone() }))
}

/// Whose slave an endpoint is: it leads no slot, and all that it follows has this leader.
fn master_of(topology: &Topology, index: usize) -> Option<usize> {
    if leads(topology, index) {
        return None;
    }
    let mut followed = topology.ranges.iter().filter(|range| range.followers.contains(&index));
    let first = followed.next()?.leader;
    followed.all(|range| range.leader == first).then_some(first)
}

fn cluster_info(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let count = |range: &SlotRange| u32::from(range.last.0 - range.first.0) + 1;
    let assigned: u32 = topology.ranges.iter().map(count).sum();
    let is_lost = |range: &&SlotRange| !topology.endpoints[range.leader].is_reached;
    let lost: u32 = topology.ranges.iter().filter(is_lost).map(count).sum();
    let state = if assigned == u32::from(SLOT_COUNT) { "ok" } else { "fail" };
    let (nodes, epoch) = (topology.endpoints.len(), topology.epoch);
    let size = (0..nodes).filter(|at| leads(topology, *at)).count();
    reply.verbatim(&format!(
        "cluster_enabled:{}\r\ncluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\n\
         cluster_slots_ok:{}\r\ncluster_slots_pfail:{lost}\r\ncluster_slots_fail:0\r\n\
         cluster_known_nodes:{nodes}\r\ncluster_size:{size}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        u8::from(facts.identity().cluster_mode),
        assigned - lost,
    ));
    Then::Continue
}

fn myid(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    reply.bulk(topology.endpoints[topology.myself].id.as_bytes());
    Then::Continue
}

fn keyslot(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.integer(i64::from(slot_of(args.get(2)).0));
    Then::Continue
}

/// A slot's number.
fn parse_slot(text: &[u8]) -> Result<Slot, Error> {
    let slot = number::parse_i64(text).ok().and_then(|slot| u16::try_from(slot).ok());
    slot.filter(|&slot| slot < SLOT_COUNT).map(Slot).ok_or(Error::Other("ERR Invalid slot"))
}

fn count_in_slot(args: &Args<'_>) -> Result<Keyspace, Error> {
    parse_slot(args.get(2)).map(Keyspace::CountInSlot)
}

fn keys_in_slot(args: &Args<'_>) -> Result<Keyspace, Error> {
    let slot = number::parse_i64(args.get(2))?;
    let count = number::parse_i64(args.get(3))?;
    let slot = u16::try_from(slot).ok().filter(|&slot| slot < SLOT_COUNT);
    match (slot, usize::try_from(count)) {
        (Some(slot), Ok(count)) => Ok(Keyspace::KeysInSlot(Slot(slot), count)),
        _ => Err(Error::Other("ERR Invalid slot or number of keys")),
    }
}

fn replicas(_: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let known = topology.endpoints.iter().position(|of| of.id.as_bytes() == args.get(2));
    let Some(master) = known else {
        reply.error(&format!("ERR Unknown node {}", String::from_utf8_lossy(args.get(2))));
        return Then::Continue;
    };
    let slaves =
        (0..topology.endpoints.len()).filter(|at| master_of(topology, *at) == Some(master));
    reply.array(slaves.clone().count());
    slaves.for_each(|at| reply.bulk(line_of(topology, at).as_bytes()));
    Then::Continue
}

fn links(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.array(0);
    Then::Continue
}

/// Whether a node is down is decided by the groups it has followers in, not by reports.
fn failure_reports(
    _: &mut Session,
    facts: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    let known = facts.topology().endpoints.iter().any(|e| e.id.as_bytes() == args.get(2));
    if known {
        reply.integer(0);
    } else {
        reply.error(&format!("ERR Unknown node {}", String::from_utf8_lossy(args.get(2))));
    }
    Then::Continue
}

fn cluster_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "CLUSTER", CLUSTER)
}

fn readonly(session: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    session.readonly = true;
    settle(reply, Ok(()))
}

fn readwrite(session: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    session.readonly = false;
    settle(reply, Ok(()))
}

fn asking(session: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    session.asking = true;
    settle(reply, Ok(()))
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Connection, Group::Cluster, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "3.0.0", run }
}

const fn of_slot(
    name: &'static str,
    arity: i16,
    run: fn(&Args<'_>) -> Result<Keyspace, Error>,
) -> Spec {
    Spec { access: Access::Read, run: Run::Keyspace(run), ..row(name, arity, Flags::STALE, links) }
}

const FAST: Flags = Flags::LOADING.and(Flags::STALE).and(Flags::FAST);

pub(super) static SPECS: &[Spec] = &[
    Spec { run: Run::Container(CLUSTER), ..row("cluster", -2, Flags::NONE, links) }
        .about("Slots and endpoints", "3.0.0"),
    row("readonly", 1, FAST, readonly).about("Lets followers answer this connection", "3.0.0"),
    row("readwrite", 1, FAST, readwrite).about("Ends READONLY", "3.0.0"),
    row("asking", 1, Flags::FAST, asking)
        .about("Lets the next command at a slot that is being moved here", "3.0.0"),
];

static CLUSTER: &[Spec] = &[
    row("cluster|slots", 2, Flags::STALE, slots).about("Who serves which slots", "3.0.0"),
    row("cluster|shards", 2, Flags::STALE, shards).about("Endpoints and their slots", "7.0.0"),
    row("cluster|nodes", 2, Flags::STALE, nodes).about("Endpoints, one per line", "3.0.0"),
    row("cluster|info", 2, Flags::STALE, cluster_info).about("State of the cluster", "3.0.0"),
    row("cluster|myid", 2, Flags::STALE, myid).about("The id of this endpoint", "3.0.0"),
    row("cluster|myshardid", 2, Flags::STALE, myid).about("The id of this endpoint", "7.2.0"),
    row("cluster|keyslot", 3, Flags::STALE, keyslot).about("The slot of a key", "3.0.0"),
    of_slot("cluster|countkeysinslot", 3, count_in_slot)
        .about("Counts the keys of a slot", "3.0.0"),
    of_slot("cluster|getkeysinslot", 4, keys_in_slot).about("Some keys of a slot", "3.0.0"),
    row("cluster|replicas", 3, Flags::STALE, replicas)
        .about("The slaves of an endpoint, as NODES shows them", "5.0.0"),
    row("cluster|count-failure-reports", 3, Flags::STALE.and(Flags::ADMIN), failure_reports)
        .about("Reports that an endpoint is down; none are made", "3.0.0"),
    row("cluster|links", 2, Flags::STALE, links).about("Connections to peers; none here", "7.0.0"),
    row("cluster|help", 2, Flags::LOADING.and(Flags::STALE), cluster_help)
        .about("This text", "5.0.0"),
];
