// SPDX-License-Identifier: Apache-2.0
//! A controller of the model: the feed's cursor and the follower as they ship, what it
//! published, and what its runtimes acknowledged. Only their surroundings are modelled:
//! that a step is handed out and carried out later, or never, because the task failed.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ferrogate_controller::follow::Follower;
use ferrogate_controller::snapshot::{Limits, Snapshot};
use ferrogate_model::Position;
use ferrogate_store::feed::{Ask, Cursor, Step};
use ferrogate_store::history::Seen;
use ferrogate_xds::Catalog;

use super::database::Database;
use super::{Plant, RUNTIMES};

/// See the module.
#[derive(Clone)]
pub struct Controller {
    plant: Option<Plant>,
    cursor: Cursor,
    follower: Follower,
    published: Option<Arc<Snapshot>>,
    /// From where it knows the past, which two snapshots of one position may differ in.
    loaded: Position,
    handed: Option<Step>,
    /// It has read something since it started.
    started: bool,
    seen: Seen,
    /// What each runtime connected here has acknowledged.
    pub fleet: [Option<Position>; RUNTIMES],
}

impl Controller {
    pub fn new(plant: Option<Plant>) -> Controller {
        Controller {
            plant,
            cursor: Cursor::new(None),
            follower: Follower::default(),
            published: None,
            loaded: Position::default(),
            handed: None,
            started: false,
            seen: Seen::default(),
            fleet: [None; RUNTIMES],
        }
    }

    pub fn published(&self) -> Option<&Arc<Snapshot>> {
        self.published.as_ref()
    }

    pub fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        self.published.clone().map(|snapshot| snapshot as Arc<dyn Catalog>)
    }

    pub fn has_step(&self) -> bool {
        self.handed.is_some()
    }

    /// Asks the database what the cursor wants to know. `None` when nothing came of it.
    pub fn read(&mut self, database: &mut Database) -> Option<()> {
        if self.handed.is_some() {
            return None;
        }
        if !std::mem::replace(&mut self.started, true)
            && let Some((past, head)) = database.recall(&mut self.seen)
        {
            self.loaded = past.position;
            self.follower = Follower::retracing(Arc::new(Snapshot::load(past, Limits::default())), head);
            self.cursor = Cursor::new(self.follower.position());
            return Some(());
        }
        let step = match self.cursor.ask() {
            Ask::Load => {
                let state = database.load(&mut self.seen);
                self.cursor.on_state(state)
            }
            Ask::ChangesSince(position) => {
                let changes = database.changes_since(position, &mut self.seen);
                self.cursor.on_changes(changes)
            }
        };
        if matches!(step, Step::Batch { .. } | Step::Reset(_)) {
            self.handed = Some(step);
            if self.plant == Some(Plant::CursorBeforeApply) {
                self.cursor.applied();
            }
        }
        Some(())
    }

    /// Carries out what was handed out, and publishes what follows. Says whether it did.
    pub fn apply(&mut self) -> Result<bool, String> {
        let next = match self.handed.take() {
            None | Some(Step::Wait | Step::Reload) => return Ok(false),
            Some(Step::Batch { changes, .. }) => {
                self.follower.batch(changes).map_err(|error| error.to_string())?
            }
            Some(Step::Reset(state)) => {
                self.loaded = state.position;
                self.follower.reset(Arc::new(Snapshot::load(state, Limits::default())))
            }
        };
        // The feed is asked for the next event: the last one has been applied.
        self.cursor.applied();
        let published = next.is_some();
        self.published = next.or(self.published.take());
        Ok(published)
    }

    /// The replication task failed before it applied anything, and is started again.
    pub fn restart_follower(&mut self) -> Option<()> {
        self.handed.take()?;
        if self.plant != Some(Plant::CursorBeforeApply) {
            self.follower = Follower::new(self.published.clone());
            self.cursor = Cursor::new(self.follower.position());
            self.started = self.published.is_some();
        }
        Some(())
    }

    /// Where the past begins that its snapshots know of.
    pub fn remembers_from(&self) -> Position {
        self.loaded
    }
}

impl Hash for Controller {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.cursor.hash(state);
        self.follower.position().hash(state);
        (self.loaded, self.started, self.seen, self.fleet).hash(state);
        self.published.as_ref().map(|snapshot| (snapshot.position(), snapshot.digest())).hash(state);
        match &self.handed {
            None | Some(Step::Wait | Step::Reload) => 0.hash(state),
            Some(Step::Batch { changes, .. }) => {
                for change in changes {
                    (change.revision, &change.name).hash(state);
                    change.artifact.as_ref().map(|artifact| &artifact.payload).hash(state);
                }
            }
            Some(Step::Reset(reset)) => {
                reset.position.hash(state);
                for artifact in &reset.artifacts {
                    (&artifact.name, artifact.revision, &artifact.payload).hash(state);
                }
            }
        }
    }
}
