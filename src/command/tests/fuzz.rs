//! Structured random requests to every handler: of each row of the table, with right and wrong
//! numbers of arguments, words of options, numbers at their limits, and binary keys.
//!
//! No request makes a handler panic, each is answered with exactly one whole reply, and each effect
//! is one that a partition can log (which [`Server::apply`] checks).
//!
//! `STAVE_FUZZ_INPUTS` requests (20,000 unless told) from number `STAVE_FUZZ_FIRST` (0) on:
//!
//! ```text
//! STAVE_FUZZ_INPUTS=10000000 cargo test --release --lib command::tests::fuzz
//! STAVE_FUZZ_INPUTS=1 STAVE_FUZZ_FIRST=4711 cargo test --lib command::tests::fuzz
//! ```

use super::*;

/// Requests from one fresh server to the next: a failure is replayed from the last of these.
const LIFE: u64 = 64;

/// Most that all requests may add to the process, bytes.
const GROWTH_MAX: u64 = 64 << 20;

const WORDS: [&str; 94] = [
    "NX",
    "XX",
    "GT",
    "LT",
    "EX",
    "PX",
    "EXAT",
    "PXAT",
    "GET",
    "IFEQ",
    "KEEPTTL",
    "PERSIST",
    "REPLACE",
    "DB",
    "MATCH",
    "COUNT",
    "TYPE",
    "ASYNC",
    "SYNC",
    "AUTH",
    "SETNAME",
    "ID",
    "ADDR",
    "LADDR",
    "USER",
    "SKIPME",
    "YES",
    "NO",
    "ON",
    "OFF",
    "SKIP",
    "FILTERBY",
    "MODULE",
    "ACLCAT",
    "PATTERN",
    "LIB-NAME",
    "LIB-VER",
    "ALL",
    "WRITE",
    "TIMEOUT",
    "ERROR",
    "SAVE",
    "NOSAVE",
    "NOW",
    "ABORT",
    "SLEEP",
    "HELP",
    "string",
    "hash",
    "normal",
    "pubsub",
    "default",
    "everything",
    "server",
    "save",
    "maxmemory",
    "loglevel",
    "notice",
    "notify-keyspace-events",
    "KEA",
    "get",
    "set",
    "mset",
    "rename",
    "object",
    "encoding",
    "client",
    "list",
    "read",
    "c*",
    "*",
    "secret",
    "AND",
    "OR",
    "XOR",
    "NOT",
    "BIT",
    "BYTE",
    "INCRBY",
    "OVERFLOW",
    "WRAP",
    "SAT",
    "FAIL",
    "u8",
    "i64",
    "u63",
    "#1",
    "LEN",
    "IDX",
    "MINMATCHLEN",
    "WITHMATCHLEN",
    "ABSTTL",
    "IDLETIME",
    "FREQ",
];

/// At and around what commands take; nothing that would rightly make a value of many megabytes.
const NUMBERS: [&str; 34] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "10",
    "15",
    "16",
    "100",
    "255",
    "256",
    "1000",
    "16383",
    "16384",
    "65535",
    "65536",
    "536870912",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967296",
    "1700000000000",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "99999999999999999999999",
    "00",
    "+1",
    "1.5",
    "1e308",
    "-1e-5",
    "nan",
];

const KEYS: [&[u8]; 8] =
    [b"a", b"b", b"{t}1", b"{t}2", b"", b"\x00\xff\r\n", b"aaaaaaaaaaaaaaaaaaaaaaaab", b"\\[*?"];

const PATTERNS: [&[u8]; 6] =
    [b"*a*a*a*a*a*a*a*a*c", b"[", b"[^a-", b"\\", b"?*?*?", b"[\x00-\xff]*"];

/// SplitMix64, as the other fuzzers use it; see `tests/it/fuzz`.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// An argument: whatever some command may take for something.
fn argument(rng: &mut Rng) -> Vec<u8> {
    match rng.below(10) {
        0..4 => rng.of(&WORDS).as_bytes().to_vec(),
        4..7 => rng.of(&NUMBERS).as_bytes().to_vec(),
        7 => rng.of(&KEYS).to_vec(),
        8 => rng.of(&PATTERNS).to_vec(),
        _ => (0..rng.below(9)).map(|_| rng.next() as u8).collect(),
    }
}

/// A request of this row: mostly with as many arguments as it takes, keys where keys stand.
fn request(spec: &Spec, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = spec.name.split('|').map(|part| part.into()).collect();
    if rng.below(8) == 0 {
        words[0].make_ascii_uppercase();
    }
    let least = usize::from(spec.arity.unsigned_abs());
    let len = match rng.below(16) {
        0 => rng.below(8),
        1..4 if spec.arity > 0 => least + rng.below(2),
        _ if spec.arity > 0 => least,
        _ => least + rng.below(6),
    };
    while words.len() < len {
        let at = words.len();
        let Keys { first, last, step } = spec.keys;
        let is_key = at >= usize::from(first)
            && (last < 0 || at <= last as usize)
            && (at - usize::from(first)).is_multiple_of(usize::from(step.max(1)));
        let keyed = first > 0 && is_key && rng.below(16) > 0;
        words.push(if keyed { rng.of(&KEYS).to_vec() } else { argument(rng) });
    }
    if ["setbit", "bitfield"].contains(&spec.name) {
        // As offsets they would rightly make a value of many megabytes.
        let is_far =
            |word: &&mut Vec<u8>| number_of(word).is_some_and(|n| n > 65_536 && n >> 32 == 0);
        words.iter_mut().skip(2).filter(is_far).for_each(|word| *word = b"65536".to_vec());
    }
    words
}

fn number_of(word: &[u8]) -> Option<i64> {
    std::str::from_utf8(word).ok()?.trim_start_matches('#').parse().ok()
}

/// Length of the one reply at the start, if it is whole.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let line = std::str::from_utf8(&bytes[1..end - 2]).ok();
    let number = || line.and_then(|line| line.parse::<i64>().ok());
    let parts = match bytes[0] {
        b'+' | b'-' | b'_' | b',' | b'#' => 0,
        b':' => number().map(|_| 0)?,
        b'$' | b'=' => {
            let len = usize::try_from(number()?).map_or(0, |len| len + 2);
            return (bytes.len() >= end + len).then_some(end + len);
        }
        b'*' | b'~' | b'>' => number()?.max(0),
        b'%' => 2 * number()?,
        _ => return None,
    };
    (0..parts).try_fold(end, |at, _| Some(at + reply_len(&bytes[at..])?))
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.expect("statm has numbers") * 4096
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn no_request_harms_a_handler() {
    let every = || all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands()));
    let rows: Vec<&Spec> = every().collect();
    let first = setting("STAVE_FUZZ_FIRST", 0);
    let count = setting("STAVE_FUZZ_INPUTS", 20_000);
    let (begin, mut answers, mut errors) = (resident(), 0_u64, 0_u64);
    let mut server = Server::new(Proto::Resp2, None);
    for number in first..first + count {
        let mut rng = Rng(number.wrapping_mul(0xd134_2543_de82_ef95));
        if number % LIFE == 0 || number == first {
            let proto = if rng.below(2) == 0 { Proto::Resp2 } else { Proto::Resp3 };
            server = Server::new(proto, if rng.below(8) == 0 { Some("secret") } else { None });
            server.facts.identity.debug_enabled = rng.below(2) == 0;
        }
        server.facts.now_ms += rng.below(50) as u64;
        let words = request(rng.of(&rows), &mut rng);
        let before = server.session.reply_mode;
        let monitors_again = server.session.is_monitor && words[0].eq_ignore_ascii_case(b"monitor");

        let reply = server.run(&words);

        let fail = |what: &str| -> ! {
            let from = number - number % LIFE;
            let words: Vec<String> = words.iter().map(|w| w.escape_ascii().to_string()).collect();
            let reply = reply.escape_ascii();
            panic!("{what}: {words:?} was answered {reply}; replay from STAVE_FUZZ_FIRST={from}")
        };
        match reply_len(&reply) {
            Some(len) if len == reply.len() => answers += 1,
            None if reply.is_empty() && (monitors_again || is_silent(&server, before)) => {}
            _ => fail("not one reply"),
        }
        errors += u64::from(reply.first() == Some(&b'-'));
    }
    println!("{count} requests, {answers} answers, {errors} of them errors");
    let growth = resident().saturating_sub(begin);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
    assert!(errors < count * 9 / 10, "too few requests are right: {errors} errors of {count}");
}

/// Whether the latest command may be without an answer.
fn is_silent(server: &Server, before: ReplyMode) -> bool {
    let replies_off = before != ReplyMode::On || server.session.reply_mode != ReplyMode::On;
    let is_last_word = |effect: &String| effect.starts_with("Sleep") || effect == "Stop";
    replies_off || server.effects.iter().any(is_last_word)
}
