// SPDX-License-Identifier: Apache-2.0
//! Whole gateways in simulation: the shipping feed, follower, config stream, runtime sync
//! and last-known-good on simulated hosts, network and time, over a database in memory that
//! fails in every way. One seed is one run; the same seed is the same run to the last
//! event. It decides nothing that the product decides. [`report`] runs many seeds.

mod controller;
mod database;
mod documents;
mod faults;
mod ledger;
mod network;
mod offload;
mod plant;
pub mod report;
mod runtime;
mod store;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_xds::client::Controller;
use turmoil::{Builder, Sim};

use documents::Documents;
use faults::Plan;
pub use ledger::Figures;
use ledger::Ledger;
use network::Resets;
pub use plant::Plant;
use store::Server;
use trouble::Trouble;

const CONTROLLERS: usize = 2;
const RUNTIMES: usize = 3;
/// A step of the simulation. Hosts take turns this often, so it is also the shortest way
/// from one host to another.
const TICK: Duration = Duration::from_millis(2);
const MIN_LATENCY: Duration = Duration::from_millis(1);
const MAX_LATENCY: Duration = Duration::from_millis(8);
/// After the last fault, within which all replicas must be at the head (P7): the time in
/// which a half-open connection is noticed at its end, and a few attempts to connect.
pub const CONVERGES_WITHIN: Duration = Duration::from_secs(20);

/// What the parts of one run share.
struct Run {
    server: Arc<Server>,
    trouble: Arc<Trouble>,
    ledger: Arc<Ledger>,
    documents: Arc<Documents>,
    resets: BTreeMap<String, Arc<Resets>>,
    plant: Option<Plant>,
}

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The promises that broke.
    pub broken: Vec<String>,
    /// What it amounts to.
    pub figures: Figures,
    /// How long it took in simulated time.
    pub simulated: Duration,
    /// Equal for two runs in which everything happened alike.
    pub trace: u64,
    /// What happened, a line each.
    pub history: String,
}

impl Run {
    fn new(seed: u64, plant: Option<Plant>) -> anyhow::Result<Run> {
        let server = Server::new();
        let hosts = (0..RUNTIMES).map(|index| (format!("r{index}"), Arc::default()));
        Ok(Run {
            ledger: Ledger::new(Arc::clone(&server)),
            trouble: Arc::new(Trouble::new(seed ^ 1)),
            documents: Documents::new(seed ^ 2)?,
            resets: hosts.collect(),
            server,
            plant,
        })
    }

    fn reset(&self, host: &str) {
        if let Some(resets) = self.resets.get(host) {
            resets.reset();
        }
    }

    fn hosts(&self, sim: &mut Sim<'_>, disks: &std::path::Path) {
        for index in 0..CONTROLLERS {
            let host = controller::Host {
                name: format!("c{index}"),
                server: Arc::clone(&self.server),
                trouble: Arc::clone(&self.trouble),
                ledger: Arc::clone(&self.ledger),
                documents: Arc::clone(&self.documents),
                plant: self.plant,
            };
            sim.host(host.name.clone(), move || controller::run(host.clone()));
        }
        for (name, resets) in &self.resets {
            let url = |index| Controller { url: format!("http://c{index}:{}", controller::PORT), zone: None };
            let host = runtime::Host {
                name: name.clone(),
                controllers: (0..CONTROLLERS).map(url).collect(),
                directory: disks.join(name),
                trouble: Arc::clone(&self.trouble),
                ledger: Arc::clone(&self.ledger),
                documents: Arc::clone(&self.documents),
                resets: Arc::clone(resets),
                plant: self.plant,
            };
            sim.host(host.name.clone(), move || runtime::run(host.clone()));
        }
    }

    /// Until the faults are over, then until everybody is at the head or the time is up.
    fn drive(&self, sim: &mut Sim<'_>, mut plan: Plan) {
        let mut over: Option<Duration> = None;
        loop {
            let now = sim.elapsed();
            plan.drive(now, sim, self);
            if let Err(error) = sim.step() {
                self.ledger.broke(&format!("a host ended: {error}"));
                return;
            }
            if over.is_none() && now >= faults::UNTIL && plan.is_over() {
                self.trouble.end();
                self.documents.stop();
                self.ledger.note_at(now, "the faults are over, and nobody writes any more");
                over = Some(now);
            }
            let Some(since) = over.map(|over| now - over) else { continue };
            let stragglers = self.ledger.stragglers(CONTROLLERS, RUNTIMES);
            if stragglers.is_empty() {
                return self.ledger.converged(since);
            }
            if since > CONVERGES_WITHIN {
                return self.ledger.broke(&format!("P7: not at the head in time: {}", stragglers.join(", ")));
            }
        }
    }
}

/// Runs one seed.
///
/// # Errors
/// When the machine has no room for the runtimes' files.
pub fn run(seed: u64) -> anyhow::Result<Outcome> {
    run_with(seed, None)
}

/// Runs one seed, with a bug if there is one.
///
/// # Errors
/// As [`run`].
pub fn run_with(seed: u64, plant: Option<Plant>) -> anyhow::Result<Outcome> {
    // Backoff and jitter of the product draw from here.
    fastrand::seed(seed);
    let run = Run::new(seed, plant)?;
    let disks = tempfile::tempdir_in(memory())?;
    let mut sim = Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .min_message_latency(MIN_LATENCY)
        .max_message_latency(MAX_LATENCY)
        .simulation_duration(Duration::from_secs(3600))
        .tcp_capacity(4096)
        .build();
    run.hosts(&mut sim, disks.path());
    run.drive(&mut sim, Plan::draw(seed ^ 3));
    let simulated = sim.elapsed();
    run.ledger.settle_accounts();
    // Judged before the hosts are taken apart: what they say then is not part of the run.
    let outcome = Outcome {
        seed,
        broken: run.ledger.broken(),
        figures: run.ledger.figures(),
        simulated,
        trace: run.ledger.trace(),
        history: run.ledger.history(),
    };
    drop(sim);
    Ok(outcome)
}

/// A file system in memory where there is one: a run writes thousands of small files.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}
