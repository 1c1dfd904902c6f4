//! The commands that ask a server, as a person types them: a transcript kept as a golden file, what
//! each failure's exit code is, and the repl in a terminal of its own.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it cli::` writes the transcript anew; look at the difference.
//! A line that is new to it is `$ ...` and, below, `= 0`.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::server::{Server, binary, has, told};

/// A shell that has `stave` in its path and `server` as its default.
fn shell(server: &str, line: &str) -> Output {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let own = binary().parent().expect("it is in a directory").to_owned();
    let paths = std::iter::once(own).chain(std::env::split_paths(&paths));
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("STAVE_SERVER", server).env_remove("STAVE_PASSWORD");
    command.env("PATH", std::env::join_paths(paths).expect("paths without colons"));
    command.output().expect("there is a shell")
}

/// The exit code of `stave ARGS` and all that it printed.
fn stave(server: &str, args: &str) -> (Option<i32>, String) {
    told(shell(server, &format!("exec stave {args}")))
}

fn address(server: &Server) -> String {
    format!("127.0.0.1:{}", server.binary_port)
}

/// `text` without what differs from run to run.
fn masked(text: &str, server: &str) -> String {
    let text = text.replace(server, "<server>");
    let mut out = String::new();
    let mut digits = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        match digits.len() {
            13 => out.push_str("<time>"),
            16.. => out.push_str("<version>"),
            _ => out.push_str(&digits),
        }
        digits.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// What the lines of `transcript` that begin with `$ ` print, each with its exit code.
fn replay(transcript: &str, server: &str) -> String {
    let (mut out, mut is_told) = (String::new(), false);
    for line in transcript.lines() {
        if line.starts_with("= ") {
            is_told = false;
        } else if !is_told && !line.starts_with("$ ") {
            writeln!(out, "{line}").expect("a string takes all");
        }
        let Some(line) = line.strip_prefix("$ ") else { continue };
        is_told = true;
        let (code, text) = told(shell(server, &format!("{{ {line}; }} 2>&1")));
        let text = masked(&text, server);
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n(no end of line)\n" };
        let code = code.expect("no signal ends it");
        write!(out, "$ {line}\n{text}{end}= {code}\n").expect("a string takes all");
    }
    out
}

#[test]
fn the_transcript_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cli.txt");
    let transcript = fs::read_to_string(&path).expect("it is in the repository");
    let server = Server::start(&["--cores", "2"]);

    let printed = replay(&transcript, &address(&server));

    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &printed).expect("the source tree takes files");
    }
    for (expected, printed) in transcript.lines().zip(printed.lines()) {
        assert_eq!(printed, expected, "in {}", path.display());
    }
    assert_eq!(printed.lines().count(), transcript.lines().count());
}

#[test]
fn no_server_and_another_server_are_told_apart_from_refusals() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let nobody = listener.local_addr().expect("it has one").to_string();
    drop(listener);
    let (code, text) = stave(&nobody, "ping");
    assert_eq!(code, Some(4), "{text}");
    for told in [nobody.as_str(), "Connection refused", "stave serve", "STAVE_SERVER", "7400"] {
        assert!(text.contains(told), "{told}: {text}");
    }

    let server = Server::start(&[]);
    let (code, text) = stave(&format!("127.0.0.1:{}", server.port), "get k --deadline 1s");
    assert!(code == Some(4) || code == Some(1), "the Redis port: {code:?} {text}");
    assert!(text.contains("Redis port"), "{text}");
    let (code, text) = stave(&address(&server), "ping");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&address(&server)) && text.ends_with(" us\n"), "{text}");
}

#[test]
fn a_password_is_asked_for_and_stays_out_of_sight() {
    let server = Server::start(&["--requirepass", "open sesame"]);
    let run = |line: &str| told(shell(&address(&server), line));

    let (code, text) = run("exec stave get k");
    assert_eq!((code, text.contains("STAVE_PASSWORD")), (Some(1), true), "{text}");
    let (code, text) = run("STAVE_PASSWORD=sesame exec stave get k");
    assert_eq!((code, text.contains("auth_failed")), (Some(1), true), "{text}");
    let (code, text) = run("STAVE_PASSWORD='open sesame' exec stave set k v");
    assert_eq!(code, Some(0), "{text}");
    let (_, text) = run("STAVE_PASSWORD='open sesame' exec stave get --help");
    assert!(!text.contains("sesame"), "{text}");
}

#[test]
fn a_write_whose_answer_is_lost_is_unknown() {
    let mut server = Server::start(&[]);
    let address = address(&server);
    let stopped = Command::new("kill").args(["-STOP", &server.pid().to_string()]).status();
    assert!(stopped.expect("there is kill").success());
    // The kernel takes the connection and the hello; no answer comes, so nothing was asked.
    let (code, text) = stave(&address, "set k v --deadline 500ms");
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("no hello came in time"), "{text}");
    let continued = Command::new("kill").args(["-CONT", &server.pid().to_string()]).status();
    assert!(continued.expect("there is kill").success());

    // A repl has a connection: its server is killed between the hello and the answer.
    let line = "(echo ping; sleep 1; echo set k v) | exec stave repl --deadline 3s --json";
    let typed = {
        let address = address.clone();
        spawn(move || told(shell(&address, line)))
    };
    sleep(Duration::from_millis(700));
    let stopped = Command::new("kill").args(["-STOP", &server.pid().to_string()]).status();
    assert!(stopped.expect("there is kill").success());
    sleep(Duration::from_millis(1_000));
    server.kill();
    let (code, text) = typed.join().expect("no panic");
    assert_eq!(code, Some(6), "{text}");
    assert!(text.contains(r#""done":"unknown""#) && text.contains("--if"), "{text}");
}

#[test]
fn values_are_kept_to_the_byte() {
    let server = Server::start(&[]);
    let run = |line: &str| shell(&address(&server), line);
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n * 7 + n / 256) as u8).collect();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = path.join(format!("cli-value-{}", std::process::id()));
    fs::write(&path, &bytes).expect("the target directory takes files");

    let set = run(&format!("exec stave set k - < {}", path.display()));
    assert!(set.status.success(), "{set:?}");
    let got = run("exec stave get k");
    assert!(got.stdout == bytes, "{} bytes came back", got.stdout.len());

    let (code, text) = told(run("head -c 536870913 /dev/zero | stave set k -"));
    assert_eq!((code, text.contains("536870912")), (Some(2), true), "{text}");
    let long = format!(
        "head -c 67108864 /dev/urandom > {0} && stave set long --deadline 60s - < {0} &&
         stave get long --deadline 60s | cmp - {0}",
        path.display()
    );
    let (code, text) = told(run(&long));
    assert_eq!(code, Some(0), "{text}");
    let head = run("for n in 1 2 3; do stave set n$n v; done >&2; stave scan | head -n 1");
    assert!(head.status.success() && head.stdout.ends_with(b"\n"), "{head:?}");
    fs::remove_file(&path).expect("ours");
}

#[test]
fn help_teaches_and_completion_knows_the_commands() {
    for command in ["get", "set", "del", "scan", "info", "ping", "repl"] {
        let (code, text) = stave("127.0.0.1:1", &format!("{command} --help"));
        assert_eq!(code, Some(0), "{text}");
        for taught in ["Examples:", "--server", "STAVE_SERVER", "127.0.0.1:7400", "--json"] {
            assert!(text.contains(taught), "{command}: {taught}: {text}");
        }
        for shell in ["bash", "zsh", "fish"] {
            let (_, script) = stave("127.0.0.1:1", &format!("completion {shell}"));
            assert!(script.contains(command) && script.contains("deadline"), "{shell}");
        }
    }
    let (_, text) = stave("127.0.0.1:1", "--help");
    assert!(text.contains("unknown whether the write was done"), "{text}");
}

#[test]
fn the_repl_edits_completes_remembers_and_helps() {
    if !has("python3") {
        return;
    }
    let server = Server::start(&[]);
    let history = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let history = history.join(format!("cli-history-{}/of/lines", std::process::id()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/repl.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(binary()).arg(address(&server)).arg(&history);
    python.arg(server.pid().to_string());

    let (code, text) = told(python.output().expect("python3 was found"));

    assert_eq!(code, Some(0), "{text}");
    let lines = fs::read_to_string(&history).expect("it was written");
    assert!(lines.contains("set greeting hello") && !lines.contains("secret"), "{lines}");
    fs::remove_dir_all(history.ancestors().nth(2).expect("three deep")).expect("ours");
}

#[test]
fn torture_runs_from_the_shipped_binary_and_teaches() {
    let (code, text) = stave("127.0.0.1:1", "torture --engine --seed 7 --seeds 2 --ops 200");
    assert_eq!(code, Some(0), "{text}");
    for told in ["seed 7: ", "seed 8: ", "all: ", "0 lost, 0 wrong, 0 refused starts"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let (code, text) = stave("127.0.0.1:1", "torture --seed 7 --nodes 3 --ops 100");
    assert_eq!((code, text.contains(" compared, 0 lost")), (Some(0), true), "{text}");
    let (code, text) = stave("127.0.0.1:1", "torture --engine --nodes 3");
    assert_eq!((code, text.contains("--engine")), (Some(2), true), "{text}");
    let (_, text) = stave("127.0.0.1:1", "torture --help");
    for taught in ["Examples:", "--seed", "--ops", "--json", "exit code 1", "Nothing is written"] {
        assert!(text.contains(taught), "{taught}: {text}");
    }
}
