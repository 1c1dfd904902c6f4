//! Dev.
#![allow(clippy::all)]
use stavekv::*;
use std::sync::Arc;
#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let port: u16 = a[1].parse().unwrap();
    let cores: u16 = a[2].parse().unwrap();
    let relaxed = a[3] == "relaxed";
    let dir: std::path::PathBuf = a[4].clone().into();
    let r = server::start(server::Options {
        data_dir: dir,
        node: id::NodeId(1),
        log_id: 7,
        map: cluster::SlotMap::new(cores, 16),
        pin: true,
        memory_max: 4 << 30,
        ack: if relaxed { shard::Ack::Relaxed } else { shard::Ack::Quorum },
        bind: "127.0.0.1".parse().unwrap(),
        resp_port: port,
        shard_port_base: 0,
        cluster_mode: false,
        password: None,
        clients_max: 11000,
        segment_len: 64 << 20,
        identity: command::Identity {
            version: "0.1.0".into(),
            node_id: "a".repeat(40),
            run_id: "b".repeat(40),
            cores,
            pid: 1,
            ..Default::default()
        },
        config: vec![],
        configure: Box::new(|_, _| {}),
        on_progress: Arc::new(|_, _| {}),
    });
    match r {
        Ok(r) => {
            println!("port {} shards {:?}", r.resp_port, r.shard_ports);
            if let Err(e) = r.wait() {
                eprintln!("{e}")
            }
        }
        Err(e) => {
            eprintln!("error: {e}");
            std::process::exit(1)
        }
    }
}
