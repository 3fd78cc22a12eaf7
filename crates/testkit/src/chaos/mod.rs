// SPDX-License-Identifier: Apache-2.0
//! Chaos on real processes: a whole gateway under clients that check every answer, beaten
//! with every fault of a seeded schedule, and a verdict per promise of
//! `docs/reliability.md`. Started by `cargo xtask chaos`; the walk is [`world`] (what is
//! beaten), [`clients`] and [`truth`] (what is checked), [`schedule`] and [`faults`] (what
//! is done), [`verdict`] and [`report`] (what came of it).

pub mod balancer;
pub mod beside;
pub mod clients;
pub mod database;
pub mod disk;
pub mod faults;
pub mod history;
pub mod plot;
pub mod report;
pub mod sampler;
pub mod schedule;
pub mod truth;
pub mod verdict;
pub mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::sleep;

use clients::{Shared, WRITE_DEADLINE, WRITERS};
use history::History;
use schedule::Schedule;
use truth::Truth;
use verdict::Verdict;
use world::{CONTROLLERS, RUNTIMES, World};

/// Clients of the balancer; each sends one request after the other.
const READERS: u32 = 16;
/// Traffic before the first fault and after the last.
const CALM: Duration = Duration::from_secs(3);

/// What to do.
pub struct Options {
    /// The ferrogate binary.
    pub binary: PathBuf,
    /// The folder for everything that is left of the run; emptied.
    pub out: PathBuf,
    /// No fault begins after this.
    pub length: Duration,
    /// Which schedule.
    pub seed: u64,
    /// Requests per second through the balancer.
    pub reads: u32,
    /// Writes per second.
    pub writes: u32,
}

/// Runs it all; answers the verdict, whose report lies in the output folder.
///
/// # Errors
/// When the gateway cannot be built, a fault not be carried out, or nothing ever recovers.
pub async fn run(options: &Options) -> anyhow::Result<Verdict> {
    let root = options.out.join("replicas");
    if options.out.exists() {
        std::fs::remove_dir_all(&options.out)?;
    }
    std::fs::create_dir_all(&root)?;
    let mut world = World::start(&options.binary, &root).await?;
    let shared = Arc::new(Shared {
        truth: Truth::new(RUNTIMES.len()),
        history: History::begin(&options.out.join("history.jsonl"))?,
        stop: AtomicBool::new(false),
        upstreams: world.backends.iter().map(crate::backend::Backend::url).collect(),
    });
    let digests = Arc::new(sampler::Digests::default());
    let mut clients = start_clients(&world, &shared, options);
    for replica in world.replicas() {
        clients.spawn(sampler::sample(Arc::clone(&shared), replica.view.clone(), Arc::clone(&digests)));
    }
    let broken = torment(&mut world, &shared, options).await;
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.context("a client died")?;
    }
    // What is known is reported even when the run could not go on.
    let verdict = verdict::reach(&world, &shared, digests.positions()).await;
    shared.history.flush()?;
    let verdict = match (broken, verdict) {
        (Ok(()), verdict) => verdict?,
        (Err(broken), Ok(verdict)) => verdict.and_broken(format!("{broken:#}")),
        (Err(broken), Err(verdict)) => return Err(broken.context(format!("and then: {verdict:#}"))),
    };
    report::write(options, &shared.history.kept(), &verdict)?;
    Ok(verdict)
}

fn start_clients(world: &World, shared: &Arc<Shared>, options: &Options) -> JoinSet<()> {
    let every = |rate: u32, among: u32| Duration::from_secs(1) * among / rate.max(1);
    let mut clients = JoinSet::new();
    let writers = u32::try_from(WRITERS).unwrap_or(1);
    for writer in 0..WRITERS {
        let controllers = world.managements(WRITE_DEADLINE);
        let pace = every(options.writes, writers);
        clients.spawn(clients::write(Arc::clone(shared), writer, controllers, pace, options.seed));
    }
    let base = format!("http://{}", world.balancer.address);
    for reader in 0..READERS {
        let (shared, base) = (Arc::clone(shared), base.clone());
        let seed = options.seed.wrapping_add(1_000 + u64::from(reader));
        clients.spawn(clients::read(shared, base, every(options.reads, READERS), seed));
    }
    for (index, runtime) in world.runtimes.iter().enumerate() {
        let seed = options.seed.wrapping_add(2_000 + index as u64);
        // Together as many as through the balancer's every second reader.
        let pace = every(options.reads / 2, u32::try_from(RUNTIMES.len()).unwrap_or(1));
        clients.spawn(clients::probe(Arc::clone(shared), index, runtime.view.clone(), pace, seed));
    }
    clients
}

async fn torment(world: &mut World, shared: &Arc<Shared>, options: &Options) -> anyhow::Result<()> {
    let mut schedule = Schedule::new(options.seed, CONTROLLERS.len(), RUNTIMES.len());
    sleep(CALM).await;
    while shared.history.elapsed() + CALM < options.length {
        let fault = schedule.deal();
        faults::carry_out(world, shared, &fault).await?;
        if fault.kind.is_failover() {
            world.database.add_standby().await?;
        }
    }
    sleep(CALM).await;
    Ok(())
}
