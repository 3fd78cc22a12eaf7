// SPDX-License-Identifier: Apache-2.0
//! The seeds that continuous integration runs, and the bugs planted in some of them.
//! `cargo xtask simulate` runs others.

use ferrogate_proof::sim::{Plant, report, run, run_with};

/// From here on, so that the seeds of each release's long run are others.
const FROM: u64 = 1;
const SEEDS: u64 = 200;
/// Seeds that are run twice; each is another run than the others.
const REPLAYED: u64 = 24;
/// A bug must show in one of so many seeds.
const FEW: u64 = 40;

#[test]
fn no_seed_breaks_a_promise() {
    let totals = report::run_all(FROM, SEEDS).expect("room for the runtimes' files");
    println!("{totals}");
    let histories: Vec<&str> = totals.failed.iter().map(|outcome| outcome.history.as_str()).collect();
    assert!(totals.failed.is_empty(), "{totals}\n{}", histories.join("\n\n"));
    assert!(totals.diverged.is_empty(), "these seeds do not replay: {:?}", totals.diverged);
}

#[test]
fn a_seed_replays_to_the_last_event_and_another_is_another_run() {
    let mut traces = Vec::new();
    for seed in FROM..FROM + REPLAYED {
        let (first, again) = (run(seed).expect("a run"), run(seed).expect("a run"));
        if first != again {
            let (mut left, mut right) = (first.history.lines(), again.history.lines());
            let differ = (1..).zip(std::iter::from_fn(|| Some((left.next()?, right.next()?))));
            let differ = differ.into_iter().find(|(_, (left, right))| left != right);
            panic!("seed {seed} was two runs, from this line on: {differ:#?}");
        }
        assert!(
            first.figures.commits > 0 && first.figures.updates > 0,
            "nothing happened: {}",
            first.history
        );
        traces.push(first.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len() as u64, REPLAYED);
}

/// Runs seeds until one breaks this promise because of the bug.
fn found(plant: Plant, promise: &str) {
    let broke = |seed: &u64| {
        let outcome = run_with(*seed, Some(plant)).expect("a run");
        outcome.broken.iter().any(|broken| broken.starts_with(promise))
    };
    let found = (FROM..FROM + FEW).find(broke);
    println!("{plant:?} breaks {promise} in seed {found:?}");
    assert!(found.is_some(), "{plant:?} was not found in {FEW} seeds");
}

#[test]
fn an_acknowledgement_before_the_disk_is_found() {
    found(Plant::AckBeforeDisk, "P4");
}

#[test]
fn a_cursor_moved_before_apply_is_found() {
    found(Plant::CursorBeforeApply, "P7");
}

#[test]
fn a_resume_without_the_epoch_is_found() {
    found(Plant::ResumeWithoutEpoch, "P7");
}

#[test]
fn a_swap_without_a_look_at_the_revision_is_found() {
    found(Plant::SwapWithoutCheck, "P2");
}
