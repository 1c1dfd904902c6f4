//! Writes of one size by so many clients, each with a connection of its own and one request at a
//! time, to stores that speak RESP or to etcd: the same loop on one thread for both, so that what
//! is compared is the store. Prints one line of JSON.

mod etcd;
mod resp;
mod slots;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Load for a few seconds
#[derive(Parser)]
struct Options {
    /// What is spoken there
    #[arg(long, value_enum)]
    to: Store,
    /// Where; clients take them in turn
    #[arg(required = true)]
    addrs: Vec<SocketAddr>,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long it is counted; as long again as a fifth of it comes before
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Bytes of a value
    #[arg(long, default_value_t = 128)]
    value_len: usize,
    /// Different keys
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Store {
    /// SET
    Resp,
    /// SET, to the node that leads the key's slot, as clients of Redis Cluster do
    RespCluster,
    /// SET and WAIT 1 0, sent together
    RespWait,
    /// Put by gRPC
    Etcd,
}

/// What all clients share.
struct Plan {
    options: Options,
    value: Vec<u8>,
    counted_from: Instant,
    end: Instant,
}

/// One client's requests.
#[derive(Default)]
struct Seen {
    micros: Vec<u32>,
    errors: u64,
    last_error: String,
}

impl Plan {
    /// The next key of a client: splitmix64.
    fn key(&self, state: &mut u64) -> String {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("key:{:012}", (z ^ (z >> 31)) % self.options.keys)
    }

    fn note(&self, seen: &mut Seen, begun: Instant, outcome: Result<(), String>) {
        let now = Instant::now();
        if now < self.counted_from || now > self.end {
            return;
        }
        match outcome {
            Ok(()) => seen.micros.push((now - begun).as_micros() as u32),
            Err(error) => {
                seen.errors += 1;
                seen.last_error = error;
            }
        }
    }
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn client(plan: Rc<Plan>, number: usize) -> Result<Seen, String> {
    if plan.options.to == Store::RespCluster {
        return slots::run(&plan, number).await;
    }
    let addr = plan.options.addrs[number % plan.options.addrs.len()];
    let stream = connect(addr).await.map_err(|error| format!("{addr}: {error}"))?;
    let ran = match plan.options.to {
        Store::Resp | Store::RespCluster => resp::run(&plan, number, stream, false).await,
        Store::RespWait => resp::run(&plan, number, stream, true).await,
        Store::Etcd => etcd::run(&plan, number, stream, addr).await,
    };
    ran.map_err(|error| format!("{addr}: {error}"))
}

fn tell(plan: &Plan, mut all: Seen, cpu_seconds: f64) {
    all.micros.sort_unstable();
    let count = all.micros.len();
    let at = |part: f64| {
        let place = ((count as f64 * part) as usize).min(count.saturating_sub(1));
        all.micros.get(place).map_or(0.0, |micros| f64::from(*micros) / 1e3)
    };
    let line = serde_json::json!({
        "ops": count as f64 / plan.options.seconds,
        "count": count,
        "errors": all.errors,
        "last_error": all.last_error,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "client_cpu_us": cpu_seconds * 1e6 / count.max(1) as f64,
    });
    println!("{line}");
}

/// Time on a core of this process, seconds.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0) / 1e9
}

fn main() -> Result<(), String> {
    let options = Options::parse();
    let warm_up = Duration::from_secs_f64(options.seconds / 5.0);
    let counted_from = Instant::now() + warm_up;
    let plan = Rc::new(Plan {
        value: (0..options.value_len).map(|at| b'a' + (at % 26) as u8).collect(),
        end: counted_from + Duration::from_secs_f64(options.seconds),
        counted_from,
        options,
    });
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let all = LocalSet::new().block_on(&runtime, async {
        let count = plan.options.clients;
        let started: Vec<_> = (0..count)
            .map(|number| tokio::task::spawn_local(client(Rc::clone(&plan), number)))
            .collect();
        let mut all = Seen::default();
        for task in started {
            let seen = task.await.map_err(|error| error.to_string())??;
            all.micros.extend(seen.micros);
            all.errors += seen.errors;
            if !seen.last_error.is_empty() {
                all.last_error = seen.last_error;
            }
        }
        Ok::<_, String>(all)
    })?;
    tell(&plan, all, cpu_seconds() * plan.options.seconds / (plan.options.seconds * 1.2));
    Ok(())
}
