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

/// Segments long enough to hold more than one crash can leave: 12 sectors in flight, two blocks.
fn long() -> Options {
    Options { segment_len: 80 * SECTOR, ..options() }
}

/// A log of `count` records in which each file was changed by `damage`: its paths, the verdict.
fn damaged(
    seed: u64,
    options: &Options,
    count: u64,
    mut damage: impl FnMut(&mut Rng, usize, &mut Vec<u8>),
) -> (Vec<PathBuf>, Result<Vec<Owned>, Error>) {
    let (sim, node) = started(seed);
    let mut rng = sim.rng();
    write_some(&sim, &node, options, count);
    node.power_cut();
    let paths = segment_paths(&node);
    for (index, path) in paths.iter().enumerate() {
        let mut bytes = bytes_of(&node, path);
        damage(&mut rng, index, &mut bytes);
        node.write_file(path, &bytes);
    }
    node.restart();
    let verdict = replay_on(&sim, &node, options);
    (paths, verdict)
}

fn assert_corrupt(verdict: Result<Vec<Owned>, Error>, at: (&str, &PathBuf, u64)) {
    match verdict.map(|records| records.len()) {
        Err(Error::Corrupt { what, path, offset, end, durable }) => {
            assert_eq!((what, &path, offset), at);
            assert!(durable > end, "{durable} proves nothing for a log of {end}");
        }
        other => panic!("not refused as corrupt: {other:?}"),
    }
}

#[test]
fn a_flipped_bit_in_every_payload_is_refused() {
    check(100, |seed| {
        let (paths, verdict) = damaged(seed, &options(), 40, |rng, _, bytes| {
            for (offset, len, _) in blocks_of(bytes) {
                let header = format::BLOCK_HEADER_LEN;
                bytes[offset as usize + header + rng.index(len - header)] ^= 1 << rng.below(8);
            }
        });

        assert_corrupt(verdict, ("block", &paths[0], SECTOR));
    });
}

#[test]
fn garbage_behind_every_header_is_refused() {
    check(100, |seed| {
        let (paths, verdict) = damaged(seed, &long(), 50, |rng, _, bytes| {
            let end = blocks_of(bytes).last().map_or(SECTOR, |(offset, ..)| offset + SECTOR);
            bytes[SECTOR_LEN..end as usize].fill_with(|| rng.next_u64() as u8);
        });

        assert_corrupt(verdict, ("block", &paths[0], SECTOR));
    });
}

#[test]
fn the_loss_of_all_but_the_first_file_is_refused() {
    check(100, |seed| {
        for is_garbage in [true, false] {
            let (paths, verdict) = damaged(seed, &options(), 40, |rng, index, bytes| {
                if index > 0 {
                    bytes.fill_with(|| if is_garbage { rng.next_u64() as u8 } else { 0 });
                }
            });

            assert!(paths.len() > 2, "the scene is not set");
            assert_corrupt(verdict, ("segment header", &paths[1], 0));
        }
    });
}

/// Without the file that was made ready behind it, what the newest file holds has to do.
#[test]
fn garbage_in_the_newest_file_is_refused() {
    check(50, |seed| {
        let (sim, node) = started(seed);
        let mut rng = sim.rng();
        write_some(&sim, &node, &long(), 70);
        node.power_cut();
        let paths = segment_paths(&node);
        let begun = paths.iter().filter(|path| !blocks_of(&bytes_of(&node, path)).is_empty());
        let newest = begun.count() - 1;
        let mut garbage = bytes_of(&node, &paths[newest]);
        garbage.fill_with(|| rng.next_u64() as u8);
        node.write_file(&paths[newest], &garbage);
        node.restart();
        let env = node.env(ShardId(0));
        let gone = paths[newest + 1..].to_vec();
        sim.run_on(&env, async move |env| {
            for path in gone.iter().rev() {
                env.remove(path).await.expect("it is there");
            }
        });

        let verdict = replay_on(&sim, &node, &long());

        assert!(newest > 0, "the scene is not set");
        assert_corrupt(verdict, ("segment header", &paths[newest], 0));
    });
}

#[test]
fn segments_of_different_copies_are_not_mixed() {
    let misfits = std::cell::Cell::new(0);
    check(60, |seed| {
        let copy_of = |seed| {
            let (sim, node) = started(seed);
            write_some(&sim, &node, &options(), 60);
            node.power_cut();
            node.restart();
            (sim, node)
        };
        let (sim, node) = copy_of(seed);
        let (_other, others) = copy_of(seed + 1_000_000);
        let path = segment_paths(&node)[0].clone();
        node.write_file(&path, &bytes_of(&others, &path));

        match replay_on(&sim, &node, &options()) {
            Err(Error::Misfit { path: found, base, end }) => {
                assert!(found == segment_paths(&node)[1] && base <= end, "{base} of {end}");
                misfits.set(misfits.get() + 1);
            }
            Err(Error::Corrupt { path: found, .. }) => assert_eq!(found, path),
            other => panic!("taken, or refused for another reason: {other:?}"),
        }
    });
    assert!(crate::sim::seeds(2).count() < 2 || misfits.get() > 5, "{misfits:?}");
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
fn live_on_recycled(seed: u64, options: Options) {
    let (sim, node) = started(seed);
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
    check(100, |seed| live_on_recycled(seed, options()));
    check(100, |seed| live_on_recycled(seed, long()));
}

#[test]
fn planted_trust_in_recycled_bytes_is_seen() {
    let seen = (0..20).filter(|seed| {
        let planted = Some(Planted::TrustRecycledBytes);
        let run = || live_on_recycled(*seed, Options { planted, ..options() });
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    });

    assert!(seen.count() > 10, "trust in recycled bytes goes unnoticed");
}
