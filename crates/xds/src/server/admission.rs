// SPDX-License-Identifier: Apache-2.0
//! How fast streams are let in. When a controller dies, its runtimes arrive at the next
//! one together; a bucket with a short queue spreads them, and turns the rest away with
//! the time after which to come back. Asked once for every new stream, time handed in.

use std::time::Duration;

/// A token bucket whose queue is a reservation: each admission is given a moment.
#[derive(Debug)]
pub struct Admission {
    /// Between two admissions in the long run.
    interval: Duration,
    /// How far admissions may run ahead of that.
    burst: Duration,
    /// The longest reservation: the queue's length is this over the interval.
    max_wait: Duration,
    /// When the bucket is empty of debt.
    next: Duration,
}

impl Admission {
    /// So many a second, one second's worth at once, the others queued for `max_wait` at most.
    #[must_use]
    pub fn new(per_second: u32, max_wait: Duration) -> Admission {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Admission { interval, burst: Duration::from_secs(1), max_wait, next: Duration::ZERO }
    }

    /// How long to wait before going in.
    ///
    /// # Errors
    /// When the queue is full: how long to stay away.
    pub fn admit(&mut self, now: Duration) -> Result<Duration, Duration> {
        let start = self.next.max(now);
        let wait = start.saturating_add(self.interval).saturating_sub(now.saturating_add(self.burst));
        if wait > self.max_wait {
            return Err(wait);
        }
        self.next = start.saturating_add(self.interval);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::Admission;
    use std::time::Duration;

    #[test]
    fn a_burst_goes_in_the_next_wait_and_the_rest_is_turned_away() {
        let mut admission = Admission::new(10, Duration::from_millis(500));
        let now = Duration::from_secs(100);
        let mut answers: Vec<_> = (0..16).map(|_| admission.admit(now)).collect();
        assert!(answers.drain(..10).all(|answer| answer == Ok(Duration::ZERO)));
        let waits: Vec<_> = answers.drain(..5).map(|answer| answer.unwrap().as_millis()).collect();
        assert_eq!(waits, [100, 200, 300, 400, 500]);
        assert_eq!(answers, [Err(Duration::from_millis(600))]);
        // A refusal reserves nothing, and time pays the debt off.
        assert_eq!(admission.admit(now + Duration::from_secs(2)), Ok(Duration::ZERO));
    }
}
