//! What an operator meets: precedence, slips, and what is never shown.

use super::*;

const MACHINE: Machine = Machine { cores: 2, memory: 8 << 30, memory_of_cgroup: false };

fn inputs() -> Inputs<'static> {
    Inputs { flags: vec![], variables: vec![], file: None, machine: MACHINE }
}

fn with_file(text: &str) -> Inputs<'_> {
    Inputs { file: Some((Path::new("stave.toml"), text)), ..inputs() }
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn defaults_follow_the_machine() {
    let resolved = resolve(&inputs()).expect("defaults are valid");

    assert_eq!(resolved.config, Config::defaults(&MACHINE));
    assert_eq!((resolved.config.cores, resolved.config.memory), (2, 2 << 30));
    assert!(resolved.notes.is_empty());
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let mut inputs = with_file("resp-port = 1\nmemory = \"1g\"\nmax-clients = 5\n");
    inputs.variables = vec![variable("STAVE_RESP_PORT", "2"), variable("STAVE_MEMORY", "2g")];
    inputs.flags = vec![("resp-port", "3".to_owned())];

    let resolved = resolve(&inputs).expect("all of them are valid");

    let config = &resolved.config;
    assert_eq!((config.resp_port, config.memory, config.max_clients), (3, 2 << 30, 5));
    let sources = ["resp-port", "memory", "max-clients", "bind"].map(|key| resolved.source(key));
    let file = Source::File { line: 3 };
    assert_eq!(sources, [Source::Flag, Source::Variable, file, Source::Default]);
}

#[test]
fn an_unknown_key_is_refused_with_the_name_that_was_meant() {
    let error = resolve(&with_file("\nmax_client = 5\n")).expect_err("there is no such key");

    let shown = error.to_string();
    assert_eq!(
        shown,
        "stave.toml:2: unknown setting \"max_client\"; did you mean \"max-clients\"?"
    );
}

#[test]
fn a_table_is_refused_and_so_is_what_is_not_toml() {
    for (text, line) in [("cores = 1\n[wal]\nsize = 1\n", 2), ("cores = 1\ncores", 2)] {
        let error = resolve(&with_file(text)).expect_err("not a flat TOML file");

        assert!(matches!(&error, Error::Syntax { line: at, .. } if *at == line), "{error}");
    }
}

#[test]
fn a_wrong_value_says_what_is_expected() {
    let mut inputs = inputs();
    inputs.variables = vec![variable("STAVE_MEMORY", "lots")];

    let error = resolve(&inputs).expect_err("not a size");

    let shown = error.to_string();
    assert_eq!(shown, "STAVE_MEMORY: memory = \"lots\": expected a size such as 512MiB");
}

#[test]
fn every_key_refuses_nonsense_or_takes_any_text() {
    let any_text = ["data-dir", "ready-file", "requirepass", "advertise-host"];
    for key in &KEYS {
        let outcome = key.set(&mut Config::defaults(&MACHINE), "no such thing");

        assert_eq!(outcome.is_ok(), any_text.contains(&key.name), "{}", key.name);
        let empty = key.set(&mut Config::defaults(&MACHINE), "");
        let may_be_empty = ["notify-keyspace-events", "zone"];
        assert_eq!(empty.is_ok(), may_be_empty.contains(&key.name), "{}", key.name);
    }
}

#[test]
fn a_foreign_variable_is_ignored_and_a_slip_is_noted() {
    let mut inputs = inputs();
    inputs.variables = vec![
        variable("STAVE_SERVICE_HOST", "10.0.0.1"),
        variable("STAVE_MEMROY", "1g"),
        variable("STAVE_CONFIG", "stave.toml"),
        variable("PATH", "/bin"),
    ];

    let resolved = resolve(&inputs).expect("unknown variables are no errors");

    assert_eq!(resolved.notes, ["STAVE_MEMROY is ignored; is STAVE_MEMORY meant?"]);
}

#[test]
fn an_open_address_needs_a_password_or_the_word() {
    let open = || vec![("bind", "0.0.0.0".to_owned())];
    let flags = |more: Option<(&'static str, &str)>| {
        let more = more.map(|(name, value)| (name, value.to_owned()));
        resolve(&Inputs { flags: open().into_iter().chain(more).collect(), ..inputs() })
    };

    let refused = flags(None).expect_err("everyone could read and write");

    assert!(refused.to_string().contains("--insecure"), "{refused}");
    flags(Some(("requirepass", "s3cret"))).expect("a password is enough");
    flags(Some(("insecure", "true"))).expect("the operator says so");
}

#[test]
fn ports_that_collide_are_refused() {
    let with = |resp: &str, base: &str| {
        let flags = vec![("resp-port", resp.to_owned()), ("shard-port-base", base.to_owned())];
        resolve(&Inputs { flags, ..inputs() })
    };

    let overlap = with("7501", "7500").expect_err("port of shard 1");
    let high = with("1", "65535").expect_err("shard 1 has no port");

    assert_eq!(
        overlap,
        Error::PortsOverlap { name: "resp-port", port: 7501, base: 7500, cores: 2 }
    );
    let twice = with("7400", "7500").expect_err("the default of binary-port");
    assert_eq!(twice, Error::PortTwice { port: 7400 });
    assert_eq!(high, Error::PortsTooHigh { base: 65535, cores: 2 });
    with("7502", "7500").expect("just behind the last");
    with("0", "0").expect("any free ones");
}

#[test]
fn memory_must_suffice_for_the_cores() {
    let flags = vec![("memory", "64mb".to_owned()), ("cores", "3".to_owned())];

    let error = resolve(&Inputs { flags, ..inputs() }).expect_err("32 MiB each");

    let shown = error.to_string();
    assert!(shown.contains("64MiB is too little for 3 core(s): give at least 96MiB"), "{shown}");
}

#[test]
fn a_password_is_shown_nowhere() {
    let mut inputs = with_file("requirepass = \"hunter2\"\nbind = \"0.0.0.0\"\n");
    let resolved = resolve(&inputs).expect("a password is set");

    let (printed, debugged) = (resolved.to_toml(), format!("{resolved:?}"));

    assert!(!printed.contains("hunter2") && !debugged.contains("hunter2"), "{printed}{debugged}");
    assert!(printed.contains("# requirepass = <redacted>  # file, line 1\n"), "{printed}");
    assert_eq!(resolved.config.requirepass.expect("it was set").reveal(), "hunter2");
    inputs.file = Some((Path::new("stave.toml"), "requirepass = \"hunter2\nx = 1"));
    let error = resolve(&inputs).expect_err("an open string");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn the_printed_configuration_reads_back() {
    let mut inputs = with_file("data-dir = \"/srv/\\\"a\\\"\"\nack = \"relaxed\"\n");
    inputs.flags = vec![("memory", "100mb".to_owned()), ("cluster-mode", "true".to_owned())];
    let first = resolve(&inputs).expect("valid");

    let printed = first.to_toml();
    let second = resolve(&with_file(&printed)).expect("the printed file is valid");

    assert_eq!(second.config, first.config);
    assert!(printed.contains("memory = \"100MiB\"  # --memory\n"), "{printed}");
    assert!(printed.contains("cores = 2  # default\n"), "{printed}");
}

#[test]
fn the_readme_names_every_setting() {
    let readme = include_str!("../../README.md");

    for key in &KEYS {
        assert!(readme.contains(&format!("| `{}` |", key.name)), "{}", key.name);
    }
}
