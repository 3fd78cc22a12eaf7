// SPDX-License-Identifier: Apache-2.0
//! The faults of one run, drawn from its seed, and the driver that makes them happen
//! between two steps of the simulation and takes them back. What ends by itself (a
//! failover, a kill, a reset) has no duration; a killed host comes back after a while.

use std::time::Duration;

use turmoil::Sim;

use super::trouble::Point;
use super::{CONTROLLERS, RUNTIMES, Run};

/// When the first fault may begin, and when all have ended.
const FROM: u64 = 1_000;
/// See [`FROM`].
pub const UNTIL: Duration = Duration::from_secs(15);

/// One fault.
#[derive(Clone, Debug)]
enum Fault {
    /// Nothing passes between two hosts.
    Partition(String, String),
    /// Nothing passes from one host to another, so that a connection stands half-open.
    OneWay(String, String),
    /// What passes waits until the fault ends.
    Hold(String, String),
    /// Messages take up to this long, and overtake one another.
    Delay(String, String, Duration),
    /// The connections of a runtime are reset.
    Reset(String),
    /// A host is killed now.
    Kill(String),
    /// A host is killed when it gets to this point.
    KillAt(String, Point),
    /// Every host is killed.
    KillAll,
    /// The database refuses everybody.
    Down,
    /// The database answers nobody.
    Pause,
    /// A controller cannot reach the database.
    CutOff(String),
    /// Hints are lost.
    Deaf,
    /// The database takes this many times as long, and commits this much longer.
    Slow(u32, Duration),
    /// Out of a hundred, commits that are lost and answers to commits that are lost.
    Lose(u8, u8),
    /// Another server takes over without the last transactions.
    FailOver(usize),
    /// The database restarts.
    Restart,
    /// All but the last changes are pruned.
    Prune(u64),
    /// A runtime's disk does not come back.
    Hang(String),
}

/// The faults of a run.
pub struct Plan {
    /// Begin and end of each, by begin.
    faults: Vec<(Duration, Duration, Fault)>,
    next: usize,
    active: Vec<(Duration, Fault)>,
    /// Hosts that are down, and when they come back.
    down: Vec<(Duration, String)>,
    /// From here on nobody writes: what was lost or left behind then is healed by nothing new.
    quiet_from: Duration,
    random: fastrand::Rng,
}

impl Plan {
    pub fn draw(seed: u64) -> Plan {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(3..=9);
        let until = u64::try_from(UNTIL.as_millis()).unwrap_or(u64::MAX);
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let begin = random.u64(FROM..until - 1_000);
                let end = (begin + random.u64(100..6_000)).min(until);
                (Duration::from_millis(begin), Duration::from_millis(end), Fault::draw(&mut random))
            })
            .collect();
        faults.sort_by_key(|(begin, ..)| *begin);
        let quiet_from = if random.bool() { random.u64(until / 3..until) } else { until };
        let quiet_from = Duration::from_millis(quiet_from);
        Plan { faults, next: 0, active: Vec::new(), down: Vec::new(), quiet_from, random }
    }

    /// What is due at this moment.
    pub fn drive(&mut self, now: Duration, sim: &mut Sim<'_>, run: &Run) {
        if now >= self.quiet_from {
            run.documents.stop();
        }
        for host in run.trouble.killed() {
            self.kill(now, &host, sim, run);
        }
        while let Some((begin, end, fault)) = self.faults.get(self.next).cloned()
            && begin <= now
        {
            self.next += 1;
            run.ledger.fault(now, &format!("{fault:?} for {} ms", (end - begin).as_millis()));
            self.begin(now, &fault, sim, run);
            self.active.push((end, fault));
        }
        let ended: Vec<Fault> =
            self.active.extract_if(.., |(end, _)| *end <= now).map(|(_, fault)| fault).collect();
        for fault in ended {
            end(now, &fault, sim, run);
        }
        let back: Vec<String> =
            self.down.extract_if(.., |(at, _)| *at <= now).map(|(_, host)| host).collect();
        for host in back {
            run.ledger.note_at(now, &format!("{host} starts again"));
            run.ledger.up(&host);
            sim.bounce(host);
        }
    }

    fn begin(&mut self, now: Duration, fault: &Fault, sim: &mut Sim<'_>, run: &Run) {
        match fault {
            Fault::Partition(one, other) => sim.partition(one.as_str(), other.as_str()),
            Fault::OneWay(from, to) => sim.partition_oneway(from.as_str(), to.as_str()),
            Fault::Hold(one, other) => sim.hold(one.as_str(), other.as_str()),
            Fault::Delay(one, other, most) => {
                sim.set_link_max_message_latency(one.as_str(), other.as_str(), *most);
            }
            Fault::Reset(host) => run.reset(host),
            Fault::Kill(host) => self.kill(now, host, sim, run),
            Fault::KillAt(host, point) => run.trouble.arm(host, *point),
            Fault::KillAll => {
                for host in controllers().chain(runtimes()) {
                    self.kill(now, &host, sim, run);
                }
            }
            Fault::Down => run.server.database().down = true,
            Fault::Pause => run.server.database().paused = true,
            Fault::CutOff(host) => run.trouble.cut(host, true),
            Fault::Deaf => run.server.database().deaf = true,
            Fault::Slow(times, commit) => run.trouble.slow_down(*times, *commit),
            Fault::Lose(commits, answers) => run.trouble.lose(*commits, *answers),
            Fault::FailOver(lost) => {
                let lost = run.server.database().fail_over(*lost);
                run.ledger.note_at(now, &format!("the failover lost {lost} batches"));
            }
            Fault::Restart => run.server.database().restart(),
            Fault::Prune(keep) => run.server.database().prune(*keep),
            Fault::Hang(host) => run.trouble.hang(host, true),
        }
    }

    fn kill(&mut self, now: Duration, host: &str, sim: &mut Sim<'_>, run: &Run) {
        if self.down.iter().any(|(_, down)| down == host) {
            return;
        }
        run.ledger.note_at(now, &format!("{host} is killed"));
        run.ledger.down(host);
        // What is left of it says farewell on each connection, in an order that tokio takes from
        // numbers it gives out per process. All of it takes equally long, so that no other
        // message of the run takes its chance from that order.
        self.set_latencies(host, sim, |_| super::MIN_LATENCY);
        sim.crash(host);
        self.set_latencies(host, sim, |between| between);
        let back = now + Duration::from_millis(self.random.u64(100..3_000));
        self.down.push((back.min(UNTIL.max(now)), host.to_owned()));
    }

    /// The longest a message takes between a host and each of its peers, from what it should be.
    fn set_latencies(&self, host: &str, sim: &Sim<'_>, chosen: impl Fn(Duration) -> Duration) {
        let peers: Vec<String> = if controllers().any(|name| name == host) {
            runtimes().collect()
        } else {
            controllers().collect()
        };
        for peer in peers {
            let delayed = self.active.iter().rev().find_map(|(_, fault)| match fault {
                Fault::Delay(one, other, most)
                    if [one, other].contains(&&peer) && [one.as_str(), other].contains(&host) =>
                {
                    Some(*most)
                }
                _ => None,
            });
            sim.set_link_max_message_latency(
                host,
                peer.as_str(),
                chosen(delayed.unwrap_or(super::MAX_LATENCY)),
            );
        }
    }

    /// Whether nothing is left of any fault.
    pub fn is_over(&self) -> bool {
        self.next == self.faults.len() && self.active.is_empty() && self.down.is_empty()
    }
}

fn end(now: Duration, fault: &Fault, sim: &mut Sim<'_>, run: &Run) {
    match fault {
        Fault::Partition(one, other) => sim.repair(one.as_str(), other.as_str()),
        Fault::OneWay(from, to) => sim.repair_oneway(from.as_str(), to.as_str()),
        Fault::Hold(one, other) => sim.release(one.as_str(), other.as_str()),
        Fault::Delay(one, other, _) => {
            sim.set_link_max_message_latency(one.as_str(), other.as_str(), super::MAX_LATENCY);
        }
        Fault::Down => run.server.database().down = false,
        Fault::Pause => run.server.database().paused = false,
        Fault::CutOff(host) => run.trouble.cut(host, false),
        Fault::Deaf => run.server.database().deaf = false,
        Fault::Slow(..) => run.trouble.slow_down(1, Duration::ZERO),
        Fault::Lose(..) => run.trouble.lose(0, 0),
        Fault::Hang(host) => run.trouble.hang(host, false),
        Fault::KillAt(host, _) => run.trouble.disarm(host),
        Fault::Reset(_)
        | Fault::Kill(_)
        | Fault::KillAll
        | Fault::FailOver(_)
        | Fault::Restart
        | Fault::Prune(_) => return,
    }
    run.ledger.note_at(now, &format!("over: {fault:?}"));
}

impl Fault {
    fn draw(random: &mut fastrand::Rng) -> Fault {
        let controller = format!("c{}", random.usize(..CONTROLLERS));
        let runtime = format!("r{}", random.usize(..RUNTIMES));
        let (from, to) = if random.bool() {
            (controller.clone(), runtime.clone())
        } else {
            (runtime.clone(), controller.clone())
        };
        match random.u8(..20) {
            0 => Fault::Partition(controller, runtime),
            1 | 2 => Fault::OneWay(from, to),
            3 => Fault::Hold(controller, runtime),
            4 => Fault::Delay(controller, runtime, Duration::from_millis(random.u64(50..800))),
            5 => Fault::Reset(runtime),
            6 => Fault::Kill(from),
            7 => Fault::KillAt(controller, Point::BeforeCommit),
            8 => Fault::KillAt(controller, Point::AfterCommit),
            9 => Fault::KillAt(runtime, Point::BeforeDisk),
            10 => Fault::KillAt(runtime, Point::BeforeAnswer),
            11 => Fault::KillAt(runtime, Point::AfterAnswer),
            12 => Fault::KillAll,
            13 => {
                if random.bool() {
                    Fault::Down
                } else {
                    Fault::Pause
                }
            }
            14 => Fault::CutOff(controller),
            15 => Fault::Deaf,
            16 => Fault::Slow(random.u32(5..100), Duration::from_millis(random.u64(..1_000))),
            17 => Fault::Lose(random.u8(..50), random.u8(..50)),
            18 => Fault::FailOver(random.usize(..4)),
            _ => match random.u8(..3) {
                0 => Fault::Restart,
                1 => Fault::Prune(random.u64(..5)),
                _ => Fault::Hang(runtime),
            },
        }
    }
}

fn controllers() -> impl Iterator<Item = String> {
    (0..CONTROLLERS).map(|index| format!("c{index}"))
}

fn runtimes() -> impl Iterator<Item = String> {
    (0..RUNTIMES).map(|index| format!("r{index}"))
}
