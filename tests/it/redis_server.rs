//! A redis-server of Debian's as a guard, to compare with.

use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::cluster::free_port;
use crate::server::{dies_with_us, has};

/// A running redis-server that keeps nothing.
pub struct RedisServer {
    child: Child,
    port: u16,
}

impl RedisServer {
    /// None, said loudly, if it is not installed.
    pub fn start() -> Option<Self> {
        if !has("redis-server") {
            return None;
        }
        // Somebody else may take the port before it does.
        (0..20).find_map(|_| Self::try_start())
    }

    fn try_start() -> Option<Self> {
        let port = free_port();
        let mut command = dies_with_us("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { child: command.spawn().expect("it is installed"), port };
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if server.child.try_wait().expect("it is our child").is_some() {
                return None;
            }
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                let pong = server.client().run(&["PING"]);
                return (pong == Reply::Simple("PONG".to_owned())).then_some(server);
            }
            sleep(Duration::from_millis(5));
        }
        None
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection.
    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
