// SPDX-License-Identifier: Apache-2.0
//! The artifact kinds, one file each, and the enum over them. Matches on
//! [`Artifact`] have no catch-all arm, so that a new kind is a compile error
//! wherever a decision is due.

pub mod certificate;
mod metadata;
mod payload;
pub mod rest_api;
pub mod secret;

pub use certificate::Certificate;
pub use metadata::{ARTIFACT_ID, MAX_MAP_ENTRIES};
pub use payload::PayloadError;
pub use rest_api::RestApi;
pub use secret::Secret;

use serde_json::Value;

use crate::{Kind, ResourceName};

/// A valid artifact of any kind.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are APIs, and only a few exist at a time")]
pub enum Artifact {
    /// A REST API.
    RestApi(RestApi),
    /// A secret.
    Secret(Secret),
    /// A certificate.
    Certificate(Certificate),
}

impl Artifact {
    /// The artifact's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Artifact::RestApi(_) => Kind::RestApi,
            Artifact::Secret(_) => Kind::Secret,
            Artifact::Certificate(_) => Kind::Certificate,
        }
    }

    /// The artifact's key in the store and on the wire.
    #[must_use]
    pub fn name(&self) -> ResourceName {
        let handle = match self {
            Artifact::RestApi(api) => &api.handle,
            Artifact::Secret(secret) => &secret.handle,
            Artifact::Certificate(certificate) => &certificate.handle,
        };
        ResourceName::new(self.kind(), handle.clone())
    }

    /// The document that a client once sent, from what of it is kept in the clear.
    #[must_use]
    pub fn revealed(&self, source: Value) -> Value {
        match self {
            Artifact::RestApi(_) => source,
            Artifact::Secret(secret) => secret.revealed(source),
            Artifact::Certificate(certificate) => certificate.revealed(source),
        }
    }
}
