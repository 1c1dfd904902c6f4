//! Put by gRPC: a POST over HTTP/2 with a body of two fields, encoded here.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;

use crate::{Plan, Seen};

/// Sends one request after the other until the end.
pub async fn run(
    plan: &Plan,
    number: usize,
    stream: TcpStream,
    addr: SocketAddr,
) -> Result<Seen, String> {
    let shake = h2::client::handshake(stream).await;
    let (mut client, connection) = shake.map_err(|error| error.to_string())?;
    tokio::task::spawn_local(async move {
        // Its end is seen by the requests.
        let _ = connection.await;
    });
    let (mut seen, mut random) = (Seen::default(), number as u64);
    let uri = format!("http://{addr}/etcdserverpb.KV/Put");
    while Instant::now() < plan.end {
        let body = put(plan.key(&mut random).as_bytes(), &plan.value);
        let begun = Instant::now();
        client = client.ready().await.map_err(|error| error.to_string())?;
        plan.note(&mut seen, begun, ask(&mut client, &uri, body).await);
    }
    Ok(seen)
}

async fn ask(client: &mut SendRequest<Bytes>, uri: &str, body: Bytes) -> Result<(), String> {
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|error| error.to_string())?;
    let told = |error: h2::Error| error.to_string();
    let (response, mut send) = client.send_request(request, false).map_err(told)?;
    send.send_data(body, true).map_err(told)?;
    let response = response.await.map_err(told)?;
    let early = response.headers().get("grpc-status").cloned();
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let len = chunk.map_err(told)?.len();
        body.flow_control().release_capacity(len).map_err(told)?;
    }
    let trailers = body.trailers().await.map_err(told)?;
    let status = early.or(trailers.as_ref().and_then(|all| all.get("grpc-status").cloned()));
    match status {
        Some(status) if status == "0" => Ok(()),
        _ => Err(format!("gRPC status {status:?}, {trailers:?}")),
    }
}

/// PutRequest { key = 1, value = 2 } behind the five bytes of gRPC.
fn put(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    for (tag, bytes) in [(0x0a, key), (0x12, value)] {
        message.put_u8(tag);
        put_varint(&mut message, bytes.len());
        message.put_slice(bytes);
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(into: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        into.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}
