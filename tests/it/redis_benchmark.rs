//! redis-benchmark runs through, and not slower than a stuck server would.

use std::process::Command;

use crate::server::{Server, has, told};

/// Requests per second of each test; sane means that nothing waits for a timer.
fn rates(port: u16, args: &[&str]) -> Vec<(String, f64)> {
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &port.to_string(), "-r", "10000", "--csv"]).args(args);
    let (code, said) = told(command.output().expect("redis-benchmark runs"));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("rror"), "{said}");
    let rows = said.lines().filter(|line| line.starts_with('"') && !line.contains("\"test\""));
    rows.map(|row| {
        let mut fields = row.split(',').map(|field| field.trim_matches('"'));
        let name = fields.next().expect("a name").to_owned();
        (name, fields.next().and_then(|rate| rate.parse().ok()).expect("a rate"))
    })
    .collect()
}

#[test]
fn the_common_tests_run_at_a_sane_rate() {
    if !has("redis-benchmark") {
        return;
    }
    for cores in ["1", "2"] {
        let server = Server::start(&["--cores", cores]);
        let tests = ["-t", "ping,set,get,incr,mset", "-n", "50000", "-P", "16", "-c", "50"];
        let deep = rates(server.port, &tests);
        assert_eq!(deep.len(), 6, "{deep:?}");
        for (name, rate) in deep {
            println!("{cores} cores, {name}: {rate}/s");
            assert!(rate > 1_000.0, "{name} on {cores} cores: {rate}/s");
        }
        for (name, rate) in rates(server.port, &["-t", "set,get", "-n", "20000", "-c", "50"]) {
            assert!(rate > 500.0, "{name} without a pipeline on {cores} cores: {rate}/s");
        }
    }
}

/// memtier_benchmark is not packaged everywhere. What it sends by default: SET and GET of 32 bytes,
/// one to ten, on 50 connections of each thread.
#[test]
fn the_load_of_memtier_benchmark_is_served() {
    if !has("redis-benchmark") {
        return;
    }
    let server = Server::start(&["--cores", "2"]);
    let port = server.port;
    let set = ["-n", "5000", "-d", "32", "-t", "set"];
    let get = ["-n", "50000", "-d", "32", "-t", "get"];
    let threads = [set, get].map(|args| std::thread::spawn(move || rates(port, &args)));
    for thread in threads {
        let rates = thread.join().expect("it ran through");
        assert_eq!(rates.len(), 1);
    }
}
