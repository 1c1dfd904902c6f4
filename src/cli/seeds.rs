//! Where the nodes are that `--join` names: addresses, names of hosts, names of services.
//!
//! A name of a host may have many addresses, as that of a headless service of Kubernetes does: each
//! is one to ask. A name that begins with `_` and has no port is one of a service: its SRV records
//! (RFC 2782) name hosts and ports. Names are looked up at each turn, since nodes come and go.
//!
//! Services are asked for at the name servers of `/etc/resolv.conf`, in their order, by datagram,
//! and by stream if the answer is too long for one (RFC 7766). Names are taken as whole: its
//! search list is not applied. Targets go by priority, those of one by weight, the greatest first:
//! all are tried until one answers, so that a draw would gain nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};

use crate::env::os::random_seed;

/// Where the name servers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Of a name server.
const PORT: u16 = 53;
/// How long a name server may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How often each is asked.
const ATTEMPTS: usize = 2;
/// Longest answer by datagram: what passes every network in one piece (the DNS flag day of 2020).
const DATAGRAM_MAX: u16 = 1232;
/// Most targets of a service, and most addresses of a name.
const TARGETS_MAX: usize = 64;

/// Whether this is the name of a service.
pub(super) fn is_service(name: &str) -> bool {
    name.starts_with('_') && !name.contains(':')
}

/// The addresses of one name, best first; never none.
///
/// # Errors
/// There is no such name, or no name server answers.
pub(super) fn look_up(name: &str) -> anyhow::Result<Vec<SocketAddr>> {
    if !is_service(name) {
        return addresses(name);
    }
    let mut failed = None;
    for server in name_servers()? {
        for _ in 0..ATTEMPTS {
            match ask(server, name) {
                Ok(targets) => return all_addresses(name, &targets),
                Err(error) => failed = Some(error.context(format!("name server {server}"))),
            }
        }
    }
    Err(failed
        .with_context(|| format!("{RESOLV_CONF} names no name server"))?
        .context(name.to_owned()))
}

/// Of `HOST:PORT`.
fn addresses(name: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let found = name.to_socket_addrs().with_context(|| name.to_owned())?;
    let found: Vec<_> = found.take(TARGETS_MAX).collect();
    ensure!(!found.is_empty(), "{name} has no address");
    Ok(found)
}

/// Of those targets of a service that have some.
fn all_addresses(name: &str, targets: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let (mut found, mut failed) = (Vec::new(), None);
    for target in targets {
        match addresses(target) {
            Ok(some) => found.extend(some),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error.context(name.to_owned())),
        _ => Ok(found),
    }
}

fn name_servers() -> anyhow::Result<Vec<SocketAddr>> {
    let text = fs::read(RESOLV_CONF).context(RESOLV_CONF)?;
    let (config, _) = resolv_conf::Config::parse_with_errors(&text);
    let ips = config.nameservers.iter().map(IpAddr::from);
    Ok(ips.map(|ip| SocketAddr::new(ip, PORT)).collect())
}

/// The targets of a service as a name server tells them, `HOST:PORT`, best first; never none.
fn ask(server: SocketAddr, name: &str) -> anyhow::Result<Vec<String>> {
    let id = random_seed() as u16;
    let question = question(id, name)?;
    let answer = by_datagram(server, &question)?;
    match targets(id, name, &answer)? {
        Some(targets) => Ok(targets),
        None => targets(id, name, &by_stream(server, &question)?)?
            .context("it cuts answers short that are sent by stream"),
    }
}

fn question(id: u16, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name.trim_end_matches('.')).context("it is no name")?;
    packet.questions.push(Question::new(name, TYPE::SRV.into(), CLASS::IN.into(), false));
    let size = OPT { opt_codes: Vec::new(), udp_packet_size: DATAGRAM_MAX, version: 0 };
    *packet.opt_mut() = Some(size);
    Ok(packet.build_bytes_vec()?)
}

fn by_datagram(server: SocketAddr, question: &[u8]) -> anyhow::Result<Vec<u8>> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // What others send is not received.
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.send(question)?;
    let mut answer = vec![0; DATAGRAM_MAX.into()];
    let len = socket.recv(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

fn by_stream(server: SocketAddr, question: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), question].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// What an answer names; `None`: it is cut short.
fn targets(id: u16, name: &str, answer: &[u8]) -> anyhow::Result<Option<Vec<String>>> {
    let answer = Packet::parse(answer)?;
    let is_ours = |question: &Question<'_>| {
        let asked = question.qname.to_string();
        question.qtype == QTYPE::TYPE(TYPE::SRV)
            && asked.eq_ignore_ascii_case(name.trim_end_matches('.'))
    };
    let is_answer = answer.has_flags(PacketFlag::RESPONSE);
    ensure!(is_answer && answer.id() == id, "it answers what was not asked");
    ensure!(answer.questions.iter().all(is_ours), "it answers another question");
    match answer.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => bail!("there is no such service: expected _SERVICE._PROTO.DOMAIN"),
        code => bail!("it answers {code:?}"),
    }
    if answer.has_flags(PacketFlag::TRUNCATION) {
        return Ok(None);
    }
    let mut found: Vec<_> = answer
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::SRV(srv) => Some(srv),
            _ => None,
        })
        .collect();
    found.sort_by_key(|srv| (srv.priority, std::cmp::Reverse(srv.weight)));
    let hosts = found.iter().map(|srv| (srv.target.to_string(), srv.port));
    // A service that is not offered has the root as its target.
    let hosts = hosts.filter(|(host, _)| !host.is_empty()).take(TARGETS_MAX);
    let hosts: Vec<_> = hosts.map(|(host, port)| format!("{host}:{port}")).collect();
    ensure!(!hosts.is_empty(), "the service has no SRV records");
    Ok(Some(hosts))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use simple_dns::ResourceRecord;
    use simple_dns::rdata::SRV;

    use super::*;

    const SERVICE: &str = "_stave._tcp.example.com";

    /// An answer to a question: its records, or that it is cut short.
    fn answer(asked: &[u8], records: &[(u16, u16, u16, &'static str)], is_cut: bool) -> Vec<u8> {
        let asked = Packet::parse(asked).expect("a question");
        assert!(asked.opt().is_some_and(|opt| opt.udp_packet_size == DATAGRAM_MAX));
        let mut reply = asked.clone().into_reply();
        *reply.opt_mut() = None;
        if is_cut {
            reply.set_flags(PacketFlag::TRUNCATION);
        }
        for (priority, weight, port, target) in records.iter().filter(|_| !is_cut) {
            let target = Name::new_unchecked(target);
            let srv = SRV { priority: *priority, weight: *weight, port: *port, target };
            let name = Name::new_unchecked(SERVICE);
            reply.answers.push(ResourceRecord::new(name, CLASS::IN, 60, RData::SRV(srv)));
        }
        reply.build_bytes_vec_compressed().expect("it is sound")
    }

    /// A name server for one question, by datagram, and by stream if it is to cut the former short.
    fn name_server(records: &'static [(u16, u16, u16, &'static str)], cuts: bool) -> SocketAddr {
        let stream = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let at = stream.local_addr().expect("bound");
        let socket = UdpSocket::bind(at).expect("it is free for datagrams, too");
        thread::spawn(move || {
            let mut asked = [0; 512];
            let (len, from) = socket.recv_from(&mut asked).expect("a question");
            socket.send_to(&answer(&asked[..len], records, cuts), from).expect("sent");
            if cuts {
                let (mut stream, _) = stream.accept().expect("asked again");
                let mut len = [0; 2];
                stream.read_exact(&mut len).expect("a length");
                let mut asked = vec![0; u16::from_be_bytes(len).into()];
                stream.read_exact(&mut asked).expect("a question");
                let reply = answer(&asked, records, false);
                let framed = [&(reply.len() as u16).to_be_bytes(), &*reply].concat();
                stream.write_all(&framed).expect("sent");
            }
        });
        at
    }

    #[test]
    fn a_service_names_hosts_and_ports_best_first() {
        const RECORDS: &[(u16, u16, u16, &str)] = &[
            (20, 0, 7401, "last.example.com"),
            (10, 1, 7411, "second.example.com"),
            (10, 9, 7401, "first.example.com"),
        ];
        let expected =
            ["first.example.com:7401", "second.example.com:7411", "last.example.com:7401"];
        for cuts in [false, true] {
            let server = name_server(RECORDS, cuts);
            assert_eq!(ask(server, SERVICE).expect("it answers"), expected, "cut: {cuts}");
        }
        let server = name_server(RECORDS, false);
        assert_eq!(ask(server, "_stave._tcp.example.com.").expect("a whole name"), expected);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let asked = question(7, SERVICE).expect("a name");
        let sound = answer(&asked, &[(1, 1, 7401, "a.b")], false);
        assert_eq!(targets(7, SERVICE, &sound).expect("fine").expect("whole"), ["a.b:7401"]);

        let refused =
            |id, name, bytes: &[u8]| format!("{:#}", targets(id, name, bytes).expect_err("not"));
        assert!(refused(8, SERVICE, &sound).contains("what was not asked"));
        assert!(refused(7, SERVICE, &asked).contains("what was not asked"));
        assert!(refused(7, "_other._tcp.example.com", &sound).contains("another question"));
        let none = answer(&asked, &[], false);
        assert!(refused(7, SERVICE, &none).contains("no SRV records"));
        let root = answer(&asked, &[(0, 0, 0, "")], false);
        assert!(refused(7, SERVICE, &root).contains("no SRV records"));
        let mut unknown = Packet::parse(&none).expect("sound");
        *unknown.rcode_mut() = RCODE::NameError;
        let unknown = unknown.build_bytes_vec().expect("sound");
        assert!(refused(7, SERVICE, &unknown).contains("expected _SERVICE._PROTO.DOMAIN"));
        for len in 0..sound.len() {
            assert!(targets(7, SERVICE, &sound[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_name_is_all_its_addresses() {
        assert!(is_service(SERVICE) && !is_service("_a.b:1") && !is_service("localhost:7401"));
        assert_eq!(
            look_up("127.0.0.1:7401").expect("one"),
            [SocketAddr::from(([127, 0, 0, 1], 7401))]
        );
        let local = look_up("localhost:7401").expect("every machine knows it");
        assert!(local.iter().all(|addr| addr.ip().is_loopback()));
        assert!(
            format!("{:#}", look_up("nowhere.invalid:1").expect_err("no name")).contains("nowhere")
        );
    }
}
