//! Tests of the codec: golden vectors, properties, hostile bytes.

mod golden;
mod properties;

use super::{Code, HEADER_LEN, Header, Reply, Request, VERSION, finish, start};

/// Longest body of these tests' parsers, bytes.
const BODY_LEN_MAX: usize = 1 << 20;

/// A request as it goes over the wire.
fn request_frame(request_id: u64, deadline_ms: u32, request: &Request<'_>) -> Vec<u8> {
    let header = Header {
        version: VERSION,
        opcode: request.opcode() as u8,
        request_id,
        deadline_ms,
        ..Header::default()
    };
    framed(header, |out| request.encode(out))
}

/// A reply as it goes over the wire.
fn reply_frame(header: Header, reply: &Reply<'_>) -> Vec<u8> {
    framed(Header { version: VERSION, ..header }, |out| reply.encode(out))
}

fn framed(header: Header, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    let at = start(&mut out);
    body(&mut out);
    finish(&mut out, at, header);
    assert!(out.len() >= HEADER_LEN);
    out
}

#[test]
fn the_client_library_knows_every_code_by_its_name() {
    assert!(Code::ALL.is_sorted_by_key(|code| *code as u16), "a reader looks for a number");
    for code in Code::ALL {
        assert_eq!(stavekv_client::Code::of(*code as u16).name(), code.name());
    }
}
