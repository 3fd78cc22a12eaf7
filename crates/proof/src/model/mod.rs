// SPDX-License-Identifier: Apache-2.0
//! The sync protocol as a model: writers, a database that fails over and loses its tail,
//! two controllers, two runtimes and streams that lose, delay and reorder. It drives the
//! shipping transition functions, so that what holds here holds of them; what is modelled
//! is only the world around them. A planted bug is a variation of that world, or a wrapper
//! around one of the functions. [`report`] runs the scenarios.

mod audit;
mod controller;
mod database;
pub mod report;
mod runtime;
mod settle;
mod world;

use stateright::{Model, Property};

pub use audit::Broken;
pub use world::{Action, World};

const CONTROLLERS: usize = 2;
const RUNTIMES: usize = 2;
/// How many transactions a failover may lose.
const LOST: usize = 2;

/// A bug put in on purpose, to see that the model finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plant {
    /// Revisions are taken from a sequence, before the commit, instead of a locked counter.
    Sequence,
    /// The feed's cursor moves when changes are handed out, not when they are applied.
    CursorBeforeApply,
    /// A runtime acknowledges before its disk has the set.
    AckBeforeDisk,
    /// A runtime states its revision without the epoch when it connects.
    ResumeWithoutEpoch,
    /// The database takes up its line after a failover as if nothing had happened.
    NoEpochs,
}

impl Plant {
    /// Every one.
    pub const ALL: [Plant; 5] = [
        Plant::Sequence,
        Plant::CursorBeforeApply,
        Plant::AckBeforeDisk,
        Plant::ResumeWithoutEpoch,
        Plant::NoEpochs,
    ];
}

/// A promise as the model checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// P1.
    Line,
    /// P2.
    Back,
    /// P3.
    Live,
    /// P6.
    Bytes,
    /// P7.
    Converges,
    /// No assertion of the product fails.
    Assertions,
}

/// How much of the world is walked.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Runtimes that take part.
    pub runtimes: usize,
    /// Batches that writers begin.
    pub batches: u8,
    /// Faults that happen.
    pub faults: u8,
    /// The longest path, in actions; 0 for no limit.
    pub depth: usize,
    /// How small the steps are.
    pub grain: Grain,
}

/// How small the steps of writers and controllers are. Large ones leave more of a path's
/// length to the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Writers and followers can be interrupted; nothing has happened yet.
    Fine,
    /// They cannot, and the gateway begins in sync at its first batch.
    Coarse,
}

/// One model to check.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Its bounds.
    pub bounds: Bounds,
    /// The bug in it.
    pub plant: Option<Plant>,
    /// What to check.
    pub promises: Vec<Promise>,
}

impl Promise {
    /// What the report and stateright call it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Promise::Line => "P1 nothing is skipped, repeated or reordered",
            Promise::Back => "P2 a runtime never goes back",
            Promise::Live => "P3 what is live is served",
            Promise::Bytes => "P6 controllers at one position say the same",
            Promise::Converges => "P7 everything converges when the faults stop",
            Promise::Assertions => "no assertion of the product fails",
        }
    }

    fn property(self) -> Property<Protocol> {
        match self {
            Promise::Line => {
                Property::always(self.text(), |_, world: &World| !world.broken.contains(&Broken::Line))
            }
            Promise::Back => {
                Property::always(self.text(), |_, world: &World| !world.broken.contains(&Broken::Back))
            }
            Promise::Live => {
                Property::always(self.text(), |_, world: &World| !world.broken.contains(&Broken::Live))
            }
            Promise::Bytes => {
                Property::always(self.text(), |_, world: &World| !world.broken.contains(&Broken::Bytes))
            }
            Promise::Assertions => {
                Property::always(self.text(), |_, world: &World| !world.broken.contains(&Broken::Assertion))
            }
            Promise::Converges => Property::always(self.text(), |model: &Protocol, world: &World| {
                !world.broken.is_empty() || settle::converges(world, model.bounds.runtimes)
            }),
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let empty = World::new(self.plant);
        match self.bounds.grain {
            Grain::Fine => vec![empty],
            Grain::Coarse => settle::after_first_batch(&empty, self.bounds.runtimes).into_iter().collect(),
        }
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // Whatever follows from a broken promise says nothing.
        if !world.broken.is_empty() {
            return;
        }
        let database = &world.database;
        let coarse = self.bounds.grain == Grain::Coarse;
        if database.begun() < self.bounds.batches {
            actions.push(if coarse { Action::Write } else { Action::Begin });
        }
        actions.extend((0..database.open()).map(Action::Commit));
        for controller in 0..CONTROLLERS {
            if coarse {
                actions.push(Action::Follow(controller));
            } else {
                actions.extend([Action::Read(controller), Action::Apply(controller)]);
            }
        }
        for runtime in 0..self.bounds.runtimes {
            actions.extend((0..CONTROLLERS).map(|controller| Action::Connect(runtime, controller)));
            actions.extend([
                Action::Receive(runtime),
                Action::Persist(runtime),
                Action::Hear(runtime),
                Action::HearLate(runtime),
                Action::TimeOut(runtime),
                Action::PersistLate(runtime),
            ]);
        }
        if world.faults < self.bounds.faults {
            self.faults(world, actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(action)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        self.promises.iter().map(|promise| promise.property()).collect()
    }
}

impl Protocol {
    fn faults(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend((0..world.database.open()).map(Action::Abort));
        actions.extend((0..=LOST).map(Action::FailOver));
        actions.push(Action::Prune);
        for controller in 0..CONTROLLERS {
            actions.extend([Action::CrashController(controller), Action::RestartFollower(controller)]);
        }
        for runtime in 0..self.bounds.runtimes {
            actions.extend([
                Action::CrashRuntime(runtime),
                Action::RefuseWrite(runtime),
                Action::Cut(runtime),
                Action::LoseResponse(runtime),
                Action::LoseRequest(runtime),
                Action::Overtake(runtime),
            ]);
        }
    }
}
