// SPDX-License-Identifier: Apache-2.0
//! Is it live? The judgement over the leases: a revision is live in a scope when every
//! connected runtime there has acknowledged it (promise P3). Runtimes whose lease ran
//! out or whose stream ended are reported, never waited for. Pure; `mod.rs` feeds it.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrogate_model::{Position, ResourceName, Revision};
use ferrogate_store::{Cluster, RuntimeLease};
use serde::Serialize;
use utoipa::ToSchema;

/// A lease not renewed for this long is expired.
pub const LEASE: Duration = Duration::from_secs(15);

/// Which runtimes are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// Those of one zone.
    Zone(String),
}

/// What is asked about: a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its last revision and epoch.
    pub position: Position,
    /// Its first revision.
    pub first: Revision,
    /// The artifacts it wrote.
    pub names: Vec<ResourceName>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Liveness {
    /// Every runtime counted serves the revision.
    pub live: bool,
    /// The revision asked about.
    pub revision: u64,
    /// How many runtimes were counted.
    pub runtimes: usize,
    /// Runtimes that were counted and do not serve it.
    pub stragglers: Vec<Straggler>,
    /// Runtimes that were not counted: their stream ended or their lease ran out.
    pub absent: Vec<Straggler>,
    /// Why nothing is known of the runtimes of other controllers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// A runtime that does not serve the revision asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Straggler {
    /// Its id.
    pub runtime: String,
    /// Its zone.
    pub zone: String,
    /// The controller it is, or was last, connected to.
    pub controller: String,
    /// The revision it acknowledged last.
    pub applied: u64,
    /// `behind`, `rejected`, `disconnected` or `lease expired`.
    pub reason: Reason,
    /// What it said, when it rejected the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a runtime does not serve a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum Reason {
    /// It has not acknowledged it yet.
    #[serde(rename = "behind")]
    Behind,
    /// It refused an artifact of the batch and keeps its last good version.
    #[serde(rename = "rejected")]
    Rejected,
    /// Its stream ended.
    #[serde(rename = "disconnected")]
    Disconnected,
    /// Nothing was heard of it for the length of a lease.
    #[serde(rename = "lease expired")]
    LeaseExpired,
}

impl Scope {
    /// Parses `all` or `zone:<name>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Scope> {
        match text.split_once(':') {
            None if text.is_empty() || text == "all" => Some(Scope::All),
            Some(("zone", zone)) if !zone.is_empty() => Some(Scope::Zone(zone.to_owned())),
            None | Some(_) => None,
        }
    }

    fn contains(&self, runtime: &RuntimeLease) -> bool {
        match self {
            Scope::All => true,
            Scope::Zone(zone) => runtime.zone == *zone,
        }
    }
}

impl Liveness {
    /// Waiting longer cannot change the answer: nobody is behind.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.unknown.is_none() && self.stragglers.iter().all(|one| one.reason == Reason::Rejected)
    }
}

/// What other replicas reported, corrected by what this one sees itself: its own runtimes
/// are known here at once, their leases a moment later.
#[must_use]
pub fn merge(mut cluster: Cluster, controller: &str, own: Vec<RuntimeLease>) -> Cluster {
    let mut runtimes: BTreeMap<String, RuntimeLease> =
        cluster.runtimes.drain(..).map(|lease| (lease.id.clone(), lease)).collect();
    for mut lease in own {
        let elsewhere = runtimes.get(&lease.id).is_some_and(|known| known.controller != controller);
        // A runtime that moved is connected there and disconnected here.
        if lease.connected || !elsewhere {
            lease.renewed_at = cluster.now;
            runtimes.insert(lease.id.clone(), lease);
        }
    }
    cluster.runtimes = runtimes.into_values().collect();
    cluster
}

/// Judges one batch against the leases.
#[must_use]
pub fn judge(cluster: &Cluster, target: &Target, scope: &Scope) -> Liveness {
    let mut answer = Liveness { revision: target.position.revision.0, ..Liveness::default() };
    for runtime in cluster.runtimes.iter().filter(|runtime| scope.contains(runtime)) {
        let expired = is_expired(runtime.renewed_at, cluster.now);
        if expired || !runtime.connected {
            // A stream that ended by itself is not worth a line for ever.
            let reason = if expired { Reason::LeaseExpired } else { Reason::Disconnected };
            answer.absent.push(straggler(runtime, reason, None));
            continue;
        }
        answer.runtimes += 1;
        let rejected = runtime.rejects.iter().find(|reject| {
            reject.revision >= target.first.0
                && target.names.iter().any(|name| name.to_string() == reject.resource)
        });
        if runtime.applied < target.position {
            answer.stragglers.push(straggler(runtime, Reason::Behind, None));
        } else if let Some(reject) = rejected {
            answer.stragglers.push(straggler(runtime, Reason::Rejected, Some(reject.reason.clone())));
        }
    }
    answer.live = answer.stragglers.is_empty();
    answer
}

/// Whether a lease renewed then has run out by now; both in microseconds.
#[must_use]
pub fn is_expired(renewed_at: i64, now: i64) -> bool {
    let lease = i64::try_from(LEASE.as_micros()).unwrap_or(i64::MAX);
    now.saturating_sub(renewed_at) > lease
}

fn straggler(runtime: &RuntimeLease, reason: Reason, detail: Option<String>) -> Straggler {
    Straggler {
        runtime: runtime.id.clone(),
        zone: runtime.zone.clone(),
        controller: runtime.controller.clone(),
        applied: runtime.applied.revision.0,
        reason,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_model::{Epoch, Position, Reject, Revision};
    use ferrogate_store::{Cluster, RuntimeLease};

    use super::{Reason, Scope, Target, judge, merge};

    const NOW: i64 = 100_000_000;

    fn runtime(id: &str, applied: u64) -> RuntimeLease {
        RuntimeLease {
            id: id.to_owned(),
            zone: if id.starts_with('a') { "a" } else { "b" }.to_owned(),
            controller: "c1".to_owned(),
            applied: Position::new(Epoch(1), Revision(applied)),
            from_cache: false,
            rejects: Vec::new(),
            version: "0".to_owned(),
            connected: true,
            behind_since: None,
            renewed_at: NOW,
        }
    }

    fn rejecting(id: &str, resource: &str, revision: u64) -> RuntimeLease {
        let reject = Reject { resource: resource.to_owned(), revision, reason: "no such policy".to_owned() };
        RuntimeLease { rejects: vec![reject], ..runtime(id, 7) }
    }

    /// Judges revisions 6 to 7 of `rest-apis/x` and names who does not serve them.
    fn check(runtimes: Vec<RuntimeLease>, scope: &str, live: bool, expected: &[(&str, Reason)]) {
        let cluster = Cluster { controllers: Vec::new(), runtimes, now: NOW };
        let target = Target {
            position: Position::new(Epoch(1), Revision(7)),
            first: Revision(6),
            names: vec!["rest-apis/x".parse().expect("well-formed")],
        };
        let answer = judge(&cluster, &target, &Scope::parse(scope).expect("a scope"));
        let found: Vec<(&str, Reason)> = answer
            .stragglers
            .iter()
            .chain(&answer.absent)
            .map(|one| (one.runtime.as_str(), one.reason))
            .collect();
        assert_eq!((answer.live, found), (live, expected.to_vec()), "{answer:?}");
    }

    #[test]
    fn live_is_the_minimum_over_connected_runtimes_in_scope() {
        check(vec![], "all", true, &[]);
        check(vec![runtime("a1", 7), runtime("b1", 9)], "all", true, &[]);
        check(vec![runtime("a1", 7), runtime("b1", 6)], "all", false, &[("b1", Reason::Behind)]);
        check(vec![runtime("a1", 7), runtime("b1", 6)], "zone:a", true, &[]);
        let older_epoch = RuntimeLease { applied: Position::new(Epoch(0), Revision(99)), ..runtime("a1", 7) };
        check(vec![older_epoch], "all", false, &[("a1", Reason::Behind)]);
    }

    #[test]
    fn the_dead_are_reported_and_not_waited_for() {
        let expired = RuntimeLease { renewed_at: NOW - 15_000_001, ..runtime("b1", 1) };
        let gone = RuntimeLease { connected: false, ..runtime("b2", 1) };
        let expected = [("b1", Reason::LeaseExpired), ("b2", Reason::Disconnected)];
        check(vec![runtime("a1", 7), expired, gone], "all", true, &expected);
    }

    #[test]
    fn a_rejected_artifact_is_not_live_although_its_revision_is_applied() {
        check(vec![rejecting("a1", "rest-apis/x", 7)], "all", false, &[("a1", Reason::Rejected)]);
        check(vec![rejecting("a1", "rest-apis/x", 5)], "all", true, &[]);
        check(vec![rejecting("a1", "rest-apis/other", 7)], "all", true, &[]);
    }

    #[test]
    fn a_runtime_that_moved_counts_where_it_is() {
        let there = RuntimeLease { controller: "c2".to_owned(), ..runtime("a1", 7) };
        let left = RuntimeLease { connected: false, ..runtime("a1", 3) };
        let cluster = |runtimes| Cluster { controllers: Vec::new(), runtimes, now: NOW };
        let merged = merge(cluster(vec![there.clone()]), "c1", vec![left.clone()]);
        assert_eq!(merged.runtimes, std::slice::from_ref(&there));
        let back = runtime("a1", 8);
        assert_eq!(merge(cluster(vec![there]), "c1", vec![back.clone()]).runtimes, [back]);
        assert_eq!(merge(cluster(vec![runtime("a1", 3)]), "c1", vec![left.clone()]).runtimes, [left]);
    }

    #[test]
    fn scopes_are_all_or_a_zone() {
        assert_eq!(Scope::parse("zone:a"), Some(Scope::Zone("a".to_owned())));
        for text in ["zone:", "zone", "region:a"] {
            assert_eq!(Scope::parse(text), None, "{text}");
        }
    }
}
