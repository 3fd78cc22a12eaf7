// SPDX-License-Identifier: Apache-2.0
//! Whether a request that came to nothing is sent again, and when. It decides only what
//! must be true of the attempt and of the request: nothing was sent, or repeating it changes
//! nothing (RFC 9110, 9.2.2) and the body is at hand. The budget keeps retries a small part
//! of the traffic, so that they cannot make an outage worse. `request::attempts` asks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ferrogate_model::kinds::rest_api::{RetryOn, RetryPolicy};
use http::{Method, StatusCode};

use crate::error::{Failure, Reason};

/// A route's compiled retry policy.
pub struct Retry {
    policy: RetryPolicy,
    budget: Arc<Budget>,
}

/// How much of one API's traffic is under way, and how much of it for the second time.
#[derive(Default)]
pub struct Budget {
    requests: AtomicU32,
    retries: AtomicU32,
}

/// One request under way, or one retry.
pub struct Counted<'b>(&'b AtomicU32);

/// How an attempt ended, as far as sending again goes.
#[derive(Clone, Copy, Debug)]
pub enum Ended<'a> {
    /// With this status.
    Answered(StatusCode),
    /// Without a response; whether the upstream may have seen the request.
    Failed {
        /// Why.
        failure: &'a Failure,
        /// Something of it may have been sent.
        sent: bool,
    },
    /// The attempt's own time was over.
    TimedOut,
}

impl Retry {
    /// A policy that draws on this budget.
    #[must_use]
    pub fn new(policy: RetryPolicy, budget: Arc<Budget>) -> Retry {
        Retry { policy, budget }
    }

    /// Counts a request while it lasts.
    #[must_use]
    pub fn begin(&self) -> Counted<'_> {
        self.budget.requests.fetch_add(1, Ordering::Relaxed);
        Counted(&self.budget.requests)
    }

    /// How long one attempt may wait for a response's head.
    #[must_use]
    pub fn per_try_timeout(&self) -> Option<Duration> {
        self.policy.per_try_timeout
    }

    /// The longest body that is held for a second attempt.
    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        usize::try_from(self.policy.max_body_bytes).unwrap_or(usize::MAX)
    }

    /// Whether an attempt that ended so is tried again; `repeatable` when doing so changes
    /// nothing at the upstream and the request is at hand.
    #[must_use]
    pub fn applies(&self, ended: Ended<'_>, repeatable: bool) -> bool {
        let on = |condition| self.policy.on.contains(&condition);
        match ended {
            Ended::Answered(status) => repeatable && self.policy.status_codes.contains(&status.as_u16()),
            Ended::TimedOut => repeatable,
            Ended::Failed { failure, sent } => match failure.reason {
                Reason::UpstreamUnresolved
                | Reason::UpstreamConnectFailed
                | Reason::UpstreamConnectTimeout
                | Reason::UpstreamTlsFailed => on(RetryOn::ConnectFailure),
                Reason::UpstreamReset if !sent => on(RetryOn::RefusedStream),
                Reason::UpstreamReset => repeatable && on(RetryOn::Reset),
                _ => false,
            },
        }
    }

    /// Takes one retry from the budget, after so many before it; with how long to wait first.
    /// `None` when there are no more, or too many are under way.
    #[must_use]
    pub fn take(&self, before: u8, dice: f64) -> Option<(Counted<'_>, Duration)> {
        if before >= self.policy.max_retries {
            return None;
        }
        let active = u64::from(self.budget.requests.load(Ordering::Relaxed));
        let share = active * u64::from(self.policy.budget_percent) / 100;
        let limit = u32::try_from(share).unwrap_or(u32::MAX).max(self.policy.budget_minimum);
        let taken = self.budget.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |retries| {
            (retries < limit).then(|| retries + 1)
        });
        taken.ok().map(|_| (Counted(&self.budget.retries), self.wait(before, dice)))
    }

    /// Twice as long each time, and anything from half of that to all of it, so that requests
    /// that failed together do not come back together.
    fn wait(&self, before: u8, dice: f64) -> Duration {
        let doubled =
            self.policy.backoff_base.saturating_mul(1_u32.checked_shl(before.into()).unwrap_or(u32::MAX));
        doubled.min(self.policy.backoff_max).mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a method may be sent twice without changing more than once (RFC 9110, 9.2.2).
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS].contains(method)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ferrogate_model::kinds::rest_api::{RetryOn, RetryPolicy};
    use http::StatusCode;

    use super::{Budget, Ended, Retry};
    use crate::error::{Failure, Reason};

    fn retry(edit: impl FnOnce(&mut RetryPolicy)) -> Retry {
        let mut policy = RetryPolicy {
            max_retries: 3,
            on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset],
            status_codes: vec![503],
            per_try_timeout: None,
            backoff_base: Duration::from_millis(100),
            backoff_max: Duration::from_millis(300),
            budget_percent: 20,
            budget_minimum: 2,
            max_body_bytes: 0,
        };
        edit(&mut policy);
        Retry::new(policy, Arc::new(Budget::default()))
    }

    fn failed(reason: Reason) -> Failure {
        Failure::new(reason)
    }

    #[test]
    fn what_may_have_been_seen_is_sent_again_only_if_that_changes_nothing() {
        let retry = retry(|_| {});
        let check = |reason: Reason, sent: bool, repeatable: bool, expected: bool| {
            let failure = failed(reason);
            let applies = retry.applies(Ended::Failed { failure: &failure, sent }, repeatable);
            assert_eq!(applies, expected, "{reason:?}, sent {sent}, repeatable {repeatable}");
        };
        check(Reason::UpstreamConnectFailed, false, false, true);
        check(Reason::UpstreamTlsFailed, false, false, true);
        check(Reason::UpstreamReset, false, false, true);
        check(Reason::UpstreamReset, true, false, false);
        check(Reason::UpstreamReset, true, true, true);
        for never in
            [Reason::UpstreamProtocol, Reason::UpstreamTimeout, Reason::RequestBodyBroken, Reason::Overflow]
        {
            check(never, false, true, false);
        }
        assert!(retry.applies(Ended::Answered(StatusCode::SERVICE_UNAVAILABLE), true));
        assert!(!retry.applies(Ended::Answered(StatusCode::SERVICE_UNAVAILABLE), false));
        assert!(!retry.applies(Ended::Answered(StatusCode::BAD_GATEWAY), true));
        assert!(retry.applies(Ended::TimedOut, true) && !retry.applies(Ended::TimedOut, false));
        let connect_only = self::retry(|policy| policy.on = vec![RetryOn::ConnectFailure]);
        let reset = failed(Reason::UpstreamReset);
        assert!(!connect_only.applies(Ended::Failed { failure: &reset, sent: false }, true));
    }

    #[test]
    fn waits_double_up_to_a_limit_and_are_spread() {
        let retry = retry(|_| {});
        let wait = |before, dice| retry.take(before, dice).map(|(_, wait)| wait.as_millis());
        assert_eq!((wait(0, 0.0), wait(0, 1.0)), (Some(50), Some(100)));
        assert_eq!((wait(1, 0.0), wait(1, 1.0)), (Some(100), Some(200)));
        assert_eq!((wait(2, 0.0), wait(2, 1.0)), (Some(150), Some(300)));
        assert_eq!(wait(3, 0.0), None, "three were allowed");
    }

    #[test]
    fn retries_are_a_part_of_the_traffic() {
        let retry = retry(|_| {});
        let few: Vec<_> = std::iter::from_fn(|| retry.take(0, 0.0)).collect();
        assert_eq!(few.len(), 2, "the minimum");
        drop(few);
        let requests: Vec<_> = (0..50).map(|_| retry.begin()).collect();
        let many: Vec<_> = std::iter::from_fn(|| retry.take(0, 0.0)).collect();
        assert_eq!(many.len(), 10, "a fifth of fifty");
        drop(requests);
        assert!(retry.take(0, 0.0).is_none());
        drop(many);
        assert!(retry.take(0, 0.0).is_some());
    }
}
