//! What is remembered against a model that forgets nothing, and the bounds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn once(session: u8, born: u64, sequence: u64) -> Once {
    let born = NonZeroU64::new(born).expect("it is not zero");
    Once { session: SessionId { id: [session; 16], born }, sequence }
}

fn reply(number: u64) -> Reply {
    Reply::from_slice(&number.to_le_bytes())
}

fn take(sessions: &mut Sessions, once: &Once, at: u64) {
    sessions.apply(once, Timestamp(at), reply(at));
}

fn told(at: u64) -> Recalled {
    Recalled::Told(reply(at), None)
}

#[test]
fn what_was_told_is_told_again_and_what_was_dropped_is_too_old() {
    let mut sessions = Sessions::default();
    for sequence in 1..=WINDOW as u64 + 2 {
        take(&mut sessions, &once(1, 5, sequence), sequence);
    }

    assert_eq!(sessions.recall(&once(1, 5, 2)), Recalled::TooOld);
    assert_eq!(sessions.recall(&once(1, 5, 3)), told(3));
    assert_eq!(sessions.recall(&once(1, 5, WINDOW as u64 + 3)), Recalled::New);
    assert_eq!(sessions.recall(&once(2, 5, 1)), Recalled::New);
}

#[test]
fn a_session_that_was_dropped_does_not_begin_anew() {
    let mut sessions = Sessions::default();
    let of = |number: u64| {
        let mut once = once(0, 100 + number, 1);
        once.session.id = u128::from(number).to_be_bytes();
        once
    };
    let count = SESSIONS_MAX as u64;
    (0..count).for_each(|number| take(&mut sessions, &of(number), number + 1));
    // The first is used again, so the second is the one.
    take(&mut sessions, &Once { sequence: 2, ..of(0) }, count + 1);
    take(&mut sessions, &of(count), count + 2);

    assert_eq!(sessions.recall(&of(0)), told(1));
    assert_eq!(sessions.recall(&of(1)), Recalled::TooOld);
    assert_eq!(sessions.recall(&of(2)), told(3));
    take(&mut sessions, &of(1), count + 3);
    assert_eq!(sessions.recall(&of(1)), Recalled::TooOld, "nor does what was on its way");
    let later = Once { session: SessionId { born: of(2).session.born, ..of(1).session }, ..of(1) };
    assert_eq!(sessions.recall(&later), Recalled::New);
}

#[test]
fn the_longest_window_makes_room() {
    let mut sessions = Sessions::default();
    take(&mut sessions, &once(9, 5, 1), 1);
    for sequence in 1..1000 {
        let long = Reply::from_slice(&[7; 16 << 10]);
        sessions.apply(&once(1, 5, sequence), Timestamp(sequence), long);
        assert!(sessions.memory_len() <= LEN_MAX);
    }

    assert_eq!(sessions.recall(&once(9, 5, 1)), told(1), "the quiet one keeps its own");
    assert_eq!(sessions.recall(&once(1, 5, 1)), Recalled::TooOld);
    assert!(matches!(sessions.recall(&once(1, 5, 999)), Recalled::Told(..)));
}

#[test]
fn what_is_on_its_way_is_waited_for_and_forgotten_with_the_leadership() {
    let mut sessions = Sessions::default();
    let (first, second) = (once(1, 5, 1), once(1, 5, 2));
    for (once, index) in [(first, 7), (second, 8)] {
        let proposed = Proposed { index, timestamp: Timestamp(index), reply: reply(index) };
        sessions.proposed.insert(once, proposed);
    }

    assert_eq!(sessions.recall(&first), Recalled::Told(reply(7), Some(7)));
    sessions.commit(&first);
    sessions.forget_proposed();

    assert_eq!(sessions.recall(&first), told(7));
    assert_eq!(sessions.recall(&second), Recalled::New);
}

#[test]
fn the_bytes_are_frozen_and_no_cut_of_them_is_taken() {
    assert!(Sessions::default().encode().is_empty());
    let mut sessions = Sessions { forgotten: 3, ..Sessions::default() };
    take(&mut sessions, &once(b'a', 4, 6), 5);

    let bytes = sessions.encode();

    let golden = "030000000000000001000000000000006161616161616161616161616161616104000000\
                  00000000000000000000000005000000000000000100000000000000060000000000000008\
                  0000000500000000000000";
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    for cut in 1..bytes.len() {
        assert!(Sessions::decode(&bytes[..cut]).is_none(), "cut at {cut}");
    }
}

proptest! {
    /// Requests come again, late and out of order, and whoever keeps the answers starts anew from
    /// bytes at any time: nothing is done twice, and what is told is what was told first.
    #[test]
    fn nothing_is_done_twice(
        asked in prop::collection::vec((0..6u8, 0..40u64, 0..200u32), 1..2_000),
    ) {
        let (mut sessions, mut other) = (Sessions::default(), Sessions::default());
        let mut done = BTreeMap::new();
        for (at, (session, back, chance)) in (1..).zip(asked) {
            // Sequences rise; some come late, some very late.
            let sequence = 3_000 + at - back * if chance % 10 == 0 { 60 } else { 1 };
            let once = once(session, 5, sequence);
            match sessions.recall(&once) {
                Recalled::New => {
                    take(&mut sessions, &once, at);
                    take(&mut other, &once, at);
                    prop_assert!(done.insert((session, sequence), at).is_none(), "done twice");
                }
                recalled @ Recalled::Told(..) => {
                    prop_assert_eq!(recalled, told(done[&(session, sequence)]));
                }
                Recalled::TooOld => {}
            }
            if chance == 7 {
                sessions = Sessions::decode(&sessions.encode()).expect("just encoded");
            }
        }
        prop_assert_eq!(sessions.encode(), other.encode());
        prop_assert_eq!(sessions.memory_len(), other.memory_len());
    }
}
