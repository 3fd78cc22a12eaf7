// SPDX-License-Identifier: Apache-2.0
//! The same work for each of many items on all cores, for starts: nothing is served before,
//! so nothing is taken from anybody. The results stand in the order of the items, so that
//! nobody can tell how many cores there were. Blocking: callers are off the async threads.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread::{available_parallelism, scope};

/// Below this many items a thread costs more than it saves.
const MIN_SHARE: usize = 256;
/// More threads than this wait for memory, not for each other.
const MAX_THREADS: usize = 16;

/// What `each` makes of every item.
pub fn map<T: Send, R: Send>(items: Vec<T>, each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let cores = available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    map_in_shares_of(items.len().div_ceil(cores).max(MIN_SHARE), items, each)
}

fn map_in_shares_of<T: Send, R: Send>(share: usize, items: Vec<T>, each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut shares = Vec::new();
    let mut rest = items;
    while rest.len() > share {
        let after = rest.split_off(share);
        shares.push(std::mem::replace(&mut rest, after));
    }
    let all = |items: Vec<T>| items.into_iter().map(&each).collect::<Vec<R>>();
    scope(|scope| {
        let all = &all;
        let threads: Vec<_> = shares.into_iter().map(|items| scope.spawn(move || all(items))).collect();
        // The caller's thread has a share as well.
        let last = all(rest);
        let done =
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.chain(last).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::{map, map_in_shares_of};

    #[test]
    fn results_stand_in_the_order_of_the_items_however_many_threads_there_are() {
        let expected: Vec<usize> = (0..1_000).map(|item| item * 2).collect();
        for share in [1, 7, 250, 999, 1_000, 5_000] {
            assert_eq!(map_in_shares_of(share, (0..1_000).collect(), |item: usize| item * 2), expected);
        }
        assert_eq!(map((0..1_000).collect(), |item: usize| item * 2), expected);
        assert_eq!(map(Vec::new(), |item: usize| item), Vec::<usize>::new());
    }

    #[test]
    fn a_panic_in_a_share_is_the_callers() {
        let panicked = std::panic::catch_unwind(|| {
            map_in_shares_of(2, (0..6).collect(), |item: usize| assert!(item != 1, "not this one"))
        });
        assert!(panicked.is_err());
    }
}
