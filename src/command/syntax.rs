//! The arguments of commands, as manuals write them, and as `COMMAND DOCS` tells them: redis-cli
//! shows its hints and its help from the latter.
//!
//! ```text
//! list  := item*
//! item  := name ["..."]              an argument; "...": one or more
//!        | TOKEN name*               a word as it is, and what has to follow it
//!        | "[" choice "]" ["..."]    optional
//!        | "(" choice ")" ["..."]    some that belong together
//! choice := list ("|" list)*         one of several
//! ```

use crate::protocol::resp::Reply;

/// What follows the name of a command; empty for none, and for containers.
pub(super) fn syntax(name: &str) -> &'static str {
    let on_keys = of_keys(name);
    if on_keys.is_empty() { of_others(name) } else { on_keys }
}

fn of_keys(name: &str) -> &'static str {
    match name {
        "get" | "getdel" | "strlen" | "dump" | "incr" | "decr" | "type" | "ttl" | "pttl"
        | "expiretime" | "pexpiretime" | "persist" | "object|encoding" | "object|freq"
        | "object|idletime" | "object|refcount" | "cluster|keyslot" => "key",
        "set" => {
            "key value [NX|XX|IFEQ comparison-value] [GET] [EX seconds|PX milliseconds|EXAT \
             unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]"
        }
        "setnx" | "getset" | "append" | "delifeq" => "key value",
        "setex" => "key seconds value",
        "psetex" => "key milliseconds value",
        "getex" => {
            "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|\
             PERSIST]"
        }
        "mget" | "del" | "unlink" | "exists" | "touch" | "watch" => "key...",
        "mset" | "msetnx" => "(key value)...",
        "getrange" | "substr" => "key start end",
        "setrange" => "key offset value",
        "setbit" => "key offset value",
        "getbit" => "key offset",
        "bitcount" => "key [start end [BYTE|BIT]]",
        "bitpos" => "key bit [start [end [BYTE|BIT]]]",
        "bitop" => "(AND|OR|XOR|NOT) destkey key...",
        "bitfield" => {
            "key [GET encoding offset|[OVERFLOW (WRAP|SAT|FAIL)] (SET encoding offset value|\
             INCRBY encoding offset increment)]..."
        }
        "bitfield_ro" => "key [GET encoding offset]...",
        "restore" => {
            "key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]"
        }
        "lcs" => "key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
        "incrby" | "incrbyfloat" => "key increment",
        "decrby" => "key decrement",
        "expire" => "key seconds [NX|XX|GT|LT]",
        "pexpire" => "key milliseconds [NX|XX|GT|LT]",
        "expireat" => "key unix-time-seconds [NX|XX|GT|LT]",
        "pexpireat" => "key unix-time-milliseconds [NX|XX|GT|LT]",
        "memory|usage" => "key [SAMPLES count]",
        "scan" => "cursor [MATCH pattern] [COUNT count] [TYPE type]",
        "keys" => "pattern",
        "flushdb" | "flushall" => "[ASYNC|SYNC]",
        "rename" | "renamenx" => "key newkey",
        "copy" => "source destination [DB destination-db] [REPLACE]",
        "move" => "key db",
        _ => "",
    }
}

fn of_others(name: &str) -> &'static str {
    match name {
        "ping" => "[message]",
        "echo" => "message",
        "auth" => "[username] password",
        "hello" => "[protover [AUTH username password] [SETNAME clientname]]",
        "select" => "index",
        "info" => "[section...]",
        "wait" => "numreplicas timeout",
        "waitaof" => "numlocal numreplicas timeout",
        "shutdown" => "[NOSAVE|SAVE] [NOW] [FORCE] [ABORT]",
        "client|setname" => "connection-name",
        "client|setinfo" => "(LIB-NAME libname|LIB-VER libver)",
        "client|list" => "[TYPE client-type] [ID client-id...]",
        "client|pause" => "timeout [WRITE|ALL]",
        "client|unblock" => "client-id [TIMEOUT|ERROR]",
        "client|no-evict" | "client|no-touch" => "(ON|OFF)",
        "client|ack" => "[QUORUM|LEADER|RELAXED]",
        "client|reply" => "(ON|OFF|SKIP)",
        "client|kill" => {
            "([ip:port]|[ID client-id] [TYPE client-type] [USER username] [ADDR ip:port] [LADDR \
             ip:port] [SKIPME yes/no])"
        }
        "slowlog|get" => "[count]",
        "latency|history" => "event",
        "latency|reset" => "[event...]",
        "command|info" | "command|docs" => "[command-name...]",
        "command|list" => "[FILTERBY (MODULE module-name|ACLCAT category|PATTERN pattern)]",
        "command|getkeys" | "command|getkeysandflags" => "command arg...",
        "config|get" => "parameter...",
        "function|flush" => "[ASYNC|SYNC]",
        "function|list" => "[LIBRARYNAME library-name-pattern] [WITHCODE]",
        "psubscribe" => "pattern...",
        "config|set" => "(parameter value)...",
        "cluster|countkeysinslot" => "slot",
        "cluster|getkeysinslot" => "slot count",
        "cluster|replicas" | "cluster|count-failure-reports" => "node-id",
        "subscribe" => "channel...",
        "ssubscribe" => "shardchannel...",
        "unsubscribe" => "[channel...]",
        "punsubscribe" => "[pattern...]",
        "sunsubscribe" => "[shardchannel...]",
        "publish" => "channel message",
        "spublish" => "shardchannel message",
        "pubsub|channels" | "pubsub|shardchannels" => "[pattern]",
        "pubsub|numsub" => "[channel...]",
        "pubsub|shardnumsub" => "[shardchannel...]",
        _ => "",
    }
}

/// An argument of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Argument {
    name: String,
    kind: &'static str,
    token: Option<String>,
    optional: bool,
    multiple: bool,
    parts: Vec<Argument>,
}

/// Writes what `COMMAND DOCS` says of the arguments.
pub(super) fn write(syntax: &str, reply: &mut Reply<'_>) {
    write_list(&parse(syntax), reply);
}

fn write_list(arguments: &[Argument], reply: &mut Reply<'_>) {
    reply.array(arguments.len());
    for argument in arguments {
        let Argument { name, kind, token, optional, multiple, parts } = argument;
        let has_flags = *optional || *multiple;
        let has_parts = !parts.is_empty();
        let fields = [token.is_some(), has_flags, has_parts].into_iter().filter(|set| *set);
        reply.map(2 + fields.count());
        let mut field = |field: &str, value: &str| {
            reply.bulk(field.as_bytes());
            reply.bulk(value.as_bytes());
        };
        field("name", name);
        field("type", kind);
        if let Some(token) = token {
            field("token", token);
        }
        if has_flags {
            reply.bulk(b"flags");
            reply.set(usize::from(*optional) + usize::from(*multiple));
            let flags = [(*optional, "optional"), (*multiple, "multiple")];
            flags.iter().filter(|flag| flag.0).for_each(|flag| reply.simple(flag.1));
        }
        if has_parts {
            reply.bulk(b"arguments");
            write_list(parts, reply);
        }
    }
}

/// Reads the notation of the module's header.
fn parse(syntax: &str) -> Vec<Argument> {
    parse_list(&mut syntax.trim_start())
}

fn parse_list(rest: &mut &str) -> Vec<Argument> {
    let mut arguments: Vec<Argument> = Vec::new();
    while let Some(first) = rest.chars().next() {
        let mut argument = match first {
            '|' | ']' | ')' => break,
            '[' | '(' => {
                *rest = &rest[1..];
                Argument { optional: first == '[', ..parse_choice(rest) }
            }
            _ => parse_words(rest),
        };
        if let Some(after) = rest.strip_prefix("...") {
            *rest = after;
            argument.multiple = true;
        }
        *rest = rest.trim_start();
        arguments.push(argument);
    }
    arguments
}

/// Up to the bracket that closes it.
fn parse_choice(rest: &mut &str) -> Argument {
    let mut choices = Vec::new();
    loop {
        choices.push(joined(parse_list(rest)));
        let is_last = !rest.starts_with('|');
        *rest = rest.get(1..).unwrap_or_default();
        if is_last {
            break;
        }
    }
    if choices.len() == 1 {
        return choices.remove(0);
    }
    Argument { name: "option".to_owned(), kind: "oneof", parts: choices, ..Argument::default() }
}

/// Several as one.
fn joined(mut parts: Vec<Argument>) -> Argument {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    Argument { name: "block".to_owned(), kind: "block", parts, ..Argument::default() }
}

/// A name; or a token with the names that follow it.
fn parse_words(rest: &mut &str) -> Argument {
    let word = take_word(rest);
    if !is_token(word) {
        return named(word);
    }
    let mut parts = Vec::new();
    loop {
        *rest = rest.trim_start();
        let next = &rest[..word_len(rest)];
        if next.is_empty() || is_token(next) {
            break;
        }
        parts.push(named(take_word(rest)));
    }
    let token = Some(word.to_owned());
    if parts.is_empty() {
        let name = word.to_ascii_lowercase();
        return Argument { name, kind: "pure-token", token, ..Argument::default() };
    }
    Argument { token, ..joined(parts) }
}

fn named(name: &str) -> Argument {
    let kind = match name {
        "key" | "newkey" | "source" | "destination" | "destkey" | "key1" | "key2" => "key",
        "pattern" => "pattern",
        "seconds" | "milliseconds" | "offset" | "start" | "end" | "decrement" | "index"
        | "cursor" | "count" | "slot" | "timeout" | "numreplicas" | "numlocal" | "client-id"
        | "protover" | "destination-db" | "bit" | "ttl" | "frequency" | "min-match-len" => {
            "integer"
        }
        "unix-time-seconds" | "unix-time-milliseconds" => "unix-time",
        _ => "string",
    };
    Argument { name: name.to_owned(), kind, ..Argument::default() }
}

fn is_token(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_uppercase() || c == '-')
}

fn word_len(rest: &str) -> usize {
    let end = rest.find([' ', '|', '[', ']', '(', ')']).unwrap_or(rest.len());
    rest[..end].find("...").unwrap_or(end)
}

fn take_word<'a>(rest: &mut &'a str) -> &'a str {
    let (word, after) = rest.split_at(word_len(rest));
    *rest = after;
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Keys, Spec, all};

    /// Least number of words, and whether there may be more.
    fn extent(arguments: &[Argument]) -> (usize, bool) {
        let each = arguments.iter().map(|argument| {
            let (least, more) = match argument.kind {
                "oneof" => {
                    let parts =
                        argument.parts.iter().map(|part| extent(std::slice::from_ref(part)));
                    let parts: Vec<_> = parts.collect();
                    let least = parts.iter().map(|part| part.0).min().unwrap_or(0);
                    (least, parts.iter().any(|part| part.1 || part.0 != least))
                }
                "block" => extent(&argument.parts),
                "pure-token" => (0, false),
                _ => (1, false),
            };
            let least = least + usize::from(argument.token.is_some());
            let more = more || argument.optional || argument.multiple;
            (if argument.optional { 0 } else { least }, more)
        });
        each.fold((0, false), |sum, one| (sum.0 + one.0, sum.1 || one.1))
    }

    #[test]
    fn what_is_written_agrees_with_the_number_of_arguments() {
        let every = || all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands()));
        for spec in every().filter(|spec| spec.subcommands().is_empty()) {
            let Spec { name, arity, keys, .. } = *spec;
            let (least, more) = extent(&parse(syntax(name)));
            let words = 1 + usize::from(name.contains('|')) + least;
            let is_written = !syntax(name).is_empty();
            assert!(is_written || keys == Keys::NONE, "{name} has keys and no syntax");
            // Filters of which one at least has to be given.
            if is_written && name != "client|kill" {
                assert_eq!((words, more), (arity.unsigned_abs().into(), arity < 0), "{name}");
            }
        }
    }

    #[test]
    fn tokens_choices_and_lists_are_told_apart() {
        let parsed = parse("key [NX|IFEQ value] (MATCH pattern)... [AUTH user password]");

        let kinds: Vec<_> = parsed.iter().map(|argument| argument.kind).collect();
        assert_eq!(kinds, ["key", "oneof", "pattern", "block"]);
        assert!(parsed[1].optional && parsed[2].multiple && !parsed[0].optional);
        assert_eq!(parsed[1].parts[0].kind, "pure-token");
        assert_eq!(parsed[1].parts[1].token.as_deref(), Some("IFEQ"));
        assert_eq!(parsed[3].token.as_deref(), Some("AUTH"));
        assert_eq!(parsed[3].parts.len(), 2);
    }
}
