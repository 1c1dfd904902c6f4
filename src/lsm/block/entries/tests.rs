//! Entries against a sorted list, and against any bytes.

use proptest::prelude::*;

use super::*;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn encoded(pairs: &Pairs, interval: u32) -> Vec<u8> {
    let mut builder = Builder::new(interval);
    for (key, body) in pairs {
        let len = builder.len() + builder.len_of(key, body.len());
        let (head, tail) = body.split_at(body.len() / 2);
        builder.add(key, head, tail);
        assert_eq!(builder.len(), len, "what was foretold");
    }
    assert_eq!(builder.count() as usize, pairs.len());
    let len = builder.len();
    let bytes = builder.finish().to_vec();
    assert_eq!(bytes.len(), len);
    builder.clear();
    assert!(builder.is_empty() && builder.finish() == [0; 4]);
    bytes
}

/// Few distinct bytes and often the same key, so that much is shared.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"ab\x00\xFF".to_vec()), 0..12)
}

fn pairs() -> impl Strategy<Value = Pairs> {
    let body = prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::vec((key(), body), 0..60).prop_map(|mut pairs| {
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs
    })
}

fn rest_of(cursor: &mut Cursor, bytes: &[u8]) -> Pairs {
    let mut pairs = Vec::new();
    while cursor.next(bytes).expect("these are entries") {
        pairs.push((cursor.key().to_vec(), bytes[cursor.body()].to_vec()));
    }
    pairs
}

proptest! {
    #[test]
    fn entries_come_back_from_the_start_and_from_any_key(
        pairs in pairs(), wanted in key(), interval in 1..9u32,
    ) {
        let bytes = encoded(&pairs, interval);
        let mut cursor = Cursor::default();
        cursor.start(&bytes).expect("these are entries");
        prop_assert_eq!(&rest_of(&mut cursor, &bytes), &pairs);

        let from = pairs.partition_point(|(key, _)| *key < wanted);
        cursor.seek(&bytes, &wanted).expect("these are entries");
        prop_assert_eq!(&rest_of(&mut cursor, &bytes), &pairs[from..]);

        let found = find(&bytes, &wanted).expect("these are entries");
        let found = found.map(|found| (found.is_exact, bytes[found.body].to_vec()));
        let expected = pairs.get(from).map(|(key, body)| (*key == wanted, body.clone()));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_are_entries_or_malformed(
        bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..80), wanted in key(),
    ) {
        let mut cursor = Cursor::default();
        if cursor.start(&bytes).is_ok() {
            while let Ok(true) = cursor.next(&bytes) {
                prop_assert!(cursor.key().len() <= bytes.len() && cursor.body().end <= bytes.len());
            }
        }
        let _ = cursor.seek(&bytes, &wanted);
        if let Ok(Some(found)) = find(&bytes, &wanted) {
            prop_assert!(found.body.end <= bytes.len());
        }
        let _ = entry_at(&bytes, wanted.len());
    }

    #[test]
    fn varints_come_back_and_nothing_else_does(value: u32, rest in any::<[u8; 6]>()) {
        let mut bytes = Vec::new();
        put_varint(value, &mut bytes);
        prop_assert_eq!(bytes.len(), varint_len(value));
        let mut at = 0;
        prop_assert_eq!(varint(&bytes, &mut at), Some(value));
        prop_assert_eq!(at, bytes.len());
        prop_assert_eq!(varint(&bytes[..bytes.len() - 1], &mut 0), None);

        let mut at = 0;
        if varint(&rest, &mut at).is_some() {
            prop_assert!(at <= 5);
        }
    }

    #[test]
    fn common_len_is_that_of_bytes(a in key(), b in key(), same in 0..20usize) {
        let join = |tail: &[u8]| [&vec![7; same], tail].concat();
        let (a, b) = (join(&a), join(&b));
        let expected = a.iter().zip(&b).take_while(|(x, y)| x == y).count();

        prop_assert_eq!(common_len(&a, &b), expected);
    }
}
