// SPDX-License-Identifier: Apache-2.0
//! Who serves what: folds acknowledgements into one position per runtime, reports them
//! as leases into tables outside the revision line, and answers "is this live
//! everywhere?" for the whole gateway from any replica. It never decides what is
//! served. The config stream calls `fleet`, the management API calls [`Status`].

pub mod fleet;
pub mod live;

use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::clock::Clock;
use ferrogate_store::{Cluster, ControllerLease, Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::replicate::Replica;
use fleet::Fleet;
use live::{Liveness, Scope, Target};

/// How often every lease is renewed; a lease outlives several missed renewals.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// After an acknowledgement, how long to wait for others before reporting them together.
const GATHER: Duration = Duration::from_millis(1);
/// Between two looks at the leases while somebody waits for other controllers' runtimes: at
/// first, and at last.
const POLL_EVERY: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(100)];
/// What a look too late may add to a wait, as a part of the wait.
const POLL_PART: u32 = 8;
/// Leases younger than this are not read again: many waiters cost one reader.
const VIEW_AGE: Duration = Duration::from_millis(2);

/// The cluster as seen from this controller.
pub struct Status {
    store: Arc<dyn Store>,
    replica: Arc<Replica>,
    fleet: Arc<Fleet>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    zone: String,
    sealing: Vec<String>,
    view: Mutex<Option<(Instant, Cluster)>>,
}

impl Status {
    /// The status of the cluster that this fleet and this store are part of, for a controller
    /// in this zone with these keys.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        replica: Arc<Replica>,
        fleet: Arc<Fleet>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        zone: String,
        sealing: Vec<String>,
    ) -> Status {
        Status { store, replica, fleet, clock, metrics, zone, sealing, view: Mutex::default() }
    }

    /// Every lease, at most this old, corrected by what this controller sees itself.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn cluster(&self, age: Duration) -> Result<Cluster, StoreError> {
        let mut view = self.view.lock().await;
        let fresh =
            view.as_ref().filter(|(read, _)| read.elapsed() <= age).map(|(_, cluster)| cluster.clone());
        let cluster = match fresh {
            Some(cluster) => cluster,
            None => {
                let cluster = self.store.cluster().await?;
                *view = Some((Instant::now(), cluster.clone()));
                cluster
            }
        };
        Ok(live::merge(cluster, self.fleet.controller(), self.fleet.leases()))
    }

    /// The cluster as this controller alone knows it, for when the store does not answer.
    #[must_use]
    pub fn own_view(&self) -> Cluster {
        let now = self.clock.now_micros();
        let cluster = Cluster { controllers: vec![self.own_lease(now, 0.0)], runtimes: Vec::new(), now };
        live::merge(cluster, self.fleet.controller(), self.fleet.leases())
    }

    /// Waits until the batch is live in scope, nobody is left who could make it so, or the
    /// time is up; the answer says which.
    pub async fn wait_live(&self, target: &Target, scope: &Scope, timeout: Duration) -> Liveness {
        let deadline = Instant::now() + timeout;
        let mut changes = self.fleet.changes();
        let mut since = Instant::now();
        loop {
            changes.mark_seen();
            let answer = match self.cluster(VIEW_AGE).await {
                Ok(cluster) => live::judge(&cluster, target, scope),
                Err(error) => Liveness {
                    live: false,
                    unknown: Some(error.to_string()),
                    ..live::judge(&self.own_view(), target, scope)
                },
            };
            if answer.live || answer.is_final() || Instant::now() >= deadline {
                return answer;
            }
            let next = deadline.min(Instant::now() + pause(since.elapsed()));
            tokio::select! {
                biased;
                // Both arms only wait; the fleet, which owns the sender, outlives this call.
                // Where one runtime moves, others are about to.
                _changed_or_closed = changes.changed() => since = Instant::now(),
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Reports leases until told to stop: all of them every second, those of runtimes that
    /// acknowledged something at once.
    pub async fn report(self: Arc<Self>, token: CancellationToken) {
        let mut changes = self.fleet.changes();
        let mut requests = self.metrics.management_requests();
        let mut load = 0.0;
        let mut failing = false;
        let (mut counted_at, mut full_at) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            let everything = now >= full_at;
            if everything {
                full_at = now + REPORT_EVERY;
                let seen = self.metrics.management_requests();
                load = rate(seen.saturating_sub(requests), now.duration_since(counted_at));
                (requests, counted_at) = (seen, now);
            }
            failing = self.report_once(everything, load, failing).await;
            tokio::select! {
                biased;
                // All arms only wait; dropping them changes nothing.
                () = token.cancelled() => return,
                () = tokio::time::sleep_until(full_at) => {}
                _changed_or_closed = changes.changed() => {
                    tokio::time::sleep(GATHER).await;
                    changes.mark_seen();
                }
            }
        }
    }

    async fn report_once(&self, everything: bool, load: f64, failing: bool) -> bool {
        let now = self.clock.now_micros();
        let head = self.replica.position();
        let leases = self.fleet.due(everything, head, now);
        if leases.is_empty() && !everything {
            return failing;
        }
        match self.store.report(&self.own_lease(now, load), &leases).await {
            Ok(()) => {
                self.fleet.reported(&leases);
                if failing {
                    tracing::info!("leases are reported again");
                }
                false
            }
            Err(error) => {
                self.fleet.not_reported(&leases);
                if !failing {
                    tracing::warn!(%error, "leases cannot be reported");
                }
                true
            }
        }
    }

    fn own_lease(&self, now: i64, load: f64) -> ControllerLease {
        ControllerLease {
            id: self.fleet.controller().to_owned(),
            zone: self.zone.clone(),
            position: self.replica.position(),
            runtimes: u32::try_from(self.fleet.connected_count()).unwrap_or(u32::MAX),
            load,
            sealing: self.sealing.clone(),
            renewed_at: now,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a load of 2^53 requests a second is not met")]
fn rate(requests: u64, over: Duration) -> f64 {
    // A report that hangs in a slow database makes the time longer than planned.
    if over.is_zero() { 0.0 } else { requests as f64 / over.as_secs_f64() }
}

/// How long a wait that began so long ago waits until it looks again: most are over in a few
/// milliseconds and must not notice, and none may keep the database busy for a minute.
fn pause(waited: Duration) -> Duration {
    let [first, last] = POLL_EVERY;
    (waited / POLL_PART).clamp(first, last)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{pause, rate};

    #[test]
    fn a_wait_looks_often_at_first_and_seldom_later() {
        let millis = Duration::from_millis;
        for (waited, expected) in [(0, 3), (24, 3), (80, 10), (800, 100), (60_000, 100)] {
            assert_eq!(pause(millis(waited)), millis(expected), "after {waited} ms");
        }
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        while waited < Duration::from_secs(60) {
            waited += pause(waited);
            looks += 1;
        }
        assert!(looks < 700, "{looks} looks in a minute");
    }

    #[test]
    fn a_load_is_that_of_the_time_it_was_counted_in() {
        let loads =
            [(0, 1), (10, 1), (10, 4)].map(|(count, seconds)| rate(count, Duration::from_secs(seconds)));
        assert_eq!(loads, [0.0, 10.0, 2.5]);
        assert_eq!(rate(7, Duration::ZERO), 0.0, "nothing is known yet");
    }
}
