// SPDX-License-Identifier: Apache-2.0
//! The tail that every write shares: admit, commit, plan anew when another write came
//! first, wait until live when asked to, count how it ended. What a refusal says is
//! [`super::refused`]'s affair.

use std::sync::Arc;

use ferrogate_model::kinds::Artifact;
use ferrogate_model::{Kind, ResourceName, Violation, Violations};
use ferrogate_store::{Guard, StoredArtifact};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use super::App;
use super::body::off_thread;
use super::error::{ApiError, etag};
use super::options::{Wait, WriteOptions};
use super::refused::refusal;
use crate::auth::Principal;
use crate::deploy::{Admitted, DeployError, Deployed, Deployment, Planned, Refusal, Secrets, dangling};
use crate::metrics::{Operation, Outcome};
use crate::status::live::{Liveness, Target};

/// How often a write is planned before its client is told to try again.
const PLANS: usize = 8;

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
    /// How its document is told from the others of one request, where there are others.
    pub place: Option<String>,
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
        Subject {
            name: admitted.name.clone(),
            name_claim: admitted.name_claim.clone(),
            title,
            guard,
            place: None,
        }
    }

    /// A write of this artifact that carries no document.
    #[must_use]
    pub fn bare(name: ResourceName, guard: Guard) -> Subject {
        Subject { name, name_claim: String::new(), title: (String::new(), String::new()), guard, place: None }
    }

    /// As one document of many.
    #[must_use]
    pub fn at(mut self, place: String) -> Subject {
        self.place = Some(place);
        self
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
    /// schemas of a thousand documents take seconds. A document that names a secret or a
    /// certificate unknown here may be ahead of this replica, which then catches up and looks
    /// again.
    ///
    /// # Errors
    /// With the first cause that is not a document's fault, else each document's own result.
    pub async fn admit(
        self: &Arc<Self>,
        documents: Vec<(Kind, Value)>,
        strict: bool,
    ) -> Result<Vec<Result<Admitted, Refusal>>, ApiError> {
        let mut admitted = self.admit_once(documents.clone(), strict).await?;
        let mut dangling = self.dangling(&admitted);
        let missing = admitted.iter().any(|one| matches!(one, Err(Refusal::MissingSecret(_))));
        if missing || dangling.iter().any(|one| !one.is_empty()) {
            self.deployer.catch_up().await?;
            admitted = self.admit_once(documents, strict).await?;
            dangling = self.dangling(&admitted);
        }
        for (one, dangling) in admitted.iter_mut().zip(dangling).filter(|(_, found)| !found.is_empty()) {
            match one {
                Ok(_) if strict => *one = Err(Refusal::Invalid(Violations(dangling))),
                Ok(admitted) => admitted.warnings.0.extend(dangling),
                Err(_) => {}
            }
        }
        Ok(admitted)
    }

    /// What each document names in vain, as far as is known here.
    fn dangling(&self, batch: &[Result<Admitted, Refusal>]) -> Vec<Vec<Violation>> {
        let Some(snapshot) = self.replica.current() else { return Vec::new() };
        let of = |one: &Result<Admitted, Refusal>| match one {
            Ok(document) => dangling::warnings(document, batch.iter().flatten(), Some(&snapshot)),
            Err(_) => Vec::new(),
        };
        batch.iter().map(of).collect()
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
        let kinds = writes.iter().map(|(subject, _)| subject.name.kind).collect();
        let written = self.commit(operation, caller, options, writes).await;
        let outcome = written.as_ref().err().map_or(Outcome::Success, ApiError::outcome);
        self.metrics.operation(operation, outcome, kinds);
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
