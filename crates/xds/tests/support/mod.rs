// SPDX-License-Identifier: Apache-2.0
//! What both suites drive: a change line that makes catalogs, and a runtime that keeps
//! what it is delivered and checks every step against the line's history.
#![allow(dead_code)] // Each suite uses its own part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrogate_model::{Digest, Epoch, GatewayId, Position, Reject, Resource, ResourceName, Revision};
use ferrogate_xds::{Capabilities, Catalog, Delta, Encoded, Held, NodeInfo, Outcome, Update, wire};

/// A payload that every runtime refuses.
pub const BAD: &str = "bad";

/// One gateway's change line, with everything it ever was.
#[derive(Clone)]
pub struct Line {
    pub epoch: u64,
    log: Vec<Entry>,
    set: BTreeMap<ResourceName, Resource>,
    digests: BTreeMap<u64, Digest>,
    floor: u64,
    /// The versions at every position that was ever published, lost tails included.
    pub history: BTreeMap<Position, BTreeMap<ResourceName, Revision>>,
}

#[derive(Clone)]
struct Entry {
    name: ResourceName,
    payload: Option<String>,
}

/// One snapshot of a line.
pub struct Snapshot {
    line: Line,
}

/// What a runtime does with updates.
#[derive(Default)]
pub struct Runtime {
    pub held: Held,
    /// As delivered, refused ones included.
    pub delivered: BTreeMap<ResourceName, Resource>,
    /// What serves.
    pub running: BTreeMap<ResourceName, Resource>,
    pub history: BTreeMap<Position, BTreeMap<ResourceName, Revision>>,
    pub updates: usize,
}

pub fn name(index: usize) -> ResourceName {
    format!("rest-apis/api-{index}").parse().expect("a well-formed name")
}

pub fn node(id: &str, zone: &str) -> NodeInfo {
    NodeInfo {
        id: id.to_owned(),
        gateway: GatewayId::from("default"),
        zone: zone.to_owned(),
        version: "0.1.0".to_owned(),
        capabilities: Capabilities::of_this_build(),
    }
}

impl Line {
    pub fn new() -> Line {
        let mut line = Line {
            epoch: 1,
            log: Vec::new(),
            set: BTreeMap::new(),
            digests: BTreeMap::new(),
            floor: 0,
            history: BTreeMap::new(),
        };
        line.record();
        line
    }

    pub fn position(&self) -> Position {
        Position::new(Epoch(self.epoch), Revision(self.log.len() as u64))
    }

    pub fn change(&mut self, name: ResourceName, payload: Option<String>) {
        self.log.push(Entry { name, payload });
        let at = self.log.len();
        self.replay(at);
        self.record();
    }

    /// Many at once, without an entry in the history for each.
    pub fn fill(&mut self, count: usize, payload: &str) {
        for index in 0..count {
            self.log.push(Entry { name: name(index), payload: Some(payload.to_owned()) });
            let at = self.log.len();
            self.replay(at);
        }
        self.record();
    }

    /// Forgets what leads here.
    pub fn compact(&mut self) {
        self.floor = self.log.len() as u64;
        self.digests = self.digests.split_off(&self.floor);
    }

    /// A failover that loses the last changes and takes their revisions again.
    pub fn fail_over(&mut self, lost: usize) {
        self.log.truncate(self.log.len().saturating_sub(lost));
        self.set.clear();
        self.digests.clear();
        for at in 1..=self.log.len() {
            self.replay(at);
        }
        self.epoch += 1;
        self.floor = self.floor.min(self.log.len() as u64);
        self.record();
    }

    pub fn set(&self) -> &BTreeMap<ResourceName, Resource> {
        &self.set
    }

    pub fn bad(&self) -> BTreeSet<String> {
        let bad = self.set.values().filter(|resource| resource.payload == BAD);
        bad.map(|resource| resource.name.to_string()).collect()
    }

    pub fn snapshot(&self) -> Arc<dyn Catalog> {
        let mut line = self.clone();
        line.history.clear();
        Arc::new(Snapshot { line })
    }

    fn replay(&mut self, at: usize) {
        let entry = &self.log[at - 1];
        let name = entry.name.clone();
        let version = Revision(at as u64);
        let mut digest = self.digests.get(&(at as u64 - 1)).copied().unwrap_or_default();
        let old = match &entry.payload {
            Some(payload) => {
                let new = Resource { name: name.clone(), version, payload: payload.clone().into() };
                digest = digest.plus(Digest::of_resource(&new));
                self.set.insert(name, new)
            }
            None => self.set.remove(&name),
        };
        if let Some(old) = old {
            digest = digest.minus(Digest::of_resource(&old));
        }
        self.digests.insert(at as u64, digest);
    }

    fn record(&mut self) {
        let digest = self.set.values().map(Digest::of_resource).fold(Digest::default(), Digest::plus);
        let position = self.position();
        self.digests.insert(position.revision.0, digest);
        let versions = self.set.values().map(|resource| (resource.name.clone(), resource.version));
        self.history.insert(position, versions.collect());
    }
}

impl Catalog for Snapshot {
    fn position(&self) -> Position {
        self.line.position()
    }

    fn digest(&self) -> Digest {
        self.line.digests[&self.line.position().revision.0]
    }

    fn had(&self, revision: Revision, digest: Digest) -> bool {
        self.line.digests.get(&revision.0) == Some(&digest)
    }

    fn changes_since(&self, revision: Revision) -> Option<Delta> {
        if revision.0 < self.line.floor || revision.0 > self.line.log.len() as u64 {
            return None;
        }
        let changed = &self.line.log[usize::try_from(revision.0).ok()?..];
        let names: BTreeSet<_> = changed.iter().map(|entry| entry.name.clone()).collect();
        let (present, gone): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| self.line.set.contains_key(name));
        let mut upserts: Vec<_> = present.iter().filter_map(|name| self.resource(name)).collect();
        upserts.sort_by_key(|upsert| upsert.version);
        Some(Delta { upserts, removes: gone })
    }

    fn everything(&self) -> Vec<Encoded> {
        self.line.set.values().filter_map(wire::encode).collect()
    }

    fn resource(&self, name: &ResourceName) -> Option<Encoded> {
        self.line.set.get(name).and_then(wire::encode)
    }
}

impl Runtime {
    /// Applies an update the way a sink must, and checks what it was given.
    pub fn apply(&mut self, update: Update) -> Outcome {
        assert!(update.position >= self.held.position, "went back to {}", update.position);
        self.updates += 1;
        let upserts: BTreeSet<_> = update.upserts.iter().map(|upsert| upsert.name.clone()).collect();
        if update.full {
            self.delivered.clear();
            self.running.retain(|name, _| upserts.contains(name));
            self.held.rejected.clear();
        }
        for name in &update.removes {
            self.delivered.remove(name);
            self.running.remove(name);
            self.held.rejected.remove(name);
        }
        let mut rejects = Vec::new();
        for upsert in update.upserts {
            self.delivered.insert(upsert.name.clone(), upsert.clone());
            if upsert.payload == BAD || upsert.payload.is_empty() {
                self.held.rejected.insert(upsert.name.clone(), upsert.version);
                rejects.push(Reject {
                    resource: upsert.name.to_string(),
                    revision: upsert.version.0,
                    reason: "it does not compile".to_owned(),
                });
            } else {
                self.held.rejected.remove(&upsert.name);
                self.running.insert(upsert.name.clone(), upsert);
            }
        }
        self.held.position = update.position;
        self.held.digest = self.digest();
        let diverged = self.held.digest != update.digest;
        if !diverged && let Some(versions) = self.history.get(&update.position) {
            let delivered = self.delivered.values().map(|resource| (resource.name.clone(), resource.version));
            assert_eq!(*versions, delivered.collect(), "not the set of {}", update.position);
        }
        Outcome { rejects, diverged, not_persisted: None }
    }

    /// Loses a resource without noticing.
    pub fn corrupt(&mut self) {
        self.delivered.pop_first();
    }

    fn digest(&self) -> Digest {
        self.delivered.values().map(Digest::of_resource).fold(Digest::default(), Digest::plus)
    }
}
