// SPDX-License-Identifier: Apache-2.0
//! What happened in one run, and whether it may have. Hosts tell it everything they do;
//! it keeps a history that a person can read, compares each step with what the database
//! ever held, and notes every broken promise. Nothing in the product reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrogate_controller::snapshot::Snapshot;
use ferrogate_model::{Epoch, Position};
use ferrogate_runtime::state;
use uuid::Uuid;

use super::store::Server;

/// What a run amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub commits: u64,
    pub lost: u64,
    pub live: u64,
    pub connects: u64,
    pub updates: u64,
    pub faults: u64,
    pub restarts: u64,
    /// From the last fault's end until every replica was at the head.
    pub converged_after: Duration,
}

/// See the module.
pub struct Ledger {
    server: Arc<Server>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    history: Vec<String>,
    broken: Vec<String>,
    figures: Figures,
    runtimes: BTreeMap<String, Runtime>,
    /// Killed and not started again. What is left of them is taken apart, in no order.
    dead: BTreeSet<String>,
    /// Where each controller's snapshot stands; gone while it is down.
    controllers: BTreeMap<String, Position>,
    bytes: BTreeMap<Position, u64>,
    acknowledged: Vec<(Uuid, Position)>,
    /// With whether a failover had lost it before that was said.
    refused: Vec<(Uuid, bool)>,
}

#[derive(Clone, Copy, Default)]
struct Runtime {
    served: Position,
    up: bool,
    /// The highest position that a controller heard of.
    acknowledged: Position,
    /// The highest position that was answered live with this runtime counted.
    promised: Position,
}

impl Ledger {
    pub fn new(server: Arc<Server>) -> Arc<Ledger> {
        Arc::new(Ledger { server, inner: Mutex::default() })
    }

    /// The epoch of the database now.
    pub fn epoch(&self) -> Epoch {
        self.server.database().head().position.epoch
    }

    /// A line of the history.
    pub fn note(&self, text: &str) {
        let millis = turmoil::sim_elapsed().unwrap_or_default().as_millis();
        self.inner().history.push(format!("{millis:>6} ms  {text}"));
    }

    /// A line of the history from a host that may be taken apart at this moment.
    pub fn last_words(&self, host: &str, text: &str) {
        if !self.inner().dead.contains(host) {
            self.note(&format!("{host}: {text}"));
        }
    }

    /// A line of the history from outside of all hosts.
    pub fn note_at(&self, at: Duration, text: &str) {
        self.inner().history.push(format!("{:>6} ms  {text}", at.as_millis()));
    }

    pub fn fault(&self, at: Duration, text: &str) {
        self.note_at(at, &format!("FAULT {text}"));
        self.inner().figures.faults += 1;
    }

    pub fn converged(&self, after: Duration) {
        self.inner().figures.converged_after = after;
    }

    pub fn connected(&self, controller: &str, runtime: &str, stated: Position) {
        self.note(&format!("{controller}: {runtime} connects at {stated}"));
        self.inner().figures.connects += 1;
    }

    /// A controller published a snapshot: P1 and P6.
    pub fn published(&self, controller: &str, snapshot: &Snapshot) {
        let position = snapshot.position();
        self.note(&format!("{controller}: publishes {position}"));
        let truth = self.server.database().truth(position);
        let same = truth
            .as_ref()
            .is_some_and(|truth| truth.values().eq(snapshot.entries().map(|entry| &entry.stored)));
        if !same {
            self.broke(&format!("P1: {controller} publishes at {position} what was never committed so"));
        }
        let mut hasher = DefaultHasher::new();
        snapshot.bytes().hash(&mut hasher);
        let bytes = hasher.finish();
        let known = *self.inner().bytes.entry(position).or_insert(bytes);
        if known != bytes {
            self.broke(&format!("P6: {controller} has other bytes at {position} than were seen before"));
        }
        let before = self.inner().controllers.insert(controller.to_owned(), position);
        if before.is_some_and(|before| position < before) {
            self.broke(&format!("P2: {controller} goes back to {position}"));
        }
    }

    /// A controller heard an acknowledgement: P3 rests on it.
    pub fn acknowledged(&self, controller: &str, runtime: &str, position: Position) {
        self.note(&format!("{controller}: {runtime} acknowledges {position}"));
        let mut inner = self.inner();
        inner.figures.updates += 1;
        let known = inner.runtimes.entry(runtime.to_owned()).or_default();
        known.acknowledged = known.acknowledged.max(position);
        let behind = known.up && known.served < position;
        drop(inner);
        if behind {
            self.broke(&format!("P3: {runtime} acknowledged {position} and does not serve it"));
        }
    }

    /// What a runtime serves now, after its start or an update: P1, P2, P3 and P4.
    pub fn served(&self, runtime: &str, started: bool, snapshot: &state::Snapshot) {
        let position = snapshot.position;
        let verb = if started { "starts with" } else { "serves" };
        self.note(&format!("{runtime}: {verb} {position}"));
        let before = {
            let mut inner = self.inner();
            let known = inner.runtimes.entry(runtime.to_owned()).or_default();
            let before = *known;
            (known.served, known.up) = (position, true);
            before
        };
        if position < before.promised {
            self.broke(&format!("P3: {runtime} serves {position}, {} was answered live", before.promised));
        }
        if started && position < before.acknowledged {
            self.broke(&format!(
                "P4: {runtime} starts with {position}, it had acknowledged {}",
                before.acknowledged
            ));
        }
        if !started && position < before.served {
            self.broke(&format!("P2: {runtime} goes back from {} to {position}", before.served));
        }
        if position == Position::default() {
            return;
        }
        let Some(truth) = self.server.database().truth(position) else {
            return self.broke(&format!("P1: {runtime} serves {position}, which never was"));
        };
        // What it refused keeps its last good version; everything else is as committed.
        let held = snapshot.artifacts.iter().filter(|(name, _)| !snapshot.refused.contains_key(*name));
        let held = held.map(|(name, artifact)| (name, artifact.version, &artifact.payload[..]));
        let deployed = truth.values().filter_map(|stored| {
            let payload = stored.payload.as_ref()?;
            Some((&stored.name, stored.revision, payload.as_bytes()))
        });
        let expected = deployed.filter(|(name, ..)| !snapshot.refused.contains_key(*name));
        if !expected.eq(held) {
            self.broke(&format!("P1: {runtime} serves at {position} something else than was committed"));
        }
        for (name, refused) in &snapshot.refused {
            let stored = truth.get(name).map(|stored| (stored.revision, stored.payload.as_deref()));
            if stored != Some((refused.version, Some(BROKEN))) {
                self.broke(&format!("P5: {runtime} refuses {name}, which is good at {position}"));
            }
        }
    }

    /// A host is about to be killed.
    pub fn down(&self, host: &str) {
        let mut inner = self.inner();
        inner.figures.restarts += 1;
        inner.dead.insert(host.to_owned());
        inner.controllers.remove(host);
        if let Some(runtime) = inner.runtimes.get_mut(host) {
            runtime.up = false;
        }
    }

    /// A host is about to start again.
    pub fn up(&self, host: &str) {
        self.inner().dead.remove(host);
    }

    /// A writer was told that its batch is committed.
    pub fn committed(&self, writer: &str, id: Uuid, position: Position) {
        self.note(&format!("{writer}: committed {position}"));
        let mut inner = self.inner();
        inner.figures.commits += 1;
        inner.acknowledged.push((id, position));
    }

    /// A writer was told that its batch is not committed and never will be; of one that a failover
    /// has lost by now that is true.
    pub fn refused(&self, writer: &str, id: Uuid, reason: &str) {
        self.note(&format!("{writer}: not committed: {reason}"));
        let lost = self.server.database().lost(id);
        self.inner().refused.push((id, lost));
    }

    /// A controller answered that a position is live on so many runtimes; `absent` were not
    /// counted. Whoever was counted must serve it from now on.
    pub fn live(&self, controller: &str, position: Position, counted: usize, absent: &[String]) {
        self.note(&format!("{controller}: {position} is live on {counted}, not counted: {absent:?}"));
        let mut inner = self.inner();
        inner.figures.live += 1;
        // Runtimes that no controller has ever reported are not known to be counted.
        if counted + absent.len() != inner.runtimes.len() {
            return;
        }
        let mut broken = Vec::new();
        for (name, runtime) in &mut inner.runtimes {
            if absent.contains(name) {
                continue;
            }
            runtime.promised = runtime.promised.max(position);
            if runtime.up && runtime.served < position {
                broken.push(format!("P3: {position} is answered live, {name} serves {}", runtime.served));
            }
        }
        drop(inner);
        for text in broken {
            self.broke(&text);
        }
    }

    /// Whether every replica is at the head; otherwise who is not.
    pub fn stragglers(&self, controllers: usize, runtimes: usize) -> Vec<String> {
        let head = self.server.database().head().position;
        let inner = self.inner();
        let behind = inner.controllers.iter().filter(|(_, position)| **position != head);
        let mut stragglers: Vec<String> =
            behind.map(|(name, position)| format!("{name} at {position}")).collect();
        if inner.controllers.len() < controllers {
            stragglers.push("a controller without a snapshot".to_owned());
        }
        for (name, runtime) in &inner.runtimes {
            if !runtime.up || runtime.served != head || runtime.acknowledged != head {
                stragglers
                    .push(format!("{name} at {}, acknowledged {}", runtime.served, runtime.acknowledged));
            }
        }
        if inner.runtimes.len() < runtimes {
            stragglers.push("a runtime that never started".to_owned());
        }
        stragglers
    }

    /// What was acknowledged is there, unless a failover lost it; what was refused never was: P8.
    pub fn settle_accounts(&self) {
        let mut broken = Vec::new();
        {
            let database = self.server.database();
            let mut inner = self.inner();
            let mut lost = 0;
            for (id, position) in &inner.acknowledged {
                match (database.holds(*id), database.lost(*id)) {
                    (true, _) => {}
                    (false, true) => lost += 1,
                    (false, false) => broken.push(format!("P8: the batch committed at {position} is gone")),
                }
            }
            for (id, lost_before) in &inner.refused {
                if database.holds(*id) || (database.lost(*id) && !lost_before) {
                    broken.push(format!("P8: the batch {id} was said not to be committed, and is"));
                }
            }
            inner.figures.lost = lost;
        }
        for text in broken {
            self.broke(&text);
        }
    }

    pub fn broke(&self, text: &str) {
        self.note(&format!("BROKEN {text}"));
        self.inner().broken.push(text.to_owned());
    }

    pub fn broken(&self) -> Vec<String> {
        self.inner().broken.clone()
    }

    pub fn figures(&self) -> Figures {
        self.inner().figures.clone()
    }

    pub fn history(&self) -> String {
        self.inner().history.join("\n")
    }

    /// The same for two runs exactly when everything in them happened alike.
    pub fn trace(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.inner().history.hash(&mut hasher);
        hasher.finish()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A payload that every runtime refuses.
pub const BROKEN: &str = "{";
