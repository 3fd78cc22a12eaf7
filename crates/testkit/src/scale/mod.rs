// SPDX-License-Identifier: Apache-2.0
//! What the number of APIs costs: one gateway of real processes grows from size to size,
//! and at each size the same things are done to it and measured. What must not depend on
//! the total (a change, a lookup, a reconnect) stands beside what may (memory, starts).
//! `cargo xtask scale` runs this; [`report`] makes the tables and the plot.

mod fleet;
mod meter;
pub mod report;
mod traffic;
mod world;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

pub use world::Took;

use ferrogate_xds::Held;
use fleet::Fleet;
use world::{DEADLINE, World};

/// Operations of each API.
pub const OPERATIONS: usize = 8;
/// How long nothing is done, to see what that costs.
const IDLE: Duration = Duration::from_secs(5);
/// The allocator gives pages back with a delay; memory is looked at after this.
const SETTLE: Duration = Duration::from_secs(5);
const REQUESTS: u64 = 20_000;
/// The few APIs that lookups among many are compared to.
const FEW: usize = 10;

/// What to measure.
pub struct Options {
    /// The ferrogate binary.
    pub binary: PathBuf,
    /// Numbers of APIs, growing.
    pub sizes: Vec<usize>,
    /// Changes whose cost is measured at each size, one after another.
    pub changes: usize,
    /// Changes after which memory must be what it was; made at the first size that has this
    /// many APIs or, when none has, at the last.
    pub soak: usize,
    /// Simulated runtimes that reconnect at each size.
    pub fleet: usize,
}

/// The figures of one size.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// APIs deployed.
    pub apis: usize,
    /// How long the deployment took since the size before, until served.
    pub deployed_in: Duration,
    /// Memory in KiB right after that, and again after a start.
    pub controller: Memory,
    /// As `controller`.
    pub runtime: Memory,
    /// A controller's start from PostgreSQL.
    pub controller_start: Took,
    /// A runtime's start from an empty disk.
    pub first_sync: Took,
    /// A runtime's start from its disk, without a controller.
    pub cold_start: Took,
    /// One change.
    pub change: Change,
    /// Processor time of a request that is spread over all APIs, and over ten of them.
    pub request: [Duration; 2],
    /// The fleet's reconnect.
    pub reconnect: Reconnect,
    /// Memory before and after many changes; only at one size.
    pub soak: Option<Soak>,
}

/// Memory of one process, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// With what growing left behind.
    pub grown: u64,
    /// Loaded at a start.
    pub fresh: u64,
}

/// What one change costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Processor time of the controller, validation and commit included.
    pub controller: Duration,
    /// Processor time of the runtime, its write to disk included.
    pub runtime: Duration,
    /// Bytes to a runtime.
    pub bytes: u64,
    /// From the request to the answer that it is live.
    pub live: Duration,
    /// Processor time of the controller in a second without any change.
    pub idle_controller: Duration,
    /// As `idle_controller`.
    pub idle_runtime: Duration,
}

/// What the return of all runtimes costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reconnect {
    /// How many there are.
    pub runtimes: usize,
    /// From the controller's start to the last one's confirmation.
    pub wall: Duration,
    /// Of that, until the controller had loaded.
    pub loading: Duration,
    /// Bytes to all of them together.
    pub bytes: u64,
    /// Artifacts sent to all of them together.
    pub resources: u64,
    /// Processor time of the controller beyond what its start costs alone.
    pub cpu: Duration,
}

/// Memory before and after many changes, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Soak {
    /// How many changes.
    pub changes: usize,
    /// Controller before and after.
    pub controller: [u64; 2],
    /// Runtime before and after.
    pub runtime: [u64; 2],
}

/// Measures every size.
///
/// # Errors
/// When something does not work: a wrong answer is not a figure.
pub async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let mut world = World::start(&options.binary).await?;
    let soak_at = options.sizes.iter().find(|size| **size >= options.soak).or(options.sizes.last()).copied();
    let mut rows = Vec::new();
    for size in &options.sizes {
        let mut row = measure(&mut world, *size, options).await.with_context(|| format!("at {size} APIs"))?;
        if soak_at == Some(*size) && options.soak > 0 {
            row.soak = Some(soak(&world, options.soak).await.context("many changes")?);
        }
        eprintln!("{row:?}");
        rows.push(row);
    }
    drop(world);
    if options.fleet > 0 {
        // In a gateway of their own: whoever asks whether a change is live looks at every runtime
        // that was ever heard of, which is no matter of the number of APIs.
        let mut world = World::start(&options.binary).await?;
        for row in &mut rows {
            world.grow(row.apis).await?;
            let reconnect = reconnect(&mut world, options.fleet, row.controller_start.cpu).await;
            row.reconnect = reconnect.with_context(|| format!("a fleet at {} APIs", row.apis))?;
        }
    }
    Ok(rows)
}

async fn measure(world: &mut World, apis: usize, options: &Options) -> anyhow::Result<Row> {
    let mut row = Row { apis, deployed_in: world.grow(apis).await?, ..Row::default() };
    row.controller.grown = settled(|| world.controller()?.memory_kib()).await?;
    row.runtime.grown = world.runtime()?.memory_kib()?;
    row.cold_start = world.cold_start().await?;
    row.controller_start = world.restart_controller().await?;
    row.first_sync = world.first_sync().await?;
    world.level().await?;
    row.controller.fresh = settled(|| world.controller()?.memory_kib()).await?;
    row.runtime.fresh = world.runtime()?.memory_kib()?;
    row.change = change(world, options.changes).await?;
    row.request = [lookup(world, apis).await?, lookup(world, FEW.min(apis)).await?];
    Ok(row)
}

async fn change(world: &World, count: usize) -> anyhow::Result<Change> {
    // A simulated runtime beside the real one counts what a change is on the wire.
    let witness = Fleet::join("witness", 1, &world.stream(), &Held::default());
    witness.in_sync(DEADLINE).await?;
    world.change(count / 10).await?;
    let (controller, runtime) = (world.controller()?, world.runtime()?);
    let quiet = (controller.cpu()?, runtime.cpu()?);
    sleep(IDLE).await;
    let before = (controller.cpu()?, runtime.cpu()?);
    let bytes = witness.traffic().bytes.load(Ordering::Relaxed);
    let began = Instant::now();
    world.change(count).await?;
    let divided = |time: Duration| time / u32::try_from(count).unwrap_or(u32::MAX).max(1);
    let idle = |time: Duration| time.div_f64(IDLE.as_secs_f64());
    Ok(Change {
        live: divided(began.elapsed()),
        bytes: (witness.traffic().bytes.load(Ordering::Relaxed) - bytes) / (count as u64).max(1),
        controller: divided(controller.cpu()?.saturating_sub(before.0)),
        runtime: divided(runtime.cpu()?.saturating_sub(before.1)),
        idle_controller: idle(before.0.saturating_sub(quiet.0)),
        idle_runtime: idle(before.1.saturating_sub(quiet.1)),
    })
}

/// The runtime's processor time for one request to any of so many APIs.
async fn lookup(world: &World, apis: usize) -> anyhow::Result<Duration> {
    let (runtime, address) = (world.runtime()?, world.cluster.runtimes[0].address("http"));
    traffic::drive(address, apis, REQUESTS / 10).await?;
    let before = runtime.cpu()?;
    traffic::drive(address, apis, REQUESTS).await?;
    Ok(runtime.cpu()?.saturating_sub(before) / u32::try_from(REQUESTS)?)
}

/// The controller is gone and comes back to runtimes that hold everything.
async fn reconnect(world: &mut World, runtimes: usize, start_cpu: Duration) -> anyhow::Result<Reconnect> {
    let held = {
        let witness = Fleet::join("first", 1, &world.stream(), &Held::default());
        witness.in_sync(DEADLINE).await?;
        witness.held()
    };
    let fleet = Fleet::join("fleet", runtimes, &world.stream(), &held);
    fleet.in_sync(DEADLINE).await?;
    let traffic = fleet.traffic();
    let now = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (bytes, resources) = (now(&traffic.bytes), now(&traffic.resources));
    let head = world.head().await?;
    world.kill_controller().await?;
    fleet.alone(DEADLINE).await?;
    let began = Instant::now();
    let loading = world.start_controller(head).await?;
    fleet.in_sync(DEADLINE).await?;
    let wall = began.elapsed();
    Ok(Reconnect {
        runtimes,
        wall,
        loading: loading.wall,
        bytes: now(&traffic.bytes) - bytes,
        resources: now(&traffic.resources) - resources,
        cpu: world.controller()?.cpu()?.saturating_sub(start_cpu),
    })
}

async fn soak(world: &World, changes: usize) -> anyhow::Result<Soak> {
    let (controller, runtime) = (world.controller()?, world.runtime()?);
    let before = (settled(|| controller.memory_kib()).await?, runtime.memory_kib()?);
    world.soak(changes).await?;
    let after = (settled(|| controller.memory_kib()).await?, runtime.memory_kib()?);
    Ok(Soak { changes, controller: [before.0, after.0], runtime: [before.1, after.1] })
}

/// Memory when the allocator has given back what it will.
async fn settled(look: impl Fn() -> anyhow::Result<u64>) -> anyhow::Result<u64> {
    sleep(SETTLE).await;
    look()
}

/// A path of an API, another one for every number.
fn path(api: usize, number: u64) -> String {
    format!("/scale-{api}/items/{number}")
}
