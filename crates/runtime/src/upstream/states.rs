// SPDX-License-Identifier: Apache-2.0
//! What the process knows of an endpoint beyond its address: requests under way, how fast
//! it answers, whether it may be used. It is shared by all workers and outlives snapshots:
//! [`States`] finds it again by what identifies the endpoint, so that deploying another API,
//! or this one anew, forgets nothing. `prepare` asks for it, picks and guards change it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ferrogate_model::ResourceName;
use ferrogate_model::kinds::rest_api::Scheme;
use smol_str::SmolStr;

use super::circuit::Load;
use super::health::Checks;
use super::names::Names;
use super::outlier::Record;
use super::retry::Budget;

/// The latency estimate forgets: after this long without a sample a third of it is left.
const LATENCY_MEMORY: Duration = Duration::from_secs(10);

/// A failed attempt counts as at least this slow, or failing fast would look like speed.
const FAILURE_LATENCY: Duration = Duration::from_secs(1);

/// What tells two endpoints apart, across snapshots. The artifact and the target are part of
/// it: one API's settings never decide about another's requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateKey {
    /// Whose upstream it is.
    pub artifact: ResourceName,
    /// The definition's name.
    pub target: String,
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Host name or address.
    pub host: SmolStr,
    /// The port.
    pub port: u16,
    /// One address of the name, where each is an endpoint of its own.
    pub address: Option<IpAddr>,
}

/// Every state that some snapshot uses.
#[derive(Default)]
pub struct States {
    endpoints: Mutex<Shelf>,
    budgets: Mutex<HashMap<ResourceName, Weak<Budget>>>,
    events: Arc<Events>,
    /// Who asks endpoints whether they are well.
    pub checks: Arc<Checks>,
    /// Who asks for the addresses of names.
    pub names: Names,
}

/// What happened to endpoints since the start, for metrics; it outlives the states.
#[derive(Default)]
pub struct Events {
    /// Ejections.
    pub ejections: AtomicU64,
    /// Requests that wait for a connection now, over all endpoints.
    pub waiting: AtomicU64,
}

/// How the endpoints stand, over all that have a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Endpoints with a state.
    pub endpoints: usize,
    /// Ejected now.
    pub ejected: usize,
}

/// States are held weakly: the last snapshot that names an endpoint takes its state along.
#[derive(Default)]
struct Shelf {
    states: HashMap<StateKey, Weak<EndpointState>>,
    /// When the map has grown to this, what is gone is swept out: constant work per entry.
    sweep_at: usize,
}

/// One endpoint's state. Workers race on it without a lock: a lost update of an estimate
/// changes one choice, counts are exact.
pub struct EndpointState {
    origin: Instant,
    /// What it has in hand.
    pub load: Load,
    /// How it has done.
    pub record: Record,
    /// Where what happens to it is counted.
    pub events: Arc<Events>,
    /// Microseconds; meaningless before the first sample.
    latency_us: AtomicU64,
    /// When the last sample came, in microseconds since `origin`; 0 before the first.
    sampled_at_us: AtomicU64,
}

impl States {
    /// The state of this endpoint, as it was left by whoever used it last.
    #[must_use]
    pub fn endpoint(&self, key: StateKey, now: Instant) -> Arc<EndpointState> {
        // Whole at every await-free step, so a panic elsewhere does not spoil it.
        let mut shelf = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = shelf.states.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState { events: self.events.clone(), ..EndpointState::new(now) });
        shelf.states.insert(key, Arc::downgrade(&state));
        if shelf.states.len() > shelf.sweep_at {
            shelf.states.retain(|_, state| state.strong_count() > 0);
            shelf.sweep_at = shelf.states.len() * 2 + 64;
        }
        state
    }

    /// The retry budget of this artifact's requests.
    #[must_use]
    pub fn budget(&self, artifact: &ResourceName) -> Arc<Budget> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get(artifact).and_then(Weak::upgrade) {
            return budget;
        }
        // One for each artifact that retries: a sweep at each new one stays cheap enough.
        budgets.retain(|_, budget| budget.strong_count() > 0);
        let budget = Arc::<Budget>::default();
        budgets.insert(artifact.clone(), Arc::downgrade(&budget));
        budget
    }

    /// How they stand now.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        let shelf = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let living = shelf.states.values().filter_map(Weak::upgrade);
        living.fold(Standing::default(), |sum, state| Standing {
            endpoints: sum.endpoints + 1,
            ejected: sum.ejected + usize::from(state.record.is_out(state.micros(now))),
        })
    }

    /// What happened since the start.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }
}

impl EndpointState {
    /// A state that knows nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> EndpointState {
        EndpointState {
            origin: now,
            load: Load::default(),
            record: Record::default(),
            events: Arc::default(),
            latency_us: AtomicU64::new(0),
            sampled_at_us: AtomicU64::new(0),
        }
    }

    /// The expected time to a response's head in microseconds: peaks count at once, then fade.
    /// Nothing known is nothing to wait for, so that an endpoint is tried at all.
    #[must_use]
    pub fn expected_us(&self, now: Instant) -> f64 {
        let sampled = self.sampled_at_us.load(Ordering::Relaxed);
        let silent = self.micros(now).saturating_sub(sampled);
        self.latency_us.load(Ordering::Relaxed) as f64 * kept_after(silent)
    }

    /// A response's head came after this long.
    pub(super) fn answered(&self, took: Duration, now: Instant) {
        let at = self.micros(now).max(1);
        let sample = took.as_micros().min(u128::from(u32::MAX)) as f64;
        let before = self.latency_us.load(Ordering::Relaxed) as f64;
        let estimate = match self.sampled_at_us.swap(at, Ordering::Relaxed) {
            0 => sample,
            _ if sample > before => sample,
            last => {
                let kept = kept_after(at.saturating_sub(last).max(1));
                before * kept + sample * (1.0 - kept)
            }
        };
        self.latency_us.store(estimate as u64, Ordering::Relaxed);
    }

    /// No response came.
    pub(super) fn failed(&self, took: Duration, now: Instant) {
        self.answered(took.max(FAILURE_LATENCY), now);
    }

    /// Microseconds of this state's own time.
    pub(super) fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }
}

/// How much of an estimate is left after this many microseconds.
fn kept_after(micros: u64) -> f64 {
    (-(micros as f64) / LATENCY_MEMORY.as_micros() as f64).exp()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use ferrogate_model::kinds::rest_api::Scheme;

    use super::{EndpointState, StateKey, States};

    fn key(port: u16) -> StateKey {
        StateKey {
            artifact: "rest-apis/a".parse().expect("a name"),
            target: "t".to_owned(),
            scheme: Scheme::Http,
            host: "h".into(),
            port,
            address: None,
        }
    }

    #[test]
    fn a_state_is_found_again_while_someone_holds_it() {
        let (states, now) = (States::default(), Instant::now());
        let first = states.endpoint(key(1), now);
        assert!(first.load.try_enter(None));
        assert_eq!(states.endpoint(key(1), now).load.requests(), 1);
        assert_eq!(states.endpoint(key(2), now).load.requests(), 0);
        drop(first);
        assert_eq!(states.endpoint(key(1), now).load.requests(), 0, "nobody held it any more");
        let held: Vec<Arc<EndpointState>> = (0..10).map(|port| states.endpoint(key(port), now)).collect();
        for port in 1000..3000 {
            let _gone = states.endpoint(key(port), now);
        }
        let kept = states.endpoints.lock().expect("no panic").states.len();
        assert!(kept < 200, "{kept} entries for {} states", held.len());
    }

    #[test]
    fn the_estimate_follows_peaks_at_once_and_forgets_them() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let state = EndpointState::new(start);
        assert!(state.expected_us(at(0)) < 1.0);
        state.answered(Duration::from_millis(10), at(10));
        assert!((state.expected_us(at(10)) - 10_000.0).abs() < 1.0);
        state.answered(Duration::from_millis(200), at(20));
        assert!((state.expected_us(at(20)) - 200_000.0).abs() < 1.0);
        for second in 1..=60 {
            state.answered(Duration::from_millis(10), at(second * 1000));
        }
        assert!((9_000.0..12_000.0).contains(&state.expected_us(at(60_000))));
        state.failed(Duration::from_millis(1), at(60_001));
        assert!(state.expected_us(at(60_001)) > 900_000.0, "failing fast is not being fast");
        assert!(state.expected_us(at(120_000)) < 10_000.0, "it is tried again");
    }
}
