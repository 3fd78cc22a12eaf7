// SPDX-License-Identifier: Apache-2.0
//! The serving end: a gRPC server on a listener that somebody else opened. It reads the
//! newest catalog from a watch and tells an observer what each runtime has applied.
//! Called by the controller; [`session`] is where the protocol is, [`stream`] drives it.

pub mod admission;
pub mod observer;
mod roster;
mod service;
pub mod session;
mod stream;
pub mod update;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrogate_base::secret::Secret;
use ferrogate_base::tasks::Tasks;
use ferrogate_base::watch;
use ferrogate_model::GatewayId;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

pub use observer::{Sent, StreamObserver};
pub use session::SessionLimits;
pub use update::ChunkLimits;

use crate::catalog::Catalog;
use crate::protocol::AggregatedDiscoveryServiceServer;
use crate::tls::ServerTls;
use crate::transport::{Accepted, Connection};
use admission::Admission;
use roster::Roster;
use service::Service;

/// The longest a new stream waits to be admitted; with the rate, the length of the queue.
const MAX_ADMISSION_WAIT: Duration = Duration::from_secs(1);
/// A half-open connection is noticed after the interval and the timeout together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A runtime uses one stream; the others are room for its probes.
const STREAMS_PER_CONNECTION: u32 = 8;
/// At shutdown, how long updates under way may take before they are cut off.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How to serve.
pub struct ServerOptions {
    /// The gateway whose runtimes are served.
    pub gateway: GatewayId,
    /// This controller's id, told to every runtime.
    pub controller_id: String,
    /// This controller's zone, told to every runtime; empty when it has none.
    pub zone: String,
    /// Without it, connections are in the clear.
    pub tls: Option<ServerTls>,
    /// What a runtime must present; without it, TLS must ask for client certificates or
    /// the listener be on loopback.
    pub join_token: Option<Secret>,
    /// Further streams are turned away.
    pub max_streams: usize,
    /// Further ones wait for up to a second, then are turned away.
    pub admissions_per_second: u32,
    /// After this, give or take a fifth, a stream is ended between two updates, so that
    /// runtimes spread again over the controllers there are.
    pub max_connection_age: Duration,
    /// Deadlines and limits of each stream.
    pub limits: SessionLimits,
}

/// Why serving could not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener's address cannot be read.
    #[error("the config stream's listener has no address")]
    Listener(#[source] std::io::Error),
    /// Anybody could read the configuration.
    #[error(
        "the config stream on {0} needs a join token or client certificates: without either it may listen on loopback only"
    )]
    Unprotected(SocketAddr),
    /// The id or the zone cannot travel in a header.
    #[error("the {what} '{text}' must consist of visible ASCII characters")]
    BadName {
        /// Which of them.
        what: &'static str,
        /// What it is.
        text: String,
    },
    /// The certificates cannot be used, or the transport failed.
    #[error("the config stream cannot be served")]
    Transport(#[from] tonic::transport::Error),
}

impl ServerOptions {
    /// With the defaults for everything that is not identity.
    #[must_use]
    pub fn new(
        gateway: GatewayId,
        controller_id: impl Into<String>,
        zone: impl Into<String>,
    ) -> ServerOptions {
        ServerOptions {
            gateway,
            controller_id: controller_id.into(),
            zone: zone.into(),
            tls: None,
            join_token: None,
            max_streams: 10_000,
            // A thousand runtimes that come back together are all let in within the second that a
            // stream may wait; what a larger burst may make this end hold in memory grows with it.
            admissions_per_second: 500,
            max_connection_age: Duration::from_secs(30 * 60),
            limits: SessionLimits::default(),
        }
    }
}

/// Serves until `shutdown` resolves, then ends every stream after its update under way
/// and returns. The catalog may still be `None`: runtimes then wait a little, and are
/// sent to another controller.
///
/// # Errors
/// When it could not begin; a connection's failure is not an error here.
pub async fn serve(
    listener: TcpListener,
    catalogs: watch::Receiver<Option<Arc<dyn Catalog>>>,
    options: ServerOptions,
    observer: Arc<dyn StreamObserver>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Listener)?;
    let authenticated =
        options.join_token.is_some() || options.tls.as_ref().is_some_and(ServerTls::asks_clients);
    if !authenticated && !address.ip().is_loopback() {
        return Err(ServeError::Unprotected(address));
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    serve_incoming(incoming, catalogs, options, observer, shutdown).await
}

/// As [`serve`], for connections that somebody else accepted, in the clear. Whoever accepts
/// them answers for who can reach it.
///
/// # Errors
/// As [`serve`].
pub async fn serve_on<C: Connection>(
    incoming: impl Stream<Item = io::Result<C>> + Send,
    catalogs: watch::Receiver<Option<Arc<dyn Catalog>>>,
    options: ServerOptions,
    observer: Arc<dyn StreamObserver>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let incoming = incoming.map(|accepted| accepted.map(Accepted));
    serve_incoming(incoming, catalogs, options, observer, shutdown).await
}

async fn serve_incoming<C: Connection + Connected>(
    incoming: impl Stream<Item = io::Result<C>> + Send,
    catalogs: watch::Receiver<Option<Arc<dyn Catalog>>>,
    options: ServerOptions,
    observer: Arc<dyn StreamObserver>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    if let Some(tls) = &options.tls {
        server = server.tls_config(tls.to_tonic())?;
    }
    let tasks = Tasks::new();
    let drain = CancellationToken::new();
    // When this future is dropped instead of shut down, the streams' tasks end as well.
    let _ends_streams = drain.clone().drop_guard();
    let service = service(catalogs, options, observer, &tasks, &drain)?;
    let serving = server
        .add_service(AggregatedDiscoveryServiceServer::new(service))
        .serve_with_incoming_shutdown(incoming, async {
            shutdown.await;
            drain.cancel();
        });
    // Dropping the server after the deadline cuts off connections that did not end.
    let served = tokio::select! {
        biased;
        served = serving => served,
        () = overdue(&drain) => Ok(()),
    };
    let _report = tasks.shutdown(Duration::from_secs(1)).await;
    Ok(served?)
}

fn service(
    catalogs: watch::Receiver<Option<Arc<dyn Catalog>>>,
    options: ServerOptions,
    observer: Arc<dyn StreamObserver>,
    tasks: &Tasks,
    drain: &CancellationToken,
) -> Result<Service, ServeError> {
    Ok(Service {
        gateway: options.gateway,
        controller: header("controller id", options.controller_id)?,
        zone: header("zone", options.zone)?,
        join_token: options.join_token,
        limits: options.limits,
        max_age: options.max_connection_age,
        streams: Arc::new(Semaphore::new(options.max_streams.min(Semaphore::MAX_PERMITS))),
        admission: Mutex::new(Admission::new(options.admissions_per_second, MAX_ADMISSION_WAIT)),
        started: Instant::now(),
        catalogs,
        roster: Arc::new(Roster::new(observer)),
        tasks: tasks.clone(),
        drain: drain.clone(),
    })
}

fn header(what: &'static str, text: String) -> Result<MetadataValue<Ascii>, ServeError> {
    MetadataValue::try_from(text.as_str()).map_err(|_| ServeError::BadName { what, text })
}

async fn overdue(drain: &CancellationToken) {
    drain.cancelled().await;
    sleep(DRAIN_DEADLINE).await;
}
