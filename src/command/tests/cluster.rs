//! What is told of a cluster of three, of which one is not heard of.

use super::*;

/// Node 0 leads the first slots and the last, and node 1 those between; node 2 leads none. `gone`
/// is not heard of.
fn three(gone: Option<usize>) -> Topology {
    let endpoint = |at: u16| Endpoint {
        id: endpoint_id(NODE_ID, ShardId(at)),
        host: "10.0.0.1".to_owned(),
        port: 7500 + at,
        peer_port: 7401,
        is_reached: gone != Some(at.into()),
    };
    let range = |first, last, leader, followers: &[usize]| SlotRange {
        first: Slot(first),
        last: Slot(last),
        leader,
        followers: followers.to_vec(),
    };
    Topology {
        epoch: 3,
        endpoints: (0..3).map(endpoint).collect(),
        ranges: vec![
            range(0, 99, 0, &[1, 2]),
            range(100, 199, 0, &[1, 2]),
            range(200, 9_999, 1, &[0]),
            range(10_000, 16_383, 0, &[1, 2]),
        ],
        myself: 1,
    }
}

/// The reply to a command, with the ids of the nodes as `A`, `B` and `C`.
fn told(topology: Topology, command: &str) -> String {
    told_to(Server::new(Proto::Resp2, None), topology, command)
}

/// The same, to a connection that said READONLY.
fn told_reader(topology: Topology, command: &str) -> String {
    let mut server = Server::new(Proto::Resp2, None);
    server.run(&words("READONLY"));
    told_to(server, topology, command)
}

fn told_to(mut server: Server, topology: Topology, command: &str) -> String {
    server.facts.topology = topology;
    let reply = server.run(&words(command));
    let mut text = String::from_utf8(reply).expect("ASCII").replace("\r\n", " ");
    for (at, name) in [(0, "A"), (1, "B"), (2, "C")] {
        text = text.replace(&endpoint_id(NODE_ID, ShardId(at)), name);
    }
    text
}

/// A node in CLUSTER SLOTS.
fn node(at: usize) -> String {
    format!("*4 $8 10.0.0.1 :750{at} $40 {} *0 ", ["A", "B", "C"][at])
}

#[test]
fn slots_names_the_leader_first_and_then_those_that_a_reader_can_read_from() {
    let (a, b, c) = (node(0), node(1), node(2));
    // redis-py has to meet both leaders before it meets them as replicas.
    let heads = format!("*3 :0 :0 {a}*3 :200 :200 {b}");
    let all =
        format!("*5 {heads}*5 :1 :199 {a}{b}{c}*4 :201 :9999 {b}{a}*5 :10000 :16383 {a}{b}{c}");
    assert_eq!(told_reader(three(None), "CLUSTER SLOTS"), all);
    let without = format!("*5 {heads}*4 :1 :199 {a}{b}*4 :201 :9999 {b}{a}*4 :10000 :16383 {a}{b}");
    assert_eq!(told_reader(three(Some(2)), "CLUSTER SLOTS"), without);
    // A leader is told of until there is another.
    let led = format!("*5 {heads}*5 :1 :199 {a}{b}{c}*3 :201 :9999 {b}*5 :10000 :16383 {a}{b}{c}");
    assert_eq!(told_reader(three(Some(0)), "CLUSTER SLOTS"), led);
}

#[test]
fn who_has_not_said_readonly_is_told_of_followers_that_lead_nothing() {
    let (a, b, c) = (node(0), node(1), node(2));
    let slots = format!("*3 *4 :0 :199 {a}{c}*3 :200 :9999 {b}*4 :10000 :16383 {a}{c}");
    assert_eq!(told(three(None), "CLUSTER SLOTS"), slots);
    let shards = told(three(None), "CLUSTER SHARDS");
    assert_eq!(shards.matches("$4 role").count(), 3, "{shards}");
    assert_eq!(shards.matches("$4 role $7 replica").count(), 1, "{shards}");
}

#[test]
fn where_one_leads_all_and_the_others_follow_slots_is_as_from_redis() {
    let mut one = three(None);
    one.ranges.iter_mut().for_each(|range| (range.leader, range.followers) = (0, vec![1, 2]));
    let all = format!("*1 *5 :0 :16383 {}{}{}", node(0), node(1), node(2));
    assert_eq!(told(one, "CLUSTER SLOTS"), all);
}

#[test]
fn shards_are_slots_that_the_same_nodes_have() {
    let node = |at: usize, role: &str, health: &str| {
        format!(
            "*14 $2 id $40 {} $4 port :750{at} $2 ip $8 10.0.0.1 $8 endpoint $8 10.0.0.1 $4 role \
             ${} {role} $18 replication-offset :0 $6 health ${} {health} ",
            ["A", "B", "C"][at],
            role.len(),
            health.len(),
        )
    };
    let expected = |health: &str| {
        format!(
            "*2 *4 $5 slots *4 :0 :199 :10000 :16383 $5 nodes *3 {}{}{}\
             *4 $5 slots *2 :200 :9999 $5 nodes *2 {}{}",
            node(0, "master", "online"),
            node(1, "replica", "online"),
            node(2, "replica", health),
            node(1, "master", "online"),
            node(0, "replica", "online"),
        )
    };
    assert_eq!(told_reader(three(None), "CLUSTER SHARDS"), expected("online"));
    assert_eq!(told_reader(three(Some(2)), "CLUSTER SHARDS"), expected("fail"));

    let mut alone = three(None);
    alone.ranges.iter_mut().for_each(|range| range.followers.clear());
    let expected = format!("*4 $5 slots *0 $5 nodes *1 {}", node(2, "master", "online"));
    assert!(told(alone, "CLUSTER SHARDS").ends_with(&expected), "it has no slots");
}

#[test]
fn a_node_that_leads_nothing_and_follows_one_is_its_slave() {
    let lines = |flags: &str, link: &str| {
        format!(
            "A 10.0.0.1:7500@7401 master - 0 0 3 connected 0-199 10000-16383\n\
             B 10.0.0.1:7501@7401 myself,master - 0 0 3 connected 200-9999\n\
             C 10.0.0.1:7502@7401 slave{flags} A 0 0 3 {link}\n"
        )
    };
    // After its length.
    let nodes = |gone| {
        let text = told(three(gone), "CLUSTER NODES");
        text.split_once(' ').expect("a text").1.trim_end_matches(' ').to_owned()
    };
    assert_eq!(nodes(None), lines("", "connected"));
    assert_eq!(nodes(Some(2)), lines(",fail?", "disconnected"));
    let replicas = told(three(None), &format!("CLUSTER REPLICAS {NODE_ID}"));
    assert!(replicas.starts_with("*1 "), "{replicas}");
    assert!(replicas.ends_with(" C 10.0.0.1:7502@7401 slave A 0 0 3 connected "), "{replicas}");

    let mut both = three(None);
    both.ranges[2].followers.push(2);
    let text = told(both, "CLUSTER NODES");
    assert!(text.contains("C 10.0.0.1:7502@7401 master - 0 0 3 connected\n"), "{text}");
}

#[test]
fn info_counts_the_slots_of_leaders_that_are_not_heard_of() {
    let told = |gone| told(three(gone), "CLUSTER INFO");
    for (gone, ok, lost) in [(None, 16_384, 0), (Some(1), 6_584, 9_800), (Some(2), 16_384, 0)] {
        let text = told(gone);
        let expected = format!("cluster_slots_ok:{ok} cluster_slots_pfail:{lost} ");
        assert!(text.contains(&expected), "{text}");
        assert!(text.contains("cluster_known_nodes:3 cluster_size:2 "), "{text}");
    }
}

#[test]
fn who_follows_is_told_by_info_and_role() {
    let mut server = Server::new(Proto::Resp2, None);
    let follower = |port, is_near, lacks| Follower {
        host: "10.0.0.2".to_owned(),
        port,
        is_near,
        lacks,
        silent_s: 1,
    };
    server.facts.followers = vec![follower(7500, true, 3), follower(7600, false, 900)];
    let info = String::from_utf8(server.run(&words("INFO replication"))).expect("ASCII");
    for line in [
        "connected_slaves:2",
        "slave0:ip=10.0.0.2,port=7500,state=online,offset=997,lag=1",
        "slave1:ip=10.0.0.2,port=7600,state=send_bulk,offset=100,lag=1",
        "master_repl_offset:1000",
    ] {
        assert!(info.contains(&format!("\r\n{line}\r\n")), "{line} in {info}");
    }
    let role = String::from_utf8(server.run(&words("ROLE"))).expect("ASCII").replace("\r\n", " ");
    let slave =
        |port, offset: &str| format!("*3 $8 10.0.0.2 $4 {port} ${} {offset} ", offset.len());
    let slaves = [slave(7500, "997"), slave(7600, "100")].concat();
    assert_eq!(role, format!("*3 $6 master :1000 *2 {slaves}"));
}
