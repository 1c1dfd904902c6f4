//! What a restart costs, and that what it gives back is missed by nobody.

use super::*;

/// Some records, then the end of the process, again and again; what the last replay read.
fn restarted(seed: u64, restarts: u64, power: bool) -> (Sim, Node, Progress) {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    let mut expected = Vec::new();
    for _ in 0..restarts {
        assert_eq!(replay_on(&sim, &node, &options()).expect("nothing is wrong"), expected);
        expected = write_some(&sim, &node, &options(), 4);
        if power {
            node.power_cut();
        } else {
            node.kill();
        }
        node.restart();
    }
    let env = node.env(ShardId(0));
    let (progress, records) = sim.run_on(&env, async move |env| {
        let (mut last, mut records) = (Progress::default(), 0);
        let count = |_, _: Record<'_>| records += 1;
        replay(&env, &options(), count, |progress| last = progress).await.expect("as before");
        (last, records)
    });
    assert_eq!(records, expected.len());
    (sim, node, progress)
}

fn disk_len(node: &Node) -> u64 {
    segment_paths(node).iter().map(|path| bytes_of(node, path).len() as u64).sum()
}

#[test]
fn a_restart_costs_what_was_written() {
    check(20, |seed| {
        let power = seed % 2 == 0;
        let (_, few, _) = restarted(seed, 2, power);
        let (_, many, progress) = restarted(seed, 22, power);

        // Four records of up to 6,000 bytes each time, a block and its padding each, and a header.
        let most = 20 * (4 * 3 + 1) * SECTOR;
        let (before, after) = (disk_len(&few), disk_len(&many));
        assert!(after <= before + most, "{before} bytes became {after}; seed {seed}");
        // The newest segment and the one made ready are searched for what a crash left.
        assert!(progress.total_bytes <= after, "{progress:?} of {after}; seed {seed}");
    });
}

/// A segment that was cut says that the next one was there.
#[test]
fn what_follows_a_cut_segment_is_missed() {
    check(40, |seed| {
        let (sim, node, _) = restarted(seed, 1, true);
        write_some(&sim, &node, &options(), 0);
        node.power_cut();
        node.restart();
        let paths = segment_paths(&node);
        let header = |path: &PathBuf| format::SegmentHeader::decode(&bytes_of(&node, path)).ok();
        let part = |pair: &[PathBuf]| {
            let [first, second] = [&pair[0], &pair[1]].map(|path| Some(header(path)?.0.base.0));
            second?.checked_sub(first?)
        };
        let len = |path: &PathBuf| bytes_of(&node, path).len() as u64;
        let is_cut = |pair: &[PathBuf]| {
            len(&pair[0]) < options().segment_len && Some(len(&pair[0])) == part(pair)
        };
        // A power cut may undo the cutting, in part too.
        let Some(cut) = paths.windows(2).position(is_cut) else { return };
        let (path, next) = (&paths[cut], &paths[cut + 1]);
        let (whole, header) = (bytes_of(&node, path), bytes_of(&node, next));

        node.write_file(next, &vec![0; header.len()]);
        match replay_on(&sim, &node, &options()).expect_err("the header was durable") {
            Error::Corrupt { path, offset: 0, what: "segment header", .. } => {
                assert_eq!(path, *next);
            }
            other => panic!("refused for another reason: {other}"),
        }

        node.write_file(next, &header);
        node.truncate_file(path, whole.len() as u64 - SECTOR);
        match replay_on(&sim, &node, &options()).expect_err("a block is gone") {
            Error::Truncated { path: found, expected, .. } => {
                assert_eq!((found, expected), (path.clone(), whole.len() as u64));
            }
            other => panic!("refused for another reason: {other}"),
        }

        node.write_file(path, &whole);
        let env = node.env(ShardId(0));
        let gone = paths[cut + 1..].to_vec();
        sim.run_on(&env, async move |env| {
            for path in gone.iter().rev() {
                env.remove(path).await.expect("it is there");
            }
        });
        match replay_on(&sim, &node, &options()).expect_err("a segment is gone") {
            Error::Missing { path } => assert_eq!(path, *next),
            other => panic!("refused for another reason: {other}"),
        }
    });
}
