//! redis_exporter itself, as monitoring runs it: beside redis-server, what it exports of one it
//! exports of the other, but for what only jemalloc, threads and forks have.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::cluster::free_port;
use crate::redis_server::RedisServer;
use crate::server::{Server, dies_with_us, has};

const PROGRAM: &str = "prometheus-redis-exporter";

/// What only Redis tells, as beginnings of names.
const OTHERS_ONLY: &[&str] = &[
    // jemalloc, its defragmentation, and memory told in other parts than ours.
    "redis_allocator_",
    "redis_defrag_",
    "redis_mem_clients_",
    "redis_mem_not_counted_for_eviction_bytes",
    "redis_memory_used_startup_bytes",
    "redis_client_recent_max_",
    // Its processes and threads.
    "redis_aof_last_cow_size_bytes",
    "redis_rdb_last_cow_size_bytes",
    "redis_module_fork_",
    "redis_config_io_threads",
    "redis_cpu_sys_main_thread_seconds_total",
    "redis_cpu_user_main_thread_seconds_total",
    "redis_io_threaded_",
    // How it expires and copies.
    "redis_expired_stale_percentage",
    "redis_expired_time_cap_reached_total",
    "redis_slave_expires_tracked_keys",
    "redis_repl_backlog_",
    "redis_replication_backlog_bytes",
    "redis_replica_",
    "redis_migrate_cached_sockets_total",
    "redis_dump_payload_sanitizations",
    "redis_unexpected_error_replies",
    // Not counted here.
    "redis_tracking_total_items",
    "redis_tracking_total_prefixes",
];

/// What a run of it says of a server.
fn scrape(server_port: u16) -> String {
    let port = free_port();
    let mut command = dies_with_us(PROGRAM);
    command.arg("-redis.addr").arg(format!("redis://127.0.0.1:{server_port}"));
    command.arg("-web.listen-address").arg(format!("127.0.0.1:{port}"));
    command.args(["-export-client-list", "-include-system-metrics", "-include-config-metrics"]);
    command.args(["-check-keys", "key:*", "-check-single-keys", "number", "-ping-on-connect"]);
    command.args(["-count-keys", "db0=key:*"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut exporter = command.spawn().expect("it is installed");
    let begin = Instant::now();
    let said = loop {
        assert!(begin.elapsed() < Duration::from_secs(20), "{PROGRAM} does not listen");
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(connection) => break metrics(connection),
            Err(_) => sleep(Duration::from_millis(10)),
        }
    };
    let _ = exporter.kill();
    let _ = exporter.wait();
    said
}

fn metrics(mut connection: TcpStream) -> String {
    connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let request = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    connection.write_all(request).expect("it reads");
    let mut said = String::new();
    connection.read_to_string(&mut said).expect("it answers");
    assert!(said.starts_with("HTTP/1.0 200"), "{said}");
    said
}

fn use_keys(client: &mut Client) {
    assert_eq!(client.run(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]), Reply::ok());
    for key in ["key:1", "key:2", "key:3"] {
        assert_eq!(client.run(&["SET", key, "value", "EX", "1000"]), Reply::ok());
        assert_eq!(client.run(&["GET", key]), Reply::bulk("value"));
    }
    assert_eq!(client.run(&["INCRBY", "number", "42"]), Reply::Integer(42));
}

fn names(said: &str) -> BTreeSet<&str> {
    let lines = said.lines().filter(|line| line.starts_with("redis_"));
    lines.map(|line| line.split(['{', ' ']).next().expect("a name")).collect()
}

fn assert_has(said: &str, line: &str) {
    assert!(said.lines().any(|found| found == line), "no {line} in {said}");
}

#[test]
fn it_exports_of_us_what_it_exports_of_redis() {
    if !has(PROGRAM) {
        return;
    }
    let Some(redis) = RedisServer::start() else { return };
    use_keys(&mut redis.client());
    let wanted = scrape(redis.port());
    for flags in [&["--cores", "2"][..], &["--cluster-mode"]] {
        let server = Server::start(flags);
        use_keys(&mut server.client());
        let said = scrape(server.port);
        assert_has(&said, "redis_up 1");
        assert_has(&said, "redis_exporter_last_scrape_error{err=\"\"} 0");
        assert_has(&said, "redis_key_size{db=\"db0\",key=\"key:2\"} 5");
        assert_has(&said, "redis_key_value{db=\"db0\",key=\"number\"} 42");
        assert_has(&said, "redis_keys_count{db=\"db0\",key=\"key:*\"} 3");
        assert_has(&said, "redis_db_keys{db=\"db0\"} 4");
        assert_has(&said, "redis_db_keys_expiring{db=\"db0\"} 3");
        assert_has(&said, "redis_commands_total{cmd=\"get\"} 3");
        let (ours, theirs) = (names(&said), names(&wanted));
        let is_theirs = |name: &&&str| OTHERS_ONLY.iter().any(|only| name.starts_with(only));
        let missing: Vec<_> = theirs.difference(&ours).filter(|name| !is_theirs(name)).collect();
        assert!(missing.is_empty(), "{missing:?} are not exported of us");
    }
}
