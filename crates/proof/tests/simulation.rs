// SPDX-License-Identifier: Apache-2.0
//! The seeds that continuous integration runs. `cargo xtask simulate` runs others, and sees
//! that seeds replay.
#![cfg(feature = "simulation")]

use ferrogate_proof::sim::{report, run};

/// From here on, so that the seeds of each release's long run are others.
const FROM: u64 = 1;
const SEEDS: u64 = 200;

#[test]
fn no_seed_breaks_a_promise() {
    let totals = report::run_all(FROM, SEEDS).expect("room for the runtimes' files");
    println!("{totals}");
    let histories: Vec<&str> = totals.failed.iter().map(|outcome| outcome.history.as_str()).collect();
    assert!(totals.failed.is_empty(), "{totals}\n{}", histories.join("\n\n"));
}

#[test]
fn other_seeds_are_other_runs() {
    let (one, other) = (run(1).expect("a run"), run(2).expect("a run"));
    assert_ne!(one.trace, other.trace);
    assert!(one.figures.commits > 0 && one.figures.updates > 0, "nothing happened: {}", one.history);
}
