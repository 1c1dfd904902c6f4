//! ioredis and node-redis: both protocol versions, and their cluster clients. Node looks for them
//! where `NODE_PATH` says; the clients' side is in `node/`.

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
