// SPDX-License-Identifier: Apache-2.0
//! Whether endpoints say that they are well. [`Health`] is what workers read: one word, set
//! by the one checker that each endpoint and way of asking has per process. The checkers run
//! on the control side's executor and never on a worker; a checker ends when no snapshot
//! names its endpoint any more. How a question is put stands in `probe`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ferrogate_base::tasks::Tasks;
use ferrogate_model::kinds::rest_api::{HealthCheck, Scheme, UpstreamTls};
use smol_str::SmolStr;

use super::beside::Beside;
use super::probe::Asker;
use crate::dns::Dns;
use crate::tls::ClientTls;

/// What tells two checkers apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checked {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Host name or address.
    pub host: SmolStr,
    /// The port.
    pub port: u16,
    /// The one address of the name that is asked, where each is an endpoint of its own.
    pub address: Option<IpAddr>,
    /// How it must prove itself, where that is not as for all.
    pub tls: Option<Arc<UpstreamTls>>,
    /// How it is asked.
    pub check: HealthCheck,
}

/// How one endpoint stands.
pub struct Health {
    origin: Instant,
    /// [`UNKNOWN`], [`UNHEALTHY`], [`ALWAYS`], or since when it is healthy again in
    /// microseconds, from [`AGAIN`] on.
    word: AtomicU64,
    last: Mutex<Progress>,
}

/// What a report shows of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Plain or TLS, host and port.
    pub endpoint: String,
    /// `unknown`, `healthy` or `unhealthy`.
    pub state: &'static str,
    /// What the last bad answer was.
    pub error: Option<String>,
}

/// Answers in a row, and the last bad one.
#[derive(Default)]
struct Progress {
    good: u32,
    bad: u32,
    error: Option<String>,
}

/// Every checker that runs or is to be started.
#[derive(Default)]
pub struct Checks {
    known: Mutex<HashMap<Checked, Weak<Health>>>,
    unstarted: Arc<Beside<(Checked, Weak<Health>)>>,
}

/// Nothing was answered yet: used like a healthy one, for nothing speaks against it.
const UNKNOWN: u64 = 0;
const UNHEALTHY: u64 = 1;
/// Healthy, and never otherwise: there is nothing that it has to come back from slowly.
const ALWAYS: u64 = 2;
const AGAIN: u64 = 3;

impl Checks {
    /// The health of this endpoint; a checker is started for one not known before.
    #[must_use]
    pub fn of(&self, checked: Checked, now: Instant) -> Arc<Health> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = known.get(&checked).and_then(Weak::upgrade) {
            return health;
        }
        known.retain(|_, health| health.strong_count() > 0);
        let health = Arc::new(Health::new(now));
        known.insert(checked.clone(), Arc::downgrade(&health));
        let wanted = |(_, health): &(Checked, Weak<Health>)| health.strong_count() > 0;
        self.unstarted.leave((checked, Arc::downgrade(&health)), wanted);
        health
    }

    /// How every checked endpoint stands, in order.
    #[must_use]
    pub fn report(&self) -> Vec<Report> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<Report> =
            known.iter().filter_map(|(checked, health)| Some(health.upgrade()?.report(checked))).collect();
        reports.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        reports
    }

    /// Starts a task for each checker as it comes, until the group shuts down.
    pub fn run(&self, tasks: &Tasks, tls: &Arc<ClientTls>, dns: Arc<Dns>) {
        let asker = Arc::new(Asker::new(dns, tls.clone(), tasks.clone()));
        self.unstarted.run(tasks, "health check", move |(checked, health)| {
            let asker = asker.clone();
            async move { check(&asker, &checked, &health).await }
        });
    }
}

/// Asks until nobody wants to know any more.
async fn check(asker: &Asker, checked: &Checked, health: &Weak<Health>) {
    // Endpoints deployed together are not asked together.
    let mut wait = spread(checked.check.interval).min(Duration::from_secs(1));
    loop {
        tokio::time::sleep(wait).await;
        wait = checked.check.interval.mul_f64(0.9) + spread(checked.check.interval) * 2;
        if health.strong_count() == 0 {
            return;
        }
        let asked = tokio::time::timeout(checked.check.timeout, asker.ask(checked)).await;
        let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {:?}", checked.check.timeout)));
        let Some(health) = health.upgrade() else { return };
        if let Some(healthy) = health.note(&checked.check, answer, Instant::now()) {
            let Checked { host, port, address, .. } = checked;
            tracing::warn!(%host, port, ?address, healthy, "an upstream endpoint's health has changed");
        }
    }
}

/// A tenth of it at most, by chance.
fn spread(interval: Duration) -> Duration {
    interval.mul_f64(fastrand::f64() / 10.0)
}

impl Health {
    /// Nothing known yet.
    #[must_use]
    pub fn new(now: Instant) -> Health {
        Health { origin: now, word: AtomicU64::new(UNKNOWN), last: Mutex::default() }
    }

    /// Whether nothing speaks against using it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.word.load(Ordering::Relaxed) != UNHEALTHY
    }

    /// How long it has been well again; `None` when it is not, or never was otherwise.
    #[must_use]
    pub fn back_for_us(&self, now: Instant) -> Option<u64> {
        match self.word.load(Ordering::Relaxed) {
            UNKNOWN | UNHEALTHY | ALWAYS => None,
            since => self.micros(now).checked_sub(since),
        }
    }

    /// Notes an answer; the new state when it changed. The first answer counts at once, so
    /// that an endpoint deployed broken gets no requests for longer than it must.
    pub fn note(&self, check: &HealthCheck, answer: Result<(), String>, now: Instant) -> Option<bool> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let word = self.word.load(Ordering::Relaxed);
        let good = answer.is_ok();
        match answer {
            Ok(()) => (last.good, last.bad) = (last.good.saturating_add(1), 0),
            Err(error) => {
                (last.good, last.bad) = (0, last.bad.saturating_add(1));
                last.error = Some(error);
            }
        }
        let next = match (word, good) {
            (UNKNOWN, true) => Some(ALWAYS),
            (UNHEALTHY, true) if last.good >= check.healthy_threshold => Some(self.micros(now).max(AGAIN)),
            (UNKNOWN, false) => Some(UNHEALTHY),
            (UNHEALTHY, _) | (_, true) => None,
            (_, false) => (last.bad >= check.unhealthy_threshold).then_some(UNHEALTHY),
        }?;
        if next != UNHEALTHY {
            last.error = None;
        }
        self.word.store(next, Ordering::Relaxed);
        Some(next != UNHEALTHY)
    }

    fn report(&self, checked: &Checked) -> Report {
        let Checked { scheme, host, port, address, tls: _, check: _ } = checked;
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let state = match self.word.load(Ordering::Relaxed) {
            UNKNOWN => "unknown",
            UNHEALTHY => "unhealthy",
            _ => "healthy",
        };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut endpoint = format!("{scheme}://{host}:{port}");
        if let Some(address) = address {
            endpoint.push_str(&format!(" at {address}"));
        }
        Report { endpoint, state, error: last.error.clone() }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ferrogate_model::kinds::rest_api::{HealthCheck, HealthQuestion, Scheme};

    use super::{Checked, Checks, Health};

    fn check(healthy: u32, unhealthy: u32) -> HealthCheck {
        HealthCheck {
            question: HealthQuestion::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            healthy_threshold: healthy,
            unhealthy_threshold: unhealthy,
        }
    }

    #[test]
    fn thresholds_hold_after_the_first_answer() {
        let (start, check) = (Instant::now(), check(2, 3));
        let health = Health::new(start);
        let bad = || Err("no".to_owned());
        assert!(health.is_usable());
        assert_eq!(health.note(&check, bad(), start), Some(false), "the first counts at once");
        assert_eq!(health.note(&check, Ok(()), start), None);
        let back = start + Duration::from_secs(5);
        assert_eq!(health.note(&check, Ok(()), back), Some(true));
        assert_eq!(health.back_for_us(back + Duration::from_micros(7)), Some(7));
        assert_eq!(health.note(&check, bad(), back), None);
        assert_eq!(health.note(&check, bad(), back), None);
        assert_eq!(health.note(&check, Ok(()), back), None, "a good answer begins anew");
        for expected in [None, None, Some(false)] {
            assert_eq!(health.note(&check, bad(), back), expected);
        }
        assert!(!health.is_usable() && health.back_for_us(back).is_none());
    }

    #[test]
    fn an_endpoint_that_never_was_unwell_is_not_back() {
        let (start, check) = (Instant::now(), check(1, 1));
        let health = Health::new(start);
        assert_eq!(health.back_for_us(start), None);
        assert_eq!(health.note(&check, Ok(()), start), Some(true));
        let later = start + Duration::from_secs(5);
        assert_eq!(health.back_for_us(later), None, "its first good answer is no recovery");
        assert_eq!(health.note(&check, Err("no".to_owned()), later), Some(false));
        assert_eq!(health.note(&check, Ok(()), later), Some(true));
        assert_eq!(health.back_for_us(later + Duration::from_micros(7)), Some(7));
    }

    #[test]
    fn an_endpoint_asked_in_one_way_has_one_checker() {
        let (checks, now) = (Checks::default(), Instant::now());
        let checked = |port, healthy| Checked {
            scheme: Scheme::Http,
            host: "h".into(),
            port,
            address: None,
            tls: None,
            check: check(healthy, 3),
        };
        let first = checks.of(checked(1, 2), now);
        assert!(std::sync::Arc::ptr_eq(&first, &checks.of(checked(1, 2), now)));
        let others = [checks.of(checked(2, 2), now), checks.of(checked(1, 1), now)];
        assert_eq!(checks.unstarted.waiting(), 3);
        assert_eq!(checks.report().len(), 3);
        drop((first, others));
        assert!(checks.report().is_empty(), "nobody wants to know any more");
    }
}
