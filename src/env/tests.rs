//! What every real runtime must do. Each test is a shard's main task; the runtimes' own tests run
//! them.

use std::cell::{Cell, RefCell};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::*;
use crate::limits::{CONNECT_MAX, SECTOR_LEN};

/// Echoes until `clients` of them are gone.
async fn echo<E: Env>(env: E, clients: usize) {
    let mut events = Vec::new();
    let mut ended = 0;
    while ended < clients {
        env.turn(&mut events).await;
        for event in events.drain(..) {
            match event {
                Event::Received { conn, chunk } => {
                    let mut buf = chunk.to_vec();
                    while env.send(conn, &mut buf) == Sent::InFlight {
                        env.pause(conn);
                    }
                }
                Event::Sent { conn, .. } => env.resume(conn),
                Event::Ended { conn } => {
                    env.close(conn);
                    ended += 1;
                }
                Event::Accepted { .. } | Event::Connected { .. } | Event::Refused { .. } => {}
            }
        }
    }
}

fn listen<E: Env>(env: &E) -> SocketAddr {
    let addr = (Ipv4Addr::LOCALHOST, 0).into();
    env.listen(addr, true).expect("loopback has room").1
}

/// 300 clients at once, three rounds each.
pub async fn echoes_to_many_clients<E: Env>(env: E) {
    let addr = listen(&env);
    let clients = std::thread::spawn(move || {
        let mut streams: Vec<_> =
            (0..300).map(|_| TcpStream::connect(addr).expect("it listens")).collect();
        for round in 0..3u8 {
            for stream in &mut streams {
                stream.write_all(&[round; 700]).expect("it reads");
            }
            for stream in &mut streams {
                let mut back = [9; 700];
                stream.read_exact(&mut back).expect("it answers");
                assert_eq!(back, [round; 700]);
            }
        }
    });
    echo(env, 300).await;
    clients.join().expect("the clients were content");
}

/// A reply that the socket does not take at once arrives whole, its buffer comes back empty, and
/// an index is reused with another generation.
pub async fn sends_more_than_a_socket_takes<E: Env>(env: E) {
    // Over what both ends' buffers grow to (tcp_wmem, tcp_rmem).
    const LEN: usize = 48 << 20;
    let addr = listen(&env);
    let client = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut stream = TcpStream::connect(addr).expect("it listens");
            std::thread::sleep(Duration::from_millis(50));
            let mut back = Vec::new();
            stream.read_to_end(&mut back).expect("it sends");
            assert!(back.len() == LEN && back.iter().all(|byte| *byte == 5));
        }
    });
    let (mut events, mut closed) = (Vec::new(), Vec::new());
    while closed.len() < 2 {
        env.turn(&mut events).await;
        for event in events.drain(..) {
            match event {
                Event::Accepted { conn, .. } => {
                    assert!(env.peer_addr(conn).is_some());
                    assert_eq!(env.send(conn, &mut vec![5; LEN]), Sent::InFlight);
                }
                Event::Sent { conn, buf } => {
                    assert_eq!((buf.len(), buf.capacity() >= LEN), (0, true));
                    env.close(conn);
                    assert_eq!(env.send(conn, &mut vec![5]), Sent::Broken);
                    closed.push(conn);
                }
                other => panic!(
                    "the client neither speaks nor leaves first: {other:?}",
                    other = name(&other)
                ),
            }
        }
    }
    client.join().expect("the client was content");
    assert_ne!(closed[0], closed[1]);
}

fn name<C>(event: &Event<C>) -> &'static str {
    match event {
        Event::Accepted { .. } => "accepted",
        Event::Connected { .. } => "connected",
        Event::Received { .. } => "received",
        Event::Sent { .. } => "sent",
        Event::Refused { .. } => "refused",
        Event::Ended { .. } => "ended",
    }
}

/// While a connection is paused only a few chunks come; then all of it, in order.
pub async fn a_paused_connection_is_not_read<E: Env>(env: E) {
    const LEN: usize = 16 << 20;
    let addr = listen(&env);
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).expect("it listens");
        let bytes: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
        stream.write_all(&bytes).expect("it reads");
    });
    let (mut events, mut received, mut resumed) = (Vec::new(), Vec::new(), false);
    loop {
        env.turn(&mut events).await;
        for event in events.drain(..) {
            match event {
                Event::Accepted { conn, .. } => {
                    env.pause(conn);
                    let task = env.clone();
                    env.spawn(Class::Foreground, async move {
                        task.sleep(Duration::from_millis(50)).await;
                        task.resume(conn);
                        task.notify();
                    });
                }
                Event::Received { chunk, .. } => received.extend_from_slice(&chunk),
                Event::Ended { conn } => {
                    env.close(conn);
                    assert!(resumed && received.len() == LEN);
                    assert!(
                        received.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8)
                    );
                    client.join().expect("the client was content");
                    return;
                }
                Event::Sent { .. } | Event::Connected { .. } | Event::Refused { .. } => {
                    panic!("it only receives")
                }
            }
        }
        resumed |= received.len() > 1 << 20;
    }
}

/// Stopped listeners refuse; a port can be shared by two listeners.
pub async fn listeners_share_a_port_and_close<E: Env>(env: E) {
    let (first, addr) = env.listen((Ipv4Addr::LOCALHOST, 0).into(), true).expect("a free port");
    let (second, same) = env.listen(addr, true).expect("shared");
    assert_eq!((first, second, addr), (ListenerId(0), ListenerId(1), same));
    assert!(env.listen(addr, false).is_err(), "a shared port was taken alone");
    env.close_listeners();
    env.sleep(Duration::from_millis(20)).await;
    assert!(TcpStream::connect(addr).is_err(), "a closed listener accepts");
}

/// What a shard saw of its connections.
#[derive(Default)]
struct Seen {
    accepted: Vec<ConnId>,
    connected: Vec<ConnId>,
    sent: Vec<ConnId>,
    refused: Vec<ConnId>,
    ended: Vec<ConnId>,
    received: Vec<(ConnId, Vec<u8>)>,
}

impl Seen {
    /// Takes part in the loop until `done`.
    async fn until<E: Env>(&mut self, env: &E, done: impl Fn(&Self) -> bool) {
        let mut events = Vec::new();
        while !done(self) {
            env.turn(&mut events).await;
            for event in events.drain(..) {
                match event {
                    Event::Accepted { conn, .. } => self.accepted.push(conn),
                    Event::Connected { conn } => self.connected.push(conn),
                    Event::Sent { conn, .. } => self.sent.push(conn),
                    Event::Refused { conn } => self.refused.push(conn),
                    Event::Ended { conn } => self.ended.push(conn),
                    Event::Received { conn, chunk } => self.received.push((conn, chunk.to_vec())),
                }
            }
        }
    }

    fn received_by(&self, conn: ConnId) -> Vec<u8> {
        let own = self.received.iter().filter(|(by, _)| *by == conn);
        own.flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }
}

/// A connection that a shard opens is as one that it accepted: both ends send, see the other's end
/// and close. The shard is its own peer here.
pub async fn connects_and_both_ends_talk_and_close<E: Env>(env: E) {
    const LEN: usize = 1 << 20;
    let addr = listen(&env);
    for opener_closes in [true, false] {
        let mut seen = Seen::default();
        let opener = env.connect(addr).expect("there are descriptors");
        seen.until(&env, |seen| seen.accepted.len() + seen.connected.len() == 2).await;
        let acceptor = seen.accepted[0];
        assert_eq!(seen.connected, [opener]);
        assert_eq!(env.peer_addr(opener), Some(addr));

        let ends = [(opener, 1), (acceptor, 2)];
        let in_flight = ends.map(|(conn, byte)| env.send(conn, &mut vec![byte; LEN]));
        let waits = in_flight.iter().filter(|sent| **sent == Sent::InFlight).count();
        let whole = |seen: &Seen, conn| seen.received_by(conn).len() == LEN;
        seen.until(&env, |seen| {
            seen.sent.len() == waits && whole(seen, opener) && whole(seen, acceptor)
        })
        .await;
        assert!(seen.received_by(opener).iter().all(|byte| *byte == 2));
        assert!(seen.received_by(acceptor).iter().all(|byte| *byte == 1));

        let (closes, other) = if opener_closes { (opener, acceptor) } else { (acceptor, opener) };
        env.close(closes);
        seen.until(&env, |seen| !seen.ended.is_empty()).await;
        assert_eq!(seen.ended, [other]);
        env.close(other);
        assert!(env.peer_addr(other).is_none());
    }
}

/// While it is paused nothing is read; what came meanwhile comes then.
pub async fn a_connection_paused_before_it_is_made_is_not_read<E: Env>(env: E) {
    let addr = listen(&env);
    let mut seen = Seen::default();
    let opener = env.connect(addr).expect("there are descriptors");
    env.pause(opener);
    seen.until(&env, |seen| seen.accepted.len() + seen.connected.len() == 2).await;
    assert_eq!(env.send(seen.accepted[0], &mut vec![1; 100]), Sent::Done);
    env.sleep(Duration::from_millis(20)).await;
    assert!(seen.received.is_empty());
    env.resume(opener);
    seen.until(&env, |seen| seen.received_by(opener).len() == 100).await;
    env.close(opener);
}

/// A port on which nobody listens, and an attempt that is given up.
pub async fn a_refused_connect_says_so_and_a_dropped_one_leaves_nothing<E: Env>(env: E) {
    let (_, addr) = env.listen((Ipv4Addr::LOCALHOST, 0).into(), true).expect("a free port");
    env.close_listeners();
    env.sleep(Duration::from_millis(20)).await;
    let mut seen = Seen::default();

    let refused = env.connect(addr).expect("there are descriptors");
    let dropped = env.connect(addr).expect("there are descriptors");
    env.close(dropped);
    seen.until(&env, |seen| !seen.refused.is_empty()).await;

    assert_eq!((seen.refused, seen.ended, seen.connected), (vec![refused], vec![], vec![]));
    env.close(refused);
}

/// A listener whose queue is full answers nobody: connecting to it ends when the time is over, and
/// one that goes on when the shard ends does not hold it up.
pub async fn a_connect_without_an_answer_ends_in_time<E: Env>(env: E) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let full = socket.expect("there are descriptors");
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    full.bind(&any.into()).expect("loopback has room");
    full.listen(0).expect("it is bound");
    let addr = full.local_addr().ok().and_then(|addr| addr.as_socket()).expect("it is bound");
    let _queued: Vec<_> =
        (0..4).map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50))).collect();
    let (mut seen, begin) = (Seen::default(), Instant::now());

    let late = env.connect(addr).expect("there are descriptors");
    seen.until(&env, |seen| !seen.ended.is_empty()).await;

    let took = begin.elapsed();
    assert_eq!((seen.ended, seen.refused, seen.connected), (vec![late], vec![], vec![]));
    assert!(took >= CONNECT_MAX && took < CONNECT_MAX * 4, "it took {took:?}");
    env.connect(addr).expect("there are descriptors");
}

/// Create, write, sync, read to the end, cut, list, rename, link, remove.
pub async fn files_are_written_read_and_synced<E: Env>(env: E) {
    let dir = temp_dir(&env).await;
    let path = dir.join("file");
    assert_eq!(
        env.open(&path, Mode::Read).await.err().map(|error| error.kind()),
        Some(io::ErrorKind::NotFound)
    );
    let file = env.open(&path, Mode::Create).await.expect("new");
    assert!(env.open(&path, Mode::Create).await.is_err(), "created twice");
    let mut buf = Aligned::zeroed(2 * SECTOR_LEN);
    buf.fill(7);

    let (written, buf) = file.write_at(buf, 2 * SECTOR_LEN, 4096, true).await;
    drop(file.write_at(Aligned::zeroed(4096), 4096, 0, false));
    file.sync().await.expect("syncs");
    env.sync_dir(&dir).await.expect("syncs");
    let (read, buf) = file.read_at(buf, 2 * SECTOR_LEN, 8192).await;

    assert_eq!((written.expect("room"), read.expect("there")), (8192, 4096));
    assert_eq!((buf[0], file.size().expect("open")), (7, 12_288));
    file.truncate(8192).await.expect("open");
    let (read, buf) = file.read_at(buf, 2 * SECTOR_LEN, 4096).await;
    assert_eq!((read.expect("there"), buf[0], file.size().expect("open")), (4096, 7, 8192));
    // The disk may be in use by others meanwhile, so no more is known of it.
    assert!(env.free_len(&dir).expect("there") > 0);
    assert!(env.free_len(&dir.join("missing")).is_err());
    let renamed = dir.join("renamed");
    env.rename(&path, &renamed).await.expect("there");
    assert_eq!(env.list(&dir).await.expect("there"), ["renamed"]);
    let reader = env.open(&renamed, Mode::Read).await.expect("there");
    let (refused, _) = reader.write_at(buf, 4096, 0, true).await;
    assert!(refused.is_err(), "a file opened for reading was written");
    let linked = dir.join("linked");
    env.link(&renamed, &linked).await.expect("free");
    assert!(env.link(&renamed, &linked).await.is_err(), "linked over a file");
    env.remove(&renamed).await.expect("there");
    assert_eq!(env.list(&dir).await.expect("there"), ["linked"]);
    assert_eq!(env.open(&linked, Mode::Read).await.expect("there").size().expect("open"), 8192);
    env.remove(&linked).await.expect("there");
    std::fs::remove_dir(&dir).expect("empty");
}

async fn temp_dir<E: Env>(env: &E) -> std::path::PathBuf {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("stave-env-{}-{count}", std::process::id()));
    env.create_dir(&dir).await.expect("temp is writable");
    dir
}

/// Sixteen durable writes in flight, awaited in turn, then read back.
pub async fn writes_overlap<E: Env>(env: E) {
    let dir = temp_dir(&env).await;
    let path = dir.join("file");
    let file = env.open(&path, Mode::Create).await.expect("new");
    let writes: Vec<_> = (0..16u8)
        .map(|n| {
            let mut buf = Aligned::zeroed(SECTOR_LEN);
            buf.fill(n);
            file.write_at(buf, SECTOR_LEN, u64::from(n) * 4096, true)
        })
        .collect();
    for write in writes {
        assert_eq!(write.await.0.expect("room"), SECTOR_LEN);
    }

    let (read, buf) = file.read_at(Aligned::zeroed(1 << 20), 1 << 20, 0).await;

    assert_eq!(read.expect("there"), 16 * SECTOR_LEN);
    assert!(
        buf[..16 * SECTOR_LEN].iter().enumerate().all(|(at, byte)| at / 4096 == usize::from(*byte))
    );
    env.remove(&path).await.expect("there");
    std::fs::remove_dir(&dir).expect("empty");
}

/// Timers of two tasks end in order; another thread wakes the loop.
pub async fn sleeps_spawns_and_wakes_across_threads<E: Env>(env: E) {
    let order = Rc::new(RefCell::new(Vec::new()));
    for (name, ms) in [(2, 100), (1, 5)] {
        let (task, order) = (env.clone(), Rc::clone(&order));
        env.spawn(Class::Background, async move {
            task.sleep(Duration::from_millis(ms)).await;
            order.borrow_mut().push(name);
            task.notify();
        });
    }
    let waker = env.waker();
    let thread = std::thread::spawn(move || waker.wake());
    let mut events = Vec::new();
    while order.borrow().len() < 2 {
        env.turn(&mut events).await;
    }
    thread.join().expect("it only wakes");
    assert_eq!(*order.borrow(), [1, 2]);
}

/// Another thread's wake ends each turn, at every distance from the loop's falling asleep.
pub async fn no_wake_is_lost<E: Env>(env: E) {
    const ROUNDS: u64 = 3000;
    let (waker, round) = (env.waker(), std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let done = std::sync::Arc::clone(&round);
    let thread = std::thread::spawn(move || {
        for next in 1..=ROUNDS {
            for _ in 0..next % 700 {
                std::hint::spin_loop();
            }
            done.store(next, std::sync::atomic::Ordering::Release);
            waker.wake();
            while done.load(std::sync::atomic::Ordering::Acquire) == next {
                std::thread::yield_now();
            }
        }
    });
    let (mut events, mut seen) = (Vec::new(), 0);
    while seen < ROUNDS {
        env.turn(&mut events).await;
        if round.swap(u64::MAX, std::sync::atomic::Ordering::AcqRel) != u64::MAX {
            seen += 1;
        }
    }
    thread.join().expect("it only wakes");
}

/// A panic is contained and counted, and what the task held is dropped.
pub async fn a_panic_ends_its_task_alone_and_is_counted<E: Env>(env: E) {
    let held = Rc::new(());
    let inner = Rc::clone(&held);
    env.spawn(Class::Foreground, async move {
        let _inner = inner;
        panic!("planted");
    });
    env.sleep(Duration::from_millis(1)).await;
    assert_eq!((env.counters().panics, Rc::strong_count(&held)), (1, 1));
}

/// Two milliseconds in one poll are a stall.
pub async fn a_task_that_holds_the_core_is_counted_as_a_stall<E: Env>(env: E) {
    let before = env.counters().stalls;
    env.spawn(Class::Background, async {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
    });
    env.sleep(Duration::from_millis(10)).await;
    assert!(env.counters().stalls > before);
}

/// A background task that always yields does not keep the foreground from its timers.
pub async fn a_busy_background_does_not_hold_up_the_foreground<E: Env>(env: E) {
    let (task, stop) = (env.clone(), Rc::new(Cell::new(false)));
    let stopped = Rc::clone(&stop);
    env.spawn(Class::Background, async move {
        while !stopped.get() {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_micros(50) {
                std::hint::spin_loop();
            }
            task.yield_now().await;
        }
    });
    let mut late: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        env.sleep(Duration::from_millis(2)).await;
        late.push(begin.elapsed() - Duration::from_millis(2));
    }
    stop.set(true);
    late.sort_unstable();
    // The better quartile, and far above what is expected (1 ms): the test machine has other work.
    // Without preemption each would be 100 ms.
    assert!(late[5] < Duration::from_millis(50), "late by {late:?}");
}

/// An idle loop sleeps: one that polled would burn fifty ticks here.
pub async fn an_idle_shard_uses_no_cpu<E: Env>(env: E) {
    let (task, done) = (env.clone(), Rc::new(Cell::new(false)));
    let ended = Rc::clone(&done);
    env.spawn(Class::Foreground, async move {
        task.sleep(Duration::from_millis(500)).await;
        ended.set(true);
        task.notify();
    });
    let mut events = Vec::new();
    let (ticks, turns) = (thread_ticks(), env.counters().turns);
    while !done.get() {
        env.turn(&mut events).await;
    }
    let (ticks, turns) = (thread_ticks() - ticks, env.counters().turns - turns);
    assert!(ticks <= 1 && turns < 10, "an idle shard used {ticks} ticks and {turns} turns");
}

/// CPU time of this thread, in hundredths of a second.
fn thread_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("this is linux");
    let after_name = stat.rsplit(')').next().expect("split yields one");
    let field = |n: usize| after_name.split_whitespace().nth(n).and_then(|n| n.parse().ok());
    field(11).zip(field(12)).map_or(0, |(user, system): (u64, u64)| user + system)
}
