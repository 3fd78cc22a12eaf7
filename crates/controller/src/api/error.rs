// SPDX-License-Identifier: Apache-2.0
//! The one table from what went wrong to what the client sees (contract 1.3 and 1.5).
//! Handlers return [`ApiError`]; nothing else makes an error answer. Texts of our own
//! causes never hold what the client must not see: those go to the log.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use ferrogate_model::{ResourceName, Revision, Violation, Violations};
use ferrogate_store::StoreError;
use http::header::{ETAG, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::json::json;
use crate::auth::Denied;
use crate::deploy::Refusal;
use crate::metrics::Outcome;

/// When a client whose write found no store should try again, in seconds.
const RETRY_SECONDS: u64 = 1;

/// What a client is told went wrong.
#[derive(Debug)]
pub enum ApiError {
    /// The request cannot be used as it is.
    BadRequest(String),
    /// The document breaks rules.
    Invalid(Vec<FieldError>),
    /// There is no such thing.
    NotFound(String),
    /// Another artifact is in the way.
    Conflict(String),
    /// Another artifact has the id that the document pins.
    IdTaken {
        /// Which.
        holder: ResourceName,
    },
    /// A precondition did not hold.
    PreconditionFailed {
        /// What happened.
        message: String,
        /// The revision of what was asked about, if it has one.
        found: Option<Revision>,
    },
    /// The body is over the limit.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    Late,
    /// The store does not answer: nothing was written.
    Unavailable(String),
    /// Whether it was written cannot be said yet.
    Unknown(Uuid),
    /// The gateway takes no writes.
    Immutable,
    /// Our fault; the cause is in the log.
    Internal {
        /// What the client sees.
        message: &'static str,
        /// What the log sees.
        cause: String,
    },
}

/// One fault at one field of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field's path.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// Always `error`.
    pub status: &'static str,
    /// What went wrong.
    pub message: String,
    /// The faults of a document that broke rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The batch whose outcome is unknown; ask `/batches/{id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
}

/// The body of a refused caller, whose shape differs (contract 1.3).
#[derive(Debug, Serialize, ToSchema)]
pub struct AuthErrorBody {
    /// A stable word.
    pub code: &'static str,
    /// What went wrong.
    pub message: &'static str,
}

impl ApiError {
    /// How a metric counts it.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            ApiError::BadRequest(_)
            | ApiError::Invalid(_)
            | ApiError::NotFound(_)
            | ApiError::Conflict(_)
            | ApiError::IdTaken { .. }
            | ApiError::PreconditionFailed { .. }
            | ApiError::TooLarge { .. }
            | ApiError::Late
            | ApiError::Immutable => Outcome::Refused,
            ApiError::Unavailable(_) => Outcome::Unavailable,
            ApiError::Unknown(_) => Outcome::Unknown,
            ApiError::Internal { .. } => Outcome::Failed,
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            ApiError::BadRequest(_) | ApiError::Invalid(_) => StatusCode::BAD_REQUEST,
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::Conflict(_) | ApiError::IdTaken { .. } => StatusCode::CONFLICT,
            ApiError::PreconditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
            ApiError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::Late => StatusCode::REQUEST_TIMEOUT,
            ApiError::Unavailable(_) | ApiError::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Immutable => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn body(&self) -> ErrorBody {
        let (mut errors, mut batch) = (Vec::new(), None);
        let message = match self {
            ApiError::BadRequest(message)
            | ApiError::NotFound(message)
            | ApiError::Conflict(message)
            | ApiError::PreconditionFailed { message, .. }
            | ApiError::Unavailable(message) => message.clone(),
            ApiError::Invalid(violations) => {
                errors.clone_from(violations);
                "Configuration validation failed".to_owned()
            }
            ApiError::TooLarge { limit } => format!("Request body too large: the limit is {limit} bytes"),
            ApiError::IdTaken { holder } => super::refused::id_taken(holder),
            ApiError::Late => "Failed to read request body: it did not arrive in time".to_owned(),
            ApiError::Unknown(id) => {
                batch = Some(id.to_string());
                "The connection to the store was lost during the commit: the write is either fully there or \
                 not at all, and this replica cannot tell which yet. Ask for its batch, or repeat the request \
                 with the batch as Idempotency-Key"
                    .to_owned()
            }
            ApiError::Immutable => {
                "Gateway is in immutable mode. Mutating operations are not allowed.".to_owned()
            }
            ApiError::Internal { message, .. } => (*message).to_owned(),
        };
        ErrorBody { status: "error", message, errors, batch }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let ApiError::Internal { message, cause } = &self {
            tracing::error!(%cause, "{message}");
        }
        let mut response = json(self.status(), &self.body());
        let headers = response.headers_mut();
        if matches!(self, ApiError::Unavailable(_) | ApiError::Unknown(_)) {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        if let ApiError::PreconditionFailed { found: Some(found), .. } = self {
            headers.insert(ETAG, etag(found));
        }
        response
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Denied::Missing => {
                (StatusCode::UNAUTHORIZED, "skip_authz", "no valid authentication credentials provided")
            }
            Denied::Failed => (StatusCode::UNAUTHORIZED, "authentication_failed", "authentication failed"),
            Denied::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "forbidden"),
            Denied::TooMany { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", "too many failed attempts")
            }
            Denied::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too many credential checks are waiting")
            }
            Denied::NotYet => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_ready",
                "credentials cannot be checked yet: what they are checked against has not been read",
            ),
        };
        let mut response = json(status, &AuthErrorBody { code, message });
        let retry_after = match self {
            Denied::TooMany { retry_after } => Some(retry_after),
            Denied::Overloaded | Denied::NotYet => Some(Duration::from_secs(RETRY_SECONDS)),
            Denied::Missing | Denied::Failed | Denied::Forbidden => None,
        };
        if let Some(after) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(RETRY_SECONDS)));
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Unreadable(message) | Refusal::Template(message) | Refusal::MissingSecret(message) => {
                ApiError::BadRequest(message)
            }
            Refusal::Invalid(violations) => ApiError::Invalid(field_errors(violations)),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "a request found the store unavailable");
                ApiError::Unavailable(
                    "The store is unavailable, and nothing was changed. Try again later".to_owned(),
                )
            }
            StoreError::Sealed { .. } => {
                tracing::warn!(%error, "a request needed a key that this controller does not have");
                ApiError::Unavailable(format!(
                    "{error}: nothing was changed. This controller needs the keys that \
                     controller.encryption names on the gateway's others"
                ))
            }
            StoreError::OutOfRange { .. } => ApiError::NotFound(error.to_string()),
            StoreError::Corrupt(cause) => {
                ApiError::Internal { message: "The stored data is not readable", cause }
            }
        }
    }
}

impl From<Violation> for FieldError {
    fn from(violation: Violation) -> FieldError {
        FieldError { field: violation.field, message: violation.message }
    }
}

/// Violations as the API shows them.
pub fn field_errors(violations: Violations) -> Vec<FieldError> {
    violations.0.into_iter().map(FieldError::from).collect()
}

/// A revision as an entity tag.
pub fn etag(revision: Revision) -> HeaderValue {
    // Digits in quotes are always a valid header value.
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}
