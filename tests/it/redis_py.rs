//! redis-py: both protocol versions, and the cluster client. The clients' side is `redis_py.py`.

use std::process::Command;

use crate::server::{Server, told};

/// Runs a part of the script; false, and loud, if there is no redis-py.
fn python(part: &str, server: &Server) {
    let python = std::env::var("STAVE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/redis_py.py");
    let ports = [server.port].into_iter().chain(server.shard_ports.iter().copied());
    let mut command = Command::new(&python);
    command.args([script, part]).args(ports.map(|port| port.to_string()));
    let Ok(output) = command.output() else {
        return println!("SKIPPED: {python} does not run; see STAVE_PYTHON");
    };
    match told(output) {
        (Some(0), _) => {}
        (Some(77), said) => println!("SKIPPED: no redis-py for {python}; tools/test: {said}"),
        (_, said) => panic!("{said}"),
    }
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
