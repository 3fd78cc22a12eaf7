// SPDX-License-Identifier: Apache-2.0
//! A resource: one artifact as the runtimes receive it. Its payload is the artifact
//! in canonical JSON (fixed field order, sorted maps, templates rendered, defaults
//! filled in), made once by the controller and byte-equal on every replica.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{ResourceName, Revision};

/// One artifact on its way to, or held by, a runtime.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Which artifact.
    pub name: ResourceName,
    /// The revision that gave it this content.
    pub version: Revision,
    /// The artifact in canonical JSON.
    pub payload: Bytes,
}

/// One resource a runtime refused: its last good version, if any, keeps serving.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reject {
    /// `<kind>/<handle>`.
    pub resource: String,
    /// The refused version.
    pub revision: u64,
    /// Why, for people.
    pub reason: String,
}
