// SPDX-License-Identifier: Apache-2.0
//! The runtime's state: one immutable snapshot at a time, swapped whole (invariant 5).
//! A request loads it once and carries it to the access log; it never sees two.
//! [`crate::sync`] is the only writer: it builds the next snapshot outside and stores it
//! here with one swap. Nothing in here waits, locks or fails.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use ferrogate_model::{Digest, Position, Reject, ResourceName, Revision};
use imbl::OrdMap;

use crate::router::{CompiledRoute, Entry, Table};
use crate::tls::certificates::{Certificates, Prepared};

/// Everything the runtime serves at one position. Successive snapshots share what did
/// not change between them.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The last update applied.
    pub position: Position,
    /// The digest of the set as delivered at that position, refused versions included.
    pub digest: Digest,
    /// The routes of every artifact.
    pub table: Table,
    /// Every artifact that serves.
    pub artifacts: OrdMap<ResourceName, Arc<HeldArtifact>>,
    /// The certificates among them, as handshakes find them.
    pub certificates: Certificates,
    /// Every artifact whose delivered version was refused; its last good version, if it
    /// had one, is in `artifacts`.
    pub refused: OrdMap<ResourceName, Arc<Refused>>,
    /// Routes that can only answer a fixed 500, over all artifacts.
    pub poisoned: usize,
    /// Counts the snapshots of this process, so that what is on disk can be told apart
    /// from another snapshot of the same position.
    pub(crate) sequence: u64,
}

/// One artifact as it is served.
pub struct HeldArtifact {
    /// The revision that gave it this content.
    pub version: Revision,
    /// What it adds to the digest of the set.
    pub contribution: Digest,
    /// Its canonical JSON, kept for last-known-good and the (redacted) config dump.
    pub payload: Bytes,
    /// What it is, when it is a certificate.
    pub certificate: Option<Arc<Prepared>>,
    /// Its routes, as they stand in the table; empty while undeployed.
    pub routes: Vec<Arc<Entry<CompiledRoute>>>,
    /// How many of them are poisoned.
    pub poisoned: usize,
}

/// A delivered version that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The refused version.
    pub version: Revision,
    /// What it adds to the digest of the set as delivered.
    pub contribution: Digest,
    /// Why, for people.
    pub reason: String,
}

/// The one place the current snapshot is found.
#[derive(Default)]
pub struct State {
    current: ArcSwap<Snapshot>,
}

impl State {
    /// A state that starts with this snapshot.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> State {
        State { current: ArcSwap::new(snapshot) }
    }

    /// The current snapshot for a moment, without touching its reference count: for a lookup
    /// that ends before the next await.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The current snapshot to keep across awaits.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub(crate) fn store(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
    }
}

impl Snapshot {
    /// The refusals in the form that is reported.
    pub fn rejects(&self) -> impl Iterator<Item = Reject> + '_ {
        self.refused.iter().map(|(name, refused)| refused.report(name))
    }

    /// Puts an artifact in place of what was held under its name, and takes back a refusal.
    /// The number of its routes that collide with another artifact's is returned.
    pub(crate) fn put(&mut self, name: ResourceName, artifact: Arc<HeldArtifact>) -> usize {
        self.remove(&name);
        self.digest = self.digest.plus(artifact.contribution);
        self.poisoned += artifact.poisoned;
        let collisions = artifact.routes.iter().filter(|entry| self.table.insert(Arc::clone(entry))).count();
        if let Some(certificate) = &artifact.certificate {
            self.certificates.put(certificate);
        }
        self.artifacts.insert(name, artifact);
        collisions
    }

    /// Records a refusal: the digest counts the refused version, what is served stays.
    pub(crate) fn refuse(&mut self, name: ResourceName, refused: Arc<Refused>) {
        if let Some(delivered) = self.delivered(&name) {
            self.digest = self.digest.minus(delivered);
        }
        self.digest = self.digest.plus(refused.contribution);
        self.refused.insert(name, refused);
    }

    /// Removes whatever is held or refused under a name.
    pub(crate) fn remove(&mut self, name: &ResourceName) {
        if let Some(delivered) = self.delivered(name) {
            self.digest = self.digest.minus(delivered);
        }
        self.refused.remove(name);
        if let Some(artifact) = self.artifacts.remove(name) {
            self.poisoned = self.poisoned.saturating_sub(artifact.poisoned);
            if let Some(certificate) = &artifact.certificate {
                self.certificates.remove(certificate);
            }
            for entry in &artifact.routes {
                let removed = self.table.remove(entry);
                debug_assert!(removed, "every route of a held artifact stands in the table");
            }
        }
    }

    /// What was last delivered under a name: the refused version, else the served one.
    pub(crate) fn delivered(&self, name: &ResourceName) -> Option<Digest> {
        let refused = self.refused.get(name).map(|refused| refused.contribution);
        refused.or_else(|| self.artifacts.get(name).map(|artifact| artifact.contribution))
    }
}

impl Refused {
    /// The refusal in the form that is reported.
    #[must_use]
    pub fn report(&self, name: &ResourceName) -> Reject {
        Reject { resource: name.to_string(), revision: self.version.0, reason: self.reason.clone() }
    }
}
