// SPDX-License-Identifier: Apache-2.0
//! The artifact kinds, one file each, and the enum over them. Matches on
//! [`Artifact`] have no catch-all arm, so that a new kind is a compile error
//! wherever a decision is due.

mod metadata;
mod payload;
pub mod rest_api;
pub mod secret;

pub use metadata::{ARTIFACT_ID, MAX_MAP_ENTRIES};
pub use payload::PayloadError;
pub use rest_api::RestApi;
pub use secret::Secret;

use crate::{Kind, ResourceName};

/// A valid artifact of any kind.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are APIs, and only a few exist at a time")]
pub enum Artifact {
    /// A REST API.
    RestApi(RestApi),
    /// A secret.
    Secret(Secret),
}

impl Artifact {
    /// The artifact's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Artifact::RestApi(_) => Kind::RestApi,
            Artifact::Secret(_) => Kind::Secret,
        }
    }

    /// The artifact's key in the store and on the wire.
    #[must_use]
    pub fn name(&self) -> ResourceName {
        match self {
            Artifact::RestApi(api) => ResourceName::new(Kind::RestApi, api.handle.clone()),
            Artifact::Secret(secret) => ResourceName::new(Kind::Secret, secret.handle.clone()),
        }
    }
}
