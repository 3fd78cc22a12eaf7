// SPDX-License-Identifier: Apache-2.0
//! The management API: one file per group of endpoints, the routes collected here. A
//! request is authenticated and parsed at this edge; `deploy` decides and commits,
//! `snapshot` answers reads. It must never write to a snapshot or send to a runtime:
//! what is written comes back through the feed like everybody else's.

mod apply;
mod body;
pub mod certificates;
mod cluster;
mod collection;
pub mod documents;
pub mod error;
mod gateway;
pub mod json;
pub mod middleware;
mod openapi;
mod options;
mod plan;
pub mod policies;
mod preconditions;
mod preview;
mod read;
mod refused;
mod rest_apis;
mod secrets;
mod write;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use ferrogate_store::Store;
use utoipa_axum::router::OpenApiRouter;

use crate::auth::Auth;
use crate::deploy::{Admission, Deployer};
use crate::metrics::Metrics;
use crate::replicate::Replica;
use crate::status::Status;

/// The base path that deprecated ones are told to move to.
pub const CURRENT_BASE: &str = "/api/management/v1";
/// The base paths that are not deprecated.
pub const BASES: [&str; 2] = [CURRENT_BASE, "/api/management/v0.9"];

/// What the handlers share.
pub struct App {
    /// Where writes go, and reads of the past.
    pub store: Arc<dyn Store>,
    /// Where reads of the present go.
    pub replica: Arc<Replica>,
    /// What may be stored.
    pub admission: Arc<Admission>,
    /// How it is stored.
    pub deployer: Deployer,
    /// Who serves it.
    pub status: Arc<Status>,
    /// Who may call.
    pub auth: Arc<Auth>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is configured.
    pub settings: Settings,
    /// What is described.
    pub openapi: utoipa::openapi::OpenApi,
}

/// What is configured of the management API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway.
    pub gateway_id: String,
    /// This controller.
    pub replica_id: String,
    /// Refuse every write.
    pub immutable: bool,
    /// The versions of the keys to seal with; without any there are no secrets.
    pub sealing: Vec<String>,
    /// The largest document; a larger one is answered 413.
    pub max_document_bytes: usize,
    /// The largest body of documents for `/apply`.
    pub max_bundle_bytes: usize,
    /// The longest a body may take to arrive; a later one is answered 408.
    pub body_timeout: Duration,
}

impl Settings {
    /// Whether there are keys to seal with.
    #[must_use]
    pub const fn seals(&self) -> bool {
        !self.sealing.is_empty()
    }
}

/// The description of every endpoint.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    openapi::complete(endpoints().split_for_parts().1)
}

/// The whole management API.
pub fn router(app: Arc<App>) -> Router {
    let (known, _description) = endpoints().split_for_parts();
    let open = Router::new().route("/openapi.json", get(openapi::openapi));
    let known = known
        .route_layer(from_fn_with_state(Arc::clone(&app), middleware::authenticate))
        .route_layer(from_fn_with_state(Arc::clone(&app), middleware::immutable))
        .merge(open);
    let mut all = known.clone().route_layer(from_fn(middleware::deprecate));
    for base in BASES {
        all = all.nest(base, known.clone());
    }
    all.fallback(middleware::not_found)
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&app), middleware::observe))
        .with_state(app)
}

/// One line for each group of endpoints.
fn endpoints() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(rest_apis::routes())
        .merge(secrets::routes())
        .merge(certificates::routes())
        .merge(apply::routes())
        .merge(gateway::routes())
        .merge(cluster::routes())
        .merge(policies::routes())
}
