//! The reactor on the real kernel: sockets, files, timers, wakes, teardown.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::rc::Rc;

use super::*;
use crate::env::{Aligned, File as _, Wake as _};
use crate::limits::SECTOR_LEN;

fn options(features: Features) -> Options {
    static NAME: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let name = NAME.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Options { name, start: Start::now(), seed: 1, features }
}

fn both(test: impl Fn(Features)) {
    test(Features::probe().expect("the test machine runs a kernel of this century"));
    test(Features::OLDEST);
}

/// Echoes until the client is gone.
async fn echo(env: UringEnv, clients: usize) {
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
                Event::Accepted { .. } => {}
            }
        }
    }
}

#[test]
fn echoes_to_many_clients() {
    both(|features| {
        run(options(features), |env| async move {
            let (_, addr) =
                env.listen((Ipv4Addr::LOCALHOST, 0).into(), true).expect("loopback has room");
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
        })
        .expect("the ring works");
    });
}

#[test]
fn files_are_written_read_and_synced() {
    both(|features| {
        run(options(features), |env| async move {
            let name = format!("stave-uring-{}-{}", std::process::id(), env.random());
            let dir = std::env::temp_dir().join(name);
            env.create_dir(&dir).await.expect("temp is writable");
            let path = dir.join("file");
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
            assert_eq!(env.list(&dir).await.expect("there"), ["file"]);
            env.remove(&path).await.expect("there");
            std::fs::remove_dir(&dir).expect("empty");
        })
        .expect("the ring works");
    });
}

#[test]
fn sleeps_spawns_and_wakes_across_threads() {
    let features = Features::probe().expect("a current kernel");
    run(options(features), |env| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        for (name, ms) in [(2, 20), (1, 5)] {
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
    })
    .expect("the ring works");
}

#[test]
fn a_panic_ends_its_task_alone_and_is_counted() {
    let features = Features::probe().expect("a current kernel");
    run(options(features), |env| async move {
        env.spawn(Class::Foreground, async { panic!("planted") });
        env.sleep(Duration::from_millis(1)).await;
        assert_eq!(env.counters().panics, 1);
    })
    .expect("the ring works");
}

#[test]
fn a_task_that_holds_the_core_is_counted_as_a_stall() {
    let features = Features::probe().expect("a current kernel");
    run(options(features), |env| async move {
        let before = env.counters().stalls;
        env.spawn(Class::Background, async {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
        });
        env.sleep(Duration::from_millis(10)).await;
        assert!(env.counters().stalls > before);
    })
    .expect("the ring works");
}
