//! Keyspace events: one script for redis-server and for us, and the events that each tells.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use crate::client::{Client, Reply};
use crate::redis_server::RedisServer;
use crate::server::Server;

/// Commands of each kind that changes keys, and of each that reads them. `{k}` puts the keys of a
/// command in one slot.
const SCRIPT: &str = "
    SET {k}a 1 | SET {k}a 2 | SET {k}a 3 EX 100 | SET {k}a 4 KEEPTTL | SET {k}a 5 GET
    SET {k}b 1 NX | SET {k}b 1 NX | SET {k}none 1 XX | SET {k}b 2 XX PX 100000 | SET {k}g 1 GET
    SETNX {k}c 1 | SETNX {k}c 2 | SETEX {k}d 100 1 | PSETEX {k}d 100000 1 | GETSET {k}e 1
    GETSET {k}e 2 | MSET {k}f 1 {k}g 2 {k}f 3 | MSETNX {k}h 1 {k}i 2 | MSETNX {k}h 1 {k}j 2
    APPEND {k}a x | APPEND {k}k x | SETRANGE {k}a 3 yz | SETRANGE {k}l 2 z | SETRANGE {k}none 0 ''
    INCR {k}n | INCRBY {k}n 5 | DECR {k}n | DECRBY {k}n 2 | INCRBYFLOAT {k}n 0.5
    INCRBYFLOAT {k}m 1 | INCR {k}a | INCR {k}o
    EXPIRE {k}a 100 | EXPIRE {k}a 50 GT | PEXPIRE {k}a 100000 | EXPIREAT {k}a 99999999999
    PEXPIREAT {k}a 99999999999000 | EXPIRE {k}none 100 | PERSIST {k}a | PERSIST {k}a
    PERSIST {k}none | EXPIRE {k}o -1 | EXPIRE {k}n 100 | EXPIRE {k}n 100 NX | PEXPIREAT {k}m 1
    GETEX {k}a EX 100 | GETEX {k}a PERSIST | GETEX {k}a PERSIST | GETEX {k}a | GETEX {k}none EX 1
    GETEX {k}l PXAT 1 | GETDEL {k}k | GETDEL {k}none
    RENAME {k}a {k}q | RENAME {k}q {k}b | RENAME {k}b {k}b | RENAME {k}none {k}b
    RENAMENX {k}b {k}c | RENAMENX {k}b {k}r | COPY {k}r {k}s | COPY {k}r {k}s
    COPY {k}r {k}c REPLACE | COPY {k}none {k}c | COPY {k}r {k}r2 DB 3
    SET {k}v 1 EX 100 | MOVE {k}v 4 | MOVE {k}v 4
    SELECT 4 | MOVE {k}v 0 | MOVE {k}none 0 | SELECT 0
    SETBIT {k}B 7 1 | SETBIT {k}B 7 1 | SETBIT {k}B 7 0 | SETBIT {k}B 80 0 | SETBIT {k}B x 0
    BITFIELD {k}C SET u8 0 0 | BITFIELD {k}C SET u8 0 0 | BITFIELD {k}C SET u8 0 1
    BITFIELD {k}C GET u8 0 | BITFIELD {k}none GET u8 0 | BITFIELD {k}none
    BITFIELD {k}D OVERFLOW FAIL INCRBY u2 0 5 | BITFIELD {k}D OVERFLOW FAIL INCRBY u2 0 5
    BITFIELD_RO {k}none GET u8 0 | GETBIT {k}none 1 | BITCOUNT {k}none | BITPOS {k}none 1
    BITOP OR {k}E {k}B {k}none {k}C {k}none | BITOP NOT {k}E {k}E | BITOP AND {k}E {k}none
    BITOP AND {k}E {k}none | LCS {k}B {k}none | LCS {k}none {k}none | LCS {k}none {k}C IDX LEN
    DUMP {k}none | DUMP {k}B
    DEL {k}c {k}none {k}d | UNLINK {k}e {k}none | DEL {k}none
    GET {k}none | GET {k}r | MGET {k}none {k}r {k}none2 | STRLEN {k}none | GETRANGE {k}none 0 1
    EXISTS {k}none {k}r {k}none2 | TYPE {k}none | TTL {k}none | PTTL {k}none | TOUCH {k}none
    OBJECT ENCODING {k}none | SUBSTR {k}none 0 1 | EXPIRETIME {k}none | INCR {k}r
    MULTI | SET {k}t 1 | INCR {k}t | GET {k}none | DEL {k}t | EXEC
    SELECT 5 | SET {k}a 1 | GET {k}none | DEL {k}a | SELECT 0
    SET {k}x 1 PX 20 | ~ | GET {k}x | SET {k}y 1 PX 20 | ~ | FLUSHDB
    SET {k}z 1 | FLUSHALL | SET {k}z 1
";

/// Letters of `notify-keyspace-events`.
const CLASSES: [&str; 5] = ["KEA", "KEAmn", "K$x", "Em", "Engd"];

fn commands() -> impl Iterator<Item = Vec<&'static str>> {
    let all = SCRIPT.lines().flat_map(|line| line.split('|'));
    let words = all.map(|command| command.split_whitespace().map(|word| word.trim_matches('\'')));
    words.map(Iterator::collect).filter(|words: &Vec<_>| !words.is_empty())
}

/// Runs the script; the events that a subscriber hears, each as channel and message.
fn play(mut client: Client, mut subscriber: Client, classes: &str) -> Vec<(String, String)> {
    client.run(&["FLUSHALL"]);
    assert_eq!(client.run(&["CONFIG", "SET", "notify-keyspace-events", classes]), Reply::ok());
    subscriber.run(&["PSUBSCRIBE", "__key*__:*", "end"]);
    subscriber.reply();
    for command in commands() {
        match command[..] {
            // Redis looks for keys whose time is over ten times a second, as we do.
            ["~"] => sleep(Duration::from_millis(300)),
            _ => drop(client.run(&command)),
        }
    }
    // What another core tells comes by itself.
    sleep(Duration::from_millis(50));
    client.run(&["PUBLISH", "end", ""]);
    let mut heard = Vec::new();
    loop {
        let Reply::Array(message) = subscriber.reply() else { panic!("messages are arrays") };
        let [_, _, Reply::Bulk(channel), Reply::Bulk(payload)] = &message[..] else {
            panic!("{message:?} is not by pattern")
        };
        if channel == b"end" {
            return heard;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        heard.push((text(channel), text(payload)));
    }
}

/// The one difference: Redis tells of a key that RENAME or MOVE made before it tells from what.
fn without_order_of_rename(heard: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut sorted = heard;
    let is_event = |(channel, payload): &(String, String), name| {
        channel.ends_with(&format!(":{name}")) || payload == name
    };
    for at in 1..sorted.len() {
        let mut place = at;
        while place > 0
            && is_event(&sorted[place], "new")
            && ["rename_from", "move_from"].iter().any(|name| is_event(&sorted[place - 1], name))
        {
            sorted.swap(place, place - 1);
            place -= 1;
        }
    }
    sorted
}

#[test]
fn redis_and_we_tell_the_same_events_in_the_same_order() {
    let Some(redis) = RedisServer::start() else { return };
    let server = Server::start(&[]);
    for classes in CLASSES {
        let theirs = play(redis.client(), redis.client(), classes);
        let ours = play(server.client(), server.client(), classes);

        assert!(!theirs.is_empty());
        assert_eq!(without_order_of_rename(ours), theirs, "{classes}");
    }
}

#[test]
fn on_two_cores_each_key_has_its_events_in_order_wherever_the_subscriber_is() {
    let Some(redis) = RedisServer::start() else { return };
    let server = Server::start(&["--cores", "2"]);
    let by_key = |heard: Vec<(String, String)>| {
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        heard.into_iter().for_each(|(channel, event)| keys.entry(channel).or_default().push(event));
        keys
    };
    let theirs = by_key(play(redis.client(), redis.client(), "KAmn"));
    for port in [server.shard_ports[0], server.shard_ports[1]] {
        let (client, subscriber) = (server.client(), Client::connect(port));

        assert_eq!(by_key(play(client, subscriber, "KAmn")), theirs);
    }
}

#[test]
fn nothing_is_told_when_it_is_off() {
    let server = Server::start(&[]);
    for classes in ["", "KE", "A"] {
        assert_eq!(play(server.client(), server.client(), classes), []);
    }
}
