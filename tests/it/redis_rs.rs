//! redis-rs: both protocol versions, and the cluster client.

use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterConnection};
use redis::{
    Client, Commands as _, Connection, ExistenceCheck, Pipeline, ProtocolVersion, RedisResult,
    SetExpiry, SetOptions,
};

use crate::server::Server;

/// Nothing here takes that long: who waits for more has found a hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(port: u16, protocol: &str) -> Connection {
    let client = Client::open(format!("redis://127.0.0.1:{port}/?protocol={protocol}"));
    let connection = client.expect("a URL").get_connection().expect("the server answers");
    connection.set_read_timeout(Some(PATIENCE)).expect("not zero");
    connection
}

fn crud(con: &mut Connection) -> RedisResult<()> {
    con.set::<_, _, ()>("k", "v")?;
    assert_eq!(con.get::<_, Option<String>>("k")?, Some("v".to_owned()));
    assert_eq!(con.get::<_, Option<String>>("none")?, None);
    let options = SetOptions::default().conditional_set(ExistenceCheck::NX);
    assert_eq!(con.set_options::<_, _, Option<String>>("k", "w", options)?, None);
    let options = SetOptions::default().with_expiration(SetExpiry::EX(100));
    con.set_options::<_, _, ()>("e", 1, options)?;
    assert!((1..=100).contains(&con.ttl::<_, i64>("e")?));
    assert_eq!(con.incr::<_, _, i64>("n", 5)?, 5);
    let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    con.set::<_, _, ()>("bytes", &bytes)?;
    assert_eq!(con.get::<_, Vec<u8>>("bytes")?, bytes);
    let refused = con.incr::<_, _, i64>("k", 1).expect_err("text");
    assert_eq!(refused.detail(), Some("value is not an integer or out of range"));
    let mut found: Vec<String> = con.scan()?.collect::<RedisResult<_>>()?;
    found.sort();
    assert_eq!(found, ["bytes", "e", "k", "n"]);
    assert_eq!(con.del::<_, i64>(&["bytes", "e", "k", "n", "none"])?, 4);
    Ok(())
}

fn pipelines(con: &mut Connection) -> RedisResult<()> {
    let mut pipe = Pipeline::new();
    for n in 0..1000 {
        pipe.set(format!("p:{n}"), n).ignore().get(format!("p:{n}"));
    }
    assert_eq!(pipe.query::<Vec<i64>>(con)?, Vec::from_iter(0..1000));
    Ok(())
}

fn transactions(con: &mut Connection, other: &mut Connection) -> RedisResult<()> {
    let mut pipe = redis::pipe();
    pipe.atomic().set("{t}n", 1).ignore().incr("{t}n", 1).get("{t}n");
    assert_eq!(pipe.query::<(i64, i64)>(con)?, (2, 2));
    let mut tries = 0;
    let (counted,): (i64,) = redis::transaction(con, &["{t}n"], |con, pipe| {
        let read: i64 = con.get("{t}n")?;
        tries += 1;
        if tries == 1 {
            other.set::<_, _, ()>("{t}n", 10)?;
        }
        pipe.set("{t}n", read + 1).ignore().get("{t}n").query(con)
    })?;
    assert_eq!((tries, counted), (2, 11));
    let mut pipe = redis::pipe();
    pipe.atomic().set("a", 1).set("b", 1).set("c", 1).set("d", 1);
    pipe.query::<()>(con)?;
    assert_eq!(con.exists::<_, i64>(&["a", "b", "c", "d"])?, 4);
    Ok(())
}

fn pubsub(con: &mut Connection, listener: &mut Connection) -> RedisResult<()> {
    let mut listener = listener.as_pubsub();
    // It waits for one confirmation of each call: with two channels, of the next call too early.
    listener.subscribe("news")?;
    listener.subscribe("other")?;
    listener.psubscribe("n*")?;
    assert_eq!(con.publish::<_, _, i64>("news", "one")?, 2);
    assert_eq!(con.publish::<_, _, i64>("other", "two")?, 1);
    let mut got = Vec::new();
    for _ in 0..3 {
        let message = listener.get_message()?;
        let pattern: Option<String> = message.get_pattern()?;
        got.push((message.get_channel_name().to_owned(), pattern, message.get_payload()?));
    }
    got.sort();
    let message = |channel: &str, pattern: Option<&str>, text: &str| {
        (channel.to_owned(), pattern.map(str::to_owned), text.to_owned())
    };
    let expected = [
        message("news", None, "one"),
        message("news", Some("n*"), "one"),
        message("other", None, "two"),
    ];
    assert_eq!(got, expected);
    Ok(())
}

#[test]
fn resp2_and_resp3_do_the_same() -> RedisResult<()> {
    let server = Server::start(&["--cores", "2"]);
    for protocol in ["resp2", "resp3"] {
        let mut con = connect(server.port, protocol);
        let mut other = connect(server.port, protocol);
        crud(&mut con)?;
        pipelines(&mut con)?;
        transactions(&mut con, &mut other)?;
        pubsub(&mut con, &mut other)?;
        assert_eq!(redis::cmd("FLUSHALL").query::<String>(&mut con)?, "OK");
    }
    Ok(())
}

fn keys_of_all_slots(con: &mut ClusterConnection) -> RedisResult<()> {
    for n in 0..200 {
        con.set::<_, _, ()>(format!("c:{n}"), n)?;
    }
    for n in 0..200 {
        assert_eq!(con.get::<_, i64>(format!("c:{n}"))?, n);
    }
    let mut pipe = redis::cluster::cluster_pipe();
    for n in 0..200 {
        pipe.incr(format!("c:{n}"), 1);
    }
    assert_eq!(pipe.query::<Vec<i64>>(con)?, Vec::from_iter(1..=200));
    let pairs = [("{a}1", 1), ("{a}2", 2)];
    con.mset::<_, _, ()>(&pairs)?;
    assert_eq!(con.mget::<_, Vec<i64>>(&["{a}1", "{a}2"])?, [1, 2]);
    Ok(())
}

#[test]
fn the_cluster_client_finds_every_key() -> RedisResult<()> {
    let server = Server::start(&["--cores", "2", "--cluster-mode"]);
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        for start in [server.port].iter().chain(&server.shard_ports) {
            let client = ClusterClient::builder([format!("redis://127.0.0.1:{start}/")]);
            let client = client.use_protocol(protocol).response_timeout(PATIENCE).build()?;
            keys_of_all_slots(&mut client.get_connection()?)?;
        }
    }
    Ok(())
}
