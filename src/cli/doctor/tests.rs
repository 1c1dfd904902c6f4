//! What is said of directories that hold little; those of real servers are in `tests/it/doctor.rs`.

use std::fs;
use std::path::Path;

use super::Doctor;
use super::report::{Finding, Report};
use crate::cli::directory::DataDir;
use crate::cli::directory::tests::{SHAPE, TempDir};
use crate::cli::parts::Parts;
use crate::cli::{EXIT_FAILURE, EXIT_OK, EXIT_USAGE};
use crate::limits::SECTOR_LEN;
use crate::lsm::key::encode_data_key;

fn doctor(dir: &Path, json: bool) -> (u8, String) {
    let mut out = Vec::new();
    let code = Doctor { data_dir: dir.to_owned(), json }.run(&mut out);
    (code, String::from_utf8(out).expect("it is text"))
}

#[test]
fn a_directory_that_was_never_served_is_sound_and_none_is_no_directory() {
    let temp = TempDir::new("doctor-new");
    assert_eq!(doctor(temp.path(), false), (EXIT_USAGE, String::new()), "no identity");

    let open = DataDir::open(temp.path(), SHAPE, None).expect("it is new");
    assert_eq!(doctor(temp.path(), false), (EXIT_USAGE, String::new()), "it is in use");
    drop(open);

    let (code, text) = doctor(temp.path(), false);
    assert!(code == EXIT_OK && text.starts_with("sound: 1 files"), "{text}");
}

#[test]
fn a_damaged_identity_strangers_and_a_lost_shard_are_told() {
    let temp = TempDir::new("doctor-identity");
    drop(DataDir::open(temp.path(), SHAPE, None).expect("it is new"));
    fs::create_dir_all(temp.path().join("shard-00/wal")).expect("ours");
    fs::write(temp.path().join("thesis.txt"), "x").expect("ours");

    let (code, text) = doctor(temp.path(), true);
    assert_eq!(code, EXIT_FAILURE, "{text}");
    for told in ["shard-01/wal\"", "there is no log", "thesis.txt", "\"findings\":2"] {
        assert!(text.contains(told), "no {told} in {text}");
    }

    let path = temp.path().join("identity.toml");
    let identity = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, identity.replace("cores = 2", "cores = 1")).expect("ours");
    let (code, text) = doctor(temp.path(), false);
    assert!(code == EXIT_FAILURE && text.contains("identity.toml: wrong checksum"), "{text}");
    fs::remove_file(&path).expect("ours");
    let (code, text) = doctor(temp.path(), false);
    assert!(code == EXIT_FAILURE && text.contains("identity.toml: it is missing"), "{text}");
}

#[test]
fn the_reading_goes_on_behind_a_damaged_part() {
    let (_temp, path, sound) = crate::cli::inspect::tests::table_scene("doctor-parts");
    let mut wrong = sound.clone();
    wrong[SECTOR_LEN + 9] ^= 1;
    fs::write(&path, wrong).expect("ours");
    let mut parts = Parts::open(&path).expect("the footer is sound");
    let (mut bad, mut good) = (Vec::new(), 0);

    loop {
        match parts.next() {
            Ok(None) => break,
            Ok(Some(piece)) => good += piece.handle.len,
            Err(error) => {
                parts.skip();
                bad.push((error.to_string(), parts.offset()));
            }
        }
    }

    let [(what, next)] = &bad[..] else { panic!("one part is damaged: {bad:?}") };
    assert!(what.contains("no valid chunk of a value at byte 0"), "{what}");
    assert_eq!(good as u64 + next, (sound.len() - SECTOR_LEN) as u64);
    assert!(parts.check().is_err(), "a part is missing");
}

#[test]
fn a_finding_is_one_line_with_its_place_its_keys_and_its_cure() {
    let (mut out, mut key) = (Vec::new(), Vec::new());
    encode_data_key(crate::id::Slot(7), 0, b"a\nb", &mut key);
    let mut report = Report::new(&mut out, false);

    let finding = Finding::of(Path::new("/d/7.sst"), "no valid rows", "refused");
    report.finding(Finding { offset: Some(8192), ..finding }.keys(3, &key, &key));
    assert!(!report.end().expect("a vector takes all"));

    let text = String::from_utf8(out).expect("it is text");
    let expected = "finding: /d/7.sst at byte 8192: no valid rows; partition 3, keys from \
                    \"a\\nb\"  3 bytes  db 0  slot 7 to \"a\\nb\"  3 bytes  db 0  slot 7; refused; \
                    cure: restore this file";
    assert!(text.starts_with(expected) && text.lines().count() == 2, "{text}");
}
