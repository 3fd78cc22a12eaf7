// SPDX-License-Identifier: Apache-2.0
//! A runtime of the simulation: the shipping sink with its last-known-good file, and the
//! client's own loop, over simulated sockets. The file lies in a directory that outlives
//! the host, as a disk does. Listeners and the request path are left out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ferrogate_base::readiness::Readiness;
use ferrogate_base::tasks::Tasks;
use ferrogate_model::GatewayId;
use ferrogate_runtime::lkg::LkgOptions;
use ferrogate_runtime::sync::RuntimeSink;
use ferrogate_xds::client::{self, ClientOptions, Controller};
use ferrogate_xds::{Capabilities, Held, NodeInfo, Outcome, Sink, Update};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::documents::Documents;
use super::ledger::Ledger;
use super::network::{Resets, SimDialer};
use super::offload::Disk;
use super::plant::Plant;
use super::trouble::{Point, Trouble};

/// How long one write may take; shorter than the simulated disk's hang.
const DISK_DEADLINE: Duration = Duration::from_secs(2);
/// How often a planted bug looks whether the update is served.
const LOOK: Duration = Duration::from_millis(1);

/// What a runtime's host is made of.
#[derive(Clone)]
pub struct Host {
    pub name: String,
    pub controllers: Vec<Controller>,
    pub directory: PathBuf,
    pub trouble: Arc<Trouble>,
    pub ledger: Arc<Ledger>,
    pub documents: Arc<Documents>,
    pub resets: Arc<Resets>,
    pub plant: Option<Plant>,
}

/// The shipping sink, its steps told to the ledger, and killed where the run says so.
struct Watched {
    host: Host,
    sink: Arc<RuntimeSink>,
    tasks: Tasks,
}

#[async_trait]
impl Sink for Watched {
    fn held(&self) -> Held {
        let mut held = self.sink.held();
        if self.host.plant == Some(Plant::ResumeWithoutEpoch) {
            held.position.epoch = self.host.ledger.epoch();
        }
        held
    }

    async fn apply(&self, update: Update) -> Outcome {
        let outcome = if self.host.plant == Some(Plant::AckBeforeDisk) {
            self.swap(update).await
        } else {
            self.sink.apply(update).await
        };
        let Host { name, ledger, trouble, .. } = &self.host;
        ledger.served(name, false, &self.sink.state().load_full());
        if let Some(reason) = &outcome.not_persisted {
            ledger.note(&format!("{name}: not on disk: {reason}"));
        }
        trouble.reached(name, Point::BeforeAnswer).await;
        outcome
    }

    fn connected(&self, controller: Option<&str>) {
        self.host.ledger.last_words(&self.host.name, &format!("in sync with {controller:?}"));
        self.sink.connected(controller);
    }
}

impl Watched {
    /// The bug: what is served is answered for, whatever becomes of its way to the disk.
    async fn swap(&self, update: Update) -> Outcome {
        let (sink, position) = (Arc::clone(&self.sink), update.position);
        let (done, mut outcome) = oneshot::channel();
        self.tasks.spawn("apply", async move {
            let _unheard = done.send(sink.apply(update).await);
        });
        loop {
            if let Ok(outcome) = outcome.try_recv() {
                return outcome;
            }
            if self.sink.state().load().position >= position {
                return Outcome::default();
            }
            sleep(LOOK).await;
        }
    }
}

/// Runs until the host is killed.
pub async fn run(host: Host) -> turmoil::Result {
    let readiness = Readiness::new();
    let options = LkgOptions { data_dir: host.directory.clone(), key_file: None, deadline: DISK_DEADLINE };
    let disk = Disk::new(host.name.clone(), Arc::clone(&host.trouble));
    let compiler = host.documents.compiler();
    let sink = RuntimeSink::open_with(compiler, Some(options), &readiness, Arc::new(disk)).await?;
    // Whatever every controller and the database do: this is served from now on (P4).
    host.ledger.served(&host.name, true, &sink.state().load_full());
    let node = NodeInfo {
        id: host.name.clone(),
        gateway: GatewayId::from("sim"),
        zone: String::new(),
        version: "0".to_owned(),
        capabilities: Capabilities::of_this_build(),
    };
    let mut options = ClientOptions::new(host.controllers.clone(), node);
    options.dialer = Some(Arc::new(SimDialer { resets: Arc::clone(&host.resets) }));
    let sink = Arc::new(Watched { host, sink: Arc::new(sink), tasks: Tasks::new() });
    client::run(options, sink, std::future::pending()).await?;
    Ok(())
}
