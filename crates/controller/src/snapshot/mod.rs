// SPDX-License-Identifier: Apache-2.0
//! The snapshot: everything at one position, immutable. It is a pure function of the
//! store at that position, so two replicas at one position hold the same bytes.
//! Applying a batch costs O(the batch): the maps share structure with their
//! predecessor. It must never read the store. [`crate::replicate`] makes snapshots,
//! the management API reads documents from them, and the config stream asks them,
//! through [`ferrogate_xds::Catalog`] (in `catalog.rs`), what a runtime lacks.

mod catalog;
mod entry;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ferrogate_base::parallel;
use ferrogate_model::{Digest, Kind, Position, ResourceName, Revision};
use ferrogate_store::{Change, State};
use imbl::{OrdMap, Vector};

pub use entry::{Entry, Summary};

/// How much of the past a snapshot remembers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Deletions remembered. The oldest is forgotten when full, after which a runtime that
    /// was last in sync before it gets everything instead of a difference.
    pub tombstones: usize,
    /// Positions whose digest is remembered, in 16 bytes each. A runtime that resumes from a
    /// forgotten one gets everything.
    pub digests: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { tombstones: 100_000, digests: 50_000 }
    }
}

/// Everything at one position.
#[derive(Clone, Debug)]
pub struct Snapshot {
    limits: Limits,
    position: Position,
    digest: Digest,
    by_name: OrdMap<ResourceName, Arc<Entry>>,
    /// The same entries by the revision that gave them their content.
    by_revision: OrdMap<Revision, Arc<Entry>>,
    /// What is gone, by the revision that removed it, and the way back.
    tombstones: OrdMap<Revision, Arc<ResourceName>>,
    buried: OrdMap<ResourceName, Revision>,
    /// Differences are known from here on.
    known_from: Revision,
    /// Where the line led through, oldest first.
    past: Vector<Past>,
    tallies: OrdMap<Kind, Tally>,
}

/// How many artifacts of one kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub all: usize,
    /// Those that are deployed.
    pub deployed: usize,
}

/// A position the line led through, with what is kept of its digest: a lane, by which a set that
/// differs is taken for equal once in 2^64 times. Kept small and in full chunks, for there are
/// many: a map of whole digests took six times the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    revision: Revision,
    lane: u64,
}

impl Snapshot {
    /// The snapshot of a whole state.
    #[must_use]
    pub fn load(state: State, limits: Limits) -> Snapshot {
        let mut snapshot = Snapshot {
            limits,
            position: state.position,
            digest: Digest::default(),
            by_name: OrdMap::new(),
            by_revision: OrdMap::new(),
            tombstones: OrdMap::new(),
            buried: OrdMap::new(),
            known_from: state.position.revision,
            past: Vector::new(),
            tallies: OrdMap::new(),
        };
        for entry in parallel::map(state.artifacts, Entry::new) {
            snapshot.put(Arc::new(entry));
        }
        snapshot.remember_digest();
        snapshot
    }

    /// The snapshot one whole batch later.
    ///
    /// # Panics
    /// When the batch does not continue this snapshot exactly, or ends in the middle of a
    /// transaction: publishing it would break invariants 1 and 2 for every runtime. The
    /// replication task restarts and loads anew.
    #[must_use]
    pub fn apply(&self, changes: Vec<Change>) -> Snapshot {
        let mut next = self.clone();
        let mut batch_end = self.position.revision;
        for change in changes {
            assert!(
                change.revision == next.position.revision.next(),
                "revision {} does not follow {}",
                change.revision,
                next.position.revision
            );
            batch_end = change.batch_end;
            next.position.revision = change.revision;
            next.take(&change.name);
            match change.artifact {
                Some(stored) => {
                    assert!(
                        stored.revision == change.revision && stored.name == change.name,
                        "change {} carries {} of revision {}",
                        change.revision,
                        stored.name,
                        stored.revision
                    );
                    next.put(Arc::new(Entry::new(stored)));
                }
                None => next.bury(change.name, change.revision),
            }
            // Digests are kept for positions a snapshot can have: batch ends.
            if change.revision == batch_end {
                next.remember_digest();
            }
        }
        assert!(
            next.position.revision == batch_end,
            "a batch that ends at revision {batch_end} was cut at {}",
            next.position.revision
        );
        next
    }

    /// Where in the line this snapshot stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The digest of all deployed artifacts.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// One artifact.
    #[must_use]
    pub fn get(&self, name: &ResourceName) -> Option<&Arc<Entry>> {
        self.by_name.get(name)
    }

    /// Every artifact, in name order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_name.values()
    }

    /// How many artifacts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many artifacts of this kind there are.
    #[must_use]
    pub fn tally(&self, kind: Kind) -> Tally {
        self.tallies.get(&kind).copied().unwrap_or_default()
    }

    /// The whole snapshot in one canonical form: two replicas at one position give the same
    /// bytes (promise P6). What each happens to remember of the past is not part of it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.position.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&self.position.revision.0.to_be_bytes());
        bytes.extend_from_slice(&self.digest.to_bytes());
        for entry in self.by_name.values() {
            entry.write_canonical(&mut bytes);
        }
        bytes
    }

    fn put(&mut self, entry: Arc<Entry>) {
        self.digest = self.digest.plus(entry.contribution());
        let tally = self.tallies.entry(entry.stored.name.kind).or_default();
        tally.all += 1;
        tally.deployed += usize::from(entry.stored.payload.is_some());
        if let Some(revision) = self.buried.remove(&entry.stored.name) {
            self.tombstones.remove(&revision);
        }
        self.by_revision.insert(entry.stored.revision, Arc::clone(&entry));
        self.by_name.insert(entry.stored.name.clone(), entry);
    }

    fn take(&mut self, name: &ResourceName) {
        let Some(entry) = self.by_name.remove(name) else { return };
        self.by_revision.remove(&entry.stored.revision);
        self.digest = self.digest.minus(entry.contribution());
        let tally = self.tallies.entry(name.kind).or_default();
        tally.all = tally.all.saturating_sub(1);
        tally.deployed = tally.deployed.saturating_sub(usize::from(entry.stored.payload.is_some()));
    }

    fn bury(&mut self, name: ResourceName, revision: Revision) {
        if let Some(earlier) = self.buried.insert(name.clone(), revision) {
            self.tombstones.remove(&earlier);
        }
        self.tombstones.insert(revision, Arc::new(name));
        while self.tombstones.len() > self.limits.tombstones {
            let Some((oldest, name)) = self.tombstones.get_min().cloned() else { break };
            self.tombstones.remove(&oldest);
            self.buried.remove(name.as_ref());
            self.known_from = self.known_from.max(oldest);
        }
    }

    fn remember_digest(&mut self) {
        self.past.push_back(Past::new(self.position.revision, self.digest));
        while self.past.len() > self.limits.digests {
            self.past.pop_front();
        }
    }
}

impl Past {
    const fn new(revision: Revision, digest: Digest) -> Past {
        let Digest([lane, ..]) = digest;
        Past { revision, lane }
    }
}
