// SPDX-License-Identifier: Apache-2.0
//! When an endpoint that fails is left alone, and for how long. [`Record`] is one endpoint's
//! part, lock-free because every worker writes it for every request; the settings come from
//! the target that asks. It decides nothing about other endpoints: how many may be out at
//! once is for `group` to say, which calls it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ferrogate_model::kinds::rest_api::OutlierDetection;

/// Bits of a window's count of requests, and of failures; more are not counted.
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// How one endpoint has done, and until when it is out. Times are microseconds of the
/// endpoint's own clock.
#[derive(Default)]
pub struct Record {
    /// Failures in a row.
    streak: AtomicU32,
    /// The window's number, its failures and its requests in one word, so that a new window
    /// begins in one step whoever sees it first.
    window: AtomicU64,
    /// Out until then; 0 when it never was.
    until_us: AtomicU64,
    /// Ejections in a row.
    times: AtomicU32,
}

impl Record {
    /// Notes a request's outcome; true when the endpoint should be ejected for it.
    pub fn note(&self, settings: &OutlierDetection, failed: bool, now_us: u64) -> bool {
        let streak = if failed {
            self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1)
        } else {
            self.streak.store(0, Ordering::Relaxed);
            0
        };
        let in_a_row = settings.consecutive_failures > 0 && streak >= settings.consecutive_failures;
        let too_many = settings.failure_rate.is_some_and(|rate| {
            let length = u64::try_from(rate.interval.as_micros()).unwrap_or(u64::MAX).max(1);
            let (failures, requests) = self.count(now_us / length, failed);
            requests >= u64::from(rate.minimum_requests)
                && failures * 100 >= requests * u64::from(rate.percent)
        });
        failed && (in_a_row || too_many)
    }

    /// Takes the endpoint out: the longer, the more often in a row. A time in service as long
    /// as the base takes one ejection off the row.
    pub fn eject(&self, settings: &OutlierDetection, now_us: u64) {
        let base = u64::try_from(settings.base_ejection_time.as_micros()).unwrap_or(u64::MAX).max(1);
        let longest = u64::try_from(settings.max_ejection_time.as_micros()).unwrap_or(u64::MAX);
        let in_service = match self.until_us.load(Ordering::Relaxed) {
            0 => u64::MAX,
            until => now_us.saturating_sub(until),
        };
        let forgotten = u32::try_from(in_service / base).unwrap_or(u32::MAX);
        let times = self.times.load(Ordering::Relaxed).saturating_sub(forgotten).saturating_add(1);
        let long = base.saturating_mul(1_u64.checked_shl(times - 1).unwrap_or(u64::MAX)).min(longest);
        self.times.store(times, Ordering::Relaxed);
        self.streak.store(0, Ordering::Relaxed);
        self.window.store(0, Ordering::Relaxed);
        self.until_us.store(now_us.saturating_add(long), Ordering::Relaxed);
    }

    /// Whether it is out.
    #[must_use]
    pub fn is_out(&self, now_us: u64) -> bool {
        now_us < self.until_us.load(Ordering::Relaxed)
    }

    /// How long it has been back; `None` when it never was out, or is.
    #[must_use]
    pub fn back_for_us(&self, now_us: u64) -> Option<u64> {
        match self.until_us.load(Ordering::Relaxed) {
            0 => None,
            until => now_us.checked_sub(until),
        }
    }

    /// Counts into the window of this number; its failures and requests so far.
    fn count(&self, number: u64, failed: bool) -> (u64, u64) {
        let number = number & (u64::MAX >> (2 * COUNT_BITS));
        let unpack = |word: u64| {
            if word >> (2 * COUNT_BITS) == number {
                ((word >> COUNT_BITS) & COUNT_MAX, word & COUNT_MAX)
            } else {
                (0, 0)
            }
        };
        let next = |word: u64| {
            let (failures, requests) = unpack(word);
            let failures = (failures + u64::from(failed)).min(COUNT_MAX);
            let requests = (requests + 1).min(COUNT_MAX);
            (number << (2 * COUNT_BITS)) | (failures << COUNT_BITS) | requests
        };
        // Always `Some`, so it always succeeds; the word before it tells what came out.
        let before = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| Some(next(word)));
        unpack(next(before.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferrogate_model::kinds::rest_api::{FailureRate, OutlierDetection};

    use super::Record;

    const SECOND: u64 = 1_000_000;

    fn settings(in_a_row: u32, rate: Option<u8>) -> OutlierDetection {
        OutlierDetection {
            consecutive_failures: in_a_row,
            failure_rate: rate.map(|percent| FailureRate {
                percent,
                minimum_requests: 10,
                interval: Duration::from_secs(10),
            }),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(100),
            max_ejected_percent: 50,
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_begins_anew() {
        let (record, settings) = (Record::default(), settings(3, None));
        for outcomes in [[true, true, false], [true, true, false]] {
            for failed in outcomes {
                assert!(!record.note(&settings, failed, 0));
            }
        }
        assert!(!record.note(&settings, true, 0) && !record.note(&settings, true, 0));
        assert!(record.note(&settings, true, 0));
        let never = self::settings(0, None);
        assert!((0..1000).all(|_| !record.note(&never, true, 0)));
    }

    #[test]
    fn a_rate_is_judged_in_its_window_and_with_enough_requests() {
        let (record, settings) = (Record::default(), settings(0, Some(50)));
        let judge = |at: u64, outcomes: &[bool]| -> Vec<bool> {
            outcomes.iter().map(|failed| record.note(&settings, *failed, at)).collect()
        };
        assert!(!judge(SECOND, &[true; 9]).contains(&true), "too few");
        assert!(!judge(11 * SECOND, &[true; 9]).contains(&true), "the window before does not count");
        assert!(judge(12 * SECOND, &[true])[0]);
        // 9 of 19 are less than half, 10 of 20 are half.
        let mut outcomes = vec![false; 10];
        outcomes.extend([true; 10]);
        let judged = judge(25 * SECOND, &outcomes);
        assert_eq!(judged.iter().position(|out| *out), Some(19), "{judged:?}");
    }

    #[test]
    fn ejections_in_a_row_last_longer_up_to_a_limit() {
        let (record, settings) = (Record::default(), settings(1, None));
        assert!(!record.is_out(0) && record.back_for_us(5).is_none());
        let mut now = 1;
        for seconds in [30, 60, 100, 100] {
            record.eject(&settings, now);
            assert!(record.is_out(now + seconds * SECOND - 1), "{seconds}");
            assert!(!record.is_out(now + seconds * SECOND), "{seconds}");
            assert_eq!(record.back_for_us(now + seconds * SECOND + 7), Some(7));
            now += seconds * SECOND;
        }
        // Four in a row; three times the base in service forgets three of them.
        now += 90 * SECOND;
        record.eject(&settings, now);
        assert!(record.is_out(now + 60 * SECOND - 1) && !record.is_out(now + 60 * SECOND));
        now += 3600 * SECOND;
        record.eject(&settings, now);
        assert!(!record.is_out(now + 30 * SECOND));
    }
}
