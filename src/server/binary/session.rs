//! What a connection of the binary port says of itself: hello, auth, session; and ping and info.

use super::{
    Asker, BATCH_COUNT_MAX, BATCH_LEN_MAX, BODY_LEN_MAX, IN_FLIGHT_MAX, MULTI_GET_COUNT_MAX,
    SCAN_COUNT_MAX, VALUE_LEN_MAX, encode, round,
};
use crate::command::question::Told;
use crate::command::{Run, resolve, same_secret};
use crate::env::{ConnId, Env};
use crate::limits::KEY_LEN_MAX;
use crate::protocol::binary::{
    Breach, Code, FLAG_ERROR, Failure, HANDSHAKE_MS_MAX, Header, Hello, Reply, Request, VERSION,
    Welcome,
};
use crate::protocol::resp::{self, ArgsBuf, Proto};
use crate::server::ledger;
use crate::server::node::View;
use crate::server::{Server, TICK};

impl<E: Env> Server<E> {
    /// A request of the session, or any while it has not begun.
    pub(super) fn serve_session(&mut self, asker: &Asker, body: &[u8]) {
        let Some(conn) = self.conn(asker.conn) else { return };
        let greeted = conn.binary.as_deref().is_some_and(|line| line.greeted);
        let authenticated = conn.session.authenticated;
        let request = match Request::decode(asker.header.opcode, body) {
            Ok(request) if asker.header.flags == 0 => request,
            Ok(_) => {
                let text = "a request has no flags";
                return self.fail(asker, Failure::new(Code::BadRequest, text));
            }
            Err(code) => return self.fail(asker, Failure::new(code, round::text_of(code))),
        };
        match request {
            Request::Hello(hello) if !greeted => self.greet(asker, &hello),
            _ if !greeted || matches!(request, Request::Hello(_)) => {
                let text = "hello comes first, once";
                self.fail(asker, Failure::new(Code::HelloRequired, text));
            }
            Request::Auth { user, password } => {
                if self.authenticate(asker, user, password) {
                    self.reply(asker, &Reply::Auth);
                }
            }
            _ if !authenticated => {
                let text = "a password is set: say it in hello or auth";
                self.fail(asker, Failure::new(Code::AuthRequired, text));
            }
            Request::Session { id, born } => self.begin_session(asker, id, born),
            Request::Ping(bytes) => self.reply(asker, &Reply::Ping(bytes)),
            Request::Info(section) => {
                let text = self.info_text(section);
                self.reply(asker, &Reply::Info(&text));
            }
            _ => unreachable!("the caller serves what is on keys"),
        }
    }

    pub(super) fn reply(&mut self, asker: &Asker, reply: &Reply<'_>) {
        self.respond(asker, &[], 0, |out| {
            reply.encode(out);
            None
        });
    }

    fn greet(&mut self, asker: &Asker, hello: &Hello<'_>) {
        if !hello.versions.contains(&VERSION) {
            let text = format!("this server speaks version {VERSION} alone");
            self.fail(asker, Failure::new(Code::UnsupportedVersion, &text));
            return self.hang_up(asker.conn);
        }
        let Some(name) = name_of(hello.name) else {
            let text = "a name is of printable ASCII without spaces";
            return self.fail(asker, Failure::new(Code::BadRequest, text));
        };
        let says = !hello.password.is_empty() || !hello.user.is_empty();
        if says && !self.authenticate(asker, hello.user, hello.password) {
            return;
        }
        let Some(conn) = self.conn(asker.conn) else { return };
        if let Some(line) = conn.binary.as_deref_mut() {
            line.greeted = true;
        }
        conn.session.name = name;
        let authenticated = conn.session.authenticated;
        let map = *self.shard.map();
        let node = std::rc::Rc::clone(&self.node);
        let welcome = Welcome {
            version: VERSION,
            authenticated,
            password_set: node.password().is_some(),
            shard: self.shard.id().0,
            shard_count: map.shard_count(),
            partition_count: map.partition_count(),
            key_len_max: KEY_LEN_MAX as u32,
            value_len_max: VALUE_LEN_MAX as u32,
            body_len_max: BODY_LEN_MAX as u32,
            batch_count_max: BATCH_COUNT_MAX as u32,
            batch_len_max: BATCH_LEN_MAX as u32,
            multi_get_count_max: MULTI_GET_COUNT_MAX as u32,
            scan_count_max: SCAN_COUNT_MAX as u32,
            in_flight_max: IN_FLIGHT_MAX,
            node_id: &node.identity.node_id,
            server_version: &node.identity.version,
        };
        self.reply(asker, &Reply::Hello(welcome));
    }

    /// False: it was wrong; said so and closed.
    fn authenticate(&mut self, asker: &Asker, user: &[u8], password: &[u8]) -> bool {
        let expected = self.node.password();
        let right = expected.is_none_or(|expected| same_secret(&expected, password));
        let known = user.is_empty() || user == b"default";
        if !(right && known) {
            self.fail(asker, Failure::new(Code::AuthFailed, "wrong user or password"));
            self.hang_up(asker.conn);
            return false;
        }
        if let Some(conn) = self.conn(asker.conn) {
            conn.session.authenticated = true;
        }
        true
    }

    /// What `INFO` says of a section.
    fn info_text(&mut self, section: &str) -> String {
        let words = ["info", section];
        let words = &words[..if section.is_empty() { 1 } else { 2 }];
        let args: ArgsBuf = words.iter().copied().collect();
        let Ok(spec) = resolve(&args.args()) else { return String::new() };
        let Run::Node(wide) = spec.run else { return String::new() };
        // The gauges of other shards are those of their last tick.
        self.update_gauges();
        let unix_ms = self.env.unix_ms();
        let mut session = self.node.new_session(String::new(), unix_ms);
        let facts = View::new(&self.node, None, unix_ms);
        let (mut out, mut spliced) = (Vec::new(), Vec::new());
        let mut reply = resp::Reply::new(Proto::Resp2, &mut out, &mut spliced);
        (wide.tell)(&mut session, &facts, &args.args(), &Told::default(), &mut reply);
        // A bulk string: a line with its length, the text, a line's end.
        let text = out.iter().position(|byte| *byte == b'\n').map(|at| &out[at + 1..]);
        let text = text.and_then(|text| text.strip_suffix(b"\r\n")).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// Answers what is not the protocol, and closes when what came before is answered.
    pub(super) fn refuse_typed_stream(&mut self, id: ConnId, breach: Breach) {
        let Breach { code, header } = breach;
        let text = match code {
            Code::UnsupportedVersion => "the frame's version is not the one agreed on",
            Code::TooLarge => "the body is over the limit",
            Code::BadMagic => "this is the binary port: a frame begins with its magic",
            _ => "a checksum is wrong: bytes were damaged on the way",
        };
        self.end_line(id, header.unwrap_or_default(), Failure::new(code, text));
    }

    /// Says a last word and closes.
    fn end_line(&mut self, id: ConnId, header: Header, failure: Failure<'_>) {
        let Some(conn) = self.conn(id) else { return };
        if conn.closing {
            return;
        }
        let name = Code::of(failure.code).map_or("", Code::name).to_ascii_uppercase();
        ledger::note_error(name.as_bytes(), self.shard.stats());
        let Some(conn) = self.conn(id) else { return };
        conn.closing = true;
        encode(conn.output.end(), &header, FLAG_ERROR, |out| {
            failure.encode(out);
            None
        });
        self.mark_dirty(id.index);
    }

    fn hang_up(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id) {
            conn.closing = true;
            self.mark_dirty(id.index);
        }
    }

    /// Ends handshakes that take too long, and what is held past its deadline.
    pub(in crate::server) fn on_typed_tick(&mut self) {
        self.expire_held();
        let now = self.env.now();
        let max = std::time::Duration::from_millis(HANDSHAKE_MS_MAX) + TICK;
        let slow = self.conns.iter().flatten().filter(|conn| {
            let line = conn.binary.as_deref();
            let settled = |greeted| greeted && conn.session.authenticated;
            line.is_some_and(|line| !settled(line.greeted) && now - line.since > max)
        });
        let slow: Vec<_> = slow.map(|conn| conn.id).collect();
        for id in slow {
            let code = Code::HelloRequired;
            let text = "no hello and password within 10 s";
            self.end_line(id, Header::default(), Failure::new(code, text));
        }
    }

    /// Refuses a connection: there are too many.
    pub(in crate::server) fn crowded_out(out: &mut Vec<u8>) {
        encode(out, &Header::default(), FLAG_ERROR, |out| {
            Failure::new(Code::Overloaded, "max number of clients reached").encode(out);
            None
        });
    }
}

/// What a client calls itself, if that is a name.
fn name_of(name: &[u8]) -> Option<String> {
    let fits = name.iter().all(u8::is_ascii_graphic);
    fits.then(|| name.iter().copied().map(char::from).collect())
}
