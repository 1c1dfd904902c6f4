//! The figures of a node are those of what happened: as a client counts, and as Debian's Redis
//! counts the same commands.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::redis_server::RedisServer;
use crate::server::Server;

/// Each command does something that INFO counts.
const WORK: &str = "\
SET k 5|GET k|GET n|MGET k n k|EXISTS k n|STRLEN k|TTL n|PTTL k|TYPE n|INCR ctr|GETDEL k|GETDEL n
GETSET k x|GETSET n2 x|SET k z GET|SET n3 z GET|SET k z NX|SET n z XX|APPEND k z|GETRANGE k 0 1
TOUCH k n|GETEX k PERSIST|GETEX n|OBJECT ENCODING k|OBJECT ENCODING n|MEMORY USAGE k|MEMORY USAGE n
EXPIRE k 100|PERSIST k|EXPIRETIME k|SETNX k 1|COPY {k}1 {k}2|SET {k}1 v|COPY {k}1 {k}2
RENAME {k}1 {k}3|INCRBY k 1|GET|NOSUCH x|CLIENT NOSUCH|SET k|SET e v PX 20|SET f v PX 20
SET g v EX 1000|DEL k n|MSET {m}1 1 {m}2 2|MSETNX {m}1 1
SETBIT b 1 1|SETBIT b 1 1|GETBIT b 1|GETBIT n 1|BITCOUNT b|BITCOUNT n|BITPOS b 1|BITPOS n 1
BITOP OR {b}1 {b}n {b}n|BITOP OR {m}3 {m}1 {m}n {m}2|LCS {m}1 {m}2|LCS {m}1 {m}n
BITFIELD b GET u8 0|BITFIELD n GET u8 0|BITFIELD b SET u8 0 1
BITFIELD_RO b GET u8 0|BITFIELD_RO n GET u8 0|DUMP b|DUMP n
MULTI|GET g|NOSUCH|EXEC|MULTI|GET g|INCR ctr|EXEC|SELECT 99";

/// The fields of a section.
fn info(client: &mut Client, section: &str) -> BTreeMap<String, String> {
    let text = text(&client.run(&["INFO", section]));
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn text(reply: &Reply) -> String {
    let Reply::Bulk(bytes) = reply else { panic!("{reply:?} is not a text") };
    String::from_utf8(bytes.clone()).expect("ASCII")
}

fn number(fields: &BTreeMap<String, String>, name: &str) -> u64 {
    let value = fields.get(name).unwrap_or_else(|| panic!("no {name} in {fields:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}"))
}

/// What is counted, by name, after the work.
fn counted(client: &mut Client) -> BTreeMap<String, String> {
    client.run(&["FLUSHALL"]);
    client.run(&["CONFIG", "RESETSTAT"]);
    let before = info(client, "stats");
    for line in WORK.split(['\n', '|']) {
        client.run(&line.split(' ').collect::<Vec<_>>());
    }
    let begun = Instant::now();
    while number(&info(client, "stats"), "expired_keys") < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nothing expires");
    }
    // INFO itself is called as often as it has to be.
    let mut figures = info(client, "commandstats");
    figures.retain(|name, _| name != "cmdstat_info");
    for value in figures.values_mut() {
        value.retain(|c| c != ' ');
        let parts = value.split(',').filter(|part| !part.starts_with("usec"));
        *value = parts.collect::<Vec<_>>().join(",");
    }
    figures.extend(info(client, "errorstats"));
    let after = info(client, "stats");
    for name in ["keyspace_hits", "keyspace_misses", "expired_keys", "total_error_replies"] {
        let n = number(&after, name) - number(&before, name);
        figures.insert(name.to_owned(), n.to_string());
    }
    figures.extend(info(client, "keyspace").into_iter().map(|(name, value)| {
        let parts = value.split(',').filter(|part| !part.starts_with("avg_ttl"));
        (name, parts.collect::<Vec<_>>().join(","))
    }));
    figures
}

#[test]
fn the_same_commands_are_counted_as_redis_counts_them() {
    let Some(redis) = RedisServer::start() else { return };
    let server = Server::start(&["--cores", "2"]);

    let ours = counted(&mut server.client());
    let mut theirs = counted(&mut redis.client());

    // It lists what was never run but refused; a command that it does not have, not at all.
    theirs.retain(|name, value| ours.contains_key(name) || !value.contains("calls=0,"));
    assert_eq!(ours, theirs);
}

#[test]
fn bytes_and_connections_are_as_the_client_counts_them() {
    const COUNT: usize = 100;
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    let value = "v".repeat(10_000);
    client.run(&["SET", "big", &value]);
    let before_text = text(&client.run(&["INFO", "stats"]));
    for _ in 0..COUNT {
        assert_eq!(client.run(&["GET", "big"]), Reply::bulk(&value));
    }
    let after = info(&mut client, "stats");

    let field = |name: &str| {
        let mut lines = before_text.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().and_then(|rest| rest[1..].parse::<u64>().ok()).expect("a number")
    };
    let sent = COUNT * "*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".len();
    let info_sent = "*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n".len();
    let received = COUNT * ("$10000\r\n".len() + value.len() + 2);
    let info_received = format!("${}\r\n", before_text.len()).len() + before_text.len() + 2;
    let grown = |name: &str| number(&after, name) - field(name);
    assert_eq!(grown("total_net_input_bytes"), (sent + info_sent) as u64);
    assert_eq!(grown("total_net_output_bytes"), (received + info_received) as u64);
    assert_eq!(grown("total_commands_processed"), COUNT as u64 + 1);

    let mut others: Vec<_> = (0..7).map(|_| server.client()).collect();
    // One that was answered was accepted.
    others.iter_mut().for_each(|other| drop(other.run(&["PING"])));
    assert_eq!(number(&info(&mut client, "clients"), "connected_clients"), 8);
    let received = number(&info(&mut client, "stats"), "total_connections_received");
    assert_eq!(received, field("total_connections_received") + 7);
    drop(others);
    let begun = Instant::now();
    while number(&info(&mut client, "clients"), "connected_clients") != 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "closed connections are counted");
    }
}

#[test]
fn memory_is_told_by_owner_and_latency_is_less_than_a_client_waits() {
    const COUNT: usize = 2_000;
    let server = Server::start(&["--cores", "2", "--memory", "256MiB"]);
    let mut client = server.client();
    let value = "v".repeat(5_000);
    let mut waited = Vec::new();
    for n in 0..COUNT {
        let begun = Instant::now();
        client.run(&["SET", &format!("key:{n}"), &value]);
        waited.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    waited.sort_by(f64::total_cmp);

    let memory = info(&mut client, "memory");
    let owners = ["stave_memory_memtables", "stave_memory_connections", "stave_memory_wal_backlog"];
    let tables = number(&info(&mut client, "stave"), "stave_sstable_memory_bytes");
    let used = owners.iter().map(|owner| number(&memory, owner)).sum::<u64>() + tables;
    assert_eq!(used, number(&memory, "used_memory"), "{memory:?}");
    assert!(used > (COUNT * value.len()) as u64, "{memory:?}");
    let rss = number(&memory, "used_memory_rss");
    assert!(rss >= used && number(&memory, "total_system_memory") > rss, "{memory:?}");
    let dataset = number(&memory, "used_memory_dataset");
    assert_eq!(dataset, number(&memory, "stave_memory_memtables"));
    assert_eq!(dataset + number(&memory, "used_memory_overhead"), used);
    let ratio: f64 = memory["mem_fragmentation_ratio"].parse().expect("a ratio");
    assert!((ratio - rss as f64 / used as f64).abs() < 0.01, "{memory:?}");
    assert_eq!(number(&memory, "mem_fragmentation_bytes"), rss - used);
    assert!(memory["used_memory_dataset_perc"].ends_with('%'), "{memory:?}");
    assert!(number(&memory, "used_memory_peak") >= used, "{memory:?}");
    assert!(number(&memory, "maxmemory") == 256 << 20, "{memory:?}");

    let latency = info(&mut client, "latencystats");
    let set = &latency["latency_percentiles_usec_set"];
    for (part, at) in [("p50=", COUNT / 2), ("p99=", COUNT * 99 / 100)] {
        let told: Option<f64> =
            set.split(',').find_map(|of| of.strip_prefix(part)).and_then(|us| us.parse().ok());
        let (told, waited) = (told.expect("a percentile"), waited[at]);
        assert!(told > 0.0 && told <= waited * 1.02, "{set}, a client waited {waited} us: {part}");
    }
}

#[test]
fn rates_are_of_the_last_second() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    let value = "v".repeat(100_000);
    let begun = Instant::now();
    let rate = |fields: &BTreeMap<String, String>, name: &str| {
        fields[name].parse::<f64>().unwrap_or_else(|_| panic!("{name} of {fields:?}"))
    };
    client.run(&["SET", "big", &value]);
    loop {
        for _ in 0..20 {
            assert_eq!(client.run(&["GET", "big"]), Reply::bulk(&value));
        }
        let told = info(&mut client, "stats");
        let (input, output) =
            (rate(&told, "instantaneous_input_kbps"), rate(&told, "instantaneous_output_kbps"));
        // 27 bytes ask for 100 kB.
        if output > 1000.0 && input > 0.0 && input < output / 100.0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{told:?}");
    }
    loop {
        let told = info(&mut client, "stats");
        if rate(&told, "instantaneous_output_kbps") < 1000.0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{told:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `avg_ttl` of a database, once it is what is asked for.
fn await_avg_ttl(client: &mut Client, db: &str, is_it: impl Fn(u64) -> bool) {
    let begun = Instant::now();
    loop {
        let told = info(client, "keyspace").remove(db).unwrap_or_default();
        let avg_ttl = told.rsplit_once("avg_ttl=").map_or(0, |(_, ms)| ms.parse().expect("ms"));
        if is_it(avg_ttl) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{db}:{told}");
    }
}

#[test]
fn the_mean_time_to_live_is_that_of_the_keys_of_a_database() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    for n in 0..100 {
        let seconds = if n % 2 == 0 { "1000" } else { "3000" };
        client.run(&["SET", &format!("key:{n}"), "v", "EX", seconds]);
        client.run(&["SET", &format!("for ever:{n}"), "v"]);
    }
    client.run(&["SELECT", "3"]);
    client.run(&["SET", "other", "v", "EX", "500"]);
    await_avg_ttl(&mut client, "db0", |ms| (1_980_000..=2_000_000).contains(&ms));
    await_avg_ttl(&mut client, "db3", |ms| (480_000..=500_000).contains(&ms));

    client.run(&["SELECT", "0"]);
    for n in (0..100).step_by(2) {
        client.run(&["EXPIRE", &format!("key:{n}"), "5000"]);
    }
    await_avg_ttl(&mut client, "db0", |ms| (3_980_000..=4_000_000).contains(&ms));
    for n in (0..100).step_by(2) {
        client.run(&["PERSIST", &format!("key:{n}")]);
        client.run(&["DEL", &format!("for ever:{n}")]);
    }
    await_avg_ttl(&mut client, "db0", |ms| (2_980_000..=3_000_000).contains(&ms));
    for n in (1..100).step_by(2) {
        client.run(&["SET", &format!("key:{n}"), "v"]);
    }
    await_avg_ttl(&mut client, "db0", |ms| ms == 0);
    await_avg_ttl(&mut client, "db3", |ms| ms > 400_000);
}
