//! What redis_exporter asks a server, in the shape in which it reads the answers.

use crate::client::{Client, Reply};
use crate::server::Server;

/// Fields of INFO that dashboards made for it show.
const FIELDS: &[&str] = &[
    "active_defrag_running",
    "aof_current_rewrite_time_sec",
    "aof_enabled",
    "aof_last_rewrite_time_sec",
    "aof_rewrite_scheduled",
    "blocked_clients",
    "connected_clients",
    "connected_slaves",
    "evicted_keys",
    "expired_keys",
    "instantaneous_input_kbps",
    "instantaneous_ops_per_sec",
    "instantaneous_output_kbps",
    "keyspace_hits",
    "keyspace_misses",
    "latest_fork_usec",
    "lazyfree_pending_objects",
    "loading",
    "master_repl_offset",
    "maxmemory",
    "mem_aof_buffer",
    "mem_fragmentation_bytes",
    "mem_fragmentation_ratio",
    "number_of_cached_scripts",
    "process_id",
    "pubsub_channels",
    "pubsub_patterns",
    "rdb_bgsave_in_progress",
    "rdb_changes_since_last_save",
    "rdb_current_bgsave_time_sec",
    "rdb_last_bgsave_time_sec",
    "rdb_last_save_time",
    "rejected_connections",
    "repl_backlog_active",
    "total_commands_processed",
    "total_connections_received",
    "total_net_input_bytes",
    "total_net_output_bytes",
    "total_reads_processed",
    "total_system_memory",
    "total_writes_processed",
    "tracking_clients",
    "uptime_in_seconds",
    "used_cpu_sys",
    "used_cpu_sys_children",
    "used_cpu_user",
    "used_cpu_user_children",
    "used_memory",
    "used_memory_dataset",
    "used_memory_lua",
    "used_memory_overhead",
    "used_memory_peak",
    "used_memory_rss",
];

/// Fields that become labels: any text, but there.
const LABELS: &[&str] = &[
    "master_replid",
    "maxmemory_policy",
    "os",
    "redis_mode",
    "redis_version",
    "role",
    "run_id",
    "tcp_port",
];

fn array(reply: Reply) -> Vec<Reply> {
    let Reply::Array(items) = reply else { panic!("{reply:?} is not an array") };
    items
}

fn text(reply: &Reply) -> &str {
    let Reply::Bulk(bytes) = reply else { panic!("{reply:?} is not a text") };
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn integer(reply: &Reply) -> i64 {
    let Reply::Integer(n) = reply else { panic!("{reply:?} is not a number") };
    *n
}

/// The values of `name=value,name=value`, whose names have to be these or begin with them.
fn values(line: &str, names: &[&str]) -> Vec<f64> {
    let parts: Vec<_> = line.split(',').map(|part| part.split('=').collect::<Vec<_>>()).collect();
    assert_eq!(parts.len(), names.len(), "{line}");
    let pairs = parts.iter().zip(names);
    pairs
        .map(|(part, name)| match part[..] {
            [named, value] if named.starts_with(name) => value.parse().expect("a number"),
            _ => panic!("{line} has no {name}"),
        })
        .collect()
}

/// Reads INFO as it does: a section at a time.
fn read_info(info: &str) {
    let mut section = "";
    for line in info.split("\r\n").filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix("# ") {
            section = name;
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?} is no field"));
        match section {
            "Commandstats" => {
                assert!(name.starts_with("cmdstat_"), "{line}");
                let parts = ["calls", "usec", "usec_per_call", "rejected_calls", "failed_calls"];
                values(value, &parts);
            }
            "Latencystats" => {
                assert!(name.starts_with("latency_percentiles_usec_"), "{line}");
                let told = values(value, &["p50", "p99", "p99.9"]);
                assert!(told.is_sorted(), "{line}");
            }
            "Errorstats" => {
                assert!(name.starts_with("errorstat_"), "{line}");
                assert!(values(value, &["count"])[0] > 0.0, "{line}");
            }
            "Keyspace" => {
                assert!(name.starts_with("db"), "{line}");
                values(value, &["keys", "expires", "avg_ttl"]);
            }
            _ => {}
        }
    }
    let field = |name: &str| {
        let mut found = info.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.next().unwrap_or_else(|| panic!("no {name} in {info}"))
    };
    for name in FIELDS {
        assert!(field(name).parse::<f64>().is_ok(), "{name}:{}", field(name));
    }
    for name in LABELS {
        assert!(!field(name).is_empty(), "{name} is empty");
    }
}

/// The last bucket of a command's histogram has all of its calls.
fn read_histograms(reply: Reply) {
    let told = array(reply);
    assert!(told.len() > 2, "SET and GET at least");
    for pair in told.chunks(2) {
        let [name, details] = pair else { panic!("a name without a histogram") };
        let details = array(details.clone());
        assert_eq!((text(&details[0]), text(&details[2])), ("calls", "histogram_usec"));
        let buckets: Vec<i64> = array(details[3].clone()).iter().map(integer).collect();
        assert!(buckets.chunks(2).is_sorted_by_key(|bucket| bucket[0]), "{buckets:?}");
        assert_eq!(buckets.last(), Some(&integer(&details[1])), "{}", text(name));
    }
}

fn ask_all(client: &mut Client, is_cluster: bool) {
    assert_eq!(client.run(&["CLIENT", "SETNAME", "redis_exporter"]), Reply::ok());
    let settings = array(client.run(&["CONFIG", "GET", "*"]));
    assert_eq!(settings.len() % 2, 0);
    let setting = |name: &str| {
        let mut pairs = settings.chunks(2).filter(|pair| text(&pair[0]) == name);
        text(&pairs.next().unwrap_or_else(|| panic!("no {name}"))[1]).parse::<u64>()
    };
    for name in ["databases", "maxmemory", "maxclients"] {
        assert!(setting(name).is_ok_and(|value| value > 0), "{name}");
    }
    let info = client.run(&["INFO", "ALL"]);
    read_info(text(&info));
    assert_eq!(text(&info).contains("\r\ncluster_enabled:1\r\n"), is_cluster);
    if is_cluster {
        let cluster = client.run(&["CLUSTER", "INFO"]);
        assert!(text(&cluster).contains("cluster_state:ok\r\n"), "{cluster:?}");
        assert!(text(&client.run(&["CLUSTER", "NODES"])).contains("myself,master"));
    }
    array(client.run(&["LATENCY", "LATEST"]));
    read_histograms(client.run(&["LATENCY", "HISTOGRAM"]));
    assert!(integer(&client.run(&["SLOWLOG", "LEN"])) > 0);
    let slow = array(client.run(&["SLOWLOG", "GET", "1"]));
    let entry = array(slow[0].clone());
    assert!(entry[..3].iter().map(integer).all(|n| n >= 0), "{entry:?}");
    assert_eq!(client.run(&["COMMAND", "INFO", "COMMANDLOG"]), Reply::Array(vec![Reply::Null]));
    let clients = client.run(&["CLIENT", "LIST"]);
    for line in text(&clients).lines() {
        assert!(line.starts_with("id=") && line.split(' ').nth(1).is_some_and(is_addr), "{line}");
        assert!(line.split(' ').all(|word| word.split('=').count() == 2), "{line}");
    }
}

fn is_addr(word: &str) -> bool {
    word.strip_prefix("addr=").is_some_and(|addr| addr.parse::<std::net::SocketAddr>().is_ok())
}

#[test]
fn what_redis_exporter_asks_is_answered() {
    for flags in [&["--cores", "2"][..], &["--cluster-mode"]] {
        let server = Server::start(&[flags, &["--slowlog-log-slower-than", "0"]].concat());
        let mut client = server.client();
        assert_eq!(client.run(&["SET", "key", "value", "EX", "1000"]), Reply::ok());
        assert_eq!(client.run(&["GET", "key"]), Reply::bulk("value"));
        client.run(&["GET", "absent"]);
        client.run(&["INCR", "key"]).error();

        ask_all(&mut client, flags == ["--cluster-mode"]);

        let [cursor, keys] =
            &array(client.run(&["SCAN", "0", "MATCH", "ke*", "COUNT", "1000"]))[..]
        else {
            panic!("a cursor and keys")
        };
        assert!(text(cursor).parse::<u64>().is_ok());
        assert!(array(keys.clone()).len() <= 1);
        assert_eq!(client.run(&["TYPE", "key"]), Reply::Simple("string".to_owned()));
        assert!(integer(&client.run(&["MEMORY", "USAGE", "key"])) > 5);
        assert_eq!(client.run(&["STRLEN", "key"]), Reply::Integer(5));
    }
}
