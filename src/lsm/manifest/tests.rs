//! The manifest's bytes, and what edits come to.

use super::format::{Bad, Header, Kind, decode, encode};
use super::replay::{Damage, replay};
use super::samples::{LOG, edit, table};
use super::*;
use crate::id::ShardId;
use crate::limits::SECTOR_LEN;
use crate::wal::format::LogId;

fn header(number: u64, chain: u64) -> Header {
    let kind = if number == 0 { Kind::Snapshot } else { Kind::Edit };
    Header { kind, log: LOG, seq: 9, number, chain }
}

/// A file of some records, where each begins, and the state after each.
fn file(count: u64) -> (Vec<u8>, Vec<usize>, Vec<State>) {
    let (mut bytes, mut starts, mut states) = (Vec::new(), Vec::new(), Vec::new());
    let (mut state, mut chain) = (State::default(), 0);
    for number in 0..count {
        let remove = if number >= 2 { vec![number] } else { Vec::new() };
        let edit = edit(number + 2, remove);
        starts.push(bytes.len());
        chain = encode(&header(number, chain), &edit, &mut bytes);
        state.apply(edit).expect("it fits");
        states.push(state.clone());
    }
    (bytes, starts, states)
}

#[test]
fn format_is_frozen() {
    let (bytes, ..) = file(3);

    let golden = include_bytes!("testdata/three-records_v6.manifest");
    assert!(bytes == golden, "the format has changed: raise VERSION and keep the old decoder");
}

#[test]
fn files_of_version_1_are_read() {
    let golden = include_bytes!("testdata/three-records.manifest");
    let (_, _, states) = file(3);

    let state = replay(golden, LOG, 9).expect("it is sound");

    let without_keys = Edit { keys: Vec::new(), ..without_origins(&states[2]) };
    assert_eq!(state.snapshot(), without_keys);
    assert_eq!(state.keys_of(PartitionId(2)), None);
}

#[test]
fn files_of_version_2_are_read() {
    let golden = include_bytes!("testdata/three-records_v2.manifest");
    let (_, _, states) = file(3);

    let state = replay(golden, LOG, 9).expect("it is sound");

    assert_eq!(state.snapshot(), without_origins(&states[2]));
}

/// What a version says that knows of no table from elsewhere.
fn without_origins(state: &State) -> Edit {
    let mut edit = without_rosters(state);
    assert!(edit.add.iter().any(|entry| entry.meta.origin.is_some()));
    edit.add.iter_mut().for_each(|entry| entry.meta.origin = None);
    edit.partitions.iter_mut().for_each(|(_, state)| state.log_from = Lsn(0));
    edit
}

#[test]
fn files_of_version_3_are_read() {
    let golden = include_bytes!("testdata/three-records_v3.manifest");
    let (_, _, states) = file(3);

    let state = replay(golden, LOG, 9).expect("it is sound");

    assert_eq!(state.snapshot(), without_rosters(&states[2]));
}

#[test]
fn files_of_version_4_are_read() {
    let golden = include_bytes!("testdata/three-records_v4.manifest");
    let (_, _, states) = file(3);

    let state = replay(golden, LOG, 9).expect("it is sound");

    assert_eq!(state.snapshot(), without_sessions(&states[2]));
}

#[test]
fn files_of_version_5_are_read() {
    let golden = include_bytes!("testdata/three-records_v5.manifest");
    let (_, _, states) = file(3);

    let state = replay(golden, LOG, 9).expect("it is sound");

    assert_eq!(state.snapshot(), without_floors(&states[2]));
}

/// What a version says that knows of no vacant replica.
fn without_floors(state: &State) -> Edit {
    let mut edit = state.snapshot();
    assert!(edit.partitions.iter().any(|(_, state)| state.floor != (0, 0)));
    edit.partitions.iter_mut().for_each(|(_, state)| state.floor = (0, 0));
    edit
}

/// What a version says that does not know what clients were told.
fn without_sessions(state: &State) -> Edit {
    let mut edit = without_floors(state);
    assert!(edit.partitions.iter().any(|(_, state)| !state.sessions.is_empty()));
    edit.partitions.iter_mut().for_each(|(_, state)| state.sessions = Arc::default());
    edit
}

/// What a version says that knows of no roster.
fn without_rosters(state: &State) -> Edit {
    let mut edit = without_sessions(state);
    assert!(edit.partitions.iter().any(|(_, state)| !state.roster.is_empty()));
    edit.partitions.iter_mut().for_each(|(_, state)| state.roster = Vec::new().into());
    edit
}

#[test]
fn records_come_back_and_make_the_state() {
    let (bytes, starts, states) = file(5);

    assert_eq!(replay(&bytes, LOG, 9), Ok(states[4].clone()));
    let second = decode(&bytes[starts[1]..]).expect("it is sound");
    assert_eq!((second.edit, second.header.number), (edit(3, Vec::new()), 1));
    let mut again = State::default();
    again.apply(states[4].snapshot()).expect("it is of an empty state");
    assert_eq!(again, states[4]);
}

#[test]
fn edits_that_do_not_fit_change_nothing() {
    let mut state = State::default();
    state.apply(edit(1, Vec::new())).expect("it fits");
    let before = state.clone();

    assert_eq!(state.apply(edit(1, Vec::new())), Err(Unfit::Twice(1)));
    assert_eq!(state.apply(edit(2, vec![3])), Err(Unfit::Missing(3)));
    assert_eq!(state.apply(edit(2, vec![1, 1])), Err(Unfit::Missing(1)));
    let twice = Edit { add: vec![table(4), table(4)], ..Edit::default() };
    assert_eq!(state.apply(twice), Err(Unfit::Twice(4)));

    assert_eq!(state, before);
}

#[test]
fn a_table_moves_to_another_level() {
    let mut state = State::default();
    state.apply(edit(1, Vec::new())).expect("it fits");

    let moved = TableEntry { level: 5, ..table(1) };
    state
        .apply(Edit { add: vec![moved.clone()], remove: vec![1], ..Edit::default() })
        .expect("it fits");

    assert_eq!(state.table(1), Some(&moved));
    assert_eq!(state.tables().count(), 1);
}

#[test]
fn every_flipped_bit_is_damage() {
    let (bytes, starts, _) = file(4);
    // Of the last record it is looked for, which takes some milliseconds.
    let last = (starts[3]..bytes.len()).step_by(61);
    for at in (0..starts[3]).chain(last) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1 << (at % 8);

        let found = replay(&wrong, LOG, 9);

        let record = starts.partition_point(|start| *start <= at) - 1;
        let offset = starts[record] as u64;
        assert_eq!(found, Err(Damage::Corrupt { offset }), "byte {at}");
    }
}

#[test]
fn a_torn_last_record_is_the_end() {
    let (bytes, starts, states) = file(4);
    for torn in (starts[3]..bytes.len()).step_by(512) {
        let mut wrong = bytes.clone();
        wrong[torn..torn + 512].fill(0);
        let is_padding = wrong == bytes;

        let found = replay(&wrong, LOG, 9);

        assert_eq!(found, Ok(states[if is_padding { 3 } else { 2 }].clone()), "byte {torn}");
    }
}

#[test]
fn cut_files_end_with_their_last_whole_record() {
    let (bytes, starts, states) = file(4);
    for len in (0..bytes.len()).step_by(512) {
        let found = replay(&bytes[..len], LOG, 9);

        match starts.iter().skip(1).filter(|start| **start <= len).count() {
            0 => assert_eq!(found, Err(Damage::Corrupt { offset: 0 }), "{len} bytes"),
            whole => assert_eq!(found, Ok(states[whole - 1].clone()), "{len} bytes"),
        }
    }
}

#[test]
fn what_is_of_another_is_refused() {
    let (bytes, starts, _) = file(3);

    assert_eq!(replay(&bytes, LOG, 10), Err(Damage::Foreign));
    let other = LogId { shard: ShardId(4), ..LOG };
    assert_eq!(replay(&bytes, other, 9), Err(Damage::Foreign));
    // A record twice, one left out, one of an older copy.
    let second = &bytes[starts[1]..starts[2]];
    let twice = [&bytes[..starts[2]], second].concat();
    assert_eq!(replay(&twice, LOG, 9), Err(Damage::Corrupt { offset: starts[2] as u64 }));
    let without = [&bytes[..starts[1]], &bytes[starts[2]..]].concat();
    assert_eq!(replay(&without, LOG, 9), Err(Damage::Corrupt { offset: starts[1] as u64 }));
    let mut version = bytes.clone();
    version[12] = 9;
    assert_eq!(decode(&version), Err(Bad::Invalid), "a checksum covers the version");
}

#[test]
fn sectors_are_whole() {
    let (bytes, starts, _) = file(4);

    assert!(starts.iter().chain([&bytes.len()]).all(|at| at % SECTOR_LEN == 0));
}
