//! Connections: order, bounds, ends.

use super::*;

/// What a shard noted.
pub type Noted = Rc<RefCell<Vec<Event<SimChunk>>>>;

fn noting(sim: &Sim, shard: u16) -> (SimEnv, Noted) {
    noting_on(sim, NODE, shard)
}

/// A shard that only notes what happens, and does as it is told from outside the simulation.
pub fn noting_on(sim: &Sim, node: NodeId, shard: u16) -> (SimEnv, Noted) {
    let env = sim.env(node, ShardId(shard));
    env.listen(([0, 0, 0, 0], PORT).into(), true).expect("shared with shared");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (to, inner) = (seen.clone(), env.clone());
    env.spawn(Class::Foreground, async move {
        let mut events = Vec::new();
        loop {
            inner.turn(&mut events).await;
            to.borrow_mut().append(&mut events);
        }
    });
    (env, seen)
}

fn accepted(sim: &Sim, seen: &Noted) -> ConnId {
    sim.run_until(|| !seen.borrow().is_empty());
    match seen.borrow_mut().remove(0) {
        Event::Accepted { conn, listener } => {
            assert_eq!(listener.0, 0);
            conn
        }
        other => panic!("accepted first, not {other:?}"),
    }
}

fn bytes_in(seen: &Noted) -> usize {
    let len = |event: &Event<SimChunk>| match event {
        Event::Received { chunk, .. } => chunk.len(),
        _ => 0,
    };
    seen.borrow().iter().map(len).sum()
}

#[test]
fn shared_port_spreads_and_closed_one_refuses() {
    let sim = Sim::new(1);
    let (env, one) = noting(&sim, 0);
    let (_, two) = noting(&sim, 1);
    let alone = env.listen(([0, 0, 0, 0], PORT).into(), false);
    assert_eq!(alone.err().map(|error| error.kind()), Some(std::io::ErrorKind::AddrInUse));
    let (_, any) = env.listen(([0, 0, 0, 0], 0).into(), false).expect("any free port");
    assert_ne!(any.port(), 0);

    let clients: Vec<Client> = (0..20).map(|_| sim.connect(NODE, PORT)).collect();
    sim.run_until(|| clients.iter().all(Client::is_connected));
    sim.run_for(Duration::from_millis(1));
    assert!(one.borrow().len() > 2 && two.borrow().len() > 2);

    env.close_listeners();
    let late = sim.connect(NODE, any.port());
    let nowhere = sim.connect(NodeId(9), PORT);
    sim.run_until(|| late.is_ended() && nowhere.is_ended());
}

#[test]
fn paused_connection_stops_soon_and_the_rest_waits_at_the_client() {
    check(50, |seed| {
        let sim = Sim::new(seed);
        sim.set_net(NetConditions { window: 10_000, ..sim.net() });
        let (env, seen) = noting(&sim, 0);
        let client = sim.connect(NODE, PORT);
        let conn = accepted(&sim, &seen);
        env.pause(conn);

        client.send(&[7; 50_000]);
        sim.run_for(Duration::from_secs(1));

        let early = seen.borrow().len();
        assert!(early <= 2, "{early} chunks after a pause");
        assert_eq!(client.unsent(), 50_000 - 10_000 - bytes_in(&seen));
        env.resume(conn);
        sim.run_until(|| bytes_in(&seen) == 50_000);
        assert_eq!(client.unsent(), 0);
    });
}

#[test]
fn send_waits_for_a_client_that_does_not_read() {
    let sim = Sim::new(2);
    sim.set_net(NetConditions { window: 10_000, send_in_flight: 0, ..sim.net() });
    let (env, seen) = noting(&sim, 0);
    let client = sim.connect(NODE, PORT);
    let conn = accepted(&sim, &seen);

    let mut buf = vec![1; 10_000];
    assert_eq!((env.send(conn, &mut buf), buf.len()), (Sent::Done, 0));
    buf.resize(30_000, 2);
    assert_eq!((env.send(conn, &mut buf), buf.capacity()), (Sent::InFlight, 0));
    sim.run_for(Duration::from_secs(10));
    assert!(seen.borrow().is_empty(), "{seen:?}");

    let mut got = Vec::new();
    sim.run_until(|| {
        got.extend(client.received());
        !seen.borrow().is_empty()
    });
    assert!(matches!(&seen.borrow()[0], Event::Sent { buf, .. } if buf.capacity() >= 30_000));
    sim.run_for(Duration::from_secs(1));
    got.extend(client.received());
    assert_eq!((got.len(), got[9_999], got[10_000]), (40_000, 1, 2));
}

#[test]
fn no_event_names_a_closed_connection() {
    check(100, |seed| {
        let sim = Sim::new(seed);
        let (env, seen) = noting(&sim, 0);
        let client = sim.connect(NODE, PORT);
        let conn = accepted(&sim, &seen);
        client.send(&[1; 5_000]);
        let mut buf = vec![2; 100];
        let sent = env.send(conn, &mut buf);
        sim.run_for(Duration::from_nanos(sim.rng().below(10_000_000)));
        seen.borrow_mut().clear();

        env.close(conn);
        sim.run_until(|| client.is_ended());
        sim.run_for(Duration::from_secs(1));

        assert!(seen.borrow().is_empty(), "{sent:?} {seen:?}");
        assert_eq!(env.send(conn, &mut vec![1]), Sent::Broken);
        let next = sim.connect(NODE, PORT);
        let conn_next = accepted(&sim, &seen);
        assert_eq!((conn_next.index, conn_next.generation), (conn.index, conn.generation + 1));
        assert!(!next.is_ended());
    });
}

#[test]
fn sends_break_after_the_client_left() {
    let (mut at_once, mut later) = (0, 0);
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let (env, seen) = noting(&sim, 0);
        let client = sim.connect(NODE, PORT);
        let conn = accepted(&sim, &seen);
        client.send(b"bye");
        drop(client);
        sim.run_until(|| matches!(seen.borrow().last(), Some(Event::Ended { .. })));

        assert_eq!(bytes_in(&seen), 3, "what was sent before comes before the end");
        match env.send(conn, &mut vec![1]) {
            Sent::Broken => at_once += 1,
            Sent::Done => later += 1,
            Sent::InFlight => panic!("nobody is there to read it"),
        }
        assert_eq!(env.send(conn, &mut vec![1]), Sent::Broken);
    }
    assert!(at_once > 5 && later > 5, "{at_once} {later}");
}

#[test]
fn a_send_in_flight_on_a_half_closed_connection_ends_one_way_or_the_other() {
    let sim = Sim::new(5);
    sim.set_net(NetConditions { window: 1_000, ..sim.net() });
    let (env, seen) = noting(&sim, 0);
    let client = sim.connect(NODE, PORT);
    let conn = accepted(&sim, &seen);
    client.half_close();
    sim.run_until(|| !seen.borrow().is_empty());

    assert_eq!(env.send(conn, &mut vec![1; 5_000]), Sent::InFlight);
    client.reset();
    sim.run_until(|| seen.borrow().len() == 2);

    assert!(seen.borrow().iter().all(|event| matches!(event, Event::Ended { .. })), "{seen:?}");
}

#[test]
fn clients_of_a_node_that_goes_down_see_the_end() {
    let sim = Sim::new(6);
    let (env, seen) = noting(&sim, 0);
    let client = sim.connect(NODE, PORT);
    let conn = accepted(&sim, &seen);

    sim.node(NODE).power_cut();
    sim.run_until(|| client.is_ended());

    assert_eq!(env.send(conn, &mut vec![1]), Sent::Broken);
    sim.node(NODE).restart();
    assert!(sim.env(NODE, ShardId(0)).peer_addr(conn).is_none());
}
