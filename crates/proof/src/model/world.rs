// SPDX-License-Identifier: Apache-2.0
//! The whole of the model at one moment: the database, two controllers, two runtimes and
//! what may happen next. Every action but the faults is a step that some shipping
//! function takes; after each one [`super::audit`] looks whether a promise broke.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use ferrogate_model::Position;

use super::audit::{self, Broken};
use super::controller::Controller;
use super::database::Database;
use super::runtime::{Heard, Runtime, Stream};
use super::{CONTROLLERS, Plant, RUNTIMES};

/// See the module.
#[derive(Clone)]
pub struct World {
    pub database: Database,
    pub controllers: [Controller; CONTROLLERS],
    pub runtimes: [Runtime; RUNTIMES],
    /// How many faults have happened.
    pub faults: u8,
    pub broken: Vec<Broken>,
    plant: Option<Plant>,
}

/// What may happen. The faults come second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A writer takes its revisions and commits, in one.
    Write,
    /// A controller asks the database, applies and publishes, in one.
    Follow(usize),
    /// A writer takes its revisions.
    Begin,
    /// The writer that began so many before the last one commits.
    Commit(usize),
    /// A controller asks the database.
    Read(usize),
    /// A controller applies what it read, and publishes.
    Apply(usize),
    /// A runtime opens a stream to a controller.
    Connect(usize, usize),
    /// A runtime takes a response.
    Receive(usize),
    /// A runtime's disk is done.
    Persist(usize),
    /// A controller takes a request of a runtime.
    Hear(usize),
    /// A controller takes a request of a stream that the runtime has given up.
    HearLate(usize),
    /// Nothing arrives on a runtime's stream, and the controller's patience ends.
    TimeOut(usize),
    /// The disk gets what was acknowledged before: only with a planted bug.
    PersistLate(usize),
    /// A writer dies within its transaction.
    Abort(usize),
    /// The database fails over and loses its last transactions.
    FailOver(usize),
    /// Old changes are dropped.
    Prune,
    /// A controller dies and starts again.
    CrashController(usize),
    /// A controller's replication task fails and starts again.
    RestartFollower(usize),
    /// A runtime dies and starts again.
    CrashRuntime(usize),
    /// A runtime's disk refuses the write.
    RefuseWrite(usize),
    /// A stream is lost at the runtime's end.
    Cut(usize),
    /// A response is lost.
    LoseResponse(usize),
    /// A request is lost.
    LoseRequest(usize),
    /// A response overtakes another.
    Overtake(usize),
}

impl World {
    pub fn new(plant: Option<Plant>) -> World {
        World {
            database: Database::new(plant),
            controllers: std::array::from_fn(|_| Controller::new(plant)),
            runtimes: std::array::from_fn(|_| Runtime::new(plant)),
            faults: 0,
            broken: Vec::new(),
            plant,
        }
    }

    /// The world after an action; `None` when the action is not possible or changes nothing.
    pub fn after(&self, action: Action) -> Option<World> {
        let mut next = self.clone();
        // The assertions of the shipping code are part of what is checked.
        let taken = quietly(AssertUnwindSafe(|| next.act(action)));
        match taken {
            Ok(None) => return None,
            Ok(Some(Ok(()))) => audit::look(self, &mut next, action),
            Ok(Some(Err(_))) | Err(_) => next.broken.push(Broken::Assertion),
        }
        next.faults += u8::from(action.is_fault());
        Some(next)
    }

    fn act(&mut self, action: Action) -> Option<Result<(), String>> {
        let done = match action {
            Action::Write => {
                self.database.begin()?;
                self.database.commit(0)
            }
            Action::Follow(controller) => {
                self.controllers[controller].read(&mut self.database)?;
                return self.apply(controller).or(Some(Ok(())));
            }
            Action::Begin => self.database.begin(),
            Action::Commit(index) => self.database.commit(index),
            Action::Abort(index) => self.database.abort(index),
            Action::FailOver(lost) => self.database.fail_over(lost),
            Action::Prune => self.database.prune(),
            Action::Read(controller) => self.controllers[controller].read(&mut self.database),
            Action::Apply(controller) => return self.apply(controller),
            Action::RestartFollower(controller) => self.controllers[controller].restart_follower(),
            Action::CrashController(controller) => {
                self.crash_controller(controller);
                Some(())
            }
            Action::Connect(runtime, controller) => self.connect(runtime, controller),
            Action::Receive(runtime) => self.with_end(runtime, Runtime::receive),
            Action::Persist(runtime) => self.with_end(runtime, |runtime| runtime.persist(None)),
            Action::RefuseWrite(runtime) => self.with_end(runtime, |runtime| runtime.persist(Some("full"))),
            Action::PersistLate(runtime) => self.runtimes[runtime].persist_late(),
            Action::Cut(runtime) => self.with_end(runtime, Runtime::cut),
            Action::CrashRuntime(runtime) => self.with_end(runtime, Runtime::crash),
            Action::Hear(runtime) => self.hear(runtime),
            Action::HearLate(runtime) => self.hear_late(runtime),
            Action::TimeOut(runtime) => self.time_out(runtime),
            Action::LoseResponse(runtime) => self.stream(runtime)?.lose_down(),
            Action::LoseRequest(runtime) => self.stream(runtime)?.lose_up(),
            Action::Overtake(runtime) => self.stream(runtime)?.overtake_down(),
        };
        done.map(Ok)
    }

    fn apply(&mut self, index: usize) -> Option<Result<(), String>> {
        let controller = &mut self.controllers[index];
        if !controller.has_step() {
            return None;
        }
        match controller.apply() {
            Err(error) => return Some(Err(error)),
            Ok(false) => {}
            Ok(true) => {
                for runtime in 0..RUNTIMES {
                    self.publish_to(runtime, index);
                }
            }
        }
        Some(Ok(()))
    }

    fn publish_to(&mut self, runtime: usize, controller: usize) {
        let Some(catalog) = self.controllers[controller].catalog() else { return };
        let known = self.controllers[controller].remembers_from();
        if let Some(stream) = self.stream(runtime).filter(|stream| stream.controller == controller) {
            stream.publish(catalog, known);
        }
    }

    fn connect(&mut self, runtime: usize, controller: usize) -> Option<()> {
        self.runtimes[runtime].connect(controller)?;
        self.publish_to(runtime, controller);
        Some(())
    }

    /// What a runtime does may end its stream; its controller notices at once when nothing
    /// is left on the way.
    fn with_end(&mut self, runtime: usize, act: impl FnOnce(&mut Runtime) -> Option<()>) -> Option<()> {
        let controller = self.runtimes[runtime].stream.as_ref().map(|stream| stream.controller);
        act(&mut self.runtimes[runtime])?;
        let ended = self.runtimes[runtime].stream.is_none();
        if let (Some(controller), true, None) = (controller, ended, &self.runtimes[runtime].late) {
            self.controllers[controller].fleet[runtime] = None;
        }
        Some(())
    }

    fn hear(&mut self, runtime: usize) -> Option<()> {
        let controller = self.runtimes[runtime].stream.as_ref()?.controller;
        let epoch = self.controllers[controller].published().map(|snapshot| snapshot.position().epoch.0);
        let forgets = epoch.filter(|_| self.plant == Some(Plant::ResumeWithoutEpoch));
        let stream = self.stream(runtime)?;
        if let Some(epoch) = forgets {
            stream.forget_epoch(epoch);
        }
        let heard = stream.receive()?;
        if matches!(heard, Heard::Ended) {
            self.runtimes[runtime].stream = None;
        }
        self.told(runtime, controller, &heard);
        Some(())
    }

    fn hear_late(&mut self, runtime: usize) -> Option<()> {
        let late = Arc::make_mut(self.runtimes[runtime].late.as_mut()?);
        let controller = late.controller;
        let heard = late.receive()?;
        let over = late.is_over() || matches!(heard, Heard::Ended);
        self.told(runtime, controller, &heard);
        if over {
            self.runtimes[runtime].late = None;
            self.controllers[controller].fleet[runtime] = None;
        }
        Some(())
    }

    fn told(&mut self, runtime: usize, controller: usize, heard: &Heard) {
        let fleet = &mut self.controllers[controller].fleet[runtime];
        match heard {
            Heard::Connected => *fleet = Some(Position::default()),
            Heard::Applied(position) => {
                *fleet = Some(*position);
                let acknowledged = &mut self.runtimes[runtime].acknowledged;
                *acknowledged = (*acknowledged).max(*position);
            }
            Heard::Nothing => {}
            Heard::Ended => *fleet = None,
        }
    }

    fn time_out(&mut self, runtime: usize) -> Option<()> {
        let stream = self.runtimes[runtime].stream.as_ref()?;
        if self.runtimes[runtime].waits_for_disk() || !stream.times_out() {
            return None;
        }
        let controller = stream.controller;
        self.runtimes[runtime].stream = None;
        self.controllers[controller].fleet[runtime] = None;
        Some(())
    }

    fn crash_controller(&mut self, controller: usize) {
        self.controllers[controller] = Controller::new(self.plant);
        for runtime in &mut self.runtimes {
            // What it had sent is lost with it: the runtime sees its stream end.
            if runtime.stream.as_ref().is_some_and(|stream| stream.controller == controller) {
                runtime.stream = None;
            }
            if runtime.late.as_ref().is_some_and(|late| late.controller == controller) {
                runtime.late = None;
            }
        }
    }

    fn stream(&mut self, runtime: usize) -> Option<&mut Stream> {
        self.runtimes[runtime].stream.as_mut().map(Arc::make_mut)
    }
}

impl Action {
    pub fn is_fault(self) -> bool {
        match self {
            Action::Write
            | Action::Follow(_)
            | Action::Begin
            | Action::Commit(_)
            | Action::Read(_)
            | Action::Apply(_)
            | Action::Connect(..)
            | Action::Receive(_)
            | Action::Persist(_)
            | Action::Hear(_)
            | Action::HearLate(_)
            | Action::TimeOut(_)
            | Action::PersistLate(_) => false,
            Action::Abort(_)
            | Action::FailOver(_)
            | Action::Prune
            | Action::CrashController(_)
            | Action::RestartFollower(_)
            | Action::CrashRuntime(_)
            | Action::RefuseWrite(_)
            | Action::Cut(_)
            | Action::LoseResponse(_)
            | Action::LoseRequest(_)
            | Action::Overtake(_) => true,
        }
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.database, &self.controllers, &self.runtimes, self.faults, &self.broken).hash(state);
    }
}

/// Sessions and snapshots have no equality of their own; what is hashed is all that matters.
impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        let hash = |world: &World| {
            let mut hasher = DefaultHasher::new();
            world.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database at {}", self.database.head().position)?;
        for (index, controller) in self.controllers.iter().enumerate() {
            let position = controller.published().map(|snapshot| snapshot.position()).unwrap_or_default();
            write!(f, ", controller {index} at {position}")?;
        }
        for (index, runtime) in self.runtimes.iter().enumerate() {
            let (served, disk) = (runtime.served.mark.position, runtime.disk.mark.position);
            write!(f, ", runtime {index} serves {served}, has {disk} on disk")?;
        }
        if self.broken.is_empty() { Ok(()) } else { write!(f, "; broken: {:?}", self.broken) }
    }
}

/// Runs something whose panic is an answer and no accident, so that it is not printed.
fn quietly<T>(act: AssertUnwindSafe<impl FnOnce() -> T>) -> std::thread::Result<T> {
    use std::cell::Cell;
    use std::sync::Once;
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let done = std::panic::catch_unwind(act);
    QUIET.set(false);
    done
}
