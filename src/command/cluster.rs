//! CLUSTER: who serves which slots.
//!
//! Every shard is a cluster node of its own here, with its own id and port (charter D10). The slot
//! map is answered with or without `--cluster-mode`, so that a cluster client works either way;
//! only `INFO` tells the mode.

use std::fmt::Write as _;

use super::connection::settle;
use super::table::{Access, Connection, Flags, Group, Keys, Keyspace, Run, Spec};
use super::{
    Args, Endpoint, Error, Facts, Session, SlotRange, Then, Topology, help, number, slot_of,
};
use crate::id::Slot;
use crate::limits::SLOT_COUNT;
use crate::protocol::resp::Reply;

/// Ranges with neighbours of the same leader made one: a shard has many partitions.
fn merged(topology: &Topology) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for range in &topology.ranges {
        match ranges.last_mut() {
            Some(last) if last.leader == range.leader && last.last.0 + 1 == range.first.0 => {
                last.last = range.last;
            }
            _ => ranges.push(*range),
        }
    }
    ranges
}

fn slots(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let ranges = merged(topology);
    reply.array(ranges.len());
    for range in ranges {
        let endpoint = &topology.endpoints[range.leader];
        reply.array(3);
        reply.integer(i64::from(range.first.0));
        reply.integer(i64::from(range.last.0));
        reply.array(4);
        reply.bulk(endpoint.host.as_bytes());
        reply.integer(i64::from(endpoint.port));
        reply.bulk(endpoint.id.as_bytes());
        reply.map(0);
    }
    Then::Continue
}

fn shards(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let ranges = merged(topology);
    reply.array(topology.endpoints.len());
    for (index, endpoint) in topology.endpoints.iter().enumerate() {
        let own = || ranges.iter().filter(|range| range.leader == index);
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(2 * own().count());
        for range in own() {
            reply.integer(i64::from(range.first.0));
            reply.integer(i64::from(range.last.0));
        }
        reply.bulk(b"nodes");
        reply.array(1);
        write_shard_node(endpoint, reply);
    }
    Then::Continue
}

fn write_shard_node(endpoint: &Endpoint, reply: &mut Reply<'_>) {
    reply.map(7);
    reply.bulk(b"id");
    reply.bulk(endpoint.id.as_bytes());
    reply.bulk(b"port");
    reply.integer(i64::from(endpoint.port));
    for (name, value) in
        [("ip", endpoint.host.as_str()), ("endpoint", endpoint.host.as_str()), ("role", "master")]
    {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"replication-offset");
    reply.integer(0);
    reply.bulk(b"health");
    reply.bulk(b"online");
}

fn nodes(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let ranges = merged(topology);
    let mut text = String::new();
    for (index, endpoint) in topology.endpoints.iter().enumerate() {
        let Endpoint { id, host, port, peer_port } = endpoint;
        let myself = if index == topology.myself { "myself," } else { "" };
        write!(
            text,
            "{id} {host}:{port}@{peer_port} {myself}master - 0 0 {} connected",
            topology.epoch
        )
        .expect("a String takes every write");
        for SlotRange { first, last, .. } in ranges.iter().filter(|range| range.leader == index) {
            let range =
                if first == last { format!(" {first}") } else { format!(" {first}-{last}") };
            text.push_str(&range);
        }
        text.push('\n');
    }
    reply.verbatim(&text);
    Then::Continue
}

fn cluster_info(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let topology = facts.topology();
    let assigned: u32 = topology.ranges.iter().map(|r| u32::from(r.last.0 - r.first.0) + 1).sum();
    let state = if assigned == u32::from(SLOT_COUNT) { "ok" } else { "fail" };
    let (nodes, epoch) = (topology.endpoints.len(), topology.epoch);
    reply.verbatim(&format!(
        "cluster_enabled:{}\r\ncluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\n\
         cluster_slots_ok:{assigned}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n\
         cluster_known_nodes:{nodes}\r\ncluster_size:{nodes}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        u8::from(facts.identity().cluster_mode),
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
    let known = facts.topology().endpoints.iter().any(|e| e.id.as_bytes() == args.get(2));
    if known {
        reply.array(0);
    } else {
        reply.error(&format!("ERR Unknown node {}", String::from_utf8_lossy(args.get(2))));
    }
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
        .about("Followers of an endpoint; none is visible by itself", "5.0.0"),
    row("cluster|count-failure-reports", 3, Flags::STALE.and(Flags::ADMIN), failure_reports)
        .about("Reports that an endpoint is down; none are made", "3.0.0"),
    row("cluster|links", 2, Flags::STALE, links).about("Connections to peers; none here", "7.0.0"),
    row("cluster|help", 2, Flags::LOADING.and(Flags::STALE), cluster_help)
        .about("This text", "5.0.0"),
];
