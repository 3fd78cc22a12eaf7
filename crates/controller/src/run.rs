// SPDX-License-Identifier: Apache-2.0
//! Starting and stopping a controller. Listeners are bound first, so that a taken port
//! is one clear error; a database that is down is not one: health answers, readiness
//! says what is waited for. Stopping goes from the front to the back: requests and
//! streams end first, what they wait for last.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn;
use ferrogate_base::clock::SystemClock;
use ferrogate_base::readiness::{Blocker, Readiness};
use ferrogate_base::secret::Secret;
use ferrogate_base::tasks::{Report, Tasks};
use ferrogate_model::GatewayId;
use ferrogate_policy::{Registry, Services};
use ferrogate_store::{OpenError, Options, Store, open};
use ferrogate_xds::server::{ServeError, ServerOptions, serve};
use ferrogate_xds::tls::{ServerTls, TlsError, TlsIdentity, read_certificates};
use tokio::net::TcpListener;

use crate::admin::{self, Admin};
use crate::api::{self, App, Settings};
use crate::auth::admin_password::{Admin as Administrator, AdminPasswordError};
use crate::auth::sources::{self, Authenticators};
use crate::config::{Config, Environment, StreamTls};
use crate::deploy::{Admission, Deployer};
use crate::immutable::{self, ImmutableError};
use crate::listener::{self, Limited, Peer};
use crate::metrics::Metrics;
use crate::replicate::{Replica, StoreState};
use crate::retention;
use crate::seal::KeyRing;
use crate::seal::files::{self as key_files, KeyFileError};
use crate::seal::store::SealedStore;
use crate::snapshot::Limits;
use crate::status::Status;
use crate::status::fleet::Fleet;

/// How long the back gets once the front has ended: it only has to notice.
const BACK_DEADLINE: Duration = Duration::from_secs(2);

/// What a controller is made of besides its configuration.
pub struct Parts {
    /// The policies artifacts may attach.
    pub registry: Arc<Registry>,
    /// What compiled policies may touch; chains compiled here never run.
    pub services: Services,
    /// The store, instead of the one the configuration names.
    pub store: Option<Arc<dyn Store>>,
}

/// The controller role.
pub struct Controller;

/// A controller that runs.
pub struct RunningController {
    /// Where it listens.
    pub addresses: Addresses,
    /// The administrator, when no user was configured and the database is this controller's own.
    pub administrator: Option<Administrator>,
    /// The file with the administrator's password, when it was made here.
    pub password_file: Option<PathBuf>,
    /// Whether it is ready, and what for if not.
    pub readiness: Readiness,
    /// What it has replicated.
    pub replica: Arc<Replica>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    front: Tasks,
    back: Tasks,
}

/// Where a controller listens; `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The management API.
    pub management: Option<SocketAddr>,
    /// The admin server.
    pub admin: Option<SocketAddr>,
    /// The metrics server.
    pub metrics: Option<SocketAddr>,
    /// The config stream.
    pub stream: Option<SocketAddr>,
}

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("the {what} cannot listen on {address}: {source}")]
    Bind {
        /// What wants it.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The database URL cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A file cannot be read.
    #[error("{what} {path} cannot be read: {source}")]
    File {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The join token file is empty.
    #[error("the join token file {0} is empty")]
    EmptyToken(PathBuf),
    /// The keys that seal what is stored cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The files of an immutable gateway cannot be used.
    #[error(transparent)]
    Immutable(#[from] ImmutableError),
    /// The stream's certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The stream would be open to anybody.
    #[error(
        "the config stream on {0} needs a join token file or client certificates: without either it may listen on loopback only"
    )]
    Unprotected(SocketAddr),
    /// There is no administrator.
    #[error(transparent)]
    AdminPassword(#[from] AdminPasswordError),
    /// No HTTP client for the identity provider.
    #[error("the client for the identity provider cannot be made: {0}")]
    Idp(#[source] reqwest::Error),
}

struct Bound {
    management: Option<TcpListener>,
    admin: Option<TcpListener>,
    metrics: Option<TcpListener>,
    stream: Option<TcpListener>,
}

impl Controller {
    /// Starts a controller. It may not be ready for a while: see [`RunningController::readiness`].
    ///
    /// # Errors
    /// When the configuration cannot be put into effect; never because the database is down.
    pub async fn start(config: Config, parts: Parts) -> Result<RunningController, StartError> {
        let (bound, addresses) = Bound::bind(&config).await?;
        let stream_options = stream_options(&config)?;
        protected(&stream_options, addresses.stream)?;
        let ring = key_ring(&config)?;
        let store = parts.store.map_or_else(|| open_store(&config), Ok)?;
        let settings = settings(&config, ring.is_some());
        let gateway = GatewayId::from(config.gateway_id.as_str());
        let store: Arc<dyn Store> = Arc::new(SealedStore::new(store, ring, gateway));
        let Authenticators { auth, administrator, jwt, shared } = sources::authenticators(&config)?;
        let auth = Arc::new(auth);
        let (front, back, readiness) = (Tasks::new(), Tasks::new(), Readiness::new());
        let (metrics, replica) = (Metrics::new(), Replica::new());
        let fleet = Arc::new(Fleet::new(config.replica_id.clone(), Arc::clone(&metrics)));
        let status = Arc::new(Status::new(
            Arc::clone(&store),
            Arc::clone(&replica),
            Arc::clone(&fleet),
            Arc::new(SystemClock),
            Arc::clone(&metrics),
            config.zone.clone(),
        ));
        follow(&back, &store, &replica, &metrics, &readiness);
        back.spawn("lease reports", Arc::clone(&status).report(back.token()));
        back.spawn("retention", retention::run(Arc::clone(&store), config.keep_revisions, back.token()));
        if let Some(jwt) = jwt {
            back.spawn("key set refresh", jwt.refresh(back.token()));
        }
        let mut password_file = administrator.as_ref().and_then(|admin| admin.file.clone());
        if shared {
            let (store, auth) = (Arc::clone(&store), Arc::clone(&auth));
            password_file = sources::administrator(store, &config.data_dir, auth, &back).await;
        }
        let deployer = Deployer::new(Arc::clone(&store), Arc::clone(&replica), Arc::new(SystemClock));
        let admission = Arc::new(admission(&config, parts.registry, parts.services));
        if let Some(directory) = &config.immutable {
            immutable::load(directory, &admission, store.as_ref(), &deployer).await?;
        }
        let app = Arc::new(App {
            admission,
            deployer,
            store,
            replica: Arc::clone(&replica),
            status,
            auth: Arc::clone(&auth),
            metrics: Arc::clone(&metrics),
            settings,
            openapi: api::description(),
        });
        let admin = Arc::new(Admin {
            app: Arc::clone(&app),
            readiness: readiness.clone(),
            allowed_ips: config.admin_allowed_ips.clone(),
            config_dump: config.config_dump,
        });
        http(&front, "management API", bound.management, api::router(app));
        http(&front, "admin server", bound.admin, admin::router(Arc::clone(&admin)));
        http(&front, "metrics server", bound.metrics, admin::metrics_router(admin));
        stream(&front, bound.stream, &replica, stream_options, fleet);
        Ok(RunningController {
            addresses,
            administrator,
            password_file,
            readiness,
            replica,
            metrics,
            front,
            back,
        })
    }
}

impl RunningController {
    /// Takes nothing new, finishes requests and streams up to the deadline, then stops the rest.
    pub async fn shutdown(self, deadline: Duration) -> Report {
        let _draining = self.readiness.block("shutting down");
        let mut report = self.front.shutdown(deadline).await;
        report.aborted.extend(self.back.shutdown(BACK_DEADLINE).await.aborted);
        report
    }
}

impl Bound {
    async fn bind(config: &Config) -> Result<(Bound, Addresses), StartError> {
        let bound = Bound {
            management: bind("management API", config.management).await?,
            admin: bind("admin server", config.admin).await?,
            metrics: bind("metrics server", config.metrics).await?,
            stream: bind("config stream", config.stream).await?,
        };
        let address =
            |listener: &Option<TcpListener>| listener.as_ref().and_then(|one| one.local_addr().ok());
        let addresses = Addresses {
            management: address(&bound.management),
            admin: address(&bound.admin),
            metrics: address(&bound.metrics),
            stream: address(&bound.stream),
        };
        Ok((bound, addresses))
    }
}

async fn bind(what: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|source| StartError::Bind { what, address, source })
}

fn open_store(config: &Config) -> Result<Arc<dyn Store>, OpenError> {
    let options = Options { pool_size: config.pool_size, ..Options::default() };
    open(config.database_url.expose(), &GatewayId::from(config.gateway_id.as_str()), &options)
}

fn admission(config: &Config, registry: Arc<Registry>, services: Services) -> Admission {
    Admission { registry, services, defaults: config.defaults.clone(), environment: Arc::new(Environment) }
}

fn settings(config: &Config, seals: bool) -> Settings {
    Settings {
        gateway_id: config.gateway_id.clone(),
        replica_id: config.replica_id.clone(),
        immutable: config.immutable.is_some(),
        seals,
        max_document_bytes: config.max_document_bytes,
        max_bundle_bytes: config.max_bundle_bytes,
    }
}

/// Replication, and what watches it: metrics, and readiness until the first snapshot.
fn follow(
    back: &Tasks,
    store: &Arc<dyn Store>,
    replica: &Arc<Replica>,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) {
    let first = readiness.block("nothing has been read from the store yet");
    let readiness = readiness.clone();
    let (source, target, token) = (Arc::clone(store), Arc::clone(replica), back.token());
    back.spawn_restarting("replication", move || {
        Arc::clone(&target).run(Arc::clone(&source), Limits::default(), token.clone())
    });
    let (mut snapshots, metrics, replica) = (replica.snapshots(), Arc::clone(metrics), Arc::clone(replica));
    let mut states = replica.store_states();
    let token = back.token();
    back.spawn("snapshot watch", async move {
        let (mut first, mut sealed) = (Some(first), None::<Blocker>);
        loop {
            if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                let position = snapshot.position();
                metrics.published(position.epoch.0, position.revision.0, snapshot.len(), snapshot.deployed());
                first = None;
            }
            let state = states.borrow_and_update().clone();
            metrics.set_store_available(matches!(state, StoreState::Available));
            sealed = match state {
                StoreState::Sealed { what, key } => sealed.or_else(|| {
                    let reason =
                        format!("{what} is sealed under the key '{key}', which this controller lacks");
                    Some(readiness.block(reason))
                }),
                // Down is not open: what was sealed before the outage is sealed still.
                StoreState::Unavailable { .. } => sealed,
                StoreState::Starting | StoreState::Available => None,
            };
            tokio::select! {
                // All arms only wait. The replica, which owns both senders, is held above.
                () = token.cancelled() => break,
                _changed = snapshots.changed() => {}
                _changed = states.changed() => {}
            }
        }
        drop((first, sealed, replica));
    });
}

fn http(front: &Tasks, what: &'static str, listener: Option<TcpListener>, router: Router) {
    let Some(listener) = listener else { return };
    let token = front.token();
    front.spawn(what, async move {
        let router = router.layer(from_fn(listener::arrived));
        let service = router.into_make_service_with_connect_info::<Peer>();
        let served = axum::serve(Limited::new(listener), service)
            .with_graceful_shutdown(token.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, what, "stopped serving");
        }
    });
}

/// The stream may be open to others than this machine only when it asks them who they are.
fn protected(options: &ServerOptions, address: Option<SocketAddr>) -> Result<(), StartError> {
    let guarded = options.join_token.is_some() || options.tls.as_ref().is_some_and(ServerTls::asks_clients);
    match address.filter(|address| !guarded && !address.ip().is_loopback()) {
        Some(address) => Err(StartError::Unprotected(address)),
        None => Ok(()),
    }
}

/// The keys that seal what is stored, if there are any; said loudly when there are none.
fn key_ring(config: &Config) -> Result<Option<KeyRing>, StartError> {
    let ring = key_files::load(&config.encryption, &config.data_dir, !config.is_shared())?;
    if ring.is_none() {
        tracing::warn!(
            "no key is configured to seal what is stored: artifacts are stored in the clear, with what their \
             templates stand for, and secrets are refused. Set controller.encryption.key_file, the same on \
             every controller of the gateway"
        );
    }
    Ok(ring)
}

fn stream(
    front: &Tasks,
    listener: Option<TcpListener>,
    replica: &Replica,
    options: ServerOptions,
    fleet: Arc<Fleet>,
) {
    let Some(listener) = listener else { return };
    let (catalogs, token) = (replica.catalogs(), front.token());
    front.spawn("config stream", async move {
        report_stream(serve(listener, catalogs, options, fleet, token.cancelled_owned()).await);
    });
}

fn report_stream(served: Result<(), ServeError>) {
    if let Err(error) = served {
        tracing::error!(error = &error as &dyn std::error::Error, "the config stream stopped");
    }
}

fn stream_options(config: &Config) -> Result<ServerOptions, StartError> {
    let gateway = GatewayId::from(config.gateway_id.as_str());
    let mut options = ServerOptions::new(gateway, config.replica_id.clone(), config.zone.clone());
    if let Some(path) = &config.join_token_file {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| StartError::File {
            what: "the join token file",
            path: path.clone(),
            source,
        })?;
        if text.trim().is_empty() {
            return Err(StartError::EmptyToken(path.clone()));
        }
        options.join_token = Some(Secret::new(text.trim()));
    }
    if let Some(StreamTls { certificates, key, client_ca }) = &config.stream_tls {
        let mut tls = ServerTls::new(TlsIdentity::from_files(certificates, key)?);
        if let Some(path) = client_ca {
            tls = tls.require_clients_of(read_certificates(path)?);
        }
        options.tls = Some(tls);
    }
    Ok(options)
}
