//! What is refused, and how it is named.

use super::*;

fn started(seed: u64) -> (Sim, Node) {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    (sim, node)
}

#[test]
fn flipped_bit_in_an_acked_block_is_refused_with_file_and_offset() {
    check(300, |seed| {
        let (sim, node) = started(seed);
        let mut rng = sim.rng();
        write_some(&sim, &node, &options(), 60);
        node.power_cut();
        let mut blocks: Vec<_> = segment_paths(&node)
            .iter()
            .flat_map(|path| {
                blocks_of(&bytes_of(&node, path)).into_iter().map(|block| (path.clone(), block))
            })
            .collect();
        blocks.pop(); // Behind the last one nothing was written that knows of it.
        let (path, (offset, len, _)) = blocks[rng.index(blocks.len())].clone();
        assert!(node.flip_bit(&path, offset + rng.below(len as u64), rng.below(8) as u8));
        node.restart();

        let refused = replay_on(&sim, &node, &options()).expect_err("an acked block is gone");

        match refused {
            Error::Corrupt { path: found, offset: at, what, .. } => {
                assert_eq!((found, at, what), (path, offset, "block"));
            }
            other => panic!("refused for another reason: {other}"),
        }
    });
}

#[test]
fn flipped_bit_behind_a_close_is_refused_in_the_last_block_too() {
    check(50, |seed| {
        let (sim, node) = started(seed);
        let options = options();
        let env = node.env(ShardId(0));
        sim.run_on(&env, async move |env| {
            let (_, mut writer) = open(&env, &options).await;
            writer.append(Owned::numbered(0, 100).record());
            writer.close().await.expect("the disk works");
        });
        let path = segment_paths(&node)[0].clone();
        node.flip_bit(&path, SECTOR + 70, 3);
        node.restart();

        let refused = replay_on(&sim, &node, &super::options());

        assert!(matches!(refused, Err(Error::Corrupt { offset: SECTOR, .. })), "{refused:?}");
    });
}

#[test]
fn flipped_bit_in_a_header_is_refused_as_such() {
    check(50, |seed| {
        let (sim, node) = started(seed);
        write_some(&sim, &node, &options(), 60);
        node.power_cut();
        let paths = segment_paths(&node);
        let mut rng = sim.rng();
        let path = &paths[rng.index(paths.len() - 2)];
        node.flip_bit(path, rng.below(96), rng.below(8) as u8);
        node.restart();

        let refused = replay_on(&sim, &node, &options()).expect_err("a header is gone");

        match refused {
            Error::Corrupt { path: found, offset: 0, what: "segment header", .. } => {
                assert_eq!(found, *path);
            }
            other => panic!("refused for another reason: {other}"),
        }
    });
}

#[test]
fn missing_and_shortened_segments_are_named() {
    let (sim, node) = started(1);
    write_some(&sim, &node, &options(), 60);
    let paths = segment_paths(&node);
    let (lost, shortened) = (paths[1].clone(), paths[2].clone());
    let whole = bytes_of(&node, &lost);
    node.restart();

    let (dir, name) = (PathBuf::from(DIR), lost.clone());
    let env = node.env(ShardId(0));
    sim.run_on(&env, async move |env| {
        env.remove(&name).await.expect("it is there");
        env.sync_dir(&dir).await.expect("the disk works");
    });
    let missing = replay_on(&sim, &node, &options());
    node.write_file(&lost, &whole);
    node.truncate_file(&shortened, 3 * SECTOR);
    let short = replay_on(&sim, &node, &options());

    assert!(matches!(missing, Err(Error::Missing { path }) if path == lost));
    let Err(Error::Truncated { path, len, expected }) = short else { panic!("{short:?}") };
    assert_eq!((path, len, expected), (shortened, 3 * SECTOR, options().segment_len));
}

#[test]
fn logs_of_others_and_of_other_versions_are_refused_with_the_cure() {
    let (sim, node) = started(2);
    write_some(&sim, &node, &options(), 3);
    node.restart();
    let other = Options { log_id: 1, ..options() };
    let neighbour = Options { shard: ShardId(1), ..options() };

    let foreign = [replay_on(&sim, &node, &other), replay_on(&sim, &node, &neighbour)];
    let path = segment_paths(&node)[0].clone();
    let mut bytes = bytes_of(&node, &path);
    bytes[16] = 9;
    format::seal_header(&mut bytes);
    node.write_file(&path, &bytes);
    let newer = replay_on(&sim, &node, &options());

    for refused in foreign {
        let text = refused.expect_err("it is another's").to_string();
        assert!(text.contains("belongs to another log") && text.contains("move it away"), "{text}");
    }
    let text = newer.expect_err("it is of another version").to_string();
    assert!(text.contains("format 9") && text.contains("use the version of stave"), "{text}");
}

/// A file that held blocks of the epoch and the places that the next run will use, of a header that
/// never became durable: only the chain tells them from the log's own.
#[test]
fn recycled_block_of_the_same_epoch_and_place_is_not_read() {
    let lost = |planted| {
        let (sim, node) = started(3);
        let first = segment_paths_after(&sim, &node, 5);
        let last = first.last().expect("one at least");
        let uncut = bytes_of(&node, last);
        // The run that is to be forgotten, and what it left behind in a spare.
        node.restart();
        write_some(&sim, &node, &options(), 5);
        let second = segment_paths(&node)[first.len()..].to_vec();
        let stale = unproven(bytes_of(&node, &second[0]));
        node.power_cut();
        node.restart();
        let env = node.env(ShardId(0));
        let gone = second.clone();
        sim.run_on(&env, async move |env| {
            for path in gone.iter().rev() {
                env.remove(path).await.expect("it is there");
            }
            env.sync_dir(DIR.as_ref()).await.expect("the disk works");
        });
        node.write_file(last, &uncut);
        node.write_file(PathBuf::from(DIR).join(segments::spare_name(900)), &stale);
        // The same epoch once more, in that file; nothing is appended.
        let again = options();
        sim.run_on(&env, async move |env| drop(open(&env, &again).await));
        node.power_cut();
        node.restart();
        assert!(blocks_of(&bytes_of(&node, &second[0])).len() >= 5, "the scene is not set");
        replay_on(&sim, &node, &Options { planted, ..options() }).expect("nothing was acked").len()
    };

    assert_eq!(lost(None), 5);
    assert_eq!(lost(Some(Planted::SkipChainCheck)), 10, "the planted bug goes unnoticed");
}

/// The segment as if none of its blocks had become durable before the next was written.
fn unproven(mut bytes: Vec<u8>) -> Vec<u8> {
    let key = options().log().key();
    let (header, mut chain) = format::SegmentHeader::decode(&bytes).expect("it was begun");
    for (offset, len, whole) in blocks_of(&bytes) {
        let block = &mut bytes[offset as usize..][..whole];
        let (old, _) = format::BlockHeader::decode(key, block).expect("just found");
        assert_eq!(len, format::BLOCK_HEADER_LEN + old.payload_len);
        chain = format::BlockHeader { durable: header.durable, chain, ..old }.seal(key, block);
    }
    bytes
}

/// Segments that hold `count` records and nothing else.
fn segment_paths_after(sim: &Sim, node: &Node, count: u64) -> Vec<PathBuf> {
    write_some(sim, node, &options(), count);
    node.kill();
    let begun = |path: &PathBuf| !blocks_of(&bytes_of(node, path)).is_empty();
    let (begun, armed): (Vec<_>, Vec<_>) = segment_paths(node).into_iter().partition(begun);
    node.restart();
    let env = node.env(ShardId(0));
    sim.run_on(&env, async move |env| {
        for path in armed.iter().rev() {
            env.remove(path).await.expect("it is there");
        }
        env.sync_dir(DIR.as_ref()).await.expect("the disk works");
    });
    begun
}

/// Spares full of sound blocks of an older time: each crash must end where acks ended.
fn live_on_recycled(seed: u64, planted: Option<Planted>) {
    let (sim, node) = started(seed);
    let options = Options { planted, ..options() };
    let mut expected = write_some(&sim, &node, &options, 40);
    for round in 0..4 {
        let paths = segment_paths(&node);
        let old: Vec<_> = paths.iter().map(|path| bytes_of(&node, path)).collect();
        node.power_cut();
        for (n, bytes) in old.iter().take(2).enumerate() {
            let name = segments::spare_name(1_000 + 10 * round + n as u64);
            node.write_file(PathBuf::from(DIR).join(name), bytes);
        }
        node.restart();
        let found = replay_on(&sim, &node, &options).expect("a mere crash");
        assert!(found == expected, "{} records of {}", found.len(), expected.len());
        expected = write_some(&sim, &node, &options, 20);
    }
}

#[test]
fn recycled_bytes_are_never_data() {
    check(100, |seed| live_on_recycled(seed, None));
}

#[test]
fn planted_trust_in_recycled_bytes_is_seen() {
    let seen = (0..20).filter(|seed| {
        let run = || live_on_recycled(*seed, Some(Planted::TrustRecycledBytes));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    });

    assert!(seen.count() > 10, "trust in recycled bytes goes unnoticed");
}
