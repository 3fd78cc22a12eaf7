// SPDX-License-Identifier: Apache-2.0
//! A controller of the simulation: replication, leases, the live answer, the config stream
//! and a writer, put together as the product does, over the simulated store and sockets.
//! Only the management API is left out: its writer deploys through the same deployer.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::clock::Clock;
use ferrogate_base::tasks::Tasks;
use ferrogate_controller::deploy::{DeployError, Deployer, Deployment};
use ferrogate_controller::metrics::Metrics;
use ferrogate_controller::replicate::Replica;
use ferrogate_controller::snapshot::Limits;
use ferrogate_controller::status::Status;
use ferrogate_controller::status::fleet::Fleet;
use ferrogate_controller::status::live::{Scope, Target};
use ferrogate_model::{GatewayId, Position, Reject};
use ferrogate_store::Store;
use ferrogate_xds::node::RuntimeInfo;
use ferrogate_xds::server::{Sent, ServerOptions, StreamObserver, serve_on};
use tokio::time::sleep;
use uuid::Uuid;

use super::documents::Documents;
use super::ledger::Ledger;
use super::network;
use super::offload::Here;
use super::plant::{self, Plant};
use super::store::{Server, SimStore};
use super::trouble::{Point, Trouble};

/// Where every controller's config stream listens.
pub const PORT: u16 = 18000;
/// How long a writer waits for its batch to be live.
const LIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a controller's host is made of.
#[derive(Clone)]
pub struct Host {
    pub name: String,
    pub server: Arc<Server>,
    pub trouble: Arc<Trouble>,
    pub ledger: Arc<Ledger>,
    pub documents: Arc<Documents>,
    pub plant: Option<Plant>,
}

/// The clock of the simulation.
struct SimClock;

impl Clock for SimClock {
    fn now_micros(&self) -> i64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
    }
}

/// Passes on to the fleet, and tells the ledger.
struct Watch {
    host: Host,
    fleet: Arc<Fleet>,
}

impl StreamObserver for Watch {
    fn connected(&self, runtime: RuntimeInfo) {
        self.host.ledger.connected(&self.host.name, &runtime.node.id, runtime.stated);
        StreamObserver::connected(self.fleet.as_ref(), runtime);
    }

    fn sent(&self, runtime_id: &str, sent: Sent) {
        self.fleet.sent(runtime_id, sent);
    }

    fn applied(&self, runtime_id: &str, position: Position, rejects: &[Reject]) {
        self.host.ledger.acknowledged(&self.host.name, runtime_id, position);
        self.host.trouble.passes(runtime_id, Point::AfterAnswer);
        self.fleet.applied(runtime_id, position, rejects);
    }

    fn disconnected(&self, runtime_id: &str) {
        self.host.ledger.last_words(&self.host.name, &format!("{runtime_id} is gone"));
        self.fleet.disconnected(runtime_id);
    }
}

/// Runs until the host is killed.
pub async fn run(host: Host) -> turmoil::Result {
    let sim = SimStore::new(Arc::clone(&host.server), Arc::clone(&host.trouble), host.name.clone());
    let store: Arc<dyn Store> = Arc::new(sim);
    let replica = Replica::offloading(Arc::new(Here));
    let metrics = Metrics::new();
    let fleet = Arc::new(Fleet::new(host.name.clone(), Arc::clone(&metrics)));
    let clock: Arc<dyn Clock> = Arc::new(SimClock);
    let status = Arc::new(Status::new(
        Arc::clone(&store),
        Arc::clone(&replica),
        Arc::clone(&fleet),
        Arc::clone(&clock),
        metrics,
        String::new(),
        Vec::new(),
    ));
    let tasks = Tasks::new();
    replicate(host.plant, &tasks, Arc::clone(&store), Arc::clone(&replica));
    tasks.spawn("lease reports", Arc::clone(&status).report(tasks.token()));
    tasks.spawn("audit", audit(host.clone(), Arc::clone(&replica)));
    let deployer = Deployer::new(store, Arc::clone(&replica), clock);
    tasks.spawn("writer", write(host.clone(), deployer, status));
    let incoming = network::accept(PORT).await?;
    let options = ServerOptions::new(GatewayId::from("sim"), host.name.clone(), String::new());
    let observer = Arc::new(Watch { host, fleet });
    serve_on(incoming, replica.catalogs(), options, observer, std::future::pending()).await?;
    Ok(())
}

fn replicate(plant: Option<Plant>, tasks: &Tasks, store: Arc<dyn Store>, replica: Arc<Replica>) {
    match plant {
        Some(Plant::CursorBeforeApply) => plant::careless_cursor(tasks, store, replica),
        Some(Plant::SwapWithoutCheck) => plant::careless_swap(tasks, store, replica),
        Some(Plant::AckBeforeDisk | Plant::ResumeWithoutEpoch) | None => {
            let token = tasks.token();
            tasks.spawn_restarting("replication", move || {
                Arc::clone(&replica).run(Arc::clone(&store), Limits::default(), token.clone())
            });
        }
    }
}

/// Shows every snapshot to the ledger.
async fn audit(host: Host, replica: Arc<Replica>) {
    let mut snapshots = replica.snapshots();
    loop {
        let current = snapshots.get();
        if let Some(snapshot) = current {
            host.ledger.published(&host.name, &snapshot);
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Writes now and then, asks whether it is live, and tells the ledger every answer.
async fn write(host: Host, deployer: Deployer, status: Arc<Status>) {
    loop {
        sleep(host.documents.pause()).await;
        let Some((id, writes)) = host.documents.next() else { continue };
        let names = writes.iter().map(|write| write.name.clone()).collect();
        let deployment = Deployment { id, author: host.name.clone(), writes, expects: Vec::new() };
        let deployed = match deployer.deploy(deployment).await {
            Ok(deployed) => deployed,
            Err(error) => {
                failed(&host, id, &error);
                continue;
            }
        };
        let position = deployed.position();
        host.ledger.committed(&host.name, id, position);
        let target = Target { position, first: deployed.committed.first, names };
        let answer = status.wait_live(&target, &Scope::All, LIVE_TIMEOUT).await;
        if answer.live && answer.unknown.is_none() {
            let absent: Vec<String> = answer.absent.iter().map(|one| one.runtime.clone()).collect();
            host.ledger.live(&host.name, position, answer.runtimes, &absent);
        }
    }
}

fn failed(host: &Host, id: Uuid, error: &DeployError) {
    match error {
        DeployError::Unknown(_) => host.ledger.note(&format!("{}: {error}", host.name)),
        DeployError::Guard { .. }
        | DeployError::Moved { .. }
        | DeployError::Claimed { .. }
        | DeployError::Store(_) => {
            host.ledger.refused(&host.name, id, &error.to_string());
        }
    }
}
