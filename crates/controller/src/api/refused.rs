// SPDX-License-Identifier: Apache-2.0
//! What a client is told whose write did not go through (contract 2.2, 2.6, 2.7): the
//! contract words the same refusal differently for each kind. Status codes are those of
//! [`super::error`].

use ferrogate_model::{Handle, Kind, ResourceName, Revision};
use ferrogate_store::{Guard, ID_CLAIM};

use super::error::ApiError;
use super::write::Subject;
use crate::deploy::DeployError;
use crate::metrics::Operation;

/// The answer to a batch that did not go through.
#[must_use]
pub fn refusal(error: DeployError, subjects: &[Subject], operation: Operation) -> ApiError {
    match error {
        DeployError::Guard { name, found } => {
            let guard = subjects.iter().find(|one| one.name == name).map_or(Guard::Any, |one| one.guard);
            guard_refusal(&name, found, guard)
        }
        DeployError::Claimed { name, claim, holder } => {
            let subject = subjects.iter().find(|one| one.name == name);
            claimed(subject.unwrap_or(&Subject::bare(name, Guard::Any)), &claim, holder)
        }
        DeployError::Store(ferrogate_store::StoreError::Corrupt(cause)) => {
            let message = match operation {
                Operation::Create => "Failed to create configuration",
                Operation::Update | Operation::Apply | Operation::Rollback => {
                    "Failed to update configuration"
                }
                Operation::Delete => "Failed to delete configuration",
            };
            ApiError::Internal { message, cause }
        }
        DeployError::Moved { name } => {
            ApiError::Conflict(format!("{name} was changed at the same time; nothing was written"))
        }
        DeployError::Store(error) => error.into(),
        DeployError::Unknown(batch) => ApiError::Unknown(batch),
    }
}

/// The answer about what another artifact holds. Of many documents it says which wanted it.
#[must_use]
pub fn claimed(subject: &Subject, claim: &str, holder: ResourceName) -> ApiError {
    let place = subject.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
    if subject.name_claim == claim {
        let (title, version) = &subject.title;
        return ApiError::Conflict(format!(
            "{place}configuration already exists: configuration with name '{title}' and version '{version}' already exists"
        ));
    }
    if claim.starts_with(ID_CLAIM) {
        return match place.is_empty() {
            true => ApiError::IdTaken { holder },
            false => ApiError::Conflict(format!("{place}{}", id_taken(&holder))),
        };
    }
    ApiError::Conflict(format!(
        "{place}route conflict: {claim} is already served by RestApi '{}'",
        holder.handle
    ))
}

/// What is said of an id that another artifact has.
#[must_use]
pub fn id_taken(holder: &ResourceName) -> String {
    format!("configuration already exists: {holder} has the same artifact id")
}

/// The answer to a write whose guard did not hold of the revision that was found.
#[must_use]
pub fn guard_refusal(name: &ResourceName, found: Option<Revision>, guard: Guard) -> ApiError {
    let handle = &name.handle;
    match (guard, found) {
        (Guard::Absent, _) => already_exists(name),
        (Guard::AtRevision(wanted), Some(found)) => ApiError::PreconditionFailed {
            message: format!("{} '{handle}' is at revision {found}, not {wanted}", title(name.kind)),
            found: Some(found),
        },
        (Guard::Any | Guard::Present | Guard::AtRevision(_), _) => not_found(name),
    }
}

/// The answer about an artifact that was to be created and exists.
fn already_exists(name: &ResourceName) -> ApiError {
    let handle = &name.handle;
    ApiError::Conflict(match name.kind {
        Kind::RestApi => {
            format!("configuration already exists: configuration with handle '{handle}' already exists")
        }
        Kind::Secret => {
            format!("storage failed: configuration already exists: secret with id '{handle}' already exists")
        }
        Kind::Certificate => format!("configuration already exists: certificate '{handle}' already exists"),
    })
}

/// What answers call an artifact of this kind.
#[must_use]
pub const fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::RestApi => "RestAPI",
        Kind::Secret => "Secret",
        Kind::Certificate => "Certificate",
    }
}

/// The answer about an artifact that does not exist.
#[must_use]
pub fn not_found(name: &ResourceName) -> ApiError {
    absent(name.kind, name.handle.as_str())
}

fn absent(kind: Kind, handle: &str) -> ApiError {
    ApiError::NotFound(match kind {
        Kind::RestApi => format!("RestAPI with handle '{handle}' not found"),
        Kind::Secret => format!("configuration not found: id={handle}"),
        Kind::Certificate => format!("certificate '{handle}' not found"),
    })
}

/// The name of the artifact of this kind with this handle; one that cannot exist is not found.
///
/// # Errors
/// When it cannot exist.
pub fn named(kind: Kind, handle: &str) -> Result<ResourceName, ApiError> {
    let name = Handle::try_new(handle).map(|handle| ResourceName::new(kind, handle));
    name.map_err(|_| absent(kind, handle))
}
