// A real `stave serve` on free ports, gone when it is dropped. The tests, and the examples in the
// documentation (by `include!`, so this file is without a header of its own), run against it.

/// A running server and its directory.
pub struct Server {
    /// Where its binary protocol is.
    pub address: String,
    directory: std::path::PathBuf,
    flags: Vec<String>,
    child: std::process::Child,
}

impl Server {
    /// A server of two shards.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A server with further flags.
    pub fn with(flags: &[&str]) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Beside the build, since direct I/O wants a real disk.
        let directory = target().join(format!("tmp/client-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the target directory takes files");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let child = spawn(&directory, &flags);
        let mut server = Self { address: String::new(), directory, flags, child };
        server.wait();
        server
    }

    /// kill -9: nothing is flushed, nobody is told.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on the same data and the same port.
    pub fn restart(&mut self) {
        let _ = std::fs::remove_file(self.directory.join("ready"));
        let port = self.address.rsplit(':').next().expect("a port").to_owned();
        if !self.flags.iter().any(|flag| flag == "--binary-port") {
            self.flags.extend(["--binary-port".to_owned(), port]);
        }
        self.child = spawn(&self.directory, &self.flags);
        self.wait();
    }

    /// Stops it (SIGSTOP) or lets it go on (SIGCONT).
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args([name, &pid]).status();
        assert!(sent.expect("there is kill").success());
    }

    fn wait(&mut self) {
        let begin = std::time::Instant::now();
        loop {
            let ready = std::fs::read_to_string(self.directory.join("ready")).unwrap_or_default();
            if let Some((_, rest)) = ready.split_once("\"binary_port\":") {
                let port = rest.split(',').next().expect("a number");
                assert_ne!(port, "null", "the server does not serve the binary protocol");
                self.address = format!("127.0.0.1:{port}");
                return;
            }
            let ended = self.child.try_wait().expect("it is our child");
            let log = || std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            let late = begin.elapsed() > std::time::Duration::from_secs(20);
            assert!(ended.is_none() && !late, "the server did not start: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn target() -> std::path::PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.into(), std::path::PathBuf::from)
}

fn spawn(directory: &std::path::Path, flags: &[String]) -> std::process::Child {
    let binary = std::env::var_os("STAVE_BIN")
        .map_or_else(|| target().join("release/stave"), std::path::PathBuf::from);
    assert!(
        binary.is_file(),
        "{} is not there: cargo build --release --bin stave, or name one in STAVE_BIN",
        binary.display()
    );
    // It dies with us, also when we are killed.
    let mut command = std::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(binary).env_remove("STAVE_BIN");
    command.args(["serve", "--resp-port", "0", "--shard-port-base", "0", "--memory", "1GiB"]);
    for (flag, value) in [("--binary-port", "0"), ("--cores", "2")] {
        if !flags.iter().any(|given| given == flag) {
            command.args([flag, value]);
        }
    }
    command.arg("--data-dir").arg(directory.join("data"));
    command.arg("--ready-file").arg(directory.join("ready")).args(flags);
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log"));
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command.stderr(log.expect("the directory takes files"));
    command.spawn().expect("setpriv (util-linux) and the server can be run")
}
