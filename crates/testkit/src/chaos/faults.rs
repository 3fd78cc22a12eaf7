// SPDX-License-Identifier: Apache-2.0
//! Carries out a fault, and the one that may be beside it: breaks, waits, mends, and then
//! measures how long it takes until every replica serves a revision that was written after
//! the end of the last (P7). Which fault and when is the schedule's business; whether what
//! clients saw was right is the truth's.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::beside::{Second, end, hold, lingers};
use super::clients::Shared;
use super::history::Promise;
use super::sampler;
use super::schedule::{Breakage, Fault, Kind, Place, Role};
use super::world::{ON_SMALL_DISK, World};
use crate::eventually::eventually_async;
use crate::link::{Link, Switch};
use crate::postgres::StopMode;

/// Within this all replicas must serve what was written after a fault's end, or P7 is broken.
pub const CONVERGE: Duration = Duration::from_secs(30);
/// After this the run makes no sense any more.
const HOPELESS: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
const DRAIN: Duration = Duration::from_secs(30);
const READY: Duration = Duration::from_secs(30);

/// Carries out the fault and waits until all is well again.
///
/// # Errors
/// When the fault itself could not be carried out, or nothing ever recovers.
pub async fn carry_out(world: &mut World, shared: &Arc<Shared>, fault: &Fault) -> anyhow::Result<()> {
    let band = shared.history.begin_band(fault.kind.name(), victim(world, fault.kind, fault.victim));
    if let Some(reason) = world.lacks(fault.kind) {
        let ended = shared.history.now();
        shared.history.band(band, |band| {
            band.ended = ended;
            band.note = format!("not done: {reason}");
        });
        return Ok(());
    }
    let affected = affected(fault.kind, fault.victim);
    shared.history.band(band, |band| {
        band.breaks = affected;
        band.lingers = lingers(fault.kind);
        band.paired = fault.beside.is_some();
    });
    let beside = fault.beside.map(|beside| Second::of(world, beside));
    let first = async {
        Broken { world: &mut *world, shared, band }.carry_out(fault).await?;
        anyhow::Ok((end(shared, band), band))
    };
    let second = async {
        match &beside {
            Some(second) => Some(second.carry_out(shared, band).await),
            None => None,
        }
    };
    let (first, second) = tokio::join!(first, second);
    let first = first.with_context(|| fault.kind.name())?;
    let (ended, last) = second.map_or(first, |second| second.max(first));
    check_alive(world, shared).await?;
    let converged = converge(world, shared, ended).await?;
    shared.history.band(last, |band| band.converged = Some(converged));
    sleep(fault.calm).await;
    Ok(())
}

/// Who suffers it, in words.
pub(super) fn victim(world: &World, kind: Kind, victim: usize) -> String {
    // Who suffers some of them is the world's to say.
    let controller = if matches!(kind, Kind::Clock(_)) { world.controllers.len() - 1 } else { victim };
    let runtime = match kind {
        Kind::Clock(_) => world.runtimes.len() - 1,
        Kind::RuntimeDiskFull => ON_SMALL_DISK,
        _ => victim,
    };
    match kind.role() {
        Some(Role::Controller) => world.controllers[controller].name.clone(),
        Some(Role::Runtime) => world.runtimes[runtime].name.clone(),
        None if kind == Kind::RollingRestart => "everything".to_owned(),
        None => "PostgreSQL".to_owned(),
    }
}

/// The runtimes whose open connections it breaks. A drain is not among these: it must lose
/// nothing.
pub(super) fn affected(kind: Kind, victim: usize) -> Vec<usize> {
    let breaks = matches!(
        kind,
        Kind::Kill(Role::Runtime)
            | Kind::Freeze(Role::Runtime)
            | Kind::Link(Place::Balancer, _)
            | Kind::Blackout
    );
    if breaks { vec![victim] } else { Vec::new() }
}

/// A gateway with something broken about it.
struct Broken<'a> {
    world: &'a mut World,
    shared: &'a Shared,
    band: usize,
}

impl Broken<'_> {
    async fn carry_out(mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault.kind {
            Kind::Kill(role) => {
                let replica = self.world.replica(role, fault.victim);
                replica.kill().await?;
                sleep(fault.length).await;
                replica.start_again().await
            }
            Kind::Freeze(role) => {
                let process = self.world.replica(role, fault.victim).process();
                process.signal(Signal::STOP)?;
                sleep(fault.length).await;
                process.signal(Signal::CONT)
            }
            Kind::Drain(role) => self.restart(role, fault.victim).await,
            Kind::RollingRestart => self.rolling_restart().await,
            Kind::Link(place, breakage) => {
                self.break_links(place, breakage, fault).await;
                Ok(())
            }
            Kind::DatabaseStop => {
                self.world.database.stop(StopMode::Immediate).await?;
                sleep(fault.length).await;
                self.world.database.start_again().await
            }
            Kind::DatabaseKill => {
                self.world.database.kill().await?;
                sleep(fault.length).await;
                self.world.database.start_again().await
            }
            Kind::DatabaseRestart => {
                self.world.database.stop(StopMode::Fast).await?;
                self.world.database.start_again().await
            }
            Kind::Failover => self.fail_over(None).await,
            Kind::FailoverLosingTail => self.fail_over(Some(fault.length)).await,
            Kind::ConnectionsExhausted => {
                let taken = self.world.database.exhaust().await?;
                sleep(fault.length).await;
                drop(taken);
                Ok(())
            }
            Kind::LongLock => self.world.database.hold_lock(fault.length.as_secs_f64()).await,
            Kind::RuntimeDiskFull => {
                let disk = self.world.runtime_disk.as_ref().context("there is a small disk")?;
                disk.fill()?;
                sleep(fault.length).await;
                Ok(disk.free()?)
            }
            Kind::DatabaseDiskFull => self.fill_database_disk(fault.length).await,
            Kind::Clock(role) => {
                let last = match role {
                    Role::Controller => self.world.controllers.last(),
                    Role::Runtime => self.world.runtimes.last(),
                };
                let replica = last.context("there is one")?;
                for offset in ["+1h", "-1h"] {
                    replica.set_clock(offset)?;
                    sleep(fault.length).await;
                }
                replica.set_clock("+0")
            }
            Kind::Blackout => self.black_out(fault.victim).await,
        }
    }

    async fn restart(&mut self, role: Role, index: usize) -> anyhow::Result<()> {
        let replica = self.world.replica(role, index);
        let status = replica.terminate(DRAIN).await?;
        if !status.success() {
            let what = format!("{}: it ended with {status} on SIGTERM", replica.name);
            self.shared.history.violation(Promise::P7, what);
        }
        replica.start_again().await?;
        if role == Role::Runtime {
            replica.wait_ready(READY).await?;
        }
        Ok(())
    }

    async fn rolling_restart(&mut self) -> anyhow::Result<()> {
        for index in 0..self.world.controllers.len() {
            self.restart(Role::Controller, index).await?;
        }
        for index in 0..self.world.runtimes.len() {
            self.restart(Role::Runtime, index).await?;
        }
        self.world.database.stop(StopMode::Fast).await?;
        self.world.database.start_again().await
    }

    async fn break_links(&self, place: Place, breakage: Breakage, fault: &Fault) {
        let links = self.world.links(place, fault.victim);
        if breakage == Breakage::Reset {
            links.iter().for_each(Link::reset);
            return;
        }
        let switches: Vec<Switch> = links.iter().map(Link::switch).collect();
        hold(&switches, breakage.mode(), fault.length).await;
    }

    /// `losing`: how long the standby hears of nothing before.
    async fn fail_over(&mut self, losing: Option<Duration>) -> anyhow::Result<()> {
        let (database, shared) = (&mut self.world.database, self.shared);
        database.ensure_standby().await?;
        if let Some(length) = losing {
            database.sever_standby();
            sleep(length).await;
        }
        shared.truth.begin_failover();
        // A clean stop waits until the standby has everything.
        let mode = if losing.is_some() { StopMode::Immediate } else { StopMode::Fast };
        database.stop(mode).await?;
        let failed_over = shared.history.now();
        let last = database.promote().await?;
        let lost = shared.truth.fail_over(last);
        database.redirect();
        shared.history.band(self.band, |band| {
            band.failed_over = Some(failed_over);
            band.note = format!("the standby ended at revision {last}; {lost} acknowledged writes after it");
        });
        if losing.is_none() && lost > 0 {
            let what = format!("{lost} acknowledged writes were lost in a clean failover at {last}");
            shared.history.violation(Promise::P8, what);
        }
        Ok(())
    }

    async fn fill_database_disk(&self, length: Duration) -> anyhow::Result<()> {
        let disk = self.world.database_disk.as_ref().context("there is a small disk")?;
        disk.fill()?;
        sleep(length).await;
        disk.free()?;
        // A server that could not write its log has given up, as it should; somebody starts it.
        if !self.world.database.answers().await {
            self.world.database.stop(StopMode::Immediate).await.ok();
            self.world.database.start_again().await?;
        }
        Ok(())
    }

    async fn black_out(&mut self, runtime: usize) -> anyhow::Result<()> {
        for controller in &mut self.world.controllers {
            controller.kill().await?;
        }
        self.world.database.stop(StopMode::Immediate).await?;
        let replica = &mut self.world.runtimes[runtime];
        replica.kill().await?;
        replica.start_again().await?;
        let began = Instant::now();
        match replica.wait_ready(READY).await {
            // That it serves what it owes is seen by its probe, which is never told to stop.
            Ok(()) => self.shared.history.evidence(
                Promise::P4,
                format!(
                    "{} started with nobody home and was ready {} ms later",
                    replica.name,
                    began.elapsed().as_millis()
                ),
            ),
            Err(error) => {
                self.shared.history.violation(Promise::P4, format!("{}: {error:#}", replica.name));
            }
        }
        sleep(Duration::from_secs(2)).await;
        self.world.database.start_again().await?;
        for controller in &mut self.world.controllers {
            controller.start_again().await?;
        }
        Ok(())
    }
}

/// A replica that ended by itself is a promise broken; it is started again so that the run
/// can go on.
async fn check_alive(world: &mut World, shared: &Shared) -> anyhow::Result<()> {
    for replica in world.controllers.iter_mut().chain(&mut world.runtimes) {
        if let Some(status) = replica.ended() {
            let what = format!("{}: it ended by itself with {status}", replica.name);
            shared.history.violation(Promise::P7, what);
            replica.kill().await.ok();
            replica.start_again().await?;
        }
    }
    Ok(())
}

/// Waits until every replica serves a revision that was written after `since`; answers how
/// many milliseconds after it that was.
async fn converge(world: &World, shared: &Shared, since: u64) -> anyhow::Result<u64> {
    let limit = u64::try_from(CONVERGE.as_millis())?;
    let hopeless = Instant::now() + HOPELESS;
    let written = eventually_async(HOPELESS, || async { shared.history.first_write_since(since) });
    let written = written.await.context("nothing can be written any more")?;
    let mut waiting: Vec<_> = world.replicas().map(|replica| replica.view.clone()).collect();
    let http = reqwest::Client::new();
    let mut epoch = 0;
    while !waiting.is_empty() {
        let mut behind = Vec::new();
        for view in waiting {
            let state = sampler::ask(&http, &view).await;
            let there = state.as_ref().is_ok_and(|state| {
                epoch = epoch.max(state.position.0);
                state.connected && state.position >= (epoch, written.revision)
            });
            if !there {
                behind.push((view, state));
            }
        }
        if Instant::now() >= hopeless {
            let behind: Vec<_> = behind.iter().map(|(view, state)| (&view.name, state)).collect();
            anyhow::bail!("never converged on revision {}: {behind:?}", written.revision);
        }
        waiting = behind.into_iter().map(|(view, _)| view).collect();
        sleep(POLL).await;
    }
    let took = shared.history.now().saturating_sub(since);
    if took > limit {
        shared.history.violation(Promise::P7, format!("converged only {took} ms after the fault"));
    }
    Ok(took)
}
