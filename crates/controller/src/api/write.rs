// SPDX-License-Identifier: Apache-2.0
//! The tail that every write shares: commit, turn a failure into its answer (contract
//! 2.2), wait until live when asked to, count how it ended.

use std::sync::Arc;

use ferrogate_model::document::{Format, ParseError};
use ferrogate_model::kinds::Artifact;
use ferrogate_model::{Handle, Kind, ResourceName, Revision, document};
use ferrogate_store::{Guard, ID_CLAIM, StoredArtifact};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::App;
use super::error::{ApiError, etag};
use super::options::{Wait, WriteOptions};
use crate::auth::Principal;
use crate::deploy::{Admitted, DeployError, Deployed, Deployment, Planned, Refusal, Secrets};
use crate::metrics::{Operation, Outcome};
use crate::status::live::{Liveness, Target};

/// How often a write is planned before its client is told to try again.
const PLANS: usize = 8;

/// The header with the revision on every write.
pub const REVISION: &str = "x-revision";

/// Told to whoever writes a secret to a gateway that could only store it in the clear.
const NO_KEY: &str = "storage failed: this gateway has no key to seal secrets with. Make one \
    (head -c 32 /dev/urandom > FILE) and give the same file to every controller as \
    controller.encryption.key_file";

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
    /// The artifacts that were made anew with it, by name.
    pub rerendered: Vec<String>,
    /// Who serves it, when the client waited.
    pub live: Option<Liveness>,
}

impl Subject {
    /// What this admitted document asks.
    #[must_use]
    pub fn of(admitted: &Admitted, guard: Guard) -> Subject {
        let title = match &admitted.artifact {
            Artifact::RestApi(api) => (api.display_name.clone(), api.version.clone()),
            Artifact::Secret(secret) => (secret.display_name.clone(), String::new()),
            Artifact::Certificate(certificate) => (certificate.handle.as_str().to_owned(), String::new()),
        };
        Subject { name: admitted.name.clone(), name_claim: admitted.name_claim.clone(), title, guard }
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

    /// `x-revision` for the last write, and `etag` when the client wrote one artifact.
    pub fn headers(&self, headers: &mut HeaderMap, tag: bool) {
        headers.insert(REVISION, HeaderValue::from(self.deployed.committed.last.0));
        if tag {
            headers.insert(http::header::ETAG, etag(self.deployed.revision(0)));
        }
    }
}

impl App {
    /// Reads and admits documents off the async threads: validation, regular expressions and
    /// schemas of a thousand documents take seconds. A template that names a secret unknown
    /// here may be ahead of this replica, which then catches up and looks again.
    ///
    /// # Errors
    /// With the first cause that is not a document's fault, else each document's own result.
    pub async fn admit(
        self: &Arc<Self>,
        documents: Vec<(Kind, Value)>,
        strict: bool,
    ) -> Result<Vec<Result<Admitted, Refusal>>, ApiError> {
        let admitted = self.admit_once(documents.clone(), strict).await?;
        if admitted.iter().any(|one| matches!(one, Err(Refusal::MissingSecret(_)))) {
            self.deployer.catch_up().await?;
            return self.admit_once(documents, strict).await;
        }
        Ok(admitted)
    }

    async fn admit_once(
        self: &Arc<Self>,
        documents: Vec<(Kind, Value)>,
        strict: bool,
    ) -> Result<Vec<Result<Admitted, Refusal>>, ApiError> {
        let app = Arc::clone(self);
        off_thread("admission", move || {
            app.admission.admit_all(documents, strict, Secrets::of(app.replica.current()))
        })
        .await
    }

    /// As [`App::admit`], of one document.
    ///
    /// # Errors
    /// With the document's fault or ours.
    pub async fn admit_one(
        self: &Arc<Self>,
        kind: Kind,
        document: Value,
        strict: bool,
    ) -> Result<Admitted, ApiError> {
        let admitted = self.admit(vec![(kind, document)], strict).await?.pop();
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
        self: &Arc<Self>,
        operation: Operation,
        caller: &Principal,
        options: &WriteOptions,
        writes: Vec<(Subject, Option<Admitted>)>,
    ) -> Result<Written, ApiError> {
        let written = self.commit(operation, caller, options, writes).await;
        self.metrics.operation(operation, written.as_ref().err().map_or(Outcome::Success, ApiError::outcome));
        let (mut written, names) = written?;
        if let Some(wait) = &options.wait {
            written.live = Some(self.wait_live(&written.deployed, names, wait).await);
        }
        Ok(written)
    }

    async fn commit(
        self: &Arc<Self>,
        operation: Operation,
        caller: &Principal,
        options: &WriteOptions,
        writes: Vec<(Subject, Option<Admitted>)>,
    ) -> Result<(Written, Vec<ResourceName>), ApiError> {
        let subjects: Vec<Subject> = writes.iter().map(|(subject, _)| subject.clone()).collect();
        let repeated = options.keyed.then(|| writes.iter().map(fingerprint).collect::<Vec<_>>());
        let (deployed, rerendered) = self.deploy_planned(operation, caller, options, writes).await?;
        if repeated.is_some_and(|planned| !is_the_same(&deployed, &planned)) {
            return Err(ApiError::Conflict(format!(
                "Idempotency-Key {} was used for another request, at revision {}; nothing was written",
                options.batch, deployed.committed.last
            )));
        }
        let names = subjects.into_iter().map(|subject| subject.name).chain(rerendered.iter().cloned());
        let names = names.collect();
        let rerendered = rerendered.iter().map(ToString::to_string).collect();
        Ok((Written { deployed, rerendered, live: None }, names))
    }

    /// Plans and commits, and plans anew when what the plan was made from has changed
    /// meanwhile. Answers the artifacts made anew with the client's.
    async fn deploy_planned(
        self: &Arc<Self>,
        operation: Operation,
        caller: &Principal,
        options: &WriteOptions,
        mut writes: Vec<(Subject, Option<Admitted>)>,
    ) -> Result<(Deployed, Vec<ResourceName>), ApiError> {
        let asked = writes.len();
        for _ in 0..PLANS {
            let planned = self.plan(writes.clone()).await?;
            let subjects: Vec<Subject> = planned.writes.iter().map(|(subject, _)| subject.clone()).collect();
            let rerendered: Vec<ResourceName> =
                subjects.iter().skip(asked).map(|subject| subject.name.clone()).collect();
            let deployment = Deployment {
                id: options.batch,
                author: caller.name.clone(),
                writes: planned.writes.into_iter().map(into_planned).collect(),
                expects: planned.expects,
            };
            match self.deployer.deploy(deployment).await {
                Ok(deployed) => return Ok((deployed, rerendered)),
                Err(DeployError::Moved { name }) => tracing::debug!(%name, "planning anew"),
                // The guard of an artifact made anew is ours, not the client's.
                Err(DeployError::Guard { name, .. }) if rerendered.contains(&name) => {
                    tracing::debug!(%name, "planning anew");
                }
                Err(error) => return Err(refusal(error, &subjects, operation)),
            }
            self.deployer.catch_up().await?;
            writes = self.readmit(writes).await?;
        }
        let message =
            "Other writes to what this one depends on kept coming first; nothing was changed. Try again";
        Err(ApiError::Unavailable(message.to_owned()))
    }

    async fn wait_live(&self, deployed: &Deployed, names: Vec<ResourceName>, wait: &Wait) -> Liveness {
        let target = Target { position: deployed.position(), first: deployed.committed.first, names };
        self.status.wait_live(&target, &wait.scope, wait.timeout).await
    }
}

fn into_planned((subject, content): (Subject, Option<Admitted>)) -> Planned {
    Planned { name: subject.name, guard: subject.guard, content }
}

/// What a write writes where. A source that conceals does not say all.
fn fingerprint((subject, content): &(Subject, Option<Admitted>)) -> (ResourceName, Option<String>) {
    let content = content.as_ref().map(|admitted| match subject.name.kind.conceals() {
        false => admitted.source.to_string(),
        true => admitted.payload.clone().unwrap_or_default(),
    });
    (subject.name.clone(), content)
}

/// The same of what is stored.
fn stored_fingerprint(stored: &StoredArtifact) -> &str {
    match stored.name.kind.conceals() {
        false => &stored.source,
        true => stored.payload.as_deref().unwrap_or_default(),
    }
}

/// Whether the batch found under the client's key is this request. What has been replaced
/// since cannot be compared and passes.
fn is_the_same(deployed: &Deployed, planned: &[(ResourceName, Option<String>)]) -> bool {
    let count = deployed.committed.last.0.saturating_sub(deployed.committed.first.0).saturating_add(1);
    // Behind the client's own writes may stand what was made anew with them.
    if u64::try_from(planned.len()).map_or(true, |planned| planned > count) {
        return false;
    }
    let Some(snapshot) = &deployed.snapshot else { return true };
    planned.iter().enumerate().all(|(index, (name, source))| match (snapshot.get(name), source) {
        (Some(entry), source) if entry.stored.revision == deployed.revision(index) => {
            source.as_deref() == Some(stored_fingerprint(&entry.stored))
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
                None if claim.starts_with(ID_CLAIM) => ApiError::IdTaken { holder },
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
        DeployError::Moved { name } => {
            ApiError::Conflict(format!("{name} was changed at the same time; nothing was written"))
        }
        DeployError::Store(error) => error.into(),
        DeployError::Unknown(batch) => ApiError::Unknown(batch),
    }
}

fn guard_refusal(name: &ResourceName, found: Option<Revision>, guard: Guard) -> ApiError {
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
#[must_use]
pub fn already_exists(name: &ResourceName) -> ApiError {
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

/// Refuses to take what is secret where it could only be stored in the clear.
///
/// # Errors
/// When there is no key to seal it with.
pub fn sealable<'d>(
    seals: bool,
    mut documents: impl Iterator<Item = (Kind, &'d Value)>,
) -> Result<(), ApiError> {
    let secret = |(kind, document): (Kind, &Value)| match kind {
        Kind::RestApi => false,
        Kind::Secret => true,
        Kind::Certificate => document.pointer("/spec/privateKey").is_some(),
    };
    if !seals && documents.any(secret) {
        return Err(ApiError::BadRequest(NO_KEY.to_owned()));
    }
    Ok(())
}

/// Parses a body that holds one document, off the async threads like [`App::admit`].
///
/// # Errors
/// When it does not.
pub async fn parse(text: String, format: Format) -> Result<Value, ApiError> {
    parsed(off_thread("parsing", move || document::parse(&text, format)).await?)
}

/// As [`parse`], of a body with many documents.
///
/// # Errors
/// When it holds none, or what it holds is not of the format.
pub async fn parse_many(text: String, format: Format) -> Result<Vec<Value>, ApiError> {
    parsed(off_thread("parsing", move || document::parse_many(&text, format)).await?)
}

fn parsed<T>(parsed: Result<T, ParseError>) -> Result<T, ApiError> {
    parsed.map_err(|error| ApiError::BadRequest(error.to_string()))
}

/// Runs what takes long, but does not wait, off the async threads.
///
/// # Errors
/// When it panicked.
pub async fn off_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::Internal {
        message: "Internal server error",
        cause: format!("{what} failed: {error}"),
    })
}

/// Tells a batch by its id.
///
/// # Errors
/// When the text is no id.
pub fn batch_id(text: &str) -> Result<Uuid, ApiError> {
    Uuid::parse_str(text).map_err(|_| ApiError::BadRequest(format!("'{text}' is not a batch id")))
}

#[cfg(test)]
mod tests {
    use ferrogate_model::Kind;
    use serde_json::json;

    use super::sealable;

    #[test]
    fn what_is_secret_is_not_taken_without_a_key_to_seal_it() {
        let (keyed, trusted) = (json!({"spec": {"privateKey": "x"}}), json!({"spec": {"certificate": "x"}}));
        for (kind, document, secret) in [
            (Kind::RestApi, &keyed, false),
            (Kind::Secret, &trusted, true),
            (Kind::Certificate, &trusted, false),
            (Kind::Certificate, &keyed, true),
        ] {
            assert_eq!(sealable(false, std::iter::once((kind, document))).is_err(), secret, "{kind:?}");
            assert!(sealable(true, std::iter::once((kind, document))).is_ok());
        }
    }
}
