// SPDX-License-Identifier: Apache-2.0
//! The runtimes connected to this controller, as their streams tell it. What a runtime
//! applied comes from its acknowledgements alone (invariant 9); what it states on
//! connecting is a claim and counts for nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ferrogate_base::watch;
use ferrogate_model::{Position, Reject};
use ferrogate_store::RuntimeLease;
use ferrogate_xds::node::RuntimeInfo;
use ferrogate_xds::server::observer::{Sent, StreamObserver};

use crate::metrics::Metrics;

/// The runtimes of this controller.
pub struct Fleet {
    controller: String,
    members: Mutex<BTreeMap<String, Member>>,
    /// Whoever waits for an acknowledgement watches it.
    changed: watch::Sender<()>,
    metrics: Arc<Metrics>,
}

struct Member {
    lease: RuntimeLease,
    /// Not yet reported as it is now.
    dirty: bool,
}

impl Fleet {
    /// A fleet of none.
    #[must_use]
    pub fn new(controller: String, metrics: Arc<Metrics>) -> Fleet {
        Fleet { controller, members: Mutex::default(), changed: watch::Sender::new(()), metrics }
    }

    /// The id of this controller.
    #[must_use]
    pub fn controller(&self) -> &str {
        &self.controller
    }

    /// Every runtime, those whose stream just ended included.
    #[must_use]
    pub fn leases(&self) -> Vec<RuntimeLease> {
        self.with(|members| members.values().map(|member| member.lease.clone()).collect())
    }

    /// How many are connected.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        self.with(|members| members.values().filter(|member| member.lease.connected).count())
    }

    /// Changes whenever anything about a runtime does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What to report now: everything that is connected, or only what changed. `head` is
    /// where this controller stands, `now` its clock in microseconds.
    pub(super) fn due(&self, everything: bool, head: Position, now: i64) -> Vec<RuntimeLease> {
        self.with(|members| {
            let mut due = Vec::new();
            for member in members.values_mut() {
                let behind = member.lease.applied < head;
                member.lease.behind_since = behind.then(|| member.lease.behind_since.unwrap_or(now));
                if everything || member.dirty {
                    member.dirty = false;
                    due.push(member.lease.clone());
                }
            }
            due
        })
    }

    /// The report was stored: who had left by then need not be mentioned again.
    pub(super) fn reported(&self, leases: &[RuntimeLease]) {
        self.with(|members| {
            for lease in leases.iter().filter(|lease| !lease.connected) {
                if members.get(&lease.id).is_some_and(|member| !member.lease.connected) {
                    members.remove(&lease.id);
                }
            }
        });
    }

    /// The report was not stored: the next one must say it again.
    pub(super) fn not_reported(&self, leases: &[RuntimeLease]) {
        self.with(|members| {
            for lease in leases {
                if let Some(member) = members.get_mut(&lease.id) {
                    member.dirty = true;
                }
            }
        });
    }

    fn update(&self, runtime_id: &str, change: impl FnOnce(&mut RuntimeLease)) {
        self.with(|members| {
            if let Some(member) = members.get_mut(runtime_id) {
                change(&mut member.lease);
                member.dirty = true;
            }
        });
        self.changed.set(());
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Member>) -> T) -> T {
        act(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StreamObserver for Fleet {
    fn connected(&self, runtime: RuntimeInfo) {
        let node = runtime.node;
        tracing::info!(runtime = %node.id, zone = %node.zone, stated = %runtime.stated, "runtime connected");
        let lease = RuntimeLease {
            id: node.id.clone(),
            zone: node.zone,
            controller: self.controller.clone(),
            applied: Position::default(),
            from_cache: runtime.from_cache,
            rejects: Vec::new(),
            version: node.version,
            connected: true,
            behind_since: None,
            renewed_at: 0,
        };
        self.with(|members| members.insert(node.id, Member { lease, dirty: true }));
        self.changed.set(());
        self.metrics.set_runtimes_connected(self.connected_count());
    }

    fn sent(&self, runtime_id: &str, sent: Sent) {
        tracing::debug!(
            runtime = runtime_id,
            position = %sent.position,
            full = sent.full,
            upserts = sent.upserts,
            removes = sent.removes,
            bytes = sent.bytes,
            "update sent"
        );
        self.metrics.update_sent(sent.full, sent.bytes);
    }

    fn applied(&self, runtime_id: &str, position: Position, rejects: &[Reject]) {
        for reject in rejects {
            tracing::warn!(
                runtime = runtime_id,
                resource = %reject.resource,
                revision = reject.revision,
                reason = %reject.reason,
                "resource rejected by a runtime"
            );
        }
        self.metrics.acknowledged(rejects.is_empty());
        self.update(runtime_id, |lease| {
            lease.applied = position;
            lease.rejects = rejects.to_vec();
            lease.from_cache = false;
        });
    }

    fn disconnected(&self, runtime_id: &str) {
        tracing::info!(runtime = runtime_id, "runtime disconnected");
        self.update(runtime_id, |lease| lease.connected = false);
        self.metrics.set_runtimes_connected(self.connected_count());
    }
}
