//! LATENCY's samples of a command that takes long.

use crate::client::Reply;
use crate::server::Server;

/// Enough that looking through them takes more than the threshold on any machine.
const KEYS: usize = 200_000;

#[test]
fn a_command_that_takes_long_is_a_sample_until_it_is_reset() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    for first in (0..KEYS).step_by(10_000) {
        let keys: Vec<String> = (first..first + 10_000).map(|n| format!("key:{n}")).collect();
        let mut args = vec!["MSET"];
        keys.iter().for_each(|key| args.extend([key.as_str(), "x"]));
        assert_eq!(client.run(&args), Reply::ok());
    }
    assert_eq!(client.run(&["LATENCY", "LATEST"]), Reply::Array(vec![]));
    assert_eq!(client.run(&["CONFIG", "SET", "latency-monitor-threshold", "1"]), Reply::ok());
    client.run(&["KEYS", "none*"]);

    let Reply::Array(events) = client.run(&["LATENCY", "LATEST"]) else { panic!("no list") };
    let [Reply::Array(event)] = &events[..] else { panic!("{events:?}") };
    let [name, Reply::Integer(unix_s), Reply::Integer(ms), Reply::Integer(ms_max)] = &event[..]
    else {
        panic!("{event:?}")
    };
    assert_eq!(*name, Reply::bulk("command"));
    assert!(*ms >= 1 && ms_max >= ms, "{event:?}");
    let Reply::Array(samples) = client.run(&["LATENCY", "HISTORY", "command"]) else {
        panic!("no list")
    };
    let latest = Reply::Array(vec![Reply::Integer(*unix_s), Reply::Integer(*ms)]);
    assert_eq!(samples.last(), Some(&latest));

    assert_eq!(client.run(&["CONFIG", "SET", "latency-monitor-threshold", "0"]), Reply::ok());
    client.run(&["KEYS", "none*"]);
    assert_eq!(client.run(&["LATENCY", "RESET", "fast-command"]), Reply::Integer(0));
    assert_eq!(client.run(&["LATENCY", "RESET"]), Reply::Integer(1));
    assert_eq!(client.run(&["LATENCY", "LATEST"]), Reply::Array(vec![]));
}
