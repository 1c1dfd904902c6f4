//! Clients in languages of their own: a script per client, run against a server. A script exits
//! with 77 if its client is not installed.

use std::process::Command;

use crate::server::{Server, skipped, told};

/// Runs a part of a script of this directory; loud if it can not be run, and then false.
pub fn run(program: &str, script: &str, part: &str, server: &Server) -> bool {
    let ports = [server.port].into_iter().chain(server.shard_ports.iter().copied());
    run_at(program, script, part, ports)
}

/// As [`run`], with these ports.
pub fn run_at(program: &str, script: &str, part: &str, ports: impl Iterator<Item = u16>) -> bool {
    let script = format!("{}/tests/it/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command.args([&script, part]).args(ports.map(|port| port.to_string()));
    judge(program, command)
}

/// As [`run`], with a command that is ready.
pub fn judge(program: &str, mut command: Command) -> bool {
    let Ok(output) = command.output() else {
        skipped(&format!("{program} does not run; tools/test installs it"));
        return false;
    };
    match told(output) {
        (Some(0), _) => true,
        (Some(77), said) => {
            skipped(&format!("no client for {program}; tools/test installs it: {}", said.trim()));
            false
        }
        (_, said) => panic!("{said}"),
    }
}
