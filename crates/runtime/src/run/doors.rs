// SPDX-License-Identifier: Apache-2.0
//! The doors of a runtime: every listening socket, bound or taken over from a predecessor
//! before anything else happens, and what waits behind it until this process serves. `run`
//! calls it; `handover` passes the sockets on.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ferrogate_base::listen::{BindError, Listener};
use ferrogate_base::readiness::Readiness;
use ferrogate_base::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use super::{Addresses, RunningRuntime, StartError};
use crate::admin::{self, AdminDoor, MetricsDoor, ReadyDoor};
use crate::config::Config;
use crate::handover::{self, Inherited, Purpose};
use crate::listener;
use crate::metrics::{Moves, Reading, RuntimeMetrics, WorkerMetrics};
use crate::sync::RuntimeSink;
use crate::upstream::states::States;

const HTTP: Listener = Listener { key: "runtime.listen.http", purpose: "HTTP traffic" };
const HTTPS: Listener = Listener { key: "runtime.listen.https", purpose: "HTTPS traffic" };
const ADMIN: Listener = Listener { key: "runtime.listen.admin", purpose: "admin" };
const METRICS: Listener = Listener { key: "runtime.listen.metrics", purpose: "metrics" };
const READINESS: Listener = Listener { key: "runtime.listen.readiness", purpose: "readiness" };

/// Every socket, bound before anything else happens.
pub(super) struct Bound {
    pub(super) addresses: Addresses,
    pub(super) http: Vec<std::net::TcpListener>,
    pub(super) https: Vec<std::net::TcpListener>,
    pub(super) admin: Option<tokio::net::TcpListener>,
    pub(super) metrics: Option<tokio::net::TcpListener>,
    pub(super) readiness: Option<tokio::net::TcpListener>,
}

/// What must wait until this process serves.
pub(super) struct Opening {
    tasks: Tasks,
    sink: Arc<RuntimeSink>,
    readiness: Readiness,
    metrics: Vec<Arc<WorkerMetrics>>,
    endpoints: Arc<States>,
    drain: CancellationToken,
    replaced: CancellationToken,
    open: CancellationToken,
    config: Arc<Config>,
}

impl Opening {
    /// What `running` will open.
    pub(super) fn new(running: &RunningRuntime, open: CancellationToken, config: Arc<Config>) -> Opening {
        Opening {
            tasks: running.tasks.clone(),
            sink: running.sink.clone(),
            readiness: running.readiness.clone(),
            metrics: running.metrics.clone(),
            endpoints: running.endpoints.clone(),
            drain: running.drain.clone(),
            replaced: running.replaced.clone(),
            open,
            config,
        }
    }

    /// Accepts, opens the side doors, and offers the listeners to the next one.
    pub(super) fn now(self, bound: Bound, offered: Vec<(Purpose, std::net::TcpListener)>) {
        self.open.cancel();
        self.doors(bound);
        if let Some(path) = &self.config.handover
            && let Err(error) =
                handover::offer(&self.tasks, path, offered, self.drain.clone(), self.replaced.clone())
        {
            tracing::error!(%error, path = %path.display(), "the listeners cannot be handed over");
        }
    }

    fn doors(&self, bound: Bound) {
        let open = |name, listener, door| {
            admin::open(&self.tasks, name, listener, door, self.replaced.clone());
        };
        if let Some(listener) = bound.admin {
            let door = AdminDoor {
                sink: self.sink.clone(),
                endpoints: self.endpoints.clone(),
                readiness: self.readiness.clone(),
                settings: self.config.admin.clone(),
                runtime_id: self.config.stream.runtime_id.clone(),
            };
            open("admin", listener, Arc::new(door));
        }
        if let Some(listener) = bound.metrics {
            let (sink, endpoints) = (self.sink.clone(), self.endpoints.clone());
            let read = move || readings(&sink, &endpoints);
            let collector = RuntimeMetrics::new(self.metrics.clone(), Box::new(read));
            let mut registry = prometheus_client::registry::Registry::default();
            registry.register_collector(Box::new(collector));
            open("metrics", listener, Arc::new(MetricsDoor(registry)));
        }
        if let Some(listener) = bound.readiness {
            open("readiness", listener, Arc::new(ReadyDoor(self.readiness.clone())));
        }
    }
}

impl Bound {
    /// Listens on every address; on those of a predecessor with its sockets.
    pub(super) fn bind(
        config: &Config,
        workers: usize,
        mut inherited: Option<&mut Inherited>,
    ) -> Result<Bound, StartError> {
        let mut addresses = Addresses::default();
        let mut sockets =
            |purpose, listener, address: Option<SocketAddr>, count, chosen: &mut Option<SocketAddr>| {
                let Some(address) = address else { return Ok(Vec::new()) };
                let held = inherited.as_mut().map_or_else(Vec::new, |inherited| inherited.take(purpose));
                let (at, sockets) = match listener::at(&held, address) {
                    Some(at) => (at, held),
                    None => listener::bind(listener, address, count)?,
                };
                *chosen = Some(at);
                Ok::<_, BindError>(sockets)
            };
        let (listen, at) = (&config.listen, &mut addresses);
        let http = sockets(Purpose::Http, HTTP, listen.http, workers, &mut at.http)?;
        let https = sockets(Purpose::Https, HTTPS, listen.https, workers, &mut at.https)?;
        let admin = sockets(Purpose::Admin, ADMIN, listen.admin, 1, &mut at.admin)?;
        let metrics = sockets(Purpose::Metrics, METRICS, listen.metrics, 1, &mut at.metrics)?;
        let readiness = sockets(Purpose::Readiness, READINESS, listen.readiness, 1, &mut at.readiness)?;
        Ok(Bound {
            addresses,
            http,
            https,
            admin: watched(admin)?,
            metrics: watched(metrics)?,
            readiness: watched(readiness)?,
        })
    }

    /// A second descriptor of every socket, for a successor.
    pub(super) fn duplicates(&self) -> Result<Vec<(Purpose, std::net::TcpListener)>, StartError> {
        let traffic = |purpose, sockets: &[std::net::TcpListener]| {
            sockets
                .iter()
                .map(|socket| Ok((purpose, socket.try_clone()?)))
                .collect::<std::io::Result<Vec<_>>>()
        };
        let door = |purpose, door: &Option<tokio::net::TcpListener>| {
            let socket = door.as_ref().map(|door| door.as_fd().try_clone_to_owned());
            socket
                .into_iter()
                .map(|socket| Ok((purpose, socket?.into())))
                .collect::<std::io::Result<Vec<_>>>()
        };
        let all = [
            traffic(Purpose::Http, &self.http),
            traffic(Purpose::Https, &self.https),
            door(Purpose::Admin, &self.admin),
            door(Purpose::Metrics, &self.metrics),
            door(Purpose::Readiness, &self.readiness),
        ];
        let all: std::io::Result<Vec<Vec<_>>> = all.into_iter().collect();
        Ok(all.map_err(StartError::Worker)?.into_iter().flatten().collect())
    }
}

/// The one socket of a side door, watched by the control executor.
fn watched(sockets: Vec<std::net::TcpListener>) -> Result<Option<tokio::net::TcpListener>, StartError> {
    let socket = sockets.into_iter().next().map(tokio::net::TcpListener::from_std);
    socket.transpose().map_err(StartError::Worker)
}

fn readings(sink: &RuntimeSink, endpoints: &States) -> Vec<Reading> {
    let status = sink.status();
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let gauge = Reading::gauge;
    let (epoch, revision) = (status.position.epoch.0 as f64, status.position.revision.0 as f64);
    let age = status.age.map_or(-1.0, |age| age.as_secs_f64());
    let mut readings = vec![
        gauge("ferrogate_runtime_epoch", "Epoch of the snapshot served", epoch),
        gauge("ferrogate_runtime_revision", "Revision of the snapshot served", revision),
        gauge(
            "ferrogate_runtime_revision_persisted",
            "Revision that would survive a crash",
            status.persisted.revision.0 as f64,
        ),
        gauge("ferrogate_runtime_snapshot_age_seconds", "Since the last update; -1 before the first", age),
        gauge(
            "ferrogate_runtime_from_cache",
            "1 while serving last-known-good, no controller heard since the start",
            flag(status.from_cache),
        ),
        gauge(
            "ferrogate_runtime_controller_connected",
            "1 while the config stream is up",
            flag(status.controller.is_some()),
        ),
        gauge(
            "ferrogate_runtime_rejects",
            "Artifacts whose delivered version was refused",
            status.rejects.len() as f64,
        ),
        gauge("ferrogate_runtime_routes", "Routes served", status.routes as f64),
        gauge("ferrogate_runtime_routes_poisoned", "Routes that answer a fixed 500", status.poisoned as f64),
        gauge(
            "policy_engine_policy_chains_loaded",
            "Routes with their policies compiled",
            status.routes as f64,
        ),
    ];
    readings.extend(upstream_readings(endpoints));
    readings
}

fn upstream_readings(endpoints: &States) -> [Reading; 5] {
    let unwell = endpoints.checks.report().iter().filter(|report| report.state == "unhealthy").count();
    let standing = endpoints.standing(Instant::now());
    let events = endpoints.events();
    let gauge = Reading::gauge;
    [
        gauge(
            "ferrogate_runtime_upstream_endpoints",
            "Endpoints of guarded upstreams",
            standing.endpoints as f64,
        ),
        gauge(
            "ferrogate_runtime_upstream_endpoints_ejected",
            "Endpoints left alone because they failed",
            standing.ejected as f64,
        ),
        gauge(
            "ferrogate_runtime_upstream_endpoints_unhealthy",
            "Checked endpoints that are unhealthy",
            unwell as f64,
        ),
        Reading {
            name: "ferrogate_runtime_upstream_ejections",
            help: "Ejections since the start",
            value: events.ejections.load(Ordering::Relaxed) as f64,
            moves: Moves::Up,
        },
        gauge(
            "ferrogate_runtime_upstream_pending",
            "Requests waiting for a connection to an endpoint",
            events.waiting.load(Ordering::Relaxed) as f64,
        ),
    ]
}
