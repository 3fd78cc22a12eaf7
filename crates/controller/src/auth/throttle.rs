// SPDX-License-Identifier: Apache-2.0
//! Slows guessing: after a few failures each further attempt from one source waits its
//! turn, longer with each failure. Concurrent attempts queue behind one another, so
//! parallel guessing gains nothing. Credentials verified a moment ago skip the queue
//! (see `Basic::recall`), so a neighbour's guessing does not lock a client out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures that cost nothing: people mistype.
const FREE_FAILURES: u32 = 3;
/// The first delay; doubled with each further failure.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The longest delay between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// An attempt that would have to wait longer is refused instead of parked.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// A source without failures for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Sources remembered. When full, forgotten ones go first, then the one longest quiet.
const MAX_SOURCES: usize = 10_000;

/// The failures of each source.
#[derive(Debug, Default)]
pub struct Throttle {
    sources: Mutex<HashMap<IpAddr, Source>>,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    failures: u32,
    last: Instant,
    /// When the next attempt may run.
    next: Instant,
}

/// The source must come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// After how long.
    pub retry_after: Duration,
}

impl Throttle {
    /// How long this attempt must wait before it is looked at; its turn is taken.
    ///
    /// # Errors
    /// When the wait would be too long to keep a connection for.
    pub fn turn(&self, source: IpAddr, now: Instant) -> Result<Duration, TooMany> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = sources.get_mut(&source) else { return Ok(Duration::ZERO) };
        if now.saturating_duration_since(entry.last) > FORGET_AFTER {
            sources.remove(&source);
            return Ok(Duration::ZERO);
        }
        let wait = entry.next.saturating_duration_since(now);
        if wait > MAX_WAIT {
            return Err(TooMany { retry_after: wait });
        }
        entry.next = now + wait + delay(entry.failures);
        Ok(wait)
    }

    /// The attempt failed.
    pub fn failed(&self, source: IpAddr, now: Instant) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if !sources.contains_key(&source) && sources.len() >= MAX_SOURCES {
            make_room(&mut sources, now);
        }
        let entry = sources.entry(source).or_insert(Source { failures: 0, last: now, next: now });
        entry.failures = entry.failures.saturating_add(1);
        entry.last = now;
        entry.next = entry.next.max(now + delay(entry.failures));
    }

    /// The attempt succeeded: the source starts anew.
    pub fn succeeded(&self, source: IpAddr) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).remove(&source);
    }
}

fn delay(failures: u32) -> Duration {
    match failures.checked_sub(FREE_FAILURES) {
        None | Some(0) => Duration::ZERO,
        Some(over) => FIRST_DELAY.saturating_mul(1 << (over - 1).min(16)).min(MAX_DELAY),
    }
}

fn make_room(sources: &mut HashMap<IpAddr, Source>, now: Instant) {
    sources.retain(|_, source| now.saturating_duration_since(source.last) <= FORGET_AFTER);
    if sources.len() < MAX_SOURCES {
        return;
    }
    let quietest = sources.iter().min_by_key(|(_, source)| source.last).map(|(address, _)| *address);
    if let Some(address) = quietest {
        sources.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::{MAX_SOURCES, Throttle, TooMany};

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn guessing_gets_slower_and_success_forgives() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(throttle.turn(HOME, now), Ok(Duration::ZERO));
            throttle.failed(HOME, now);
        }
        assert_eq!(throttle.turn(HOME, now), Ok(Duration::ZERO), "the free failures are used up only now");
        throttle.failed(HOME, now);
        let first = throttle.turn(HOME, now).expect("a short wait");
        assert_eq!(first, Duration::from_millis(200));
        // A second attempt at the same time queues behind the first.
        assert!(throttle.turn(HOME, now).expect("a longer wait") > first);
        throttle.succeeded(HOME);
        assert_eq!(throttle.turn(HOME, now), Ok(Duration::ZERO));
    }

    #[test]
    fn a_flood_is_refused_instead_of_parked() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..20 {
            throttle.failed(HOME, now);
        }
        let waits: Vec<Result<Duration, TooMany>> = (0..3).map(|_| throttle.turn(HOME, now)).collect();
        assert!(waits.iter().any(Result::is_err), "{waits:?}");
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(throttle.turn(other, now), Ok(Duration::ZERO), "others are not affected");
    }

    #[test]
    fn the_table_stays_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for address in 0..u32::try_from(MAX_SOURCES + 50).expect("small") {
            throttle.failed(IpAddr::V4(Ipv4Addr::from_bits(address)), now);
        }
        assert!(throttle.sources.lock().expect("not poisoned").len() <= MAX_SOURCES);
    }
}
