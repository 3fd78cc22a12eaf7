// SPDX-License-Identifier: Apache-2.0
//! `/cluster`: every controller and runtime of the gateway, from any replica. When the
//! store does not answer, what this controller sees itself, and said to be just that.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use ferrogate_model::Position;
use ferrogate_store::{Cluster, ControllerLease, RuntimeLease};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::documents::timestamp;
use super::json::json as answer;
use super::read::mark_stale;
use crate::replicate::StoreState;
use crate::status::live::is_expired;

/// Leases this old will do for a person.
const VIEW_AGE: Duration = Duration::from_millis(200);

/// The cluster.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAnswer {
    /// Always `success`.
    pub status: &'static str,
    /// The gateway.
    pub gateway_id: String,
    /// The controller that answers.
    pub controller: String,
    /// The epoch it is in.
    pub epoch: u64,
    /// The revision it is at.
    pub revision: u64,
    /// The digest of the whole set at that revision: equal on every replica that is there.
    pub digest: String,
    /// `available`, `starting`, `unavailable` or `sealed`, as it sees the store: the last when what
    /// is there needs a key that it lacks.
    pub store: &'static str,
    /// False when the store did not answer: then only what this controller sees itself is listed.
    pub complete: bool,
    /// Every controller.
    pub controllers: Vec<ControllerView>,
    /// Every runtime.
    pub runtimes: Vec<RuntimeView>,
}

/// A controller.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerView {
    /// Its id.
    pub id: String,
    /// Its zone.
    pub zone: String,
    /// The epoch of its snapshot.
    pub epoch: u64,
    /// The revision of its snapshot.
    pub revision: u64,
    /// Runtimes connected to it.
    pub runtimes: u32,
    /// Management requests per second.
    pub load: f64,
    /// Whether its lease holds.
    pub alive: bool,
    /// Seconds since its lease was renewed.
    pub lease_age_seconds: f64,
}

/// A runtime.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeView {
    /// Its id.
    pub id: String,
    /// Its zone.
    pub zone: String,
    /// The controller it is, or was last, connected to.
    pub controller: String,
    /// The epoch it applied last.
    pub epoch: u64,
    /// The revision it acknowledged last.
    pub applied: u64,
    /// How many revisions it is behind the newest controller: all of them in another epoch.
    pub lag: u64,
    /// Since how many seconds it has been behind; 0 when it is not.
    pub lag_seconds: f64,
    /// Whether it is connected and its lease holds.
    pub alive: bool,
    /// Whether its stream is up.
    pub connected: bool,
    /// Whether it serves from its last-known-good snapshot.
    pub from_cache: bool,
    /// The version of its binary.
    pub version: String,
    /// Artifacts it refused.
    pub rejects: Vec<RejectView>,
    /// Seconds since its lease was renewed.
    pub lease_age_seconds: f64,
    /// When it fell behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_since: Option<String>,
}

/// An artifact that a runtime refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct RejectView {
    /// The artifact.
    pub resource: String,
    /// The refused revision.
    pub revision: u64,
    /// Why.
    pub reason: String,
}

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(cluster))
}

/// Lists every controller and runtime.
#[utoipa::path(
    get,
    path = "/cluster",
    tag = "Gateway",
    responses((status = 200, description = "The cluster, as far as is known: see `complete`", body = ClusterAnswer))
)]
async fn cluster(State(app): State<Arc<App>>) -> Response {
    let (cluster, complete) = match app.status.cluster(VIEW_AGE).await {
        Ok(cluster) => (cluster, true),
        Err(error) => {
            tracing::debug!(%error, "the cluster is shown as this controller alone sees it");
            (app.status.own_view(), false)
        }
    };
    let (position, digest) = match app.replica.current() {
        Some(snapshot) => (snapshot.position(), snapshot.digest()),
        None => Default::default(),
    };
    let store = match app.replica.store_state() {
        StoreState::Starting => "starting",
        StoreState::Available => "available",
        StoreState::Unavailable { .. } => "unavailable",
        StoreState::Sealed { .. } => "sealed",
    };
    let head = cluster.controllers.iter().map(|one| one.position).fold(position, std::cmp::Ord::max);
    let body = ClusterAnswer {
        status: "success",
        gateway_id: app.settings.gateway_id.clone(),
        controller: app.settings.replica_id.clone(),
        epoch: position.epoch.0,
        revision: position.revision.0,
        digest: digest.to_string(),
        store,
        complete,
        controllers: cluster.controllers.iter().map(|one| controller(one, &cluster)).collect(),
        runtimes: cluster.runtimes.iter().map(|one| runtime(one, &cluster, head)).collect(),
    };
    let mut response = answer(StatusCode::OK, &body);
    if !complete {
        mark_stale(&mut response);
    }
    response
}

fn controller(lease: &ControllerLease, cluster: &Cluster) -> ControllerView {
    ControllerView {
        id: lease.id.clone(),
        zone: lease.zone.clone(),
        epoch: lease.position.epoch.0,
        revision: lease.position.revision.0,
        runtimes: lease.runtimes,
        load: lease.load,
        alive: !is_expired(lease.renewed_at, cluster.now),
        lease_age_seconds: seconds(cluster.now, lease.renewed_at),
    }
}

fn runtime(lease: &RuntimeLease, cluster: &Cluster, head: Position) -> RuntimeView {
    let rejects = lease.rejects.iter().map(|one| RejectView {
        resource: one.resource.clone(),
        revision: one.revision,
        reason: one.reason.clone(),
    });
    RuntimeView {
        id: lease.id.clone(),
        zone: lease.zone.clone(),
        controller: lease.controller.clone(),
        epoch: lease.applied.epoch.0,
        applied: lease.applied.revision.0,
        lag: lag(head, lease.applied),
        lag_seconds: lease.behind_since.map_or(0.0, |since| seconds(cluster.now, since)),
        alive: lease.connected && !is_expired(lease.renewed_at, cluster.now),
        connected: lease.connected,
        from_cache: lease.from_cache,
        version: lease.version.clone(),
        rejects: rejects.collect(),
        lease_age_seconds: seconds(cluster.now, lease.renewed_at),
        behind_since: lease.behind_since.and_then(timestamp),
    }
}

/// Revisions of another epoch are not those of this one, however they are numbered.
fn lag(head: Position, applied: Position) -> u64 {
    if applied.epoch == head.epoch {
        head.revision.0.saturating_sub(applied.revision.0)
    } else {
        head.revision.0
    }
}

fn seconds(now: i64, then: i64) -> f64 {
    let micros = u64::try_from(now.saturating_sub(then)).unwrap_or(0);
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use ferrogate_model::{Epoch, Position, Revision};

    use super::lag;

    #[test]
    fn a_runtime_in_another_epoch_lacks_everything() {
        let at = |epoch, revision| Position::new(Epoch(epoch), Revision(revision));
        for (head, applied, expected) in [
            (at(2, 9), at(2, 7), 2),
            (at(2, 9), at(2, 9), 0),
            (at(2, 9), at(2, 11), 0),
            (at(2, 9), at(1, 40), 9),
            (at(2, 9), Position::default(), 9),
        ] {
            assert_eq!(lag(head, applied), expected, "{applied} of {head}");
        }
    }
}
