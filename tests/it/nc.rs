//! By hand: inline commands through nc, and what a half closed connection still gets.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::client::Reply;
use crate::server::{Server, has, told};

/// `printf input | nc -N`: all that came back.
fn nc(port: u16, input: &str) -> String {
    let mut command = Command::new("nc");
    command.args(["-N", "-w", "10", "127.0.0.1", &port.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("nc runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("nc reads");
    drop(stdin);
    told(child.wait_with_output().expect("nc ends")).1
}

#[test]
fn inline_commands_are_served_and_quit_ends() {
    if !has("nc") {
        return;
    }
    let server = Server::start(&[]);

    let said =
        nc(server.port, "SET greeting \"hello world\"\r\nGET greeting\nQUIT\r\nGET after\r\n");

    assert_eq!(said, "+OK\r\n$11\r\nhello world\r\n+OK\r\n");
    assert_eq!(nc(server.port, "\r\n\r\nPING\r\n"), "+PONG\r\n");
    assert!(nc(server.port, "SET \"a\r\n").contains("unbalanced quotes"));
    assert!(nc(server.port, "NOSUCH a b\r\n").starts_with("-ERR unknown command 'NOSUCH'"));
}

#[test]
fn a_half_closed_connection_gets_all_its_replies() {
    for cores in ["1", "2"] {
        let server = Server::start(&["--cores", cores]);
        let mut client = server.client();
        let count = 20_000;
        let pipeline: String = (0..count).map(|n| format!("SET key:{n} {n}\r\n")).collect();
        let mut writer = client.stream().try_clone().expect("a descriptor is left");
        let writing = std::thread::spawn(move || {
            writer.write_all(pipeline.as_bytes()).expect("the server reads");
            writer.write_all(b"GET half").expect("the server reads");
            writer.shutdown(std::net::Shutdown::Write).expect("it is open");
        });

        for n in 0..count {
            assert_eq!(client.try_reply(), Some(Reply::ok()), "reply {n} on {cores} cores");
        }
        assert_eq!(client.try_reply(), None, "the half request is not served");
        writing.join().expect("no panic");
    }
}
