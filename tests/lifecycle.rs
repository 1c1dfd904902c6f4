//! `stave serve` as a process: what scripts, supervisors and people meet of it.
#![expect(clippy::disallowed_methods, reason = "drives a process from outside")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Polls of 10 ms: 10 s, as long as anything here may take.
const POLLS_MAX: u32 = 1000;

/// A directory that is gone, with all that is in it, when its test is.
struct Scene(PathBuf);

impl Scene {
    fn new(name: &str) -> Self {
        let name = format!("stave-lifecycle-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary directory takes files");
        Self(path)
    }

    fn ready_file(&self) -> PathBuf {
        self.0.join("ready.json")
    }

    /// `stave serve` on any free ports, with data in this directory.
    fn command(&self, flags: &[&str]) -> Command {
        let binary = std::env::var_os("STAVE_BIN");
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_stave").into());
        let mut command = Command::new(binary);
        command.args([
            "serve",
            "--resp-port",
            "0",
            "--binary-port",
            "0",
            "--shard-port-base",
            "0",
            "--cores",
            "1",
        ]);
        command.arg("--data-dir").arg(self.0.join("data"));
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, flags: &[&str]) -> Output {
        self.command(flags).output().expect("the binary is built")
    }

    /// Starts a server and waits until it serves; returns it and its ready line.
    fn serve(&self, flags: &[&str]) -> (Server, String) {
        let mut command = self.command(flags);
        command.arg("--ready-file").arg(self.ready_file());
        let server = Server(command.spawn().expect("the binary is built"));
        for _ in 0..POLLS_MAX {
            if let Ok(line) = fs::read_to_string(self.ready_file()) {
                return (server, line);
            }
            sleep(Duration::from_millis(10));
        }
        panic!("not ready: {}", server.kill());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is gone when its test is.
struct Server(Child);

impl Server {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(sent.expect("there is kill").success());
    }

    /// Waits for its end; the exit code.
    fn end(&mut self) -> Option<i32> {
        for _ in 0..POLLS_MAX {
            if let Some(status) = self.0.try_wait().expect("it is our child") {
                return status.code();
            }
            sleep(Duration::from_millis(10));
        }
        panic!("still running after 10 s");
    }

    /// Kills it; what it had to say.
    fn kill(mut self) -> String {
        let _ = self.0.kill();
        let mut text = String::new();
        if let Some(stderr) = &mut self.0.stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_signal_ends_it_with_0_and_the_ready_file_goes() {
    for signal in ["-TERM", "-INT"] {
        let scene = Scene::new(&format!("signal{signal}"));
        let (mut server, line) = scene.serve(&[]);

        server.signal(signal);

        assert_eq!(server.end(), Some(0));
        assert!(!scene.ready_file().exists());
        let pid = format!("{{\"pid\":{},\"node_id\":1,\"resp_port\":", server.0.id());
        assert!(line.starts_with(&pid) && line.ends_with("]}\n"), "{line}");
    }
}

#[test]
fn a_second_process_is_refused_by_name_and_a_third_served_after_a_kill() {
    let scene = Scene::new("lock");
    let (server, _) = scene.serve(&[]);
    let pid = server.0.id();

    let second = scene.run(&[]);

    assert_eq!(second.status.code(), Some(3), "{}", stderr(&second));
    assert!(stderr(&second).contains(&format!("in use by process {pid}")), "{}", stderr(&second));
    drop(server);
    let stale = fs::read_to_string(scene.ready_file()).expect("kill -9 leaves it behind");
    fs::remove_file(scene.ready_file()).expect("it is there");
    let (_third, line) = scene.serve(&[]);
    assert_ne!(line, stale);
}

#[test]
fn another_number_of_cores_is_refused_with_3() {
    let scene = Scene::new("cores");
    let (mut server, _) = scene.serve(&[]);
    server.signal("-TERM");
    assert_eq!(server.end(), Some(0));

    let refused = scene.run(&["--cores", "2"]);

    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("start with --cores 1"), "{}", stderr(&refused));
}

#[test]
fn a_wrong_configuration_is_refused_with_2_and_nothing_is_touched() {
    let scene = Scene::new("config");
    let file = scene.0.join("stave.toml");
    fs::write(&file, "memroy = \"1g\"\n").expect("it is ours");

    let checked = scene.run(&["--check-config", "--config", &file.to_string_lossy()]);
    let served = scene.run(&["--bind", "0.0.0.0"]);

    assert_eq!((checked.status.code(), served.status.code()), (Some(2), Some(2)));
    let shown = stderr(&checked);
    assert!(shown.contains("stave.toml:1: unknown setting \"memroy\""), "{shown}");
    assert!(shown.contains("did you mean \"memory\"?"), "{shown}");
    assert!(!data(&scene).exists());
}

#[test]
fn the_configuration_is_printed_with_sources_and_without_the_password() {
    let scene = Scene::new("print");
    let mut command = scene.command(&["--print-config", "--memory", "1g"]);
    command.env("STAVE_REQUIREPASS", "hunter2").env("STAVE_ACK", "relaxed");

    let printed = command.output().expect("the binary is built");

    let text = String::from_utf8_lossy(&printed.stdout);
    assert_eq!(printed.status.code(), Some(0));
    for line in [
        "memory = \"1GiB\"  # --memory",
        "ack = \"relaxed\"  # STAVE_ACK",
        "# requirepass = <redacted>  # STAVE_REQUIREPASS",
        "max-clients = 10000  # default",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!data(&scene).exists());
}

#[test]
fn json_logs_are_one_object_per_line() {
    let scene = Scene::new("json");
    let (mut server, _) = scene.serve(&["--log-format", "json"]);
    server.signal("-TERM");
    assert_eq!(server.end(), Some(0));

    let log = server.kill();

    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        assert!(line.starts_with("{\"timestamp\":") && line.ends_with('}'), "{line}");
    }
}

fn data(scene: &Scene) -> PathBuf {
    Path::new(&scene.0).join("data")
}
