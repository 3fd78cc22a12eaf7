// SPDX-License-Identifier: Apache-2.0
//! Runs many seeds, each on a thread of its own, and adds up what they amount to. A seed
//! that breaks a promise is named with its history; some are run again to see that they
//! replay.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Figures, Outcome, run};

/// One seed of this many is run twice.
const REPLAYED: u64 = 20;

/// What many seeds amount to.
#[derive(Default)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// The sums of the seeds' figures; the longest time to converge.
    pub figures: Figures,
    /// The times to converge, in milliseconds.
    converged: Vec<u128>,
    /// Seeds that were run again, and those that did not replay.
    pub replayed: u64,
    /// See `replayed`.
    pub diverged: Vec<u64>,
    /// The seeds that broke a promise.
    pub failed: Vec<Outcome>,
    /// How long it took.
    pub took: Duration,
}

/// Runs the seeds from `from` on.
///
/// # Errors
/// When the machine has no room for a run's files.
pub fn run_all(from: u64, seeds: u64) -> anyhow::Result<Totals> {
    let began = Instant::now();
    let (next, totals) = (AtomicU64::new(from), Mutex::new(Totals::default()));
    let end = from.saturating_add(seeds);
    let worker = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= end {
                return Ok(());
            }
            let outcome = run(seed)?;
            let again = if seed % REPLAYED == 0 { Some(run(seed)?) } else { None };
            totals.lock().unwrap_or_else(PoisonError::into_inner).add(outcome, again);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a run panicked"))))
    })?;
    let mut totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.took = began.elapsed();
    totals.converged.sort_unstable();
    totals.failed.sort_by_key(|outcome| outcome.seed);
    Ok(totals)
}

impl Totals {
    fn add(&mut self, outcome: Outcome, again: Option<Outcome>) {
        let Figures { commits, lost, live, connects, updates, faults, restarts, converged_after } =
            &outcome.figures;
        self.seeds += 1;
        self.simulated += outcome.simulated;
        let sums = &mut self.figures;
        sums.commits += commits;
        sums.lost += lost;
        sums.live += live;
        sums.connects += connects;
        sums.updates += updates;
        sums.faults += faults;
        sums.restarts += restarts;
        sums.converged_after = sums.converged_after.max(*converged_after);
        self.converged.push(converged_after.as_millis());
        if let Some(again) = again {
            self.replayed += 1;
            if again.trace != outcome.trace {
                self.diverged.push(outcome.seed);
            }
        }
        if !outcome.broken.is_empty() {
            self.failed.push(outcome);
        }
    }

    fn percentile(&self, of_hundred: usize) -> u128 {
        let index = (self.converged.len() * of_hundred / 100).min(self.converged.len().saturating_sub(1));
        self.converged.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { commits, lost, live, connects, updates, faults, restarts, converged_after } =
            &self.figures;
        let hours = self.simulated.as_secs_f64() / 3600.0;
        writeln!(f, "{} seeds, {hours:.1} simulated hours in {:.0} s", self.seeds, self.took.as_secs_f64())?;
        writeln!(f, "{faults} faults, {restarts} processes killed, {connects} streams opened")?;
        writeln!(f, "{commits} batches committed, {lost} of them lost in failovers, {live} answered live")?;
        writeln!(f, "{updates} acknowledgements")?;
        let (half, most) = (self.percentile(50), self.percentile(99));
        let longest = converged_after.as_millis();
        writeln!(f, "converged after the last fault: p50 {half} ms, p99 {most} ms, longest {longest} ms")?;
        writeln!(
            f,
            "{} seeds run twice, {} of them differently: {:?}",
            self.replayed,
            self.diverged.len(),
            self.diverged
        )?;
        writeln!(f, "{} seeds broke a promise", self.failed.len())?;
        for outcome in &self.failed {
            writeln!(f, "seed {}: {}", outcome.seed, outcome.broken.join("; "))?;
        }
        Ok(())
    }
}
