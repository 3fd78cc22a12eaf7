// SPDX-License-Identifier: Apache-2.0
//! Starting and stopping a controller. Listeners are bound first, so that a taken port
//! is one clear error; a database that is down is not one: health answers, readiness
//! says what is waited for. Stopping goes from the front to the back: requests and
//! streams end first, what they wait for last.

mod error;
mod listeners;
mod stream;
mod watch;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::clock::SystemClock;
use ferrogate_base::directory::DirectoryLock;
use ferrogate_base::readiness::Readiness;
use ferrogate_base::tasks::{Report, Tasks};
use ferrogate_model::GatewayId;
use ferrogate_policy::{Registry, Services};
use ferrogate_store::{OpenError, Options, Store, open};

pub use error::StartError;
pub use listeners::Addresses;
use listeners::{Bound, http};

use crate::admin::{self, Admin};
use crate::api::{self, App, Settings};
use crate::auth::admin_password::Admin as Administrator;
use crate::auth::sources::{self, Authenticators};
use crate::config::{Config, Environment};
use crate::deploy::{Admission, Deployer};
use crate::files;
use crate::metrics::Metrics;
use crate::replicate::Replica;
use crate::retention;
use crate::seal::KeyRing;
use crate::seal::files as key_files;
use crate::seal::store::SealedStore;
use crate::status::Status;
use crate::status::fleet::Fleet;

/// The file in the data directory that the controller which runs there holds.
const LOCK: &str = "controller.lock";

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
    /// Held until everything has ended.
    _directory: DirectoryLock,
}

impl Controller {
    /// Starts a controller. It may not be ready for a while: see [`RunningController::readiness`].
    ///
    /// # Errors
    /// When the configuration cannot be put into effect; never because the database is down.
    pub async fn start(config: Config, parts: Parts) -> Result<RunningController, StartError> {
        let directory = claim(&config.data_dir)?;
        let (bound, addresses) = Bound::bind(&config).await?;
        let stream_options = stream::options(&config)?;
        stream::protected(&stream_options, addresses.stream)?;
        let ring = key_ring(&config)?;
        let store = parts.store.map_or_else(|| open_store(&config), Ok)?;
        let settings = settings(&config, ring.as_ref());
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
            settings.sealing.clone(),
        ));
        watch::replication(&back, &store, &replica, &metrics, &readiness);
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
        files::put_into_effect(&config, &admission, &deployer, &back).await?;
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
        let admin = Arc::new(admin(&config, &app, &readiness));
        http(&front, "management API", bound.management, api::router(app));
        http(&front, "admin server", bound.admin, admin::router(Arc::clone(&admin)));
        http(&front, "metrics server", bound.metrics, admin::metrics_router(admin));
        stream::serve(&front, bound.stream, &replica, stream_options, fleet);
        Ok(RunningController {
            addresses,
            administrator,
            password_file,
            readiness,
            replica,
            metrics,
            front,
            back,
            _directory: directory,
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

/// The store that is configured.
pub(crate) fn open_store(config: &Config) -> Result<Arc<dyn Store>, OpenError> {
    let options = Options { pool_size: config.pool_size, ..Options::default() };
    open(config.database_url.expose(), &GatewayId::from(config.gateway_id.as_str()), &options)
}

/// Takes the data directory, which is made if it is not there.
fn claim(data_dir: &Path) -> Result<DirectoryLock, StartError> {
    let path = data_dir.join(LOCK);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    let taken = made.and_then(|()| DirectoryLock::take(&path));
    let taken =
        taken.map_err(|source| StartError::File { what: "the lock of the data directory", path, source });
    taken?.ok_or_else(|| StartError::InUse(data_dir.to_owned()))
}

fn admission(config: &Config, registry: Arc<Registry>, services: Services) -> Admission {
    Admission { registry, services, defaults: config.defaults.clone(), environment: Arc::new(Environment) }
}

fn admin(config: &Config, app: &Arc<App>, readiness: &Readiness) -> Admin {
    Admin {
        app: Arc::clone(app),
        readiness: readiness.clone(),
        allowed_ips: config.admin_allowed_ips.clone(),
        config_dump: config.config_dump,
    }
}

fn settings(config: &Config, ring: Option<&KeyRing>) -> Settings {
    Settings {
        gateway_id: config.gateway_id.clone(),
        replica_id: config.replica_id.clone(),
        immutable: config.immutable.is_some(),
        sealing: ring.map(KeyRing::versions).unwrap_or_default(),
        max_document_bytes: config.max_document_bytes,
        max_bundle_bytes: config.max_bundle_bytes,
        body_timeout: config.body_timeout,
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
