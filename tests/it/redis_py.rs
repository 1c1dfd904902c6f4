//! redis-py: both protocol versions, and the cluster client. The clients' side is `redis_py.py`.

use crate::cluster;
use crate::scripts;
use crate::server::Server;

fn interpreter() -> String {
    std::env::var("STAVE_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn python(part: &str, server: &Server) {
    scripts::run(&interpreter(), "redis_py.py", part, server);
}

#[test]
fn resp2_and_resp3_do_the_same() {
    let server = Server::start(&["--cores", "2"]);
    python("plain", &server);
}

#[test]
fn the_cluster_client_finds_every_key() {
    let server = Server::start(&["--cores", "2", "--cluster-mode"]);
    python("cluster", &server);
}

#[test]
fn a_password_is_said_in_both_protocols() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    python("password", &server);
}

#[test]
fn changes_are_told_by_keyspace_notifications() {
    let server = Server::start(&["--cores", "2"]);
    python("events", &server);
}

#[test]
fn its_cache_holds_what_nobody_has_changed() {
    let server = Server::start(&["--cores", "2"]);
    python("cache", &server);
}

#[test]
fn the_cluster_client_reads_from_replicas() {
    let nodes = cluster::start(3, &["--cores", "2", "--cluster-mode"]);
    let ports = nodes.iter().flat_map(|node| node.shard_ports.iter().copied());
    scripts::run_at(&interpreter(), "redis_py.py", "replicas", ports);
}
