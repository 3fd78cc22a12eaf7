// SPDX-License-Identifier: Apache-2.0
//! How long to wait before the next try. Every retry loop of every role takes its
//! delays from here, so that each has a cap and jitter: a thousand runtimes that lose
//! one controller must not come back in the same millisecond.

use std::time::Duration;

use thiserror::Error;

/// Why a backoff cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BackoffError {
    /// A first delay of zero would turn the retry loop into a busy loop.
    #[error("the first delay must be longer than zero")]
    ZeroInitial,
    /// The cap lies below the first delay.
    #[error("the longest delay must not be shorter than the first")]
    MaxBelowInitial,
}

/// Exponential backoff with full jitter: each delay is drawn evenly from zero up to a
/// ceiling, which doubles with every try until it reaches the cap.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// A backoff whose ceilings run from `initial` to `max`.
    pub fn try_new(initial: Duration, max: Duration) -> Result<Self, BackoffError> {
        if initial.is_zero() {
            return Err(BackoffError::ZeroInitial);
        }
        if max < initial {
            return Err(BackoffError::MaxBelowInitial);
        }
        Ok(Self::unchecked(initial, max))
    }

    /// The delays for restarting a failed task: 100 ms to 10 s.
    pub fn for_restarts() -> Self {
        Self::unchecked(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// The delays for asking a peer that is away whether it is back: 50 ms to 1 s, so that
    /// an outage ends within about a second of its cause, at one cheap question a second.
    pub fn for_outages() -> Self {
        Self::unchecked(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// The same delays drawn from a fixed seed, for tests and simulations.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.random = fastrand::Rng::with_seed(seed);
        self
    }

    /// The delay before the next try. Call it once per failure.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        ceiling.mul_f64(self.random.f64())
    }

    /// Starts over. Call it after proven health, not after a mere connect: a peer that
    /// accepts and dies at once must still be approached more and more slowly.
    pub fn reset(&mut self) {
        self.ceiling = self.initial;
    }

    fn unchecked(initial: Duration, max: Duration) -> Self {
        Self { initial, max, ceiling: initial, random: fastrand::Rng::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, BackoffError};
    use std::time::Duration;

    const INITIAL: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(2);

    #[test]
    fn ceilings_double_up_to_the_cap_and_delays_stay_below() {
        let mut backoff = Backoff::try_new(INITIAL, MAX).unwrap().with_seed(7);
        let mut ceilings = Vec::new();
        for _ in 0..8 {
            let ceiling = backoff.ceiling;
            assert!(backoff.next_delay() <= ceiling);
            ceilings.push(ceiling.as_millis());
        }
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.ceiling, INITIAL);
    }

    #[test]
    fn delays_are_spread() {
        let mut backoff = Backoff::try_new(MAX, MAX).unwrap().with_seed(7);
        let delays: Vec<_> = (0..100).map(|_| backoff.next_delay()).collect();
        assert!(delays.iter().any(|delay| *delay < MAX / 4));
        assert!(delays.iter().any(|delay| *delay > MAX / 4 * 3));
    }

    #[test]
    fn impossible_bounds_are_refused() {
        assert_eq!(Backoff::try_new(Duration::ZERO, MAX).unwrap_err(), BackoffError::ZeroInitial);
        assert_eq!(Backoff::try_new(MAX, INITIAL).unwrap_err(), BackoffError::MaxBelowInitial);
    }
}
