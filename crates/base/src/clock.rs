// SPDX-License-Identifier: Apache-2.0
//! The wall clock as something that is handed in, so that tests can hold it still.
//! Code that measures an interval uses `std::time::Instant` instead: a wall clock may
//! jump, and nothing here may decide an order between replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since the Unix epoch.
    fn now_micros(&self) -> i64;

    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.now_micros() / 1000).unwrap_or(0)
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        // A clock set before 1970 reads as 1970; nothing depends on it being right.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// A clock that moves only when told to. Clones share the time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    micros: Arc<AtomicI64>,
}

impl ManualClock {
    /// A clock standing at this many milliseconds since the Unix epoch.
    pub fn at_ms(ms: u32) -> Self {
        let clock = Self::default();
        clock.advance_ms(ms);
        clock
    }

    /// Moves the time forward.
    pub fn advance_ms(&self, ms: u32) {
        self.micros.fetch_add(i64::from(ms) * 1000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.micros.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, ManualClock, SystemClock};

    #[test]
    fn the_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at_ms(1500);
        let shared = clock.clone();
        clock.advance_ms(500);
        assert_eq!(shared.now_ms(), 2000);
    }

    #[test]
    fn the_system_clock_is_past_the_year_2020() {
        assert!(SystemClock.now_ms() > 1_577_836_800_000);
    }
}
