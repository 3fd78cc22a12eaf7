// SPDX-License-Identifier: Apache-2.0
//! The tail that every write shares: commit, turn a failure into its answer (contract
//! 2.2), wait until live when asked to, count how it ended.

use std::sync::Arc;

use ferrogate_model::document::{Format, ParseError};
use ferrogate_model::{ResourceName, Revision, document};
use ferrogate_store::Guard;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::App;
use super::error::{ApiError, etag};
use super::options::{Wait, WriteOptions};
use crate::auth::Principal;
use crate::deploy::{Admitted, DeployError, Deployed, Deployment, Planned};
use crate::metrics::{Operation, Outcome};
use crate::status::live::{Liveness, Target};

/// The header with the revision on every write.
pub const REVISION: &str = "x-revision";

/// What a write asked of the artifact, for wording the refusal.
#[derive(Clone)]
pub struct Subject {
    /// The artifact.
    pub name: ResourceName,
    /// Its claim on display name and version.
    pub name_claim: String,
    /// Display name and version, as the refusal quotes them.
    pub title: (String, String),
    /// What was asked of it.
    pub guard: Guard,
}

/// A write that went through.
pub struct Written {
    /// Its revisions.
    pub deployed: Deployed,
    /// Who serves it, when the client waited.
    pub live: Option<Liveness>,
}

impl Subject {
    /// What this admitted document asks.
    #[must_use]
    pub fn of(admitted: &Admitted, guard: Guard) -> Subject {
        let ferrogate_model::kinds::Artifact::RestApi(api) = &admitted.artifact;
        Subject {
            name: admitted.name.clone(),
            name_claim: admitted.name_claim.clone(),
            title: (api.display_name.clone(), api.version.clone()),
            guard,
        }
    }

    /// A write of this artifact that carries no document.
    #[must_use]
    pub fn bare(name: ResourceName, guard: Guard) -> Subject {
        Subject { name, name_claim: String::new(), title: (String::new(), String::new()), guard }
    }
}

impl Written {
    /// The status of the answer: as given when live or not asked, else 202.
    #[must_use]
    pub fn status(&self, done: StatusCode) -> StatusCode {
        if self.live.as_ref().is_none_or(|live| live.live) { done } else { StatusCode::ACCEPTED }
    }

    /// `x-revision` for the last write, and `etag` when there was one artifact.
    pub fn headers(&self, headers: &mut HeaderMap, tag: bool) {
        let revision = self.deployed.committed.last;
        headers.insert(REVISION, HeaderValue::from(revision.0));
        if tag {
            headers.insert(http::header::ETAG, etag(revision));
        }
    }
}

impl App {
    /// Reads and admits documents off the async threads: validation, regular expressions and
    /// schemas of a thousand documents take seconds.
    ///
    /// # Errors
    /// With the first cause that is not a document's fault, else each document's own result.
    pub async fn admit(
        self: &Arc<Self>,
        documents: Vec<Value>,
        strict: bool,
    ) -> Result<Vec<Result<Admitted, crate::deploy::Refusal>>, ApiError> {
        let app = Arc::clone(self);
        let admitted = tokio::task::spawn_blocking(move || {
            documents.into_iter().map(|document| app.admission.admit(document, strict)).collect()
        });
        admitted.await.map_err(|error| ApiError::Internal {
            message: "Internal server error",
            cause: format!("admission failed: {error}"),
        })
    }

    /// As [`App::admit`], of one document.
    ///
    /// # Errors
    /// With the document's fault or ours.
    pub async fn admit_one(self: &Arc<Self>, document: Value, strict: bool) -> Result<Admitted, ApiError> {
        let admitted = self.admit(vec![document], strict).await?.pop();
        let admitted = admitted.ok_or_else(|| ApiError::Internal {
            message: "Internal server error",
            cause: "admission lost the document".to_owned(),
        })?;
        Ok(admitted?)
    }

    /// Commits, waits and counts.
    ///
    /// # Errors
    /// With what the client is told.
    pub async fn write(
        &self,
        operation: Operation,
        caller: &Principal,
        options: &WriteOptions,
        writes: Vec<(Subject, Option<Admitted>)>,
    ) -> Result<Written, ApiError> {
        let (subjects, planned): (Vec<Subject>, Vec<Planned>) = writes
            .into_iter()
            .map(|(subject, content)| {
                let planned = Planned { name: subject.name.clone(), guard: subject.guard, content };
                (subject, planned)
            })
            .unzip();
        let repeated = options.keyed.then(|| planned.iter().map(fingerprint).collect::<Vec<_>>());
        let deployment = Deployment { id: options.batch, author: caller.name.clone(), writes: planned };
        let committed = self.deployer.deploy(deployment).await;
        let deployed = committed.map_err(|error| {
            let error = refusal(error, &subjects, operation);
            self.metrics.operation(operation, error.outcome());
            error
        })?;
        if repeated.is_some_and(|planned| !is_the_same(&deployed, &planned)) {
            self.metrics.operation(operation, Outcome::Refused);
            return Err(ApiError::Conflict(format!(
                "Idempotency-Key {} was used for another request, at revision {}; nothing was written",
                options.batch, deployed.committed.last
            )));
        }
        self.metrics.operation(operation, Outcome::Success);
        let names = subjects.into_iter().map(|subject| subject.name).collect();
        let live = match &options.wait {
            None => None,
            Some(wait) => Some(self.wait_live(&deployed, names, wait).await),
        };
        Ok(Written { deployed, live })
    }

    async fn wait_live(&self, deployed: &Deployed, names: Vec<ResourceName>, wait: &Wait) -> Liveness {
        let target = Target { position: deployed.position(), first: deployed.committed.first, names };
        self.status.wait_live(&target, &wait.scope, wait.timeout).await
    }
}

/// What a write writes where.
fn fingerprint(planned: &Planned) -> (ResourceName, Option<String>) {
    (planned.name.clone(), planned.content.as_ref().map(|admitted| admitted.source.to_string()))
}

/// Whether the batch found under the client's key is this request. What has been replaced
/// since cannot be compared and passes.
fn is_the_same(deployed: &Deployed, planned: &[(ResourceName, Option<String>)]) -> bool {
    let count = deployed.committed.last.0.saturating_sub(deployed.committed.first.0).saturating_add(1);
    if u64::try_from(planned.len()) != Ok(count) {
        return false;
    }
    let Some(snapshot) = &deployed.snapshot else { return true };
    planned.iter().enumerate().all(|(index, (name, source))| match (snapshot.get(name), source) {
        (Some(entry), source) if entry.stored.revision == deployed.revision(index) => {
            source.as_ref() == Some(&entry.stored.source)
        }
        // Another artifact, never written by that batch, has neither the revision nor a later one.
        (Some(entry), _) => entry.stored.revision > deployed.revision(index),
        (None, None) => true,
        // It may have been deleted since; the log would tell, at the price of a read per retry.
        (None, Some(_)) => snapshot.position().revision > deployed.committed.last,
    })
}

/// The answer to a batch that did not go through.
fn refusal(error: DeployError, subjects: &[Subject], operation: Operation) -> ApiError {
    match error {
        DeployError::Guard { name, found } => {
            let guard = subjects.iter().find(|one| one.name == name).map_or(Guard::Any, |one| one.guard);
            guard_refusal(&name, found, guard)
        }
        DeployError::Claimed { name, claim, holder } => {
            let subject = subjects.iter().find(|one| one.name == name);
            match subject.filter(|subject| subject.name_claim == claim) {
                Some(Subject { title: (title, version), .. }) => ApiError::Conflict(format!(
                    "configuration already exists: configuration with name '{title}' and version '{version}' already exists"
                )),
                None => ApiError::Conflict(format!(
                    "route conflict: {claim} is already served by RestApi '{}'",
                    holder.handle
                )),
            }
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
        DeployError::Store(error) => error.into(),
        DeployError::Unknown(batch) => ApiError::Unknown(batch),
    }
}

fn guard_refusal(name: &ResourceName, found: Option<Revision>, guard: Guard) -> ApiError {
    let handle = &name.handle;
    match (guard, found) {
        (Guard::Absent, _) => ApiError::Conflict(format!(
            "configuration already exists: configuration with handle '{handle}' already exists"
        )),
        (Guard::AtRevision(wanted), Some(found)) => ApiError::PreconditionFailed {
            message: format!("RestAPI '{handle}' is at revision {found}, not {wanted}"),
            found: Some(found),
        },
        (Guard::Any | Guard::Present | Guard::AtRevision(_), _) => not_found(name),
    }
}

/// The answer about an artifact that does not exist.
#[must_use]
pub fn not_found(name: &ResourceName) -> ApiError {
    ApiError::NotFound(format!("RestAPI with handle '{}' not found", name.handle))
}

/// Parses a body that holds one document, off the async threads like [`App::admit`].
///
/// # Errors
/// When it does not.
pub async fn parse(text: String, format: Format) -> Result<Value, ApiError> {
    off_thread(move || document::parse(&text, format)).await
}

/// As [`parse`], of a body with many documents.
///
/// # Errors
/// When it holds none, or what it holds is not of the format.
pub async fn parse_many(text: String, format: Format) -> Result<Vec<Value>, ApiError> {
    off_thread(move || document::parse_many(&text, format)).await
}

async fn off_thread<T: Send + 'static>(
    parse: impl FnOnce() -> Result<T, ParseError> + Send + 'static,
) -> Result<T, ApiError> {
    let parsed = tokio::task::spawn_blocking(parse).await.map_err(|error| ApiError::Internal {
        message: "Internal server error",
        cause: format!("parsing failed: {error}"),
    })?;
    parsed.map_err(|error| ApiError::BadRequest(error.to_string()))
}

/// Tells a batch by its id.
///
/// # Errors
/// When the text is no id.
pub fn batch_id(text: &str) -> Result<Uuid, ApiError> {
    Uuid::parse_str(text).map_err(|_| ApiError::BadRequest(format!("'{text}' is not a batch id")))
}
