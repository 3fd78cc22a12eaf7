// SPDX-License-Identifier: Apache-2.0
//! Counters in memory, shared by all workers of a process and outliving every redeployment:
//! fixed windows aligned to the epoch, and rates that come back evenly (GCRA). Sharded, so
//! that a worker waits for another only on the same shard and only for a look-up; a key
//! that is known costs no allocation. Rate limits reach it through [`crate::Services`].

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::definition::{Algorithm, Counters, Rule, Taken};

/// The counters kept when nothing else is configured (contract 6.11, `memory.max_entries`).
pub const DEFAULT_MAX_ENTRIES: usize = 10_000;

/// How often counters that say nothing any more are removed (`memory.cleanup_interval`).
pub const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(300);

/// The most shards: so many that two workers rarely meet.
const SHARDS: usize = 32;

/// The fewest counters of a shard, where there are several: keys never spread quite evenly, and
/// the fuller one must not give counters up long before the others are full.
const MIN_PER_SHARD: usize = 512;

/// A worker's clock may be behind another's reading by a moment, never by this much.
const LATENESS_MS: u64 = 1_000;

/// Counters in memory.
///
/// When a shard is full, a new key first evicts every counter that is over; if all still
/// run, the one that ends first is given up, and its key starts afresh. So a flood of
/// keys can loosen limits about to reset, but never takes more memory, and never refuses
/// a client for another's keys. Each shard has its share of the entries: below 1,024 there is one,
/// beyond that eviction may begin a little before the total is reached, at some nine tenths of it.
pub struct MemoryCounters {
    /// Seeded at random: which keys share a shard and a bucket must not be for clients to choose.
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    max_per_shard: usize,
    cleanup_interval_ms: u64,
}

struct Shard {
    counters: HashMap<Box<str>, Counter, RandomState>,
    /// When it was last rid of counters that are over.
    cleaned_at_ms: u64,
}

/// One key's state.
#[derive(Clone, Copy)]
enum Counter {
    Window(Window),
    Cell(Cell),
}

#[derive(Clone, Copy)]
struct Window {
    length_ms: u64,
    start_ms: u64,
    used: u64,
}

/// The state of GCRA: when everything would be there again. Times are kept in units of a
/// `limit`-th of a millisecond, in which the emission interval is a whole number.
#[derive(Clone, Copy)]
struct Cell {
    rule: Rule,
    full_at: u128,
}

impl MemoryCounters {
    /// At most about this many counters; at least one.
    #[must_use]
    pub fn new(max_entries: usize) -> MemoryCounters {
        MemoryCounters::with_cleanup(max_entries, DEFAULT_CLEANUP_INTERVAL)
    }

    /// As [`MemoryCounters::new`], rid of counters that are over this often.
    #[must_use]
    pub fn with_cleanup(max_entries: usize, interval: Duration) -> MemoryCounters {
        let shards = (max_entries / MIN_PER_SHARD).clamp(1, SHARDS);
        let hasher = RandomState::default();
        let shard = || Shard { counters: HashMap::with_hasher(hasher.clone()), cleaned_at_ms: 0 };
        MemoryCounters {
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            hasher,
            max_per_shard: max_entries.div_ceil(shards).max(1),
            cleanup_interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1),
        }
    }

    /// How many counters are held; for metrics and tests.
    #[must_use]
    pub fn len(&self) -> usize {
        let count =
            |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).counters.len();
        self.shards.iter().map(count).sum()
    }

    /// Whether no counter is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for MemoryCounters {
    fn default() -> MemoryCounters {
        MemoryCounters::new(DEFAULT_MAX_ENTRIES)
    }
}

impl Counters for MemoryCounters {
    fn take(&self, key: &str, rule: Rule, cost: u64, now_ms: u64) -> Taken {
        let hash = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or(0);
        let place = hash.checked_rem(self.shards.len());
        let Some(shard) = place.and_then(|place| self.shards.get(place)) else {
            // Not reachable, the remainder is below the number of shards; refusing is the safe answer.
            return Taken { allowed: false, remaining: 0, resets_at_ms: now_ms, retry_at_ms: now_ms };
        };
        // A panic in another holder leaves counts, and counts cannot be half-written.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms.abs_diff(shard.cleaned_at_ms) >= self.cleanup_interval_ms {
            shard.clean(now_ms);
        }
        if let Some(counter) = shard.counters.get_mut(key) {
            if !counter.still_counts(rule, now_ms) {
                *counter = Counter::fresh(rule, now_ms);
            }
            return counter.take(rule, cost, now_ms);
        }
        let mut counter = Counter::fresh(rule, now_ms);
        let taken = counter.take(rule, cost, now_ms);
        // One that gave nothing away says no more than none.
        if taken.allowed && cost > 0 {
            shard.make_room(self.max_per_shard, now_ms);
            shard.counters.insert(key.into(), counter);
        }
        taken
    }
}

impl Shard {
    fn clean(&mut self, now_ms: u64) {
        self.counters.retain(|_, counter| counter.ends_ms() > now_ms);
        self.cleaned_at_ms = now_ms;
    }

    fn make_room(&mut self, max: usize, now_ms: u64) {
        if self.counters.len() < max {
            return;
        }
        self.clean(now_ms);
        if self.counters.len() < max {
            return;
        }
        let first = self.counters.iter().min_by_key(|(_, counter)| counter.ends_ms());
        if let Some(key) = first.map(|(key, _)| key.clone()) {
            self.counters.remove(&key);
        }
    }
}

impl Counter {
    fn fresh(rule: Rule, now_ms: u64) -> Counter {
        match rule.algorithm {
            Algorithm::FixedWindow => Counter::Window(Window::containing(now_ms, rule.window_ms)),
            Algorithm::Gcra => Counter::Cell(Cell { rule, full_at: 0 }),
        }
    }

    /// When it says no more than a fresh one.
    fn ends_ms(&self) -> u64 {
        match self {
            Counter::Window(window) => window.end_ms(),
            Counter::Cell(cell) => cell.full_at_ms(),
        }
    }

    fn still_counts(&self, rule: Rule, now_ms: u64) -> bool {
        match (self, rule.algorithm) {
            (Counter::Window(window), Algorithm::FixedWindow) => {
                window.still_counts(Window::containing(now_ms, rule.window_ms))
            }
            (Counter::Cell(cell), Algorithm::Gcra) => cell.still_counts(rule, now_ms),
            (Counter::Window(_), Algorithm::Gcra) | (Counter::Cell(_), Algorithm::FixedWindow) => false,
        }
    }

    fn take(&mut self, rule: Rule, cost: u64, now_ms: u64) -> Taken {
        match self {
            Counter::Window(window) => window.take(rule.limit, cost, now_ms),
            Counter::Cell(cell) => cell.take(cost, now_ms),
        }
    }
}

impl Window {
    fn containing(now_ms: u64, length_ms: u64) -> Window {
        let length_ms = length_ms.max(1);
        Window { length_ms, start_ms: now_ms - now_ms % length_ms, used: 0 }
    }

    fn end_ms(self) -> u64 {
        self.start_ms.saturating_add(self.length_ms)
    }

    /// Whether this window goes on counting for a request that falls in `fresh`. A worker may
    /// be late by a moment and fall in the window before: it counts here, else the two would
    /// reset each other. A clock set back farther starts afresh, else a key would stay
    /// blocked until the clock has caught up.
    fn still_counts(self, fresh: Window) -> bool {
        self.length_ms == fresh.length_ms
            && (self.start_ms == fresh.start_ms || self.start_ms == fresh.end_ms())
    }

    /// Denied requests do not count (contract 6.11).
    fn take(&mut self, limit: u64, cost: u64, now_ms: u64) -> Taken {
        let left = limit.saturating_sub(self.used);
        let allowed = cost <= left;
        if allowed {
            self.used = self.used.saturating_add(cost);
        }
        let resets_at_ms = self.end_ms();
        Taken {
            allowed,
            remaining: limit.saturating_sub(self.used),
            resets_at_ms,
            retry_at_ms: if allowed { now_ms } else { resets_at_ms },
        }
    }
}

impl Cell {
    fn units(&self, ms: u64) -> u128 {
        u128::from(ms).saturating_mul(u128::from(self.rule.limit.max(1)))
    }

    fn full_at_ms(&self) -> u64 {
        u64::try_from(self.full_at.div_ceil(u128::from(self.rule.limit.max(1)))).unwrap_or(u64::MAX)
    }

    /// The emission interval, in our units.
    fn interval(&self) -> u128 {
        u128::from(self.rule.window_ms.max(1))
    }

    /// What may be owed at most.
    fn tolerance(&self) -> u128 {
        let burst = if self.rule.limit == 0 { 0 } else { self.rule.burst };
        u128::from(burst).saturating_mul(self.interval())
    }

    /// More can only be owed when the clock was set back: then it starts afresh.
    fn still_counts(&self, rule: Rule, now_ms: u64) -> bool {
        let most = self.units(now_ms.saturating_add(LATENESS_MS)).saturating_add(self.tolerance());
        self.rule == rule && self.full_at <= most
    }

    fn take(&mut self, cost: u64, now_ms: u64) -> Taken {
        let (now, interval, tolerance) = (self.units(now_ms), self.interval(), self.tolerance());
        let before = self.full_at.max(now);
        let after = before.saturating_add(u128::from(cost).saturating_mul(interval));
        let allowed = after - now <= tolerance;
        if allowed {
            self.full_at = after;
        }
        let left = tolerance.saturating_sub(self.full_at.saturating_sub(now)) / interval;
        let earliest = after.saturating_sub(tolerance).div_ceil(u128::from(self.rule.limit.max(1)));
        Taken {
            allowed,
            remaining: u64::try_from(left).unwrap_or(u64::MAX),
            resets_at_ms: self.full_at_ms().max(now_ms),
            retry_at_ms: if allowed { now_ms } else { u64::try_from(earliest).unwrap_or(u64::MAX) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{DEFAULT_MAX_ENTRIES, MemoryCounters};
    use crate::definition::{Algorithm, Counters, Rule, Taken};

    fn rule(window_ms: u64, limit: u64) -> Rule {
        Rule { algorithm: Algorithm::FixedWindow, limit, window_ms, burst: limit }
    }

    fn rate(window_ms: u64, limit: u64, burst: u64) -> Rule {
        Rule { algorithm: Algorithm::Gcra, limit, window_ms, burst }
    }

    /// Without the moment to come back, which the tests of windows do not ask about.
    fn told(taken: Taken) -> (bool, u64, u64) {
        (taken.allowed, taken.remaining, taken.resets_at_ms)
    }

    #[test]
    fn a_window_is_aligned_to_the_epoch_and_counts_what_it_allowed() {
        let counters = MemoryCounters::default();
        for (now, cost, expected) in [
            (1_999, 1, (true, 1, 2_000)),
            (1_999, 1, (true, 0, 2_000)),
            (1_999, 1, (false, 0, 2_000)),
            (2_000, 0, (true, 2, 3_000)),
            (2_000, 3, (false, 2, 3_000)),
            (2_001, 2, (true, 0, 3_000)),
            // A worker that read the clock just before the window began counts in it.
            (1_999, 1, (false, 0, 3_000)),
            (2_500, 1, (false, 0, 3_000)),
            // A clock set far back does not block the key.
            (500, 1, (true, 1, 1_000)),
            (9_000, 1, (true, 1, 10_000)),
        ] {
            assert_eq!(told(counters.take("k", rule(1_000, 2), cost, now)), expected, "at {now}");
        }
    }

    #[test]
    fn keys_do_not_share_and_a_changed_window_starts_afresh() {
        let counters = MemoryCounters::default();
        assert!(counters.take("a", rule(1_000, 1), 1, 0).allowed);
        assert!(!counters.take("a", rule(1_000, 1), 1, 0).allowed);
        assert!(counters.take("b", rule(1_000, 1), 1, 0).allowed);
        assert!(counters.take("a", rule(2_000, 1), 1, 0).allowed);
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let counters = MemoryCounters::default();
        assert_eq!(told(counters.take("zero", rule(0, 1), 1, 7)), (true, 0, 8));
        assert_eq!(told(counters.take("late", rule(10, u64::MAX), u64::MAX, u64::MAX)), (true, 0, u64::MAX));
        assert!(!counters.take("none", rule(10, 0), 1, 0).allowed);
        assert!(counters.take("peek", rule(10, 1), 0, 0).allowed);
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_than_its_share() {
        let flooded = |max: usize| {
            let counters = MemoryCounters::new(max);
            for key in 0..10_000 {
                counters.take(&format!("key-{key}"), rule(60_000, 5), 1, 0);
            }
            assert!(counters.len() <= max, "{} of {max}", counters.len());
            counters
        };
        flooded(1);
        flooded(2_048);
        let counters = flooded(128);
        // Windows that are over make room for new keys; no live one is given up for them.
        let later = 60_000;
        counters.take("mine", rule(3_600_000, 2), 2, later);
        for key in 0..32 {
            counters.take(&format!("other-{key}"), rule(1, 5), 1, later);
            assert!(!counters.take("mine", rule(3_600_000, 2), 1, later).allowed);
        }
    }

    #[test]
    fn no_counter_is_given_up_before_they_are_nearly_full() {
        for (max, keys) in [(1, 1), (24, 24), (32, 32), (1_023, 1_023), (DEFAULT_MAX_ENTRIES, 8_000)] {
            let counters = MemoryCounters::new(max);
            let allowed = || {
                let take = |key: &usize| counters.take(&format!("key-{key}"), rule(60_000, 1), 1, 0).allowed;
                (0..keys).filter(take).count()
            };
            assert_eq!((allowed(), allowed()), (keys, 0), "{keys} of {max}");
        }
    }

    #[test]
    fn a_rate_comes_back_evenly() {
        let counters = MemoryCounters::default();
        // Four a second: one every 250 ms, two at once.
        let rule = rate(1_000, 4, 2);
        for (now, cost, expected, retry) in [
            (1_000, 1, (true, 1, 1_250), 1_000),
            (1_000, 1, (true, 0, 1_500), 1_000),
            (1_000, 1, (false, 0, 1_500), 1_250),
            (1_249, 1, (false, 0, 1_500), 1_250),
            (1_250, 0, (true, 1, 1_500), 1_250),
            (1_250, 1, (true, 0, 1_750), 1_250),
            (1_500, 2, (false, 1, 1_750), 1_750),
            (1_750, 2, (true, 0, 2_250), 1_750),
            // Never more than the burst, however long nobody asked.
            (60_000, 3, (false, 2, 60_000), 60_250),
        ] {
            let taken = counters.take("k", rule, cost, now);
            assert_eq!((told(taken), taken.retry_at_ms), (expected, retry), "{cost} at {now}");
        }
    }

    #[test]
    fn rates_that_do_not_divide_evenly_are_kept_to_the_letter() {
        let counters = MemoryCounters::default();
        let rule = rate(1_000, 7, 7);
        let allowed = (0..10_000).filter(|now| counters.take("k", rule, 1, *now).allowed).count();
        assert_eq!(allowed, 7 + 69);
        // More than one per millisecond.
        let rule = rate(1, 1_000_000_000, 5);
        assert_eq!((0..10).filter(|_| counters.take("fast", rule, 1, 3).allowed).count(), 5);
        assert!(!counters.take("none", rate(10, 0, 0), 1, 0).allowed);
    }

    #[test]
    fn a_clock_set_back_blocks_no_rate() {
        let counters = MemoryCounters::default();
        let rule = rate(60_000, 2, 2);
        for _ in 0..2 {
            assert!(counters.take("k", rule, 1, 10_000_000).allowed);
        }
        // A worker that is late by a moment finds the same counter.
        assert!(!counters.take("k", rule, 1, 9_999_900).allowed);
        assert!(counters.take("k", rule, 1, 5_000).allowed);
    }

    #[test]
    fn counters_that_are_over_are_removed_now_and_then() {
        let counters = MemoryCounters::with_cleanup(100_000, std::time::Duration::from_secs(10));
        for key in 0..1_000 {
            counters.take(&format!("key-{key}"), rule(1_000, 5), 1, 1_000_000);
            counters.take(&format!("rate-{key}"), rate(1_000, 5, 5), 1, 1_000_000);
        }
        assert_eq!(counters.len(), 2_000);
        for key in 0..1_000 {
            counters.take(&format!("key-{key}"), rule(1_000, 5), 0, 1_010_000);
        }
        assert_eq!(counters.len(), 0);
    }

    #[test]
    fn workers_together_never_take_more_than_the_limit() {
        let counters = Arc::new(MemoryCounters::default());
        let allowed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        if counters.take("shared", rule(1_000, 700), 1, 0).allowed {
                            allowed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(allowed.load(Ordering::Relaxed), 700);
    }
}
