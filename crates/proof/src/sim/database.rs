// SPDX-License-Identifier: Apache-2.0
//! The database of the simulation: one log of transactions in memory, shared by every
//! controller, with the faults that a real one has. Whether its history changed is judged
//! by [`ferrogate_store::history`]. It remembers what was ever true at each position, lost
//! tails included, so that the ledger can tell what every replica should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrogate_model::{Epoch, Position, ResourceName, Revision};
use ferrogate_store::history::{Seen, Sight, Verdict, judge};
use ferrogate_store::{
    Batch, Change, Changes, CommitError, Committed, ControllerLease, Guard, Head, RuntimeLease, State,
    StoreError, StoredArtifact, Write, resync_needed,
};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Hints that wait for one follower; a further one is dropped, as a hint may be.
const HINTS: usize = 64;

/// The artifacts at one position.
pub type Set = BTreeMap<ResourceName, StoredArtifact>;

enum Record {
    Batch { id: Uuid, changes: Vec<Change> },
    Epoch { epoch: u64, lineage: u64 },
    Floor(Revision),
}

/// See the module.
pub struct Database {
    log: Vec<Record>,
    lineage: u64,
    /// Connections from before a failover are gone with what they had not committed.
    generation: u64,
    /// It answers nobody.
    pub down: bool,
    /// It answers nobody and refuses nobody.
    pub paused: bool,
    /// Hints are lost.
    pub deaf: bool,
    followers: Vec<mpsc::Sender<Revision>>,
    history: BTreeMap<Position, Arc<Set>>,
    lost: BTreeSet<Uuid>,
    controllers: BTreeMap<String, ControllerLease>,
    runtimes: BTreeMap<String, RuntimeLease>,
}

impl Database {
    pub fn new() -> Database {
        let mut database = Database {
            log: vec![Record::Epoch { epoch: 1, lineage: 1 }],
            lineage: 1,
            generation: 0,
            down: false,
            paused: false,
            deaf: false,
            followers: Vec::new(),
            history: BTreeMap::new(),
            lost: BTreeSet::new(),
            controllers: BTreeMap::new(),
            runtimes: BTreeMap::new(),
        };
        database.remember();
        database
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn head(&self) -> Head {
        let revision = self.changes().map(|change| change.revision).max().unwrap_or_default();
        let floor = self.log.iter().rev().find_map(|record| match record {
            Record::Floor(floor) => Some(*floor),
            Record::Batch { .. } | Record::Epoch { .. } => None,
        });
        Head { position: Position::new(Epoch(self.epoch().0), revision), floor: floor.unwrap_or_default() }
    }

    /// What was true at a position.
    pub fn truth(&self, position: Position) -> Option<Arc<Set>> {
        self.history.get(&position).cloned()
    }

    /// Whether a batch is there now.
    pub fn holds(&self, id: Uuid) -> bool {
        self.committed(id).is_some()
    }

    /// Whether a batch was there and a failover lost it.
    pub fn lost(&self, id: Uuid) -> bool {
        self.lost.contains(&id)
    }

    /// A standby takes over that had not received the last transactions; the rest goes on.
    pub fn fail_over(&mut self, lost: usize) -> usize {
        let keep = self.log.len().saturating_sub(lost).max(1);
        let gone = self.log.split_off(keep);
        let gone: Vec<Uuid> = gone.iter().filter_map(Record::batch).collect();
        let count = gone.len();
        self.lost.extend(gone);
        self.lineage += 1;
        self.restart();
        count
    }

    /// Every connection ends.
    pub fn restart(&mut self) {
        self.generation += 1;
        self.followers.clear();
    }

    pub fn prune(&mut self, keep: u64) {
        let head = self.head();
        let wanted = Revision(head.position.revision.0.saturating_sub(keep));
        // Whole batches only, as the product does.
        let end = self.changes().map(|change| change.batch_end).filter(|end| *end <= wanted).max();
        if let Some(end) = end.filter(|end| *end > head.floor) {
            self.log.push(Record::Floor(end));
        }
    }

    pub fn subscribe(&mut self) -> mpsc::Receiver<Revision> {
        let (sender, receiver) = mpsc::channel(HINTS);
        self.followers.push(sender);
        receiver
    }

    /// What every call does first.
    pub fn access(&mut self, seen: &mut Seen) -> Head {
        let witness = self.batch_of(seen.position.revision);
        let same_lineage = self.epoch().1 == self.lineage;
        let sight = Sight { head: self.head(), same_lineage, witness };
        if let Verdict::Changed(least) = judge(seen, &sight) {
            // The product takes the clock, which moves on between two failovers.
            self.log.push(Record::Epoch { epoch: least.0.max(self.lineage), lineage: self.lineage });
            self.remember();
            self.hint();
        }
        let head = self.head();
        seen.remember(head.position, self.batch_of(head.position.revision));
        head
    }

    pub fn load(&mut self, seen: &mut Seen) -> State {
        let head = self.access(seen);
        self.state(head.position)
    }

    pub fn state_at(&mut self, at: Revision, seen: &mut Seen) -> Result<State, StoreError> {
        let Head { position, floor } = self.access(seen);
        if at < floor || at > position.revision {
            return Err(StoreError::OutOfRange { asked: at, floor, head: position.revision });
        }
        Ok(self.state(Position::new(position.epoch, at)))
    }

    pub fn changes_since(&mut self, after: Position, limit: usize, seen: &mut Seen) -> Changes {
        seen.remember(after, None);
        let head = self.access(seen);
        if resync_needed(after, head) {
            return Changes::Resync(head);
        }
        let mut changes = Vec::new();
        for record in &self.log {
            if let Record::Batch { changes: batch, .. } = record
                && changes.len() < limit
                && batch.first().is_some_and(|first| first.revision > after.revision)
            {
                changes.extend(batch.iter().cloned());
            }
        }
        Changes::Line { epoch: head.position.epoch, changes, head: head.position.revision }
    }

    /// Writes and commits in one: whoever calls this holds the gateway's row.
    pub fn commit(&mut self, batch: &Batch, seen: &mut Seen) -> Result<Committed, CommitError> {
        let head = self.access(seen);
        if let Some(committed) = self.committed(batch.id) {
            return Ok(committed);
        }
        let epoch = head.position.epoch;
        let first = head.position.revision.next();
        let last = Revision(head.position.revision.0 + batch.writes.len() as u64);
        let set = self.replay(head.position.revision);
        let mut changes = Vec::new();
        for (commit, revision) in batch.writes.iter().zip(first.0..) {
            let stored = set.get(&commit.name);
            let found = stored.map(|stored| stored.revision);
            let holds = match commit.guard {
                Guard::Any => stored.is_some() || commit.write != Write::Delete,
                Guard::Absent => stored.is_none(),
                Guard::Present => stored.is_some(),
                Guard::AtRevision(wanted) => found == Some(wanted),
            };
            if !holds {
                return Err(CommitError::Guard { name: commit.name.clone(), found });
            }
            let artifact = match &commit.write {
                Write::Delete => None,
                Write::Put { source, payload, uuid, .. } => Some(StoredArtifact {
                    name: commit.name.clone(),
                    revision: Revision(revision),
                    uuid: stored.map_or(*uuid, |stored| stored.uuid),
                    source: source.clone(),
                    payload: payload.clone(),
                    created_at: stored.map_or(batch.at, |stored| stored.created_at),
                    updated_at: batch.at,
                }),
            };
            changes.push(Change {
                revision: Revision(revision),
                batch_end: last,
                name: commit.name.clone(),
                artifact,
                author: batch.author.clone(),
                at: batch.at,
            });
        }
        self.log.push(Record::Batch { id: batch.id, changes });
        let set = Arc::new(self.replay(last));
        self.history.entry(Position::new(epoch, last)).or_insert(set);
        seen.remember(Position::new(epoch, last), Some(batch.id));
        self.hint();
        Ok(Committed { epoch, first, last })
    }

    pub fn committed(&self, id: Uuid) -> Option<Committed> {
        let epoch = Epoch(self.epoch().0);
        self.log.iter().find_map(|record| match record {
            Record::Batch { id: found, changes } if *found == id => {
                let (first, last) = (changes.first()?.revision, changes.last()?.revision);
                Some(Committed { epoch, first, last })
            }
            Record::Batch { .. } | Record::Epoch { .. } | Record::Floor(_) => None,
        })
    }

    pub fn report(&mut self, controller: &ControllerLease, runtimes: &[RuntimeLease], now: i64) {
        let renewed = ControllerLease { renewed_at: now, ..controller.clone() };
        self.controllers.insert(controller.id.clone(), renewed);
        for runtime in runtimes {
            // A runtime that moved is connected there; its old controller's farewell is older news.
            let stale = !runtime.connected
                && self.runtimes.get(&runtime.id).is_some_and(|known| known.controller != runtime.controller);
            if !stale {
                self.runtimes.insert(runtime.id.clone(), RuntimeLease { renewed_at: now, ..runtime.clone() });
            }
        }
    }

    pub fn leases(&self) -> (Vec<ControllerLease>, Vec<RuntimeLease>) {
        (self.controllers.values().cloned().collect(), self.runtimes.values().cloned().collect())
    }

    fn hint(&mut self) {
        let revision = self.head().position.revision;
        if !self.deaf {
            self.followers.retain(|follower| {
                !matches!(follower.try_send(revision), Err(mpsc::error::TrySendError::Closed(_)))
            });
        }
    }

    fn state(&self, position: Position) -> State {
        State { position, artifacts: self.replay(position.revision).into_values().collect() }
    }

    fn replay(&self, until: Revision) -> Set {
        let mut set = Set::new();
        for change in self.changes().filter(|change| change.revision <= until) {
            match &change.artifact {
                Some(artifact) => set.insert(change.name.clone(), artifact.clone()),
                None => set.remove(&change.name),
            };
        }
        set
    }

    fn remember(&mut self) {
        let epoch = Epoch(self.epoch().0);
        let mut set = Set::new();
        let mut truths = vec![(Revision::ZERO, Arc::new(set.clone()))];
        for record in &self.log {
            let Record::Batch { changes, .. } = record else { continue };
            for change in changes {
                match &change.artifact {
                    Some(artifact) => set.insert(change.name.clone(), artifact.clone()),
                    None => set.remove(&change.name),
                };
            }
            if let Some(last) = changes.last() {
                truths.push((last.revision, Arc::new(set.clone())));
            }
        }
        for (revision, set) in truths {
            self.history.entry(Position::new(epoch, revision)).or_insert(set);
        }
    }

    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.log.iter().flat_map(|record| match record {
            Record::Batch { changes, .. } => changes.as_slice(),
            Record::Epoch { .. } | Record::Floor(_) => &[],
        })
    }

    fn batch_of(&self, revision: Revision) -> Option<Uuid> {
        self.log.iter().find_map(|record| match record {
            Record::Batch { id, changes } => {
                changes.iter().any(|change| change.revision == revision).then_some(*id)
            }
            Record::Epoch { .. } | Record::Floor(_) => None,
        })
    }

    fn epoch(&self) -> (u64, u64) {
        let found = self.log.iter().rev().find_map(|record| match record {
            Record::Epoch { epoch, lineage } => Some((*epoch, *lineage)),
            Record::Batch { .. } | Record::Floor(_) => None,
        });
        found.unwrap_or_default()
    }
}

impl Record {
    fn batch(&self) -> Option<Uuid> {
        match self {
            Record::Batch { id, .. } => Some(*id),
            Record::Epoch { .. } | Record::Floor(_) => None,
        }
    }
}
