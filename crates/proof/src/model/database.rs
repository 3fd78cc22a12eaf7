// SPDX-License-Identifier: Apache-2.0
//! The database of the model: a log of transactions that a failover cuts short. What it
//! answers is made of the store's own types; whether its history changed is judged by
//! [`ferrogate_store::history`]. Numbers are taken from a counter whose row stays locked
//! until the transaction ends, or, as a planted bug, from a sequence.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ferrogate_model::{Epoch, Position, ResourceName, Revision};
use ferrogate_store::history::{Seen, Sight, Verdict, judge};
use ferrogate_store::{Change, Changes, Head, State, StoredArtifact, resync_needed};
use uuid::Uuid;

use super::Plant;

/// What every artifact was at one position: the revision and the content of each.
pub type Set = BTreeMap<u8, (u64, u8)>;

/// One committed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Record {
    Batch(Batch),
    /// The epoch and the lineage it was given for.
    Epoch(u64, u8),
    /// Older changes are pruned.
    Floor(u64),
}

/// One batch of writes. Its number is its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Batch {
    id: u8,
    first: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    plant: Option<Plant>,
    log: Vec<Record>,
    lineage: u8,
    /// Begun and not ended; one at a time, unless numbers come from a sequence.
    open: Vec<Batch>,
    begun: u8,
    sequence: u64,
    /// Everything that was ever true, lost tails included.
    history: BTreeMap<Position, Set>,
}

/// The artifacts of the model.
pub fn name(index: u8) -> ResourceName {
    static NAMES: OnceLock<Vec<ResourceName>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        ["rest-apis/a", "rest-apis/b", "rest-apis/c"].iter().filter_map(|name| name.parse().ok()).collect()
    });
    names[usize::from(index)].clone()
}

impl Batch {
    /// Which artifacts it writes: the second batch writes two in one transaction, the third
    /// deletes what the first one made. No batch hides what another one did.
    fn writes(&self) -> &'static [(u8, bool)] {
        match self.id % 3 {
            1 => &[(0, true)],
            2 => &[(1, true), (2, true)],
            _ => &[(0, false)],
        }
    }

    fn last(&self) -> u64 {
        self.first + self.writes().len() as u64 - 1
    }

    fn uuid(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.id))
    }

    fn changes(&self) -> Vec<Change> {
        let change = |(index, (artifact, put)): (usize, &(u8, bool))| {
            let revision = Revision(self.first + index as u64);
            Change {
                revision,
                batch_end: Revision(self.last()),
                name: name(*artifact),
                artifact: put.then(|| artifact_of(*artifact, revision, self.id)),
                author: String::new(),
                at: 0,
            }
        };
        self.writes().iter().enumerate().map(change).collect()
    }
}

fn artifact_of(index: u8, revision: Revision, content: u8) -> StoredArtifact {
    StoredArtifact {
        name: name(index),
        revision,
        uuid: Uuid::from_u128(u128::from(index)),
        source: String::new(),
        payload: Some(content.to_string()),
        created_at: 0,
        updated_at: 0,
    }
}

impl Database {
    /// An empty gateway in its first epoch.
    pub fn new(plant: Option<Plant>) -> Database {
        let mut database = Database {
            plant,
            log: vec![Record::Epoch(1, 0)],
            lineage: 0,
            open: Vec::new(),
            begun: 0,
            sequence: 0,
            history: BTreeMap::new(),
        };
        database.remember();
        database
    }

    /// A writer takes its revisions. With the counter it waits for whoever holds them.
    pub fn begin(&mut self) -> Option<()> {
        let sequence = self.plant == Some(Plant::Sequence);
        if !sequence && !self.open.is_empty() {
            return None;
        }
        self.begun += 1;
        let first = if sequence { self.sequence } else { self.revision() } + 1;
        let batch = Batch { id: self.begun, first };
        self.sequence = batch.last();
        self.open.push(batch);
        Some(())
    }

    /// A writer commits.
    pub fn commit(&mut self, index: usize) -> Option<()> {
        let batch = self.take(index)?;
        self.log.push(Record::Batch(batch));
        self.remember();
        Some(())
    }

    /// A writer dies; the database takes back what it did.
    pub fn abort(&mut self, index: usize) -> Option<()> {
        self.take(index).map(drop)
    }

    fn take(&mut self, index: usize) -> Option<Batch> {
        (index < self.open.len()).then(|| self.open.remove(index))
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }

    pub fn begun(&self) -> u8 {
        self.begun
    }

    /// A standby takes over that had not received the last transactions.
    pub fn fail_over(&mut self, lost: usize) -> Option<()> {
        if lost >= self.log.len() {
            return None;
        }
        self.log.truncate(self.log.len() - lost);
        self.lineage += 1;
        self.open.clear();
        Some(())
    }

    pub fn prune(&mut self) -> Option<()> {
        if self.floor() == self.revision() {
            return None;
        }
        self.log.push(Record::Floor(self.revision()));
        Some(())
    }

    pub fn head(&self) -> Head {
        let position = Position::new(Epoch(self.epoch().0), Revision(self.revision()));
        Head { position, floor: Revision(self.floor()) }
    }

    /// Everything that was ever true at a position.
    pub fn truth(&self, position: Position) -> Option<&Set> {
        self.history.get(&position)
    }

    /// The positions of the epoch that lasts, the empty one left out.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        let epoch = Epoch(self.epoch().0);
        let all = self.history.keys().copied();
        all.filter(move |position| position.epoch == epoch && position.revision.0 > 0)
    }

    /// What every call of a store does first: finds out whether the history is still the one
    /// this process knows, and begins a new epoch if not.
    pub fn access(&mut self, seen: &mut Seen) -> Head {
        let witness = self.batch_of(seen.position.revision.0);
        let same_lineage = self.epoch().1 == self.lineage;
        let sight = Sight { head: self.head(), same_lineage, witness };
        if let Verdict::Changed(least) = judge(seen, &sight)
            && self.plant != Some(Plant::NoEpochs)
        {
            // The product takes the clock, which moves on between two failovers.
            let epoch = least.0.max(1 + u64::from(self.lineage));
            self.log.push(Record::Epoch(epoch, self.lineage));
            self.remember();
        }
        let head = self.head();
        seen.remember(head.position, self.batch_of(head.position.revision.0));
        head
    }

    pub fn load(&mut self, seen: &mut Seen) -> State {
        let head = self.access(seen);
        self.state(head.position)
    }

    /// The state at a revision, and the head that was found.
    pub fn recall(&mut self, seen: &mut Seen) -> Option<(State, Position)> {
        let head = self.access(seen);
        let start = Position::new(head.position.epoch, head.floor);
        (start < head.position).then(|| (self.state(start), head.position))
    }

    pub fn changes_since(&mut self, after: Position, seen: &mut Seen) -> Changes {
        seen.remember(after, None);
        let head = self.access(seen);
        if resync_needed(after, head) {
            return Changes::Resync(head);
        }
        let mut changes: Vec<Change> = self.batches().flat_map(Batch::changes).collect();
        changes.retain(|change| change.revision > after.revision);
        changes.sort_by_key(|change| change.revision);
        Changes::Line { epoch: head.position.epoch, changes, head: head.position.revision }
    }

    fn state(&self, position: Position) -> State {
        let set = self.replay(position.revision.0);
        let artifacts = set.into_iter();
        let artifacts =
            artifacts.map(|(index, (revision, content))| artifact_of(index, Revision(revision), content));
        State { position, artifacts: artifacts.collect() }
    }

    fn replay(&self, until: u64) -> Set {
        let mut batches: Vec<&Batch> = self.batches().filter(|batch| batch.last() <= until).collect();
        batches.sort_by_key(|batch| batch.first);
        let mut set = Set::new();
        for batch in batches {
            for (revision, (artifact, put)) in (batch.first..).zip(batch.writes()) {
                if *put {
                    set.insert(*artifact, (revision, batch.id));
                } else {
                    set.remove(artifact);
                }
            }
        }
        set
    }

    /// Writes down what is true now. What was true stays so, unless a number was taken before
    /// others that are visible already: the position they made then means something else.
    fn remember(&mut self) {
        let epoch = Epoch(self.epoch().0);
        let ends: Vec<u64> = std::iter::once(0).chain(self.batches().map(Batch::last)).collect();
        for end in ends {
            let position = Position::new(epoch, Revision(end));
            let set = self.replay(end);
            if self.plant == Some(Plant::Sequence) {
                self.history.insert(position, set);
            } else {
                self.history.entry(position).or_insert(set);
            }
        }
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.log.iter().filter_map(|record| match record {
            Record::Batch(batch) => Some(batch),
            Record::Epoch(..) | Record::Floor(_) => None,
        })
    }

    fn batch_of(&self, revision: u64) -> Option<Uuid> {
        let found = self.batches().find(|batch| (batch.first..=batch.last()).contains(&revision));
        found.map(Batch::uuid)
    }

    fn revision(&self) -> u64 {
        self.batches().map(Batch::last).max().unwrap_or(0)
    }

    fn floor(&self) -> u64 {
        self.log
            .iter()
            .rev()
            .find_map(|record| match record {
                Record::Floor(floor) => Some(*floor),
                Record::Batch(_) | Record::Epoch(..) => None,
            })
            .unwrap_or(0)
    }

    fn epoch(&self) -> (u64, u8) {
        self.log
            .iter()
            .rev()
            .find_map(|record| match record {
                Record::Epoch(epoch, lineage) => Some((*epoch, *lineage)),
                Record::Batch(_) | Record::Floor(_) => None,
            })
            .unwrap_or_default()
    }
}
