//! The house rules that neither rustfmt nor clippy knows, as a test.
//!
//! Each rule is a function from text to findings, and below it stands a violation that it must
//! find: a rule that finds nothing may just be broken. Rules on code work on [`bare`] text, without
//! comments and without what is between quotes.
#![expect(clippy::disallowed_methods, reason = "reads the source tree")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Lines of a file without its tests. Look again at 600.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function. Aim at 30.
const FUNCTION_LINES_MAX: usize = 70;
/// Columns of a line.
const COLUMNS_MAX: usize = 100;

/// Functions that may be longer, and how long they are: a `match` that dispatches, one call per
/// arm. A ratchet: the number may only fall, and an entry that is not needed is a finding.
const LONG_FUNCTIONS: [(&str, &str, usize); 0] = [];

/// The layer of each module; the longest prefix counts. A module imports from its own layer and
/// from those below.
const LAYERS: [(&str, u8); 31] = [
    ("ack", 0),
    ("eviction", 0),
    ("id", 0),
    ("limits", 0),
    ("codec", 0),
    ("metrics", 0),
    ("consensus", 1),
    ("command", 1),
    ("protocol", 1),
    ("wal::format", 1),
    ("lsm::block", 1),
    ("lsm::filter", 1),
    ("lsm::key", 1),
    ("lsm::manifest", 1),
    ("lsm::manifest::file", 3),
    ("lsm::memtable", 1),
    ("lsm::pick", 1),
    ("lsm::rows", 1),
    ("mvcc", 1),
    ("env", 2),
    ("wal", 3),
    ("lsm", 3),
    ("cluster", 4),
    ("shard", 4),
    ("partition", 4),
    ("server", 5),
    ("client", 5),
    ("config", 5),
    ("cli", 6),
    ("sim", 6),
    ("main", 7),
];

/// The layer in which same input means same output.
const PURE: u8 = 1;

/// What layer 1 may not name.
const IMPURE: [&str; 13] = [
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::hash::RandomState",
    "std::collections::hash_map::RandomState",
    "std::io::stdin",
    "std::io::stdout",
    "std::future",
];

/// Crates that belong to one room; elsewhere its own types stand for them.
const ROOMS: [(&str, &[&str]); 16] = [
    ("io_uring", &["env"]),
    ("glommio", &["env"]),
    // The memtable asks for huge pages: a hint that changes no result.
    ("libc", &["env", "lsm::memtable::chunk"]),
    ("socket2", &["env"]),
    ("zstd_safe", &["lsm::block"]),
    ("raft", &["consensus"]),
    ("protobuf", &["consensus"]),
    ("slog", &["consensus"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("anyhow", &["cli"]),
    ("rustyline", &["cli"]),
    ("serde_json", &["cli", "cluster"]),
    ("stavekv_client", &["cli"]),
    ("tracing_subscriber", &["cli"]),
    ("toml", &["config", "cli"]),
];

/// Files that are `include!`d, which takes no inner comment: they open with `// `.
const INCLUDED: [&str; 1] = ["clients/rust/tests/it/server.rs"];

/// Words that say nothing about what a file is for.
const EMPTY_NAMES: [&str; 10] = [
    "manager", "managers", "handler", "handlers", "helper", "helpers", "util", "utils", "common",
    "misc",
];

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    what: String,
}

fn finding(line: usize, what: impl Into<String>) -> Finding {
    Finding { line, what: what.into() }
}

// The house.

#[test]
fn the_house_is_tidy() {
    let files = sources();
    assert!(files.len() > 10, "found only {} files: is this the source tree?", files.len());

    let mut report = String::new();
    for (path, text) in &files {
        for Finding { line, what } in check(path, text) {
            writeln!(report, "{path}:{line}: {what}").expect("a string takes all");
        }
    }
    for path in unreachable(&files) {
        writeln!(report, "{path}:1: no `mod` reaches this file").expect("a string takes all");
    }
    for stale in stale_ratchets(&files) {
        writeln!(report, "{stale}").expect("a string takes all");
    }

    assert!(report.is_empty(), "\n{report}");
}

/// All rules that look at one file.
fn check(path: &str, text: &str) -> Vec<Finding> {
    let bare = bare(text);
    let split = production_len(path, &bare);
    let (production, tests) = bare.split_at(split);
    let production_lines = production.lines().count();
    let mut findings = Vec::new();
    findings.extend(names_say_something(path));
    findings.extend(opens_with_its_purpose(path, text));
    findings.extend(ascii(text));
    findings.extend(narrow(text));
    findings.extend(no_allow(&bare));
    findings.extend(unsafe_is_argued(text, &bare));
    findings.extend(todos_name_an_issue(text));
    findings.extend(short_file(production_lines));
    if let Some(module) = module_of(path) {
        findings.extend(short_functions(path, production));
        findings.extend(layers(&module, production, false));
        // Tests that close a file are a module within it.
        let of_tests = if split == 0 { module.clone() } else { format!("{module}::tests") };
        let in_tests = layers(&of_tests, tests, true);
        findings.extend(in_tests.into_iter().map(|f| finding(f.line + production_lines, f.what)));
        findings.extend(rooms(&module, production));
        findings.extend(pure(&module, production));
    }
    findings
}

fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    for folder in ["src", "tests", "benches", "fuzz", "tools", "clients"] {
        collect(root, &root.join(folder), &mut files);
    }
    files
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("the source tree can be listed").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("it was found there");
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            files.insert(name.to_string_lossy().into_owned(), text);
        }
    }
}

// Reading Rust, as far as the rules need it.

/// `text` with comments and the insides of quotes as spaces. Lines stay lines.
fn bare(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        if end > at {
            // The first byte stays: a quote marks that here was something.
            let keep = usize::from(bytes[at] != b'/');
            for byte in &mut out[at + keep..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

/// The end of the comment or literal that begins at `at`; `at` if none does.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let is_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment_len(rest),
        [b'"', ..] => at + quoted_len(rest),
        [b'r', b'"' | b'#', ..] if !is_word || bytes[at - 1] == b'b' => at + raw_len(rest),
        [b'\'', b'\\', ..] => at + 4 + rest[3..].iter().position(|b| *b == b'\'').unwrap_or(0),
        [b'\'', b, b'\'', ..] if *b != b'\'' => at + 3,
        _ => at,
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += 1 + usize::from(rest[at] == b'\\');
    }
    (at + 1).min(rest.len())
}

/// `r"..."`, `r#"..."#`; 0 for a raw identifier such as `r#type`.
fn raw_len(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = 2 + hashes;
    let end = rest[body..].windows(close.len()).position(|window| window == close);
    end.map_or(rest.len(), |end| body + end + close.len())
}

#[test]
fn bare_text_has_neither_comments_nor_quotes() {
    let text =
        "let a = \"x // \\\" y\"; // b\nlet r = r#\"q\"#; /* c /* d */ */ let t: &'a u8 = '\\'';";

    let bare = bare(text);

    assert_eq!(bare.len(), text.len());
    let words: Vec<_> = bare.split_whitespace().collect();
    assert_eq!(words.join(" "), "let a = \" ; let r = r ; let t: &'a u8 = ' ;");
}

/// Bytes of `bare` before the tests that close the file; 0 for a file of tests.
fn production_len(path: &str, bare: &str) -> usize {
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
    if is_test || !path.starts_with("src/") {
        return if path.starts_with("src/") { 0 } else { bare.len() };
    }
    let mut from = 0;
    while let Some(at) = bare[from..].find("#[cfg(test)]").map(|at| from + at) {
        let after = bare[at..].trim_start_matches("#[cfg(test)]").trim_start();
        // `mod tests;` is followed by production code, `mod tests {` by nothing.
        let head = &after[..after.find(['{', ';']).map_or(after.len(), |at| at + 1)];
        if head.contains("mod ") && head.ends_with('{') {
            return at;
        }
        from = at + 1;
    }
    bare.len()
}

/// `wal::format` for `src/wal/format.rs`; nothing for what has no layer.
fn module_of(path: &str) -> Option<String> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    (path != "lib").then(|| path.replace('/', "::"))
}

/// Whether `path` is `prefix` or something in it.
fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn layer_of(path: &str) -> Option<u8> {
    let matching = LAYERS.iter().filter(|(prefix, _)| is_within(path, prefix));
    matching.max_by_key(|(prefix, _)| prefix.len()).map(|(_, layer)| *layer)
}

/// All paths in `bare` that begin with `root::`, use trees unfolded, with their lines.
fn paths(bare: &str, root: &str) -> Vec<(usize, String)> {
    let needle = format!("{root}::");
    let mut found = Vec::new();
    for (at, _) in bare.match_indices(&needle) {
        let before = bare[..at].chars().next_back();
        // Not the tail of a longer path or word; `::std::fs` is the same as `std::fs`.
        let outer = bare[..at].strip_suffix("::").and_then(|head| head.chars().next_back());
        let is_tail = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if is_tail(before) || (before == Some(':') && is_tail(outer)) {
            continue;
        }
        let line = 1 + bare[..at].matches('\n').count();
        unfold(&bare[at + needle.len()..], root, &mut |path| found.push((line, path)));
    }
    found
}

/// Calls `each` for all leaves of the use tree or path at the start of `text`; returns its length.
fn unfold(text: &str, prefix: &str, each: &mut dyn FnMut(String)) -> usize {
    let mut at = text.len() - text.trim_start().len();
    if !text[at..].starts_with('{') {
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '*';
        let name_len = text[at..].find(|c| !is_name(c)).unwrap_or(text.len() - at);
        let path = format!("{prefix}::{}", &text[at..at + name_len]);
        at += name_len;
        return match text[at..].strip_prefix("::") {
            Some(rest) => at + 2 + unfold(rest, &path, each),
            None => {
                each(path);
                at
            }
        };
    }
    at += 1;
    loop {
        let rest = text[at..].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        at = text.len() - rest.len();
        if rest.is_empty() || rest.starts_with('}') {
            return (at + 1).min(text.len());
        }
        let len = unfold(rest, prefix, each);
        // An `as name`, or something that is no use tree at all.
        at += len + rest[len..].find([',', '}']).unwrap_or(rest.len() - len);
    }
}

#[test]
fn use_trees_are_unfolded() {
    let text = "use std::{fs, io::{self, Write as _}, time::Instant};\n\
                let x = ::std::env::var(a);\n\
                use mystd::a; use crate::std::b;";

    let found = paths(text, "std");

    let expected = ["fs", "io::self", "io::Write", "time::Instant", "env::var"];
    let found: Vec<_> = found.iter().map(|(line, path)| (*line, path.as_str())).collect();
    let expected = expected.map(|path| (1 + usize::from(path == "env::var"), path));
    assert_eq!(found, expected.map(|(line, path)| (line, format!("std::{path}").leak() as &str)));
}

// The rules.

/// A layer imports only from below; tests may also use the simulator.
fn layers(module: &str, bare: &str, in_tests: bool) -> Vec<Finding> {
    let Some(own) = layer_of(module) else {
        return vec![finding(1, format!("{module} has no layer: enter it in tests/tidy.rs"))];
    };
    let mut findings = Vec::new();
    for (line, path) in imports(module, bare) {
        let is_granted = in_tests && is_within(&path, "sim");
        if layer_of(&path).is_some_and(|layer| layer > own) && !is_granted {
            let what = format!("{module} (layer {own}) imports {path}, which is above it");
            findings.push(finding(line, what));
        }
    }
    findings
}

/// What `module` names of this crate, as paths from the crate's root.
fn imports(module: &str, bare: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, path) in paths(bare, "crate") {
        found.push((line, path["crate::".len()..].to_owned()));
    }
    for (line, path) in paths(bare, "super") {
        let mut base: Vec<_> = module.split("::").collect();
        let mut rest = path.as_str();
        while let Some(tail) = rest.strip_prefix("super::") {
            base.pop();
            rest = tail;
        }
        base.push(rest);
        found.push((line, base.join("::")));
    }
    found
}

#[test]
fn an_upward_import_is_found() {
    let planted = [
        ("wal::format", "use crate::wal::writer::Writer;"),
        ("wal::format", "use super::Writer;"),
        ("command::string", "use crate::{limits::KEY_LEN_MAX, env::{self, Env}};"),
        ("lsm::tree", "fn f() { crate::shard::poke() }"),
        ("config", "use crate::cli::log;"),
        ("partition", "use crate::sim::Disk;"),
    ];
    for (module, text) in planted {
        assert!(!layers(module, text, false).is_empty(), "{module}: {text}");
    }
    assert_eq!(layers("attic", "", false).len(), 1, "a module without a layer");
}

#[test]
fn downward_imports_and_the_simulator_in_tests_are_fine() {
    assert_eq!(layers("wal", "use super::env::Env; use crate::wal::format::Block;", false), []);
    assert_eq!(layers("lsm::memtable::arena", "use super::Node; use crate::mvcc;", false), []);
    assert_eq!(layers("wal::writer", "use crate::sim::Sim;", true), []);
    assert_eq!(layers("wal::writer", "use crate::server::Conn;", true).len(), 1);
}

/// Layer 1: same input, same bytes out.
fn pure(module: &str, bare: &str) -> Vec<Finding> {
    if layer_of(module) != Some(PURE) {
        return Vec::new();
    }
    let named = paths(bare, "std").into_iter();
    let named = named.filter(|(_, path)| IMPURE.iter().any(|root| is_within(path, root)));
    let named = named.map(|(line, path)| finding(line, format!("{path} in pure {module}")));
    let words = ["async", "await", "Instant", "SystemTime", "thread_local"];
    let worded = words.into_iter().flat_map(|word| {
        let lines = word_lines(bare, word);
        lines.into_iter().map(move |line| finding(line, format!("{word} in pure {module}")))
    });
    named.chain(worded).collect()
}

#[test]
fn impurity_in_layer_1_is_found() {
    let planted = [
        "use std::{fs, mem};",
        "let s = std::net::TcpStream::connect(a);",
        "pub async fn f() {}",
        "let now = Instant::now();",
        "use std::thread;",
        "let x = std::env::var(a);",
    ];
    for text in planted {
        assert!(!pure("protocol::resp", text).is_empty(), "{text}");
        assert_eq!(pure("wal::writer", text), [], "not a pure module");
    }
    assert_eq!(pure("mvcc", "use std::{io::Write, collections::BTreeMap, time::Duration};"), []);
}

/// The lines on which `word` stands alone.
fn word_lines(bare: &str, word: &str) -> Vec<usize> {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let lines = bare.lines().enumerate().filter(|(_, line)| {
        line.match_indices(word).any(|(at, _)| {
            let after = line[at + word.len()..].chars().next();
            !is_word(line[..at].chars().next_back()) && !is_word(after)
        })
    });
    lines.map(|(at, _)| at + 1).collect()
}

/// A foreign crate is behind one room's own types.
fn rooms(module: &str, bare: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, allowed) in ROOMS {
        if !allowed.iter().any(|room| is_within(module, room)) {
            let lines = paths(bare, name).into_iter();
            findings.extend(lines.map(|(line, path)| {
                finding(line, format!("{path} in {module}: {name} belongs to {allowed:?}"))
            }));
        }
    }
    findings
}

#[test]
fn a_crate_outside_its_room_is_found() {
    assert_eq!(rooms("partition", "use raft::eraftpb::Entry;").len(), 1);
    assert_eq!(rooms("wal::writer", "let n = libc::getpid();").len(), 1);
    assert_eq!(rooms("consensus::group", "use raft::RawNode; use crate::raft::x;"), []);
}

/// `#[expect(lint, reason)]` tells when it is no longer needed; an allow never does.
fn no_allow(bare: &str) -> Vec<Finding> {
    let lines = bare.lines().enumerate().filter(|(_, line)| {
        let line: String = line.split_whitespace().collect();
        ["#[allow(", "#![allow(", ",allow("].iter().any(|allow| line.contains(allow))
    });
    lines.map(|(at, _)| finding(at + 1, "allow: use #[expect(lint, reason)]")).collect()
}

#[test]
fn an_allow_is_found() {
    let planted = ["#[allow(dead_code)]", "#![ allow(x)]", "#[cfg_attr(test, allow(x))]"];
    for text in planted {
        assert_eq!(no_allow(text).len(), 1, "{text}");
    }
    assert_eq!(no_allow(&bare("// #[allow(x)]\nlet a = \"#[allow(x)]\"; self.allow(y)")), []);
}

fn ascii(text: &str) -> Vec<Finding> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_ascii());
    lines.map(|(at, _)| finding(at + 1, "a character that is not ASCII")).collect()
}

#[test]
fn a_character_that_is_not_ascii_is_found() {
    assert_eq!(ascii("plain\nna\u{ef}ve\n"), [finding(2, "a character that is not ASCII")]);
}

fn narrow(text: &str) -> Vec<Finding> {
    let lines = text.lines().enumerate().filter(|(_, line)| {
        // An address can not be broken.
        line.chars().count() > COLUMNS_MAX && !line.contains("://")
    });
    lines.map(|(at, _)| finding(at + 1, format!("over {COLUMNS_MAX} columns"))).collect()
}

#[test]
fn a_wide_line_is_found() {
    let (fits, wide) = ("x".repeat(COLUMNS_MAX), "x".repeat(COLUMNS_MAX + 1));

    assert_eq!(narrow(&format!("{fits}\n{wide}")), [finding(2, "over 100 columns")]);
}

fn short_file(production_lines: usize) -> Option<Finding> {
    let what = format!("{production_lines} lines without tests: split by the state owned");
    (production_lines > FILE_LINES_MAX).then(|| finding(FILE_LINES_MAX, what))
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let long = "//! X.\n".repeat(FILE_LINES_MAX + 1);
    let tests = format!("//! X.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(900));

    assert_eq!(check("src/id.rs", &long).len(), 1);
    assert_eq!(check("src/id.rs", &tests), []);
}

/// Names and line counts of the functions of `bare`, with the line each begins on.
fn functions(bare: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in bare.match_indices("fn ") {
        if bare[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &bare[at + 3..];
        let name = &rest[..rest.find(['(', '<', ' ']).unwrap_or(0)];
        let Some(open) = body(rest) else { continue };
        let mut depth = 0;
        let end = rest[open..].char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0
        });
        let end = end.map_or(rest.len(), |(end, _)| open + end);
        let line = 1 + bare[..at].matches('\n').count();
        found.push((name.to_owned(), line, 1 + rest[..end].matches('\n').count()));
    }
    found
}

/// Where the body of the function begins whose signature `text` opens with; none for a declaration.
fn body(text: &str) -> Option<usize> {
    let mut depth = 0;
    let (at, c) = text.char_indices().find(|(_, c)| {
        depth += i32::from(['(', '['].contains(c)) - i32::from([')', ']'].contains(c));
        depth == 0 && ['{', ';'].contains(c)
    })?;
    (c == '{').then_some(at)
}

fn short_functions(path: &str, bare: &str) -> Vec<Finding> {
    let long = functions(bare).into_iter().filter(|(name, _, lines)| {
        let granted = LONG_FUNCTIONS.iter().find(|(file, of, _)| *file == path && of == name);
        *lines > granted.map_or(FUNCTION_LINES_MAX, |(_, _, lines)| *lines)
    });
    long.map(|(name, line, lines)| finding(line, format!("fn {name} has {lines} lines"))).collect()
}

/// Entries of [`LONG_FUNCTIONS`] that could be lower or go.
fn stale_ratchets(files: &BTreeMap<String, String>) -> Vec<String> {
    let stale = LONG_FUNCTIONS.iter().filter(|(path, name, granted)| {
        let functions = files.get(*path).map(|text| functions(&bare(text))).unwrap_or_default();
        let longest = functions.iter().filter(|(of, _, _)| of == name).map(|(_, _, lines)| *lines);
        longest.max().is_none_or(|lines| lines < *granted)
    });
    stale.map(|(path, name, _)| format!("LONG_FUNCTIONS: {path} fn {name} is shorter")).collect()
}

#[test]
fn a_long_function_is_found() {
    let of = |lines: usize| format!("fn f(a: [u8; 2]) {{\n{}}}\n", "a;\n".repeat(lines - 2));

    assert_eq!(short_functions("src/id.rs", &of(70)), []);
    let found = short_functions("src/id.rs", &format!("fn g();\n\n{}", of(71)));
    assert_eq!(found, [finding(3, "fn f has 71 lines")]);
}

fn unsafe_is_argued(text: &str, bare: &str) -> Vec<Finding> {
    let lines: Vec<_> = text.lines().collect();
    let is_block = |line: usize| {
        let code = bare.lines().nth(line - 1).unwrap_or_default();
        let next = bare.lines().nth(line).unwrap_or_default();
        let after = code.rsplit("unsafe").next().unwrap_or_default().trim_start();
        // Declarations (`unsafe fn`) put the duty on the caller and have `# Safety` docs instead.
        let after = if after.is_empty() { next.trim_start() } else { after };
        after.starts_with('{') || after.starts_with("impl")
    };
    let is_argued = |line: usize| {
        lines[line.saturating_sub(6)..line].iter().any(|line| line.contains("SAFETY:"))
    };
    let found = word_lines(bare, "unsafe").into_iter();
    let found = found.filter(|line| is_block(*line) && !is_argued(*line));
    found.map(|line| finding(line, "unsafe without a SAFETY comment")).collect()
}

#[test]
fn unsafe_without_an_argument_is_found() {
    let argued = "// SAFETY: it is ours.\nlet a = unsafe { f() };\npub unsafe fn g() {}\n";
    let planted = "let a = unsafe { f() };\nlet b =\n    unsafe\n    { f() };\n";

    assert_eq!(unsafe_is_argued(argued, &bare(argued)), []);
    let lines: Vec<_> = unsafe_is_argued(planted, planted).iter().map(|f| f.line).collect();
    assert_eq!(lines, [1, 3]);
}

/// What is to be done is an issue; the comment says which: `(#12)`.
fn todos_name_an_issue(text: &str) -> Vec<Finding> {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];
    let lines = text.lines().enumerate().filter(|(_, line)| {
        marks.iter().any(|mark| {
            line.split(mark).skip(1).any(|rest| {
                let number = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')'));
                let word = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
                !word && number.is_none_or(|(number, _)| number.parse::<u32>().is_err())
            })
        })
    });
    lines.map(|(at, _)| finding(at + 1, "a task without an issue's number: (#12)")).collect()
}

#[test]
fn a_task_without_an_issue_is_found() {
    let planted = concat!("// TO", "DO: later\n// TO", "DO(#12): later\n// FIX", "ME\n");

    let lines: Vec<_> = todos_name_an_issue(planted).iter().map(|f| f.line).collect();

    assert_eq!(lines, [1, 3]);
}

fn names_say_something(path: &str) -> Vec<Finding> {
    let words = path.trim_end_matches(".rs").split(['/', '_']);
    let empty = words.filter(|word| EMPTY_NAMES.contains(word));
    empty.map(|word| finding(1, format!("a file called {word} holds anything"))).collect()
}

#[test]
fn an_empty_name_is_found() {
    for path in ["src/wal/utils.rs", "src/task_manager.rs", "src/common/mod.rs"] {
        assert_eq!(names_say_something(path).len(), 1, "{path}");
    }
    assert_eq!(names_say_something("src/wal/format.rs"), []);
}

fn opens_with_its_purpose(path: &str, text: &str) -> Option<Finding> {
    let opening = if INCLUDED.contains(&path) { "// " } else { "//! " };
    (!text.starts_with(opening)).then(|| finding(1, "a file opens with `//!` and what it is for"))
}

#[test]
fn a_file_without_a_header_is_found() {
    assert!(opens_with_its_purpose("src/id.rs", "use std::fs;\n").is_some());
    assert!(opens_with_its_purpose("src/id.rs", "//! What it is.\n").is_none());
    assert!(opens_with_its_purpose(INCLUDED[0], "// What it is.\n").is_none());
}

/// Files that no `mod` reaches: dead, yet they look alive.
fn unreachable(files: &BTreeMap<String, String>) -> Vec<&str> {
    let mut reached = BTreeSet::new();
    let mut queue: Vec<String> = files.keys().filter(|path| is_root(path)).cloned().collect();
    while let Some(path) = queue.pop() {
        let Some(text) = files.get(&path) else { continue };
        let stem = path.trim_end_matches(".rs");
        let base = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            Some((folder, _)) if is_root(&path) => folder,
            _ => stem,
        };
        for name in declared(&bare(text)) {
            queue.push(format!("{base}/{name}.rs"));
            queue.push(format!("{base}/{name}/mod.rs"));
        }
        reached.insert(path);
    }
    files.keys().map(String::as_str).filter(|path| !reached.contains(*path)).collect()
}

/// Where cargo begins to read.
fn is_root(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    matches!(
        parts[..],
        ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["tests" | "benches" | "tools", _]
            | ["tests" | "benches", _, "main.rs"]
            | ["fuzz" | "tools", .., "main.rs"]
            | ["fuzz", "fuzz_targets", _]
            | ["clients", _, "src", "lib.rs"]
            | ["clients", _, "tests", _, "main.rs"]
    )
}

/// The names of `mod name;`.
fn declared(bare: &str) -> Vec<&str> {
    let declared = bare.split("mod ").skip(1).filter_map(|rest| rest.split_once(';'));
    let is_name = |name: &&str| name.chars().all(|c| c.is_alphanumeric() || c == '_');
    declared.map(|(name, _)| name).filter(is_name).collect()
}

#[test]
fn a_dead_file_is_found() {
    let files = [
        ("src/lib.rs", "pub mod wal;\nmod id;"),
        ("src/id.rs", "mod deep;"),
        ("src/id/deep.rs", ""),
        ("src/wal/mod.rs", "mod format;\n#[cfg(test)]\nmod tests;"),
        ("src/wal/format.rs", ""),
        ("src/wal/tests.rs", ""),
        ("src/wal/old.rs", "mod format;"),
        ("tests/it/main.rs", "mod crash;"),
        ("tests/it/crash.rs", ""),
        ("tests/it/lost.rs", ""),
    ];
    let files = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();

    assert_eq!(unreachable(&files), ["src/wal/old.rs", "tests/it/lost.rs"]);
}
