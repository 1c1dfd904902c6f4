//! SET, and with it WAIT, over RESP.

use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Plan, Seen};

/// Sends one request after the other until the end.
pub async fn run(
    plan: &Plan,
    number: usize,
    mut stream: TcpStream,
    waits: bool,
) -> Result<Seen, String> {
    let (mut seen, mut random) = (Seen::default(), number as u64);
    let mut input = Vec::with_capacity(1 << 12);
    while Instant::now() < plan.end {
        let output = request(plan, &plan.key(&mut random), waits);
        let begun = Instant::now();
        ask(&mut stream, &output, &mut input, 1 + usize::from(waits)).await?;
        plan.note(&mut seen, begun, judge(&input, waits));
    }
    Ok(seen)
}

/// Sends a request and waits for so many lines.
pub async fn ask(
    stream: &mut TcpStream,
    output: &[u8],
    input: &mut Vec<u8>,
    replies: usize,
) -> Result<(), String> {
    stream.write_all(output).await.map_err(|error| error.to_string())?;
    input.clear();
    while lines(input) < replies {
        let read = stream.read_buf(input).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("the connection was closed".to_owned());
        }
    }
    Ok(())
}

/// A SET of the plan's value.
pub fn request(plan: &Plan, key: &str, waits: bool) -> Vec<u8> {
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), plan.value.len());
    let mut output = head.into_bytes();
    output.extend_from_slice(&plan.value);
    output.extend_from_slice(b"\r\n");
    if waits {
        output.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n");
    }
    output
}

fn lines(input: &[u8]) -> usize {
    input.iter().filter(|byte| **byte == b'\n').count()
}

/// Whether the reply is what it should be.
pub fn judge(input: &[u8], waits: bool) -> Result<(), String> {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split("\r\n");
    let is_set = lines.next() == Some("+OK");
    let is_copied = !waits || lines.next().is_some_and(|count| matches!(count, ":1" | ":2"));
    if is_set && is_copied { Ok(()) } else { Err(text.into_owned()) }
}
