//! `stave serve` as a guard: started on free ports, killed and cleaned up when its test ends.
//!
//! The binary is the one that `STAVE_BIN` names (`tools/test` does), or cargo's
//! own. It gets a data directory below cargo's target directory, since `/tmp` may be without
//! direct I/O, and dies with the thread that started it, also when the test run is killed.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;

/// How long a start may take. A debug build on a busy machine is slow.
const START_MAX: Duration = Duration::from_secs(20);
/// How long the program may take to end after SIGTERM.
const END_MAX: Duration = Duration::from_secs(10);

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("STAVE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_stave").into(), PathBuf::from)
}

/// A running server and its directory.
pub struct Server {
    dir: PathBuf,
    flags: Vec<String>,
    child: Child,
    /// The port that all cores share.
    pub port: u16,
    /// The port of the binary protocol.
    pub binary_port: u16,
    /// The port of each core.
    pub shard_ports: Vec<u16>,
}

impl Server {
    /// Starts a server of one core, or as `flags` say, and waits until it serves.
    pub fn start(flags: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.join(format!("it-{}-{number}", std::process::id()));
        Self::start_in(dir, flags)
    }

    /// Starts a server on a data directory that was made by another: `data` in `dir`.
    pub fn start_in(dir: PathBuf, flags: &[&str]) -> Self {
        fs::create_dir_all(&dir).expect("the target directory takes files");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let child = command(&dir, &flags).spawn().expect("the binary is built");
        let mut server =
            Self { dir, flags, child, port: 0, binary_port: 0, shard_ports: Vec::new() };
        server.wait();
        server
    }

    /// Waits for the ready file and reads the ports from it.
    fn wait(&mut self) {
        let begin = Instant::now();
        loop {
            let line = fs::read_to_string(self.dir.join("ready")).unwrap_or_default();
            if line.ends_with('\n') {
                self.port = numbers(&line, "\"resp_port\":")[0];
                self.binary_port = numbers(&line, "\"binary_port\":")[0];
                self.shard_ports = numbers(&line, "\"shard_ports\":[");
                return;
            }
            let ended = self.child.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && begin.elapsed() < START_MAX,
                "the server did not start: {}",
                self.log()
            );
            sleep(Duration::from_millis(5));
        }
    }

    /// A connection.
    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// Where it keeps everything, besides its data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory.
    pub fn rss_mib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("it lives");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("it is told") / 1024
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Another process on the same data directory; its exit code and what it said.
    pub fn second(&self, flags: &[&str]) -> (Option<i32>, String) {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut command = command(&self.dir, &flags);
        told(command.stderr(Stdio::piped()).output().expect("the binary is built"))
    }

    /// Another process on another data directory but our port.
    pub fn second_on_port(&self) -> (Option<i32>, String) {
        let dir = self.dir.join("second");
        fs::create_dir_all(&dir).expect("ours");
        let port = self.port.to_string();
        let mut command = command(&dir, &[]);
        command.args(["--resp-port", &port]).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is built");
        let status = end(&mut child);
        let mut text = String::new();
        let stderr = child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut text).expect("a pipe is read");
        (status, text)
    }

    /// `stave inspect wal` of the data directory; its exit code and what it said.
    pub fn inspect(&self, flags: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(binary());
        command.args(["inspect", "wal"]).arg(self.dir.join("data")).args(flags);
        told(command.output().expect("the binary is built"))
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        assert!(sent.expect("there is kill").success());
    }

    /// Waits for its end, which SIGTERM asked for: the exit code, `None` if it had to be killed.
    pub fn end(&mut self) -> Option<i32> {
        end(&mut self.child)
    }

    /// Starts it again on the same directory, after [`Server::end`] or [`Server::kill`].
    pub fn restart(&mut self) {
        let _ = fs::remove_file(self.dir.join("ready"));
        self.child = command(&self.dir, &self.flags).spawn().expect("the binary is built");
        self.wait();
    }

    /// As [`Server::restart`], with other flags.
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("the server's log:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn command(dir: &Path, flags: &[String]) -> Command {
    let mut command = dies_with_us(binary());
    for variable in ["STAVE_BIN", "STAVE_PYTHON"] {
        command.env_remove(variable);
    }
    let log = fs::File::options().create(true).append(true).open(dir.join("log"));
    command.arg("serve").args(["--shard-port-base", "0", "--log-level", "warn"]);
    command.arg("--data-dir").arg(dir.join("data"));
    command.arg("--ready-file").arg(dir.join("ready"));
    for (flag, value) in
        [("--resp-port", "0"), ("--binary-port", "0"), ("--cores", "1"), ("--memory", "1GiB")]
    {
        if !flags.iter().any(|given| given == flag) {
            command.args([flag, value]);
        }
    }
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log.expect("the directory takes files"));
    command
}

fn end(child: &mut Child) -> Option<i32> {
    let begin = Instant::now();
    while begin.elapsed() < END_MAX {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status.code();
        }
        sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Exit code and all that was said.
pub fn told(output: Output) -> (Option<i32>, String) {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// The numbers after `name`, separated by commas.
fn numbers(line: &str, name: &str) -> Vec<u16> {
    let (_, rest) = line.split_once(name).expect("the ready line has it");
    let end = rest.find(|c: char| c != ',' && !c.is_ascii_digit()).expect("it goes on");
    rest[..end].split(',').filter_map(|number| number.parse().ok()).collect()
}

/// Runs a program that does not outlive this one, however it ends.
pub fn dies_with_us(program: impl AsRef<OsStr>) -> Command {
    if !has("setpriv") {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Whether a program is installed; says loudly if not.
pub fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|path| path.join(program).is_file());
    if !found {
        skipped(&format!("{program} is not installed; tools/test installs it"));
    }
    found
}

/// Says that a test was not run and why: here, and in the file that `tools/test` shows at its end,
/// since what a test prints that did not fail is seen by nobody.
pub fn skipped(why: &str) {
    println!("SKIPPED: {why}");
    let Some(path) = std::env::var_os("STAVE_SKIPPED") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let line = format!("{why}\n");
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file of what is skipped");
}
