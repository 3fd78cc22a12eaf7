// SPDX-License-Identifier: Apache-2.0
//! The shape of an artifact in an answer (contract 2.1): the source document as stored,
//! with a `status` beside it. Conversion goes this way only; a `status` that a client
//! sends is ignored.

use ferrogate_model::kinds::{Artifact, Secret};
use ferrogate_model::{ResourceName, Revision};
use ferrogate_store::StoredArtifact;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{ApiError, FieldError};
use crate::deploy::Admitted;
use crate::status::live::Liveness;

/// `status` of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// The handle.
    pub id: String,
    /// `deployed` or `undeployed`: what is wanted. Who serves it is said by `live` and `/cluster`.
    /// Absent of kinds that runtimes are not sent.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub state: &'static str,
    /// When it was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// When it got this content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// When it got this content, while deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed_at: Option<String>,
    /// The revision that gave it this content; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Nothing was stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Fields of the document that have no effect, or name what does not exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<FieldError>,
    /// The artifacts that were made anew because what they refer to was written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rerendered: Vec<String>,
    /// Who serves it, when the client waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Liveness>,
}

impl ResourceStatus {
    /// The status of a stored artifact.
    #[must_use]
    pub fn of(stored: &StoredArtifact) -> ResourceStatus {
        let deployed = stored.payload.is_some();
        ResourceStatus::new(&stored.name, deployed).at(stored.created_at, stored.updated_at, stored.revision)
    }

    /// The status of a document that is not, or not yet, stored.
    #[must_use]
    pub fn of_admitted(admitted: &Admitted) -> ResourceStatus {
        let mut status = ResourceStatus::new(&admitted.name, admitted.payload.is_some());
        status.warnings = super::error::field_errors(admitted.warnings.clone());
        status
    }

    /// With its times and revision.
    #[must_use]
    pub fn at(mut self, created_at: i64, updated_at: i64, revision: Revision) -> ResourceStatus {
        self.created_at = timestamp(created_at);
        self.updated_at = timestamp(updated_at);
        self.deployed_at = self.updated_at.clone().filter(|_| self.state == "deployed");
        self.revision = Some(revision.0);
        self
    }

    fn new(name: &ResourceName, deployed: bool) -> ResourceStatus {
        ResourceStatus {
            id: name.handle.as_str().to_owned(),
            state: match (name.kind.is_served(), deployed) {
                (false, _) => "",
                (true, true) => "deployed",
                (true, false) => "undeployed",
            },
            ..ResourceStatus::default()
        }
    }
}

/// A stored artifact as it is answered.
///
/// # Errors
/// When what is stored is not a document.
pub fn document(stored: &StoredArtifact) -> Result<Value, ApiError> {
    with_status(source(stored)?, &ResourceStatus::of(stored))
}

/// The document of a stored artifact, as far as it is kept in the clear.
///
/// # Errors
/// When what is stored is not a document.
pub fn source(stored: &StoredArtifact) -> Result<Value, ApiError> {
    serde_json::from_str(&stored.source).map_err(|error| ApiError::Internal {
        message: "The stored document is not readable",
        cause: format!("{} at revision {}: {error}", stored.name, stored.revision),
    })
}

/// The whole document that a client once sent: of a secret with its value, of a certificate
/// with its private key.
///
/// # Errors
/// When what is stored is not a document, or not of its kind.
pub fn whole(stored: &StoredArtifact) -> Result<Value, ApiError> {
    let source = source(stored)?;
    if stored.name.kind.conceals() { Ok(artifact(stored)?.revealed(source)) } else { Ok(source) }
}

/// The artifact that is stored as this.
///
/// # Errors
/// When it is none of its kind.
pub fn artifact(stored: &StoredArtifact) -> Result<Artifact, ApiError> {
    let payload = stored.payload.as_deref().unwrap_or_default();
    // The cause could quote the payload.
    Artifact::from_payload(stored.name.kind, payload.as_bytes()).map_err(|_| ApiError::Internal {
        message: "The stored artifact is not readable",
        cause: format!("{} at revision {} is not of its kind", stored.name, stored.revision),
    })
}

/// The secret that is stored as this.
///
/// # Errors
/// When it is none.
pub fn secret(stored: &StoredArtifact) -> Result<Secret, ApiError> {
    match artifact(stored) {
        Ok(Artifact::Secret(secret)) => Ok(secret),
        Ok(Artifact::RestApi(_) | Artifact::Certificate(_)) | Err(_) => Err(ApiError::Internal {
            message: "Failed to decrypt secret",
            cause: format!("{} at revision {} is no secret", stored.name, stored.revision),
        }),
    }
}

/// A document with this status.
///
/// # Errors
/// When the status cannot be written as JSON.
pub fn with_status(mut source: Value, status: &ResourceStatus) -> Result<Value, ApiError> {
    let status = serde_json::to_value(status).map_err(|error| ApiError::Internal {
        message: "The answer could not be written",
        cause: error.to_string(),
    })?;
    if let Value::Object(fields) = &mut source {
        fields.insert("status".to_owned(), status);
    }
    Ok(source)
}

/// Microseconds since the Unix epoch as RFC 3339; `None` outside of the years it can say.
#[must_use]
pub fn timestamp(micros: i64) -> Option<String> {
    Timestamp::from_microsecond(micros).ok().map(|time| time.to_string())
}
