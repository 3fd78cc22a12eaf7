// SPDX-License-Identifier: Apache-2.0
//! The gateway as a whole: its history, the way back for everything at once, and what
//! became of a batch whose answer was lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ferrogate_model::{Position, ResourceName, Revision};
use ferrogate_store::{Changes, Guard, State as StoredState, StoredArtifact};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::App;
use super::collection::{HistoryQuery, Page, RevisionInfo, RevisionList, RollbackRequest, list};
use super::documents::whole;
use super::error::{ApiError, ErrorBody, FieldError};
use super::json::json as answer;
use super::options::{Params, Segments, WriteOptions, WriteQuery};
use super::preconditions::WriteHeaders;
use super::write::{REVISION, Subject};
use crate::auth::Principal;
use crate::deploy::{Admitted, Refusal};
use crate::metrics::Operation;
use crate::status::live::Liveness;

/// What a rollback of the gateway did, or would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackAnswer {
    /// Always `success`.
    pub status: &'static str,
    /// The gateway's revision now.
    pub revision: u64,
    /// Artifacts that got their old content back.
    pub restored: Vec<String>,
    /// Artifacts that did not exist then.
    pub deleted: Vec<String>,
    /// Nothing was stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Who serves it, when the client waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Liveness>,
}

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchAnswer {
    /// The batch.
    pub id: String,
    /// `committed` or `not committed`; final in both cases.
    pub outcome: &'static str,
    /// Its first revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Its last revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

/// The difference between what is and what was.
struct Difference {
    writes: Vec<(Subject, Option<Admitted>)>,
    restored: Vec<String>,
    deleted: Vec<String>,
    at: Position,
}

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(history)).routes(routes!(rollback)).routes(routes!(batch))
}

/// Lists the changes of the gateway, newest first.
#[utoipa::path(
    get,
    path = "/revisions",
    tag = "Gateway",
    params(HistoryQuery),
    responses(
        (status = 200, description = "Those still readable", body = RevisionList),
        (status = 503, description = "The store is unavailable", body = ErrorBody),
    )
)]
async fn history(
    State(app): State<Arc<App>>,
    Params(query): Params<HistoryQuery>,
) -> Result<Response, ApiError> {
    let Page { limit, before } = query.page()?;
    let head = app.store.head().await?;
    let end = head.position.revision.0.min(before.map_or(u64::MAX, |before| before.0.saturating_sub(1)));
    let start = end.saturating_sub(u64::try_from(limit).unwrap_or(u64::MAX)).max(head.floor.0);
    let after = Position::new(head.position.epoch, Revision(start));
    let changes = match app.store.changes_since(after, limit).await? {
        Changes::Line { changes, .. } => changes,
        // An empty answer would say that there is no history.
        Changes::Resync(_) => {
            let cut = "The change log was cut, or begun anew, while it was being read. Try again";
            return Err(ApiError::Unavailable(cut.to_owned()));
        }
    };
    let newest_first = changes.iter().rev().filter(|change| change.revision.0 <= end);
    Ok(list(newest_first.map(RevisionInfo::of).collect()))
}

/// Takes every artifact back to what it was at a revision, in one transaction.
#[utoipa::path(
    post,
    path = "/rollback",
    tag = "Gateway",
    params(WriteQuery, WriteHeaders),
    request_body = RollbackRequest,
    responses(
        (status = 200, description = "Stored; with `wait=live`, live", body = RollbackAnswer),
        (status = 202, description = "Stored, and not live in time", body = RollbackAnswer),
        (status = 400, description = "An old document is no longer valid", body = ErrorBody),
        (status = 404, description = "The revision is not readable", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 409, description = "Somebody else wrote meanwhile; nothing was stored", body = ErrorBody),
        (status = 412, description = "`If-Match` or `If-None-Match` does not hold of the gateway's revision", body = ErrorBody),
        (status = 503, description = "The store is unavailable, or the outcome unknown", body = ErrorBody),
    )
)]
async fn rollback(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let request = RollbackRequest::read(&app, &headers, body).await?;
    // A repeated request finds its own writes done: it is told apart before the difference,
    // which by then is empty.
    if options.keyed
        && let Some(done) = app.store.outcome(options.batch).await?
    {
        return Ok(rolled_back(done.last, Vec::new(), Vec::new(), false, None, StatusCode::OK));
    }
    let was = app.store.state_at(Revision(request.revision)).await?;
    let difference = difference(&app, was, options.strict).await?;
    let Difference { writes, restored, deleted, at } = difference;
    options.preconditions.hold_of_gateway(Some(at.revision))?;
    if options.dry_run || writes.is_empty() {
        return Ok(rolled_back(at.revision, restored, deleted, options.dry_run, None, StatusCode::OK));
    }
    let written =
        app.write(Operation::Rollback, &caller, &options, writes).await.map_err(|error| match error {
            ApiError::PreconditionFailed { message, .. } | ApiError::NotFound(message) => {
                ApiError::Conflict(format!("another write came first, nothing was rolled back: {message}"))
            }
            other => other,
        })?;
    let (status, last) = (written.status(StatusCode::OK), written.deployed.committed.last);
    Ok(rolled_back(last, restored, deleted, false, written.live, status))
}

/// Tells what became of a batch.
#[utoipa::path(
    get,
    path = "/batches/{id}",
    tag = "Gateway",
    params(("id" = String, Path, description = "The batch id: an idempotency key, or what a 503 named")),
    responses(
        (status = 200, description = "Its outcome", body = BatchAnswer),
        (status = 400, description = "Not a batch id", body = ErrorBody),
        (status = 503, description = "The store is unavailable", body = ErrorBody),
    )
)]
async fn batch(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Result<Response, ApiError> {
    let id = Uuid::parse_str(&id).map_err(|_| ApiError::BadRequest(format!("'{id}' is not a batch id")))?;
    let outcome = app.store.outcome(id).await?;
    let found = BatchAnswer {
        id: id.to_string(),
        outcome: if outcome.is_some() { "committed" } else { "not committed" },
        first: outcome.as_ref().map(|committed| committed.first.0),
        last: outcome.as_ref().map(|committed| committed.last.0),
    };
    Ok(answer(StatusCode::OK, &found))
}

/// What to write so that the present equals the past. Each write is guarded by what the
/// present is now, so that it goes through as a whole or not at all.
async fn difference(app: &Arc<App>, was: StoredState, strict: bool) -> Result<Difference, ApiError> {
    let now = app.store.load().await?;
    let present: BTreeMap<ResourceName, StoredArtifact> =
        now.artifacts.into_iter().map(|artifact| (artifact.name.clone(), artifact)).collect();
    let mut past = BTreeMap::new();
    for artifact in was.artifacts {
        past.insert(artifact.name.clone(), artifact);
    }
    let mut found =
        Difference { writes: Vec::new(), restored: Vec::new(), deleted: Vec::new(), at: now.position };
    // Deletions first in the answer; inside the transaction the order does not matter.
    for (name, artifact) in &present {
        if !past.contains_key(name) {
            found.deleted.push(name.to_string());
            let guard = Guard::AtRevision(artifact.revision);
            found.writes.push((Subject::bare(name.clone(), guard), None));
        }
    }
    past.retain(|name, artifact| present.get(name).is_none_or(|now| differs(now, artifact)));
    let documents: Result<Vec<_>, ApiError> =
        past.values().map(|artifact| Ok((artifact.name.kind, whole(artifact)?))).collect();
    let documents = documents?;
    let admitted = app.admit(documents, strict).await?;
    let mut faults = Vec::new();
    for (name, result) in past.keys().zip(admitted) {
        match result {
            Ok(admitted) => {
                let guard = present.get(name).map_or(Guard::Absent, |now| Guard::AtRevision(now.revision));
                found.restored.push(name.to_string());
                found.writes.push((Subject::of(&admitted, guard), Some(admitted)));
            }
            Err(refusal) => faults.extend(named(&name.to_string(), refusal)),
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(ApiError::Invalid(faults)) }
}

/// Whether going back changes anything. A source that conceals does not say all; any other
/// artifact's payload follows from its source.
fn differs(now: &StoredArtifact, was: &StoredArtifact) -> bool {
    now.source != was.source || (now.name.kind.conceals() && now.payload != was.payload)
}

/// A refusal with the document it belongs to in front of each field.
pub fn named(document: &str, refusal: Refusal) -> Vec<FieldError> {
    match refusal {
        Refusal::Invalid(violations) => violations
            .0
            .into_iter()
            .map(|one| FieldError { field: format!("{document}: {}", one.field), message: one.message })
            .collect(),
        Refusal::Unreadable(message) | Refusal::Template(message) | Refusal::MissingSecret(message) => {
            vec![FieldError { field: document.to_owned(), message }]
        }
    }
}

fn rolled_back(
    revision: Revision,
    restored: Vec<String>,
    deleted: Vec<String>,
    dry_run: bool,
    live: Option<Liveness>,
    status: StatusCode,
) -> Response {
    let body = RollbackAnswer { status: "success", revision: revision.0, restored, deleted, dry_run, live };
    let mut response = answer(status, &body);
    if !dry_run {
        response.headers_mut().insert(REVISION, HeaderValue::from(revision.0));
    }
    response
}
