//! A client that knows Redis Cluster, by hand: it asks CLUSTER SLOTS once, as memtier_benchmark
//! does, and sends each key to the node that has its slot.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::{Client, Reply};
use crate::server::Server;

/// Which slots are where: their last one, and the port.
fn slots(client: &mut Client) -> BTreeMap<i64, u16> {
    let reply = client.run(&["CLUSTER", "SLOTS"]);
    let Reply::Array(ranges) = reply else { panic!("{reply:?} is not an array") };
    let (mut next, mut nodes) = (0, BTreeMap::new());
    for range in ranges {
        let Reply::Array(parts) = range else { panic!("{range:?} is not a range") };
        let [Reply::Integer(first), Reply::Integer(last), Reply::Array(node)] = &parts[..] else {
            panic!("{parts:?} is not two slots and a node")
        };
        let [Reply::Bulk(host), Reply::Integer(port), Reply::Bulk(_), ..] = &node[..] else {
            panic!("{node:?} is not a host, a port and an id")
        };
        assert_eq!((*first, &host[..]), (next, &b"127.0.0.1"[..]), "in order, without a gap");
        nodes.insert(*last, u16::try_from(*port).expect("a port"));
        next = last + 1;
    }
    assert_eq!(next, 16384);
    nodes
}

fn slot_of(client: &mut Client, key: &str) -> i64 {
    let reply = client.run(&["CLUSTER", "KEYSLOT", key]);
    let Reply::Integer(slot) = reply else { panic!("{reply:?} is not a slot") };
    slot
}

#[test]
fn cluster_slots_leads_to_each_key_and_every_other_node_says_where_it_is() {
    let server = Server::start(&["--cores", "2", "--cluster-mode"]);
    let mut first = server.client();
    let nodes = slots(&mut first);
    for port in &server.shard_ports {
        assert_eq!(slots(&mut Client::connect(*port)), nodes, "every node says the same");
    }
    let mut clients: BTreeMap<u16, Client> =
        server.shard_ports.iter().map(|port| (*port, Client::connect(*port))).collect();
    let keys: Vec<_> = (0..200).map(|n| format!("memtier-{n}")).collect();
    let places: Vec<_> = keys.iter().map(|key| slot_of(&mut first, key)).collect();
    let port_of = |slot: i64| *nodes.range(slot..).next().expect("all slots are somewhere").1;

    for (key, slot) in keys.iter().zip(&places) {
        let client = clients.get_mut(&port_of(*slot)).expect("a shard's port");
        client.send(&["SET", key, key]);
        client.send(&["GET", key]);
    }
    for (key, slot) in keys.iter().zip(&places) {
        let client = clients.get_mut(&port_of(*slot)).expect("found before");
        assert_eq!(client.reply(), Reply::ok());
        assert_eq!(client.reply(), Reply::bulk(key));
    }

    for (port, client) in &mut clients {
        for (key, slot) in keys.iter().zip(&places).filter(|(_, slot)| port_of(**slot) != *port) {
            let moved = format!("MOVED {slot} 127.0.0.1:{}", port_of(*slot));
            assert_eq!(client.run(&["GET", key]), Reply::Error(moved));
        }
    }
    let used: BTreeSet<u16> = nodes.into_values().collect();
    assert_eq!(used, server.shard_ports.iter().copied().collect(), "each core has slots");
}
