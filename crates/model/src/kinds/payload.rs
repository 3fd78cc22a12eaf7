// SPDX-License-Identifier: Apache-2.0
//! Payloads: an artifact as the bytes that the store keeps, the wire carries and a
//! runtime holds. The same artifact gives the same bytes on every replica; a payload
//! of a newer release, with fields this one does not know, is still read.

use super::{Artifact, Certificate, RestApi, Secret};
use crate::Kind;

/// A payload that is no artifact of its kind.
#[derive(Debug, thiserror::Error)]
#[error("the payload is no {kind}: {source}", kind = .kind.document_name())]
pub struct PayloadError {
    /// The kind that was expected.
    pub kind: Kind,
    /// What is wrong with it.
    pub source: serde_json::Error,
}

impl RestApi {
    /// The API in canonical JSON: fields in declaration order, map keys sorted, durations in milliseconds.
    #[must_use]
    pub fn to_payload(&self) -> String {
        serde_json::to_string(self).expect("its maps have text keys and its numbers are finite")
    }
}

impl Secret {
    /// The secret in canonical JSON, its value included: it is stored sealed, or not at all.
    #[must_use]
    pub fn to_payload(&self) -> String {
        serde_json::to_string(self).expect("it is made of texts")
    }
}

impl Certificate {
    /// The certificate in canonical JSON, its private key included: it is stored sealed.
    #[must_use]
    pub fn to_payload(&self) -> String {
        serde_json::to_string(self).expect("it is made of texts")
    }
}

impl Artifact {
    /// The artifact in canonical JSON.
    #[must_use]
    pub fn to_payload(&self) -> String {
        match self {
            Artifact::RestApi(api) => api.to_payload(),
            Artifact::Secret(secret) => secret.to_payload(),
            Artifact::Certificate(certificate) => certificate.to_payload(),
        }
    }

    /// Reads what [`Artifact::to_payload`] wrote, in this release or another one.
    ///
    /// # Errors
    /// When the bytes are no artifact of this kind.
    pub fn from_payload(kind: Kind, payload: &[u8]) -> Result<Artifact, PayloadError> {
        match kind {
            Kind::RestApi => serde_json::from_slice(payload).map(Artifact::RestApi),
            Kind::Secret => serde_json::from_slice(payload).map(Artifact::Secret),
            Kind::Certificate => serde_json::from_slice(payload).map(Artifact::Certificate),
        }
        .map_err(|source| PayloadError { kind, source })
    }
}
