//! SET as a client of Redis Cluster sends it: to the port that CLUSTER SLOTS names for the key's
//! slot, over a connection of its own to each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Plan, Seen, connect, resp};

/// First slot, last slot, port.
type Range = (u16, u16, u16);

/// Sends one request after the other until the end.
pub async fn run(plan: &Plan, number: usize) -> Result<Seen, String> {
    let mut ranges = ranges(plan.options.addrs[0]).await?;
    // A cluster that has just started may not know all leaders yet.
    while ranges.iter().map(|(first, last, _)| u32::from(last - first) + 1).sum::<u32>() < 16_384 {
        if Instant::now() > plan.counted_from {
            return Err("not every slot has a leader".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        ranges = self::ranges(plan.options.addrs[0]).await?;
    }
    let mut streams = BTreeMap::new();
    for (_, _, port) in &ranges {
        let addr = SocketAddr::new(plan.options.addrs[0].ip(), *port);
        let stream = connect(addr).await.map_err(|error| format!("{addr}: {error}"))?;
        streams.insert(*port, stream);
    }
    let (mut seen, mut random, mut input) = (Seen::default(), number as u64, Vec::new());
    while Instant::now() < plan.end {
        let key = plan.key(&mut random);
        let slot = crc16(key.as_bytes()) % 16_384;
        let owner = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        let (_, _, port) = owner.ok_or_else(|| format!("nobody has slot {slot}"))?;
        let stream = streams.get_mut(port).ok_or("every port has a stream")?;
        let output = resp::request(plan, &key, false);
        let begun = Instant::now();
        resp::ask(stream, &output, &mut input, 1).await?;
        plan.note(&mut seen, begun, resp::judge(&input, false));
    }
    Ok(seen)
}

/// Asks who has which slots.
async fn ranges(addr: SocketAddr) -> Result<Vec<Range>, String> {
    let mut stream: TcpStream = connect(addr).await.map_err(|error| error.to_string())?;
    // The reply to PING is the last line.
    let question = b"CLUSTER SLOTS\r\nPING\r\n";
    stream.write_all(question).await.map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    while !text.ends_with(b"+PONG\r\n") {
        let read = stream.read_buf(&mut text).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("the connection was closed".to_owned());
        }
    }
    parse(&String::from_utf8_lossy(&text)).ok_or("CLUSTER SLOTS is not understood".to_owned())
}

/// Each range is three elements or more: first, last, and the owner: host, port, name and more.
fn parse(text: &str) -> Option<Vec<Range>> {
    let mut lines = text.split("\r\n");
    let count: usize = lines.next()?.strip_prefix('*')?.parse().ok()?;
    let mut ranges = Vec::new();
    let mut lines = lines.peekable();
    while ranges.len() < count {
        lines.next()?.strip_prefix('*')?;
        let first = lines.next()?.strip_prefix(':')?.parse().ok()?;
        let last = lines.next()?.strip_prefix(':')?.parse().ok()?;
        lines.next()?.strip_prefix('*')?;
        lines.next()?.strip_prefix('$')?;
        lines.next()?;
        let port = lines.next()?.strip_prefix(':')?.parse().ok()?;
        ranges.push((first, last, port));
        // To the next range, which begins with an array and a number.
        loop {
            let line = *lines.peek()?;
            if line == "+PONG" {
                break;
            }
            let mut after = lines.clone().skip(1);
            if line.starts_with('*') && after.next()?.starts_with(':') {
                break;
            }
            lines.next();
        }
    }
    Some(ranges)
}

/// CRC16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}
