//! ioredis and node-redis: both protocol versions, and their cluster clients. Node looks for them
//! where `NODE_PATH` says; the clients' side is in `node/`.

use crate::cluster::start;
use crate::followers::{figure, until_told_of};
use crate::members::{ask, settle};
use crate::scripts;
use crate::server::Server;

fn both(part: &str, server: &Server) {
    for script in ["node/ioredis.cjs", "node/node_redis.cjs"] {
        scripts::run("node", script, part, server);
    }
}

#[test]
fn resp2_and_resp3_do_the_same() {
    let server = Server::start(&["--cores", "2"]);
    both("plain", &server);
}

#[test]
fn the_cluster_clients_find_every_key() {
    let server = Server::start(&["--cores", "2", "--cluster-mode"]);
    both("cluster", &server);
}

#[test]
fn the_cluster_clients_read_from_nodes_that_lead_nothing() {
    let nodes = start(3, &["--cluster-mode"]);
    settle(&nodes[0]);
    assert_eq!(ask(&nodes[0], "transfer 1").0, Some(0));
    nodes.iter().for_each(settle);
    let ports: Vec<_> = nodes.iter().map(|node| i64::from(node.shard_ports[0])).collect();
    nodes.iter().for_each(|node| until_told_of(node, &ports));
    for script in ["node/ioredis.cjs", "node/node_redis.cjs"] {
        let read = || nodes.iter().map(|node| figure(node, "stave_follower_reads"));
        let before: Vec<_> = read().collect();
        if scripts::run("node", script, "replicas", &nodes[1]) {
            let more: Vec<_> = read().zip(before).map(|(now, before)| now > before).collect();
            assert_eq!(more, [false, true, true], "{script}");
        }
    }
}
