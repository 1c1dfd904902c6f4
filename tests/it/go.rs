//! go-redis, and for a cluster redisc over redigo, all of RESP2. `tools/test` builds their side,
//! `go/`, with the versions that the distribution has, and says in `STAVE_GO_REDIS` where it is.

use std::process::Command;

use crate::scripts;
use crate::server::{Server, skipped};

fn run(part: &str, server: &Server) {
    let Some(program) = std::env::var_os("STAVE_GO_REDIS") else {
        return skipped("go-redis is not built; tools/test builds it");
    };
    let mut command = Command::new(program);
    let ports = [server.port].into_iter().chain(server.shard_ports.iter().copied());
    command.arg(part).args(ports.map(|port| port.to_string()));
    scripts::judge("go-redis", command);
}

#[test]
fn what_it_does_with_one_node_works() {
    for cores in ["1", "2"] {
        run("plain", &Server::start(&["--cores", cores]));
    }
}

#[test]
fn a_cluster_client_finds_every_key() {
    run("cluster", &Server::start(&["--cores", "2", "--cluster-mode"]));
}
