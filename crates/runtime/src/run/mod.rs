// SPDX-License-Identifier: Apache-2.0
//! Start and stop of a runtime: bind every port, open the last-known-good set, start the
//! workers, the side doors and the config stream; and in reverse order, drain and stop.
//! Called by the binary's roles. What can fail fails before the first request is taken,
//! each with one line that names it. `doors` has the sockets and what waits behind them, `stream`
//! the config stream's client.

mod doors;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrogate_base::clock::{Clock, SystemClock};
use ferrogate_base::listen::BindError;
use ferrogate_base::readiness::{Blocker, Readiness};
use ferrogate_base::tasks::Tasks;
use ferrogate_policy::{Registry, Services};
use ferrogate_xds::Sink;
use ferrogate_xds::client::Client;
use futures::FutureExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::doors::{Bound, Opening};
use crate::access_log::{self, Reopen, Writer};
use crate::config::Config;
use crate::dns::Dns;
use crate::handover::{self, HandoverError, Inherited, Purpose};
use crate::listener;
use crate::lkg::{LkgError, LkgOptions};
use crate::metrics::WorkerMetrics;
use crate::prepare::{Compiler, Upstreams};
use crate::router::Timeouts;
use crate::state::State;
use crate::sync::RuntimeSink;
use crate::tls::{self, ServerTls, TlsError};
use crate::upstream::states::States;
use crate::worker::{self, Shared, Sockets};

/// After the drain's deadline, tasks of the control side get this long to end.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How often a successor looks whether it is ready.
const READY_POLL: Duration = Duration::from_millis(10);

/// Starts runtimes.
pub struct Runtime;

/// The addresses a runtime listens on; `None` for what is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP traffic.
    pub http: Option<SocketAddr>,
    /// HTTPS traffic.
    pub https: Option<SocketAddr>,
    /// Admin.
    pub admin: Option<SocketAddr>,
    /// Metrics.
    pub metrics: Option<SocketAddr>,
    /// Readiness.
    pub readiness: Option<SocketAddr>,
}

/// A runtime that serves. Dropping it stops it at once; [`RunningRuntime::shutdown`] drains.
pub struct RunningRuntime {
    addresses: Addresses,
    sink: Arc<RuntimeSink>,
    endpoints: Arc<States>,
    readiness: Readiness,
    drain: CancellationToken,
    stop: CancellationToken,
    tasks: Tasks,
    workers: Vec<std::thread::JoinHandle<()>>,
    metrics: Vec<Arc<WorkerMetrics>>,
    writer: Option<Writer>,
    drain_delay: Duration,
    drain_deadline: Duration,
    draining: Option<Blocker>,
    replaced: CancellationToken,
}

/// What a shutdown came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Requests still in flight at the deadline, cut off.
    pub cut_off: u64,
}

/// Why a runtime did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or not ours.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Certificates.
    #[error("TLS of {side}: {source}")]
    Tls {
        /// Which side.
        side: &'static str,
        /// What is wrong.
        source: TlsError,
    },
    /// URLs, certificates or token for the config stream.
    #[error("the config stream cannot be set up: {0}")]
    Stream(String),
    /// The data directory.
    #[error("the last-known-good set cannot be opened")]
    Cache(#[from] LkgError),
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] access_log::OpenError),
    /// A predecessor that does not hand over.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// The system.
    #[error("a worker could not be started")]
    Worker(#[source] std::io::Error),
}

impl Runtime {
    /// Starts a runtime with the system's clock. Must be called on a multi-thread executor,
    /// which keeps the control side; the workers have their own.
    ///
    /// # Errors
    /// When a port, a file or a certificate cannot be used.
    pub async fn start(
        config: Config,
        registry: Arc<Registry>,
        services: Services,
    ) -> Result<RunningRuntime, StartError> {
        Runtime::start_with(config, registry, services, Arc::new(SystemClock)).await
    }

    /// As [`Runtime::start`], with another clock for policies and logs.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub async fn start_with(
        config: Config,
        registry: Arc<Registry>,
        services: Services,
        clock: Arc<dyn Clock>,
    ) -> Result<RunningRuntime, StartError> {
        let config = Arc::new(config);
        let count = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let client = stream::client(&config.stream, &registry)?;
        let mut inherited = match &config.handover {
            Some(path) => handover::take(path).await?,
            None => None,
        };
        let bound = Bound::bind(&config, count, inherited.as_mut())?;
        let offered = if config.handover.is_some() { bound.duplicates()? } else { Vec::new() };
        let readiness = Readiness::new();
        let endpoints = Arc::<States>::default();
        let upstreams = Upstreams { zone: config.stream.zone.clone(), states: endpoints.clone() };
        let sink = Arc::new(open_sink(&config, registry, services, upstreams, &readiness).await?);
        let state = sink.state();
        let (server_tls, client_tls) = tls_of(&config, &state)?;
        let log_metrics = Arc::<WorkerMetrics>::default();
        let (writer, blocks) = access_log::open(&config.access_log, log_metrics.clone())?;
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let open = CancellationToken::new();
        let shared = Shared {
            state,
            clock,
            readiness: readiness.clone(),
            server_tls,
            client_tls: client_tls.clone(),
            endpoints: endpoints.clone(),
            connections: Arc::new(Semaphore::new(config.limits.max_connections.min(Semaphore::MAX_PERMITS))),
            open: open.clone(),
            drain: drain.clone(),
            stop: stop.clone(),
            workers: count,
            config: config.clone(),
        };
        let (workers, mut metrics) = start_workers(&shared, &bound, &blocks).map_err(StartError::Worker)?;
        // Each block of counts has one thread that writes it; the log's writer is one of them.
        metrics.push(log_metrics);
        let running = RunningRuntime {
            addresses: bound.addresses,
            sink,
            endpoints,
            readiness,
            drain,
            stop,
            tasks: Tasks::new(),
            workers,
            metrics,
            writer: Some(writer),
            drain_delay: config.drain_delay,
            drain_deadline: config.drain_deadline,
            draining: None,
            replaced: CancellationToken::new(),
        };
        let dns = Arc::new(Dns::asking(&config.upstream.nameservers));
        running.endpoints.checks.run(&running.tasks, &client_tls, dns.clone());
        running.endpoints.names.run(&running.tasks, dns);
        if let Some(client) = client {
            running.follow(client);
        }
        running.open(Opening::new(&running, open, config), bound, offered, inherited);
        Ok(running)
    }
}

impl RunningRuntime {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its state, for whoever feeds it in the process.
    #[must_use]
    pub fn sink(&self) -> &Arc<RuntimeSink> {
        &self.sink
    }

    /// Whether it wants traffic, and why not.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// How to have the access log's file opened anew; `None` when it is written to no file.
    #[must_use]
    pub fn reopen_log(&self) -> Option<Reopen> {
        self.writer.as_ref().and_then(Writer::reopen)
    }

    /// Cancelled when a successor serves in this one's place: time to shut down.
    #[must_use]
    pub fn replaced(&self) -> CancellationToken {
        self.replaced.clone()
    }

    /// Cutting this short stops a shutdown's drain: what a second signal does.
    #[must_use]
    pub fn force(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Says "not ready", and after the configured delay takes nothing new, finishes what is in flight up to the configured
    /// deadline, and stops.
    pub async fn shutdown(mut self) -> Drained {
        self.draining = Some(self.readiness.block("the runtime is shutting down"));
        // Who asks for readiness sends requests until the next answer. What asks through a proxy
        // or a port mapping is not even refused, but cut off. A second signal ends the delay.
        // A successor has the same listeners: nobody needs to notice anything.
        if !self.replaced.is_cancelled() {
            let _forced = tokio::time::timeout(self.drain_delay, self.stop.cancelled()).await.is_ok();
        }
        self.drain.cancel();
        let deadline = Instant::now() + self.drain_deadline;
        while self.workers.iter().any(|worker| !worker.is_finished())
            && Instant::now() < deadline
            && !self.stop.is_cancelled()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stop.cancel();
        let _report = self.tasks.shutdown(STOP_GRACE).await;
        let (workers, writer) = (std::mem::take(&mut self.workers), self.writer.take());
        // Threads are joined off the executor: the last lines of the access log may take a moment.
        let joined = tokio::task::spawn_blocking(move || {
            join(workers);
            if let Some(writer) = writer {
                writer.finish();
            }
        });
        if joined.await.is_err() {
            tracing::error!("the workers could not be joined");
        }
        let cut_off = self.metrics.iter().map(|worker| worker.cut_off.get()).sum();
        if cut_off > 0 {
            tracing::warn!(cut_off, "requests were cut off at the drain's deadline");
        }
        Drained { cut_off }
    }

    /// Accepts at once, or where there is a predecessor when this one is ready; that is told then.
    fn open(
        &self,
        opening: Opening,
        bound: Bound,
        offered: Vec<(Purpose, std::net::TcpListener)>,
        inherited: Option<Inherited>,
    ) {
        let Some(inherited) = inherited else { return opening.now(bound, offered) };
        let (ready, token) = (self.readiness.clone(), self.tasks.token());
        self.tasks.spawn("takeover", async move {
            while !ready.is_ready() {
                tokio::select! {
                    // Both arms only wait.
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(READY_POLL) => {}
                }
            }
            opening.now(bound, offered);
            inherited.serving().await;
        });
    }

    fn follow(&self, client: Client) {
        let (sink, token): (Arc<dyn Sink>, _) = (self.sink.clone(), self.tasks.token());
        // A runtime that lost this task would serve what it has for ever.
        self.tasks.spawn_restarting("config stream", move || {
            let followed = client.clone().run(sink.clone(), token.clone().cancelled_owned());
            followed.map(Ok::<(), Infallible>)
        });
    }
}

impl Drop for RunningRuntime {
    fn drop(&mut self) {
        self.drain.cancel();
        self.stop.cancel();
        self.tasks.token().cancel();
    }
}

/// What a worker's thread is given.
struct Job {
    shared: Shared,
    sockets: Sockets,
    blocks: access_log::Blocks,
    metrics: Arc<WorkerMetrics>,
}

impl Job {
    fn start(self, index: usize) -> std::io::Result<std::thread::JoinHandle<()>> {
        let Job { shared, sockets, blocks, metrics } = self;
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let (readiness, stop) = (shared.readiness.clone(), shared.stop.clone());
            let mut end = WorkerEnd { readiness, stop, index, drained: false };
            match worker::run(shared, sockets, blocks, metrics) {
                Ok(()) => end.drained = true,
                Err(error) => tracing::error!(%error, index, "a worker could not be set up"),
            }
        })
    }
}

/// A worker that ends by a fault must not go unnoticed: its share of the connections would
/// get no answer while the process looks healthy.
struct WorkerEnd {
    readiness: Readiness,
    stop: CancellationToken,
    index: usize,
    drained: bool,
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        if !self.drained && !self.stop.is_cancelled() {
            tracing::error!(index = self.index, "a worker has ended; the runtime is not ready any more");
            std::mem::forget(self.readiness.block("a worker has ended"));
        }
    }
}

type Workers = (Vec<std::thread::JoinHandle<()>>, Vec<Arc<WorkerMetrics>>);

/// The workers' threads, and the counts of each.
fn start_workers(shared: &Shared, bound: &Bound, blocks: &access_log::Blocks) -> std::io::Result<Workers> {
    let count = shared.workers;
    let metrics: Vec<Arc<WorkerMetrics>> = (0..count).map(|_| Arc::default()).collect();
    let starts = metrics.iter().enumerate().map(|(index, metrics)| {
        let sockets = Sockets {
            http: listener::share(&bound.http, index, count)?,
            https: listener::share(&bound.https, index, count)?,
        };
        Job { shared: shared.clone(), sockets, blocks: blocks.clone(), metrics: metrics.clone() }.start(index)
    });
    Ok((all_or_none(starts, &shared.stop)?, metrics))
}

/// Every thread, or none: where one cannot be started, those that run already end first, or they
/// would serve on behind a start that has failed.
fn all_or_none(
    starts: impl Iterator<Item = std::io::Result<std::thread::JoinHandle<()>>>,
    stop: &CancellationToken,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let mut threads = Vec::new();
    for started in starts {
        match started {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop.cancel();
                join(threads);
                return Err(error);
            }
        }
    }
    Ok(threads)
}

fn join(workers: Vec<std::thread::JoinHandle<()>>) {
    for worker in workers {
        if worker.join().is_err() {
            tracing::error!("a worker had panicked");
        }
    }
}

/// TLS towards clients, where they may speak it, and towards upstreams.
fn tls_of(
    config: &Config,
    state: &Arc<State>,
) -> Result<(Option<Arc<ServerTls>>, Arc<tls::ClientTls>), StartError> {
    let fail = |side| move |source| StartError::Tls { side, source };
    let server = config.listen.https.map(|_| ServerTls::new(&config.downstream_tls, state.clone()));
    let server = server.transpose().map_err(fail("the HTTPS listener"))?.map(Arc::new);
    let client = tls::ClientTls::new(&config.upstream.tls, state.clone()).map_err(fail("upstreams"))?;
    Ok((server, Arc::new(client)))
}

async fn open_sink(
    config: &Config,
    registry: Arc<Registry>,
    services: Services,
    upstreams: Upstreams,
    readiness: &Readiness,
) -> Result<RuntimeSink, LkgError> {
    let some = |limit: Duration| (!limit.is_zero()).then_some(limit);
    let defaults = Timeouts {
        request: some(config.upstream.request_timeout),
        idle: some(config.upstream.stream_idle_timeout),
        connect: config.upstream.connect_timeout,
    };
    let lkg = config.data_dir.path.clone().map(|data_dir| LkgOptions {
        data_dir,
        key_file: config.data_dir.key_file.clone(),
        deadline: config.data_dir.write_deadline,
    });
    let compiler = Compiler::new(registry, services, defaults).with_upstreams(upstreams);
    RuntimeSink::open(compiler, lkg, readiness).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::all_or_none;

    #[test]
    fn workers_end_with_the_start_that_failed() {
        static ENDED: AtomicUsize = AtomicUsize::new(0);
        let stop = CancellationToken::new();
        let starts = (0..4).map(|index| {
            if index == 2 {
                return Err(std::io::ErrorKind::OutOfMemory.into());
            }
            let stop = stop.clone();
            std::thread::Builder::new().spawn(move || {
                let executor = tokio::runtime::Builder::new_current_thread().build().expect("an executor");
                executor.block_on(stop.cancelled());
                ENDED.fetch_add(1, Ordering::SeqCst);
            })
        });
        assert!(all_or_none(starts, &stop).is_err());
        assert_eq!(ENDED.load(Ordering::SeqCst), 2, "both that had begun, and the fourth never did");
    }
}
