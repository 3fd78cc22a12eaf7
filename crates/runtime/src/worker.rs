// SPDX-License-Identifier: Apache-2.0
//! One worker: a thread with its own executor, listeners, upstream connections, resolver
//! and counters, sharing nothing hot with the others but the snapshot. It serves until it
//! is told to drain, then finishes what is in flight until it is told to stop. `run` starts
//! the threads; `listener` feeds the worker connections; `request` uses what it holds.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrogate_base::clock::Clock;
use ferrogate_base::readiness::Readiness;
use ferrogate_base::tasks::Tasks;
use http::HeaderValue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access_log::{Blocks, FLUSH_INTERVAL, WorkerLog};
use crate::config::{Config, Http1Codec, ServerHeaderMode};
use crate::dns::Dns;
use crate::error::{Failure, Reason};
use crate::h1::H1;
use crate::h1::timer::TICK;
use crate::listener::{self, Accepting};
use crate::metrics::WorkerMetrics;
use crate::state::State;
use crate::tls::{ClientTls, ServerTls};
use crate::upstream::Upstreams;
use crate::upstream::balance::Balancer;
use crate::upstream::connect::Connector;
use crate::upstream::mirror::Mirrors;
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::states::States;

/// How often kept upstream connections are looked over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What every worker shares.
#[derive(Clone)]
pub struct Shared {
    /// The settings.
    pub config: Arc<Config>,
    /// What is served.
    pub state: Arc<State>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Whether the process wants traffic.
    pub readiness: Readiness,
    /// TLS towards clients.
    pub server_tls: Option<Arc<ServerTls>>,
    /// TLS towards upstreams.
    pub client_tls: Arc<ClientTls>,
    /// What is known of upstream endpoints.
    pub endpoints: Arc<States>,
    /// One permit per client connection of the process.
    pub connections: Arc<Semaphore>,
    /// Connections are accepted from now on.
    pub open: CancellationToken,
    /// Take nothing new, finish the rest.
    pub drain: CancellationToken,
    /// Stop now.
    pub stop: CancellationToken,
    /// How many workers there are.
    pub workers: usize,
}

/// A worker's listening sockets, already bound.
pub struct Sockets {
    /// Plain HTTP.
    pub http: Vec<std::net::TcpListener>,
    /// TLS.
    pub https: Vec<std::net::TcpListener>,
}

/// What the request walk uses.
pub struct Worker {
    /// What every worker shares.
    pub shared: Shared,
    /// The way to the upstreams.
    pub upstreams: Rc<Upstreams>,
    /// Copies of requests on their way.
    pub mirrors: Mirrors,
    /// Whose turn it is.
    pub balancer: Rc<Balancer>,
    /// What the hot path keeps.
    pub h1: H1,
    /// Where finished requests go.
    pub log: Rc<WorkerLog>,
    /// This worker's counts.
    pub metrics: Arc<WorkerMetrics>,
    /// The worker's tasks: client and upstream connections.
    pub tasks: Tasks,
    /// Our `server` value, unless the upstream's passes.
    pub server_header: Option<HeaderValue>,
    /// Requests in flight from which on it sheds: its share of the process's limit.
    most_in_flight: u64,
    /// How late it came to its housekeeping last, while that is more than it may be.
    late: Cell<Option<Duration>>,
}

/// Serves on this thread until stopped. Kept whole so that callgrind finds all that a worker does
/// under one name (`bench/src/count.rs`).
///
/// # Errors
/// When the executor or a socket cannot be set up.
#[inline(never)]
pub fn run(shared: Shared, sockets: Sockets, blocks: Blocks, metrics: Arc<WorkerMetrics>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(shared, sockets, blocks, metrics))
}

async fn serve(
    shared: Shared,
    sockets: Sockets,
    blocks: Blocks,
    metrics: Arc<WorkerMetrics>,
) -> io::Result<()> {
    let tasks = Tasks::new();
    let worker = Rc::new(Worker::new(shared, blocks, metrics, tasks.clone()));
    let mut accepting = Vec::new();
    for (sockets, tls) in [(sockets.http, None), (sockets.https, worker.shared.server_tls.clone())] {
        for socket in sockets {
            accepting.push(Accepting::new(socket, tls.clone())?);
        }
    }
    let housekeeping = worker.clone();
    tasks.spawn_local("housekeeping", async move { housekeeping.keep_house().await });
    let accepts = accepting.into_iter().map(|socket| listener::accept(worker.clone(), socket));
    let served = async {
        futures::future::join_all(accepts).await;
        // Draining: the listeners are closed, the connections finish. They learn it now and not
        // at the next tick, so that no answer from here on promises another.
        worker.h1.tick(worker.shared.clock.as_ref(), worker.shared.drain.is_cancelled());
        worker.drained().await;
    };
    tokio::select! {
        // Dropping it ends accepting; connections are tasks of their own.
        () = served => {}
        () = worker.shared.stop.cancelled() => {
            let started = worker.metrics.requests_started.get();
            worker.metrics.cut_off.add(started.saturating_sub(worker.metrics.requests_ended.get()));
        }
    }
    worker.upstreams.pool.close();
    worker.h1.pool.close();
    let stop = worker.shared.stop.clone();
    // The other workers may still be draining, but this one has nothing left to wait for.
    let _report =
        tasks.shutdown(if stop.is_cancelled() { Duration::ZERO } else { Duration::from_secs(1) }).await;
    worker.log.flush();
    Ok(())
}

impl Worker {
    fn new(shared: Shared, blocks: Blocks, metrics: Arc<WorkerMetrics>, tasks: Tasks) -> Worker {
        let upstream = &shared.config.upstream;
        let limits = PoolLimits {
            max_idle: upstream.max_idle_per_target,
            idle_timeout: upstream.pool_idle_timeout,
            max_age: upstream.pool_max_age,
            max_streams: upstream.max_h2_streams,
        };
        let pool = Pool::new(limits);
        let h1 = H1::new(&shared.config, shared.clock.as_ref(), limits);
        let dns = Dns::asking(&upstream.nameservers);
        let connector = Connector::new(dns, shared.client_tls.clone(), tasks.clone());
        let server = &shared.config.server_header;
        let server_header = match server.mode {
            ServerHeaderMode::PassThrough => None,
            // `config` checked that the value can stand in a header.
            ServerHeaderMode::Overwrite | ServerHeaderMode::AppendIfAbsent => {
                HeaderValue::try_from(server.value.as_str()).ok()
            }
        };
        let upstreams = Rc::new(Upstreams {
            pool,
            direct: (shared.config.http1_codec == Http1Codec::Own).then(|| h1.pool.clone()),
            connector: Rc::new(connector),
            metrics: metrics.clone(),
        });
        let balancer = Rc::<Balancer>::default();
        Worker {
            mirrors: Mirrors::new(upstreams.clone(), balancer.clone(), tasks.clone()),
            upstreams,
            balancer,
            h1,
            log: Rc::new(WorkerLog::new(blocks, metrics.clone())),
            metrics,
            tasks,
            server_header,
            most_in_flight: share(shared.config.limits.max_requests_in_flight, shared.workers),
            late: Cell::default(),
            shared,
        }
    }

    /// Refuses a new request when there are too many already, of which `counted` is this one, or
    /// when the worker is behind with its work. What is shed costs next to nothing, so that those
    /// taken on are still served in time.
    ///
    /// # Errors
    /// When it is shed.
    pub fn admit(&self, counted: u64) -> Result<(), Failure> {
        let (started, ended) = (self.metrics.requests_started.get(), self.metrics.requests_ended.get());
        let in_flight = started.saturating_sub(ended).saturating_sub(counted);
        if in_flight >= self.most_in_flight {
            return Err(Failure::with(Reason::Overloaded, format!("{in_flight} requests in flight")));
        }
        match self.late.get() {
            None => Ok(()),
            Some(late) => {
                let detail = format!("the worker is {} ms late", late.as_millis());
                Err(Failure::with(Reason::Overloaded, detail))
            }
        }
    }

    async fn keep_house(&self) {
        let token = self.tasks.token();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let began = tokio::time::Instant::now();
        let (mut flushed, mut swept) = (began, began);
        loop {
            tokio::select! {
                // Both arms only wait.
                () = token.cancelled() => return,
                // The instant is the one it was due at.
                now = ticks.tick() => {
                    let limit = self.shared.config.limits.max_lag;
                    self.late.set(Some(now.elapsed()).filter(|late| limit.is_some_and(|most| *late > most)));
                    self.h1.tick(self.shared.clock.as_ref(), self.shared.drain.is_cancelled());
                    if now.duration_since(flushed) >= FLUSH_INTERVAL {
                        flushed = now;
                        self.log.flush();
                        if self.shared.endpoints.events().waiting.load(Ordering::Relaxed) > 0 {
                            self.upstreams.pool.make_room();
                        }
                    }
                    if now.duration_since(swept) >= SWEEP_INTERVAL {
                        swept = now;
                        self.upstreams.pool.sweep();
                        self.h1.pool.sweep();
                    }
                }
            }
        }
    }

    /// Waits until no client connection of this worker is left.
    async fn drained(&self) {
        let open = || self.metrics.connections_opened.get() != self.metrics.connections_closed.get();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while open() {
            tick.tick().await;
        }
    }
}

/// A worker's share of a limit of the process, at least one.
fn share(whole: usize, workers: usize) -> u64 {
    whole.div_ceil(workers.max(1)) as u64
}
