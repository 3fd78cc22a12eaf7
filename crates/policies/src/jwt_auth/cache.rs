// SPDX-License-Identifier: Apache-2.0
//! The cache of judged tokens, by the header value that carried them. Bounded: what was used
//! least recently is given up. Two generations stand for the order of use, so that a hit on
//! a token in use is one lookup and moves nothing. Divided into shards, each behind a lock
//! that is held for that lookup, so that workers hardly ever meet.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

const SHARDS: usize = 64;

/// A bounded map from header values to what was found out about them.
pub(super) struct Cache<T> {
    shards: Vec<Mutex<Shard<T>>>,
    /// Of one generation of one shard.
    capacity: usize,
    hasher: foldhash::quality::RandomState,
}

/// When `young` is full, it becomes `old`, and what is left in `old` is forgotten.
struct Shard<T> {
    young: HashMap<Bytes, T, foldhash::quality::RandomState>,
    old: HashMap<Bytes, T, foldhash::quality::RandomState>,
}

impl<T: Clone> Cache<T> {
    /// Holds `most` entries at the most, give or take a shard's share.
    pub fn new(most: usize) -> Cache<T> {
        let shard = || Mutex::new(Shard { young: HashMap::default(), old: HashMap::default() });
        Cache {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            capacity: (most / SHARDS / 2).max(1),
            hasher: foldhash::quality::RandomState::default(),
        }
    }

    /// What is known of this value.
    pub fn get(&self, value: &[u8]) -> Option<T> {
        self.with(value, |shard, capacity| {
            if let Some(found) = shard.young.get(value) {
                return Some(found.clone());
            }
            let (value, found) = shard.old.remove_entry(value)?;
            shard.insert(value, found.clone(), capacity);
            Some(found)
        })
    }

    /// Remembers it.
    pub fn insert(&self, value: Bytes, known: T) {
        let key = value.clone();
        self.with(&key, |shard, capacity| {
            shard.old.remove(&value);
            shard.insert(value, known, capacity);
            Some(())
        });
    }

    fn with<R>(&self, value: &[u8], look: impl FnOnce(&mut Shard<T>, usize) -> Option<R>) -> Option<R> {
        let hash = usize::try_from(self.hasher.hash_one(value) % SHARDS as u64).unwrap_or(0);
        let mut shard = self.shards.get(hash)?.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut shard, self.capacity)
    }
}

impl<T> Shard<T> {
    fn insert(&mut self, value: Bytes, known: T, capacity: usize) {
        if self.young.len() >= capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(value, known);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Cache, SHARDS};

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let most = SHARDS * 8;
        let cache = Cache::new(most);
        cache.insert(Bytes::from_static(b"in use"), 7);
        for index in 0..100_000_u32 {
            cache.insert(Bytes::from(index.to_string()), index);
            if index % 16 == 0 {
                assert_eq!(cache.get(b"in use"), Some(7), "after {index}");
            }
        }
        let held = (0..100_000_u32).filter(|index| cache.get(index.to_string().as_bytes()).is_some()).count();
        assert!((most / 4..=most).contains(&held), "{held} are held");
    }
}
