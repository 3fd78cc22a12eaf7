// SPDX-License-Identifier: Apache-2.0
//! Counters in memory: fixed windows aligned to the epoch, shared by all workers of a
//! process and outliving every redeployment. Sharded, so that a worker waits for another
//! only on the same shard and only for a look-up; a key that is known costs no
//! allocation. Rate limits reach it through [`crate::Services`].

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;

use crate::definition::{Counters, Taken};

/// The counters kept when nothing else is configured (contract 6.11, `memory.max_entries`).
pub const DEFAULT_MAX_ENTRIES: usize = 10_000;

/// More shards than any machine has workers, so that two rarely meet.
const SHARDS: usize = 32;

/// Counters in memory.
///
/// When a shard is full, a new key first evicts every window that is over; if all still
/// run, the one that ends first is given up, and its key starts afresh. So a flood of
/// keys can loosen limits about to reset, but never takes more memory, and never refuses
/// a client for another's keys. Each shard has its share of the entries, so eviction may
/// begin a little before the total is reached.
pub struct MemoryCounters {
    /// Seeded at random: which keys share a shard and a bucket must not be for clients to choose.
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    max_per_shard: usize,
}

type Shard = HashMap<Box<str>, Window, RandomState>;

#[derive(Clone, Copy)]
struct Window {
    length_ms: u64,
    start_ms: u64,
    used: u64,
}

impl MemoryCounters {
    /// At most about this many counters; at least one per shard.
    #[must_use]
    pub fn new(max_entries: usize) -> MemoryCounters {
        let hasher = RandomState::default();
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))).collect();
        MemoryCounters { hasher, shards, max_per_shard: max_entries.div_ceil(SHARDS).max(1) }
    }

    /// How many counters are held; for metrics and tests.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(count).sum()
    }

    /// Whether no counter is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn make_room(&self, shard: &mut Shard, now_ms: u64) {
        if shard.len() < self.max_per_shard {
            return;
        }
        shard.retain(|_, window| window.end_ms() > now_ms);
        if shard.len() < self.max_per_shard {
            return;
        }
        let first_to_end = shard.iter().min_by_key(|(_, window)| window.end_ms()).map(|(key, _)| key.clone());
        if let Some(key) = first_to_end {
            shard.remove(&key);
        }
    }
}

impl Default for MemoryCounters {
    fn default() -> MemoryCounters {
        MemoryCounters::new(DEFAULT_MAX_ENTRIES)
    }
}

impl Counters for MemoryCounters {
    fn take(&self, key: &str, window_ms: u64, limit: u64, cost: u64, now_ms: u64) -> Taken {
        let fresh = Window::containing(now_ms, window_ms);
        let place = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or(0) % SHARDS;
        let Some(shard) = self.shards.get(place) else {
            // Not reachable, the remainder is below the number of shards; refusing is the safe answer.
            return Taken { allowed: false, remaining: 0, resets_at_ms: fresh.end_ms() };
        };
        // A panic in another holder leaves counts, and counts cannot be half-written.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = shard.get_mut(key) {
            if !window.still_counts(fresh) {
                *window = fresh;
            }
            return window.take(limit, cost);
        }
        let mut window = fresh;
        let taken = window.take(limit, cost);
        if window.used > 0 {
            self.make_room(&mut shard, now_ms);
            shard.insert(key.into(), window);
        }
        taken
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
    fn take(&mut self, limit: u64, cost: u64) -> Taken {
        let left = limit.saturating_sub(self.used);
        let allowed = cost <= left;
        if allowed {
            self.used = self.used.saturating_add(cost);
        }
        Taken { allowed, remaining: limit.saturating_sub(self.used), resets_at_ms: self.end_ms() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{MemoryCounters, SHARDS};
    use crate::definition::{Counters, Taken};

    fn taken(allowed: bool, remaining: u64, resets_at_ms: u64) -> Taken {
        Taken { allowed, remaining, resets_at_ms }
    }

    #[test]
    fn a_window_is_aligned_to_the_epoch_and_counts_what_it_allowed() {
        let counters = MemoryCounters::default();
        for (now, cost, expected) in [
            (1_999, 1, taken(true, 1, 2_000)),
            (1_999, 1, taken(true, 0, 2_000)),
            (1_999, 1, taken(false, 0, 2_000)),
            (2_000, 0, taken(true, 2, 3_000)),
            (2_000, 3, taken(false, 2, 3_000)),
            (2_001, 2, taken(true, 0, 3_000)),
            // A worker that read the clock just before the window began counts in it.
            (1_999, 1, taken(false, 0, 3_000)),
            (2_500, 1, taken(false, 0, 3_000)),
            // A clock set far back does not block the key.
            (500, 1, taken(true, 1, 1_000)),
            (9_000, 1, taken(true, 1, 10_000)),
        ] {
            assert_eq!(counters.take("k", 1_000, 2, cost, now), expected, "at {now}");
        }
    }

    #[test]
    fn keys_do_not_share_and_a_changed_window_starts_afresh() {
        let counters = MemoryCounters::default();
        assert!(counters.take("a", 1_000, 1, 1, 0).allowed);
        assert!(!counters.take("a", 1_000, 1, 1, 0).allowed);
        assert!(counters.take("b", 1_000, 1, 1, 0).allowed);
        assert!(counters.take("a", 2_000, 1, 1, 0).allowed);
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let counters = MemoryCounters::default();
        assert_eq!(counters.take("zero", 0, 1, 1, 7), taken(true, 0, 8));
        assert_eq!(counters.take("late", 10, u64::MAX, u64::MAX, u64::MAX), taken(true, 0, u64::MAX));
        assert!(!counters.take("none", 10, 0, 1, 0).allowed);
        assert!(counters.take("peek", 10, 1, 0, 0).allowed);
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_than_its_share() {
        let counters = MemoryCounters::new(SHARDS * 4);
        for key in 0..10_000 {
            counters.take(&format!("key-{key}"), 60_000, 5, 1, 0);
        }
        assert!(counters.len() <= SHARDS * 4, "{}", counters.len());
        // Windows that are over make room for new keys; no live one is given up for them.
        let later = 60_000;
        counters.take("mine", 3_600_000, 2, 2, later);
        for key in 0..SHARDS {
            counters.take(&format!("other-{key}"), 1, 5, 1, later);
            assert!(!counters.take("mine", 3_600_000, 2, 1, later).allowed);
        }
    }

    #[test]
    fn workers_together_never_take_more_than_the_limit() {
        let counters = Arc::new(MemoryCounters::default());
        let allowed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        if counters.take("shared", 1_000, 700, 1, 0).allowed {
                            allowed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(allowed.load(Ordering::Relaxed), 700);
    }
}
