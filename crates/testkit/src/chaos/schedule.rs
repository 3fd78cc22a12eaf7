// SPDX-License-Identifier: Apache-2.0
//! What breaks when: a seeded deck of every fault, each with its victim and its length. The
//! whole deck is dealt before any fault comes a second time. While one in three of them lasts,
//! a link of another part breaks as well. Pure, so that a seed names one schedule for ever;
//! [`super::faults`] carries it out.

use std::time::Duration;

use fastrand::Rng;

use crate::link::{Mode, Way};

/// A slow link delays every chunk by this long.
const SLOW: Duration = Duration::from_millis(200);
/// Bounds of the length of a fault that has one, in milliseconds.
const LENGTHS: std::ops::Range<u64> = 1_000..5_000;
/// Bounds of the calm after everything converged, in milliseconds.
const CALMS: std::ops::Range<u64> = 500..2_000;

/// One fault in so many has another beside it.
const PAIRED: u8 = 3;
/// How long after the first fault the second begins, in milliseconds: before the first is over.
const AFTER: std::ops::Range<u64> = 0..500;

/// Which kind of replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A controller.
    Controller,
    /// A runtime.
    Runtime,
}

/// Which links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// One controller's to PostgreSQL.
    Database,
    /// One runtime's to every controller.
    Stream,
    /// The load balancer's to one runtime.
    Balancer,
}

/// What a link fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breakage {
    /// Reset and refused.
    Cut,
    /// Nothing arrives from the side that connected.
    Mute,
    /// Nothing arrives from the side that was connected to.
    Deaf,
    /// Every chunk late.
    Slow,
    /// The peer vanished.
    HalfOpen,
    /// Reset once.
    Reset,
}

/// Everything that is done to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9`, and started again later.
    Kill(Role),
    /// SIGSTOP, later SIGCONT.
    Freeze(Role),
    /// SIGTERM, and started again once it has ended.
    Drain(Role),
    /// Every controller, every runtime and the database, one after the other.
    RollingRestart,
    /// A fault of a link.
    Link(Place, Breakage),
    /// `pg_ctl stop -m immediate`, and started again later.
    DatabaseStop,
    /// Every process of the server is killed, and started again later.
    DatabaseKill,
    /// `pg_ctl restart`.
    DatabaseRestart,
    /// The primary is stopped cleanly and the standby promoted.
    Failover,
    /// As [`Kind::Failover`], after a while in which the standby heard of nothing.
    FailoverLosingTail,
    /// Other clients take every connection that the server allows.
    ConnectionsExhausted,
    /// Another session holds the gateway's row.
    LongLock,
    /// A full disk under a runtime's data directory.
    RuntimeDiskFull,
    /// A full disk under the primary.
    DatabaseDiskFull,
    /// A process's wall clock is an hour ahead, then an hour behind, then right.
    Clock(Role),
    /// Database and controllers are all dead, and a runtime is killed and started again.
    Blackout,
}

/// One fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Which of the replicas of the role, where there is a choice.
    pub victim: usize,
    /// How long.
    pub length: Duration,
    /// The calm after it, once everything has converged.
    pub calm: Duration,
    /// What breaks besides while it lasts.
    pub beside: Option<Beside>,
}

/// A second fault, of a link that belongs to another part than the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Which kind of link.
    pub place: Place,
    /// Of which replica.
    pub victim: usize,
    /// How; never [`Breakage::Reset`], which does not last.
    pub breakage: Breakage,
    /// How long after the first it begins.
    pub after: Duration,
    /// How long it lasts; it may outlast the first.
    pub length: Duration,
}

/// The deck.
pub struct Schedule {
    rng: Rng,
    /// The shape: how many there are to choose from.
    controllers: usize,
    runtimes: usize,
    deck: Vec<Kind>,
}

impl Kind {
    /// Every kind once.
    #[must_use]
    pub fn all() -> Vec<Kind> {
        let mut all = vec![
            Kind::RollingRestart,
            Kind::DatabaseStop,
            Kind::DatabaseKill,
            Kind::DatabaseRestart,
            Kind::Failover,
            Kind::FailoverLosingTail,
            Kind::ConnectionsExhausted,
            Kind::LongLock,
            Kind::RuntimeDiskFull,
            Kind::DatabaseDiskFull,
            Kind::Blackout,
        ];
        for role in [Role::Controller, Role::Runtime] {
            all.extend([Kind::Kill(role), Kind::Freeze(role), Kind::Drain(role), Kind::Clock(role)]);
        }
        for place in Place::ALL {
            for breakage in Breakage::ALL {
                all.push(Kind::Link(place, breakage));
            }
        }
        all
    }

    /// Its name in the history, the figures and the plot.
    #[must_use]
    pub fn name(self) -> String {
        let of = |role: Role| match role {
            Role::Controller => "controller",
            Role::Runtime => "runtime",
        };
        match self {
            Kind::Kill(role) => format!("kill -9 {}", of(role)),
            Kind::Freeze(role) => format!("SIGSTOP {}", of(role)),
            Kind::Drain(role) => format!("SIGTERM {}", of(role)),
            Kind::RollingRestart => "rolling restart".to_owned(),
            Kind::Link(place, breakage) => format!("{} link {}", place.name(), breakage.name()),
            Kind::DatabaseStop => "database immediate stop".to_owned(),
            Kind::DatabaseKill => "database kill -9".to_owned(),
            Kind::DatabaseRestart => "database restart".to_owned(),
            Kind::Failover => "failover".to_owned(),
            Kind::FailoverLosingTail => "failover losing its tail".to_owned(),
            Kind::ConnectionsExhausted => "connections exhausted".to_owned(),
            Kind::LongLock => "long lock".to_owned(),
            Kind::RuntimeDiskFull => "runtime disk full".to_owned(),
            Kind::DatabaseDiskFull => "database disk full".to_owned(),
            Kind::Clock(role) => format!("clock off by 1 h, {}", of(role)),
            Kind::Blackout => "blackout and runtime restart".to_owned(),
        }
    }

    /// What its victim is; `None` when that is the database, or everything.
    #[must_use]
    pub fn role(self) -> Option<Role> {
        match self {
            Kind::Kill(role) | Kind::Freeze(role) | Kind::Drain(role) | Kind::Clock(role) => Some(role),
            Kind::Link(Place::Database, _) => Some(Role::Controller),
            Kind::Link(Place::Stream | Place::Balancer, _) | Kind::Blackout | Kind::RuntimeDiskFull => {
                Some(Role::Runtime)
            }
            Kind::RollingRestart
            | Kind::DatabaseStop
            | Kind::DatabaseKill
            | Kind::DatabaseRestart
            | Kind::Failover
            | Kind::FailoverLosingTail
            | Kind::ConnectionsExhausted
            | Kind::LongLock
            | Kind::DatabaseDiskFull => None,
        }
    }

    /// Whether this link belongs to another part than what the fault breaks, so that both can
    /// break at once and each be mended as if it were alone.
    fn leaves_alone(self, victim: usize, (place, other): (Place, usize)) -> bool {
        let of_controller = place == Place::Database;
        match self {
            Kind::Kill(Role::Controller) | Kind::Freeze(Role::Controller) | Kind::Drain(Role::Controller) => {
                !of_controller || other != victim
            }
            Kind::Kill(Role::Runtime) | Kind::Freeze(Role::Runtime) | Kind::Drain(Role::Runtime) => {
                of_controller || other != victim
            }
            // All controllers and their database are dead, so that their links mean nothing.
            Kind::Blackout => !of_controller && other != victim,
            // Who suffers these is the world's to say.
            Kind::Clock(Role::Controller) => !of_controller,
            Kind::Clock(Role::Runtime) | Kind::RuntimeDiskFull => of_controller,
            // One is of everything, the other over at once.
            Kind::RollingRestart | Kind::Link(_, Breakage::Reset) => false,
            Kind::Link(Place::Database, _) => !of_controller,
            Kind::Link(first, _) => place != first && (of_controller || other != victim),
            Kind::DatabaseStop
            | Kind::DatabaseKill
            | Kind::DatabaseRestart
            | Kind::Failover
            | Kind::FailoverLosingTail
            | Kind::ConnectionsExhausted
            | Kind::LongLock
            | Kind::DatabaseDiskFull => true,
        }
    }

    /// Whether it begins a new epoch.
    #[must_use]
    pub fn is_failover(self) -> bool {
        matches!(self, Kind::Failover | Kind::FailoverLosingTail)
    }
}

impl Place {
    const ALL: [Place; 3] = [Place::Database, Place::Stream, Place::Balancer];

    fn name(self) -> &'static str {
        match self {
            Place::Database => "controller-database",
            Place::Stream => "runtime-controller",
            Place::Balancer => "balancer-runtime",
        }
    }
}

impl Breakage {
    const ALL: [Breakage; 6] =
        [Breakage::Cut, Breakage::Mute, Breakage::Deaf, Breakage::Slow, Breakage::HalfOpen, Breakage::Reset];
    const LASTING: [Breakage; 5] =
        [Breakage::Cut, Breakage::Mute, Breakage::Deaf, Breakage::Slow, Breakage::HalfOpen];

    fn name(self) -> &'static str {
        match self {
            Breakage::Cut => "cut",
            Breakage::Mute => "silent outwards",
            Breakage::Deaf => "silent backwards",
            Breakage::Slow => "slow",
            Breakage::HalfOpen => "half-open",
            Breakage::Reset => "reset",
        }
    }

    /// The mode of the link meanwhile; `None` for what happens once.
    #[must_use]
    pub fn mode(self) -> Option<Mode> {
        match self {
            Breakage::Cut => Some(Mode::Cut),
            Breakage::Mute => Some(Mode::Silent(Way::Out)),
            Breakage::Deaf => Some(Mode::Silent(Way::Back)),
            Breakage::Slow => Some(Mode::Slow(SLOW)),
            Breakage::HalfOpen => Some(Mode::HalfOpen),
            Breakage::Reset => None,
        }
    }
}

impl Schedule {
    /// The schedule of a seed, for a gateway of this shape.
    #[must_use]
    pub fn new(seed: u64, controllers: usize, runtimes: usize) -> Schedule {
        Schedule { rng: Rng::with_seed(seed), controllers, runtimes, deck: Vec::new() }
    }

    /// Deals the next fault.
    pub fn deal(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = Kind::all();
            self.rng.shuffle(&mut self.deck);
        }
        let kind = self.deck.pop().unwrap_or(Kind::RollingRestart);
        let choices = match kind.role() {
            Some(Role::Controller) => self.controllers,
            Some(Role::Runtime) | None => self.runtimes,
        };
        // Drawn whether needed or not: what one kind needs does not shift the others.
        let victim = self.rng.usize(..choices);
        Fault {
            kind,
            victim,
            length: Duration::from_millis(self.rng.u64(LENGTHS)),
            calm: Duration::from_millis(self.rng.u64(CALMS)),
            beside: self.beside(kind, victim),
        }
    }

    fn beside(&mut self, kind: Kind, victim: usize) -> Option<Beside> {
        let of = |place| if place == Place::Database { self.controllers } else { self.runtimes };
        let links = Place::ALL.into_iter().flat_map(|place| (0..of(place)).map(move |index| (place, index)));
        let apart: Vec<_> = links.filter(|link| kind.leaves_alone(victim, *link)).collect();
        let paired = self.rng.u8(..PAIRED) == 0;
        let link = apart.get(self.rng.usize(..apart.len().max(1))).copied();
        let breakage = Breakage::LASTING[self.rng.usize(..Breakage::LASTING.len())];
        let after = Duration::from_millis(self.rng.u64(AFTER));
        let length = Duration::from_millis(self.rng.u64(LENGTHS));
        let (place, victim) = link.filter(|_| paired)?;
        Some(Beside { place, victim, breakage, after, length })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Breakage, Kind, Place, Role, Schedule};

    #[test]
    fn a_seed_is_one_schedule_and_a_deck_holds_every_kind_once() {
        let all = Kind::all();
        let deal = |seed| {
            let mut schedule = Schedule::new(seed, 3, 4);
            (0..2 * all.len()).map(|_| schedule.deal()).collect::<Vec<_>>()
        };
        let (once, again, other) = (deal(7), deal(7), deal(8));
        assert_eq!(once, again);
        assert_ne!(once, other);
        for deck in once.chunks(all.len()) {
            let kinds: BTreeSet<Kind> = deck.iter().map(|fault| fault.kind).collect();
            assert_eq!(kinds, all.iter().copied().collect());
        }
    }

    #[test]
    fn a_second_fault_is_of_another_part_and_comes_to_every_kind_that_lasts() {
        let mut schedule = Schedule::new(1, 3, 4);
        let mut paired = BTreeSet::new();
        for fault in (0..100 * Kind::all().len()).map(|_| schedule.deal()) {
            let Some(beside) = fault.beside else { continue };
            paired.insert(fault.kind);
            assert!(beside.breakage != Breakage::Reset && beside.after < fault.length, "{fault:?}");
            let same_runtime = beside.place != Place::Database && beside.victim == fault.victim;
            match fault.kind {
                Kind::Kill(Role::Runtime)
                | Kind::Freeze(Role::Runtime)
                | Kind::Drain(Role::Runtime)
                | Kind::Blackout
                | Kind::Link(Place::Stream | Place::Balancer, _) => assert!(!same_runtime, "{fault:?}"),
                Kind::Kill(Role::Controller)
                | Kind::Freeze(Role::Controller)
                | Kind::Drain(Role::Controller) => {
                    let same = beside.place == Place::Database && beside.victim == fault.victim;
                    assert!(!same, "{fault:?}");
                }
                _ => {}
            }
        }
        let alone = |kind: &Kind| matches!(kind, Kind::RollingRestart | Kind::Link(_, Breakage::Reset));
        assert_eq!(paired, Kind::all().into_iter().filter(|kind| !alone(kind)).collect());
    }

    #[test]
    fn no_two_kinds_share_a_name() {
        let names: BTreeSet<String> = Kind::all().into_iter().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::all().len());
    }
}
