// SPDX-License-Identifier: Apache-2.0
//! Who is alive: leases that controllers renew for themselves and their runtimes, in
//! tables outside the revision line. Any replica reads all of them and so answers
//! "live everywhere?" for the whole gateway.

use ferrogate_model::{Position, Reject};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::fault::corrupt;

/// One controller, as it last reported itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerLease {
    /// `--replica-id`.
    pub id: String,
    /// `--zone`.
    pub zone: String,
    /// The position of its snapshot.
    pub position: Position,
    /// Runtimes connected to it.
    pub runtimes: u32,
    /// Management requests in the last report interval, per second.
    pub load: f64,
    /// The versions of the keys it has, the one that seals first; empty when it has none, or is
    /// of a version that does not say.
    #[serde(default)]
    pub sealing: Vec<String>,
    /// When the lease was last renewed, microseconds by the database's clock; ignored on write.
    pub renewed_at: i64,
}

/// One runtime, as the controller it is connected to last reported it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeLease {
    /// `--runtime-id`.
    pub id: String,
    /// `--zone`.
    pub zone: String,
    /// The controller that reports it.
    pub controller: String,
    /// What it acknowledged last.
    pub applied: Position,
    /// Whether it is served live or runs from its last-known-good snapshot.
    pub from_cache: bool,
    /// Artifacts it refused: resource name, refused revision, reason.
    pub rejects: Vec<Reject>,
    /// The version of its binary.
    pub version: String,
    /// False once its stream has ended.
    pub connected: bool,
    /// When it first fell behind its controller's snapshot, microseconds; `None` when current.
    pub behind_since: Option<i64>,
    /// When the lease was last renewed, microseconds by the database's clock; ignored on write.
    pub renewed_at: i64,
}

/// Every lease of the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Every controller.
    pub controllers: Vec<ControllerLease>,
    /// Every runtime; one that moved shows its latest report only.
    pub runtimes: Vec<RuntimeLease>,
    /// The database's clock when they were read, microseconds.
    pub now: i64,
}

/// A lease as its row keeps it: JSON, so that a new field needs no migration and an older
/// replica reads over it.
pub(crate) fn to_report(lease: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(lease).map_err(corrupt)
}
