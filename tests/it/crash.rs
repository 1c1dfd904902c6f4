//! kill -9 under load, through `tools/crash`, and that the tool would find a loss.

use std::process::Command;

use crate::server::{binary, has, told};

fn crash(args: &[&str]) {
    if !has("python3") {
        return;
    }
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/crash"));
    command.arg("--binary").arg(binary()).args(args);
    command.env("CARGO_TARGET_DIR", env!("CARGO_TARGET_TMPDIR"));
    let (code, text) = told(command.output().expect("python3 runs"));
    println!("{text}");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn nothing_acked_is_lost_by_kill_9() {
    crash(&["--cycles", "5", "--cores", "1"]);
}

#[test]
fn nothing_acked_is_lost_by_kill_9_on_two_cores() {
    crash(&["--cycles", "3", "--cores", "2", "--seed", "2"]);
}

#[test]
fn what_relaxed_acks_lose_is_found() {
    crash(&["--self-test"]);
}
