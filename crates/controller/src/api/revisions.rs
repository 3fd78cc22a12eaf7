// SPDX-License-Identifier: Apache-2.0
//! The past of one artifact: its revisions, any of them as it was, and the way back. A
//! rollback is a new revision with old content, admitted anew: what was valid then must
//! still be valid now.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ferrogate_model::{Kind, ResourceName, Revision};
use ferrogate_store::{Change, StoredArtifact};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::documents::{document, timestamp, whole};
use super::error::{ApiError, ErrorBody, etag};
use super::json::json as answer;
use super::options::{Params, Segments, WriteOptions, WriteQuery, format, read_body};
use super::rest_apis::{preview, stored};
use super::write::{Subject, named, not_found, parse, title};
use crate::auth::Principal;
use crate::metrics::Operation;

/// Revisions listed when the client names no limit, and the most it may name.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1_000;

/// How much of a history to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The most revisions listed; 50 unless said, at most 1000.
    pub limit: Option<usize>,
    /// Only revisions below this one: the next page.
    pub before: Option<u64>,
}

/// One change.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionInfo {
    /// Its place in the gateway's line.
    pub revision: u64,
    /// The last revision of the transaction it was part of.
    pub batch_end: u64,
    /// The artifact's kind.
    pub kind: &'static str,
    /// Its handle.
    pub id: String,
    /// `put` or `deleted`.
    pub action: &'static str,
    /// Who made it.
    pub author: String,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// A history, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevisionList {
    /// Always `success`.
    pub status: &'static str,
    /// How many are listed.
    pub count: usize,
    /// The changes.
    pub revisions: Vec<RevisionInfo>,
}

/// Where to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision whose state is wanted.
    pub revision: u64,
}

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(history)).routes(routes!(past)).routes(routes!(rollback))
}

/// Lists the revisions of a REST API, newest first.
#[utoipa::path(
    get,
    path = "/rest-apis/{id}/revisions",
    tag = "REST APIs",
    params(("id" = String, Path, description = "The handle"), HistoryQuery),
    responses(
        (status = 200, description = "Those still readable", body = RevisionList),
        (status = 404, description = "There never was one, as far as is still readable", body = ErrorBody),
        (status = 503, description = "The store is unavailable", body = ErrorBody),
    )
)]
async fn history(
    State(app): State<Arc<App>>,
    Segments(id): Segments<String>,
    Params(query): Params<HistoryQuery>,
) -> Result<Response, ApiError> {
    history_of(&app, named(Kind::RestApi, &id)?, &query).await
}

/// The history of one artifact.
pub async fn history_of(app: &App, name: ResourceName, query: &HistoryQuery) -> Result<Response, ApiError> {
    let before = query.before.map(Revision);
    let changes = app.store.revisions(&name, before, query.limit()).await?;
    // The page after the last one is empty; what never existed has no page at all.
    if changes.is_empty() && (before.is_none() || app.store.revisions(&name, None, 1).await?.is_empty()) {
        return Err(not_found(&name));
    }
    Ok(list(changes.iter().map(RevisionInfo::of).collect()))
}

/// Gets a REST API as it was at a revision.
#[utoipa::path(
    get,
    path = "/rest-apis/{id}/revisions/{revision}",
    tag = "REST APIs",
    params(
        ("id" = String, Path, description = "The handle"),
        ("revision" = u64, Path, description = "A revision of the gateway's line"),
    ),
    responses(
        (status = 200, description = "The document as it was", body = Value),
        (status = 404, description = "It did not exist then, or the revision is not readable", body = ErrorBody),
        (status = 503, description = "The store is unavailable", body = ErrorBody),
    )
)]
async fn past(
    State(app): State<Arc<App>>,
    Segments((id, revision)): Segments<(String, String)>,
) -> Result<Response, ApiError> {
    past_of(&app, named(Kind::RestApi, &id)?, &revision).await
}

/// One artifact as it was, in the shape of its kind; of a secret without its value.
pub async fn past_of(app: &App, name: ResourceName, revision: &str) -> Result<Response, ApiError> {
    let revision =
        revision.parse().map_err(|_| ApiError::BadRequest(format!("'{revision}' is not a revision")))?;
    let was = artifact_at(app, &name, Revision(revision)).await?;
    let mut response = answer(StatusCode::OK, &document(&was)?);
    response.headers_mut().insert(http::header::ETAG, etag(was.revision));
    Ok(response)
}

/// Makes a new revision of a REST API with the content it had.
#[utoipa::path(
    post,
    path = "/rest-apis/{id}/rollback",
    tag = "REST APIs",
    params(("id" = String, Path, description = "The handle"), WriteQuery),
    request_body = RollbackRequest,
    responses(
        (status = 200, description = "Stored; with `wait=live`, live", body = Value),
        (status = 202, description = "Stored, and not live in time", body = Value),
        (status = 400, description = "The old document is no longer valid", body = ErrorBody),
        (status = 404, description = "It did not exist then, or the revision is not readable", body = ErrorBody),
        (status = 409, description = "Name and version, or a route is taken by now", body = ErrorBody),
        (status = 412, description = "`If-Match` names another revision", body = ErrorBody),
        (status = 503, description = "The store is unavailable, or the outcome unknown", body = ErrorBody),
    )
)]
async fn rollback(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Segments(id): Segments<String>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let request = RollbackRequest::read(&app, &headers, body).await?;
    rollback_of(&app, &caller, named(Kind::RestApi, &id)?, &options, &request).await
}

/// Takes one artifact back.
pub async fn rollback_of(
    app: &Arc<App>,
    caller: &Principal,
    name: ResourceName,
    options: &WriteOptions,
    request: &RollbackRequest,
) -> Result<Response, ApiError> {
    let was = artifact_at(app, &name, Revision(request.revision)).await?;
    let admitted = app.admit_one(name.kind, whole(&was)?, options.strict).await?;
    if options.dry_run {
        return preview(&admitted);
    }
    // A deleted artifact comes back, so it need not exist unless the client says so.
    let guard = options.if_match.map_or(ferrogate_store::Guard::Any, |_| options.guard_present());
    let subject = Subject::of(&admitted, guard);
    let written =
        app.write(Operation::Rollback, caller, options, vec![(subject, Some(admitted.clone()))]).await?;
    stored(&admitted, written, StatusCode::OK)
}

impl HistoryQuery {
    /// The limit to use.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }
}

impl RevisionInfo {
    /// What a change says.
    #[must_use]
    pub fn of(change: &Change) -> RevisionInfo {
        RevisionInfo {
            revision: change.revision.0,
            batch_end: change.batch_end.0,
            kind: Kind::document_name(change.name.kind),
            id: change.name.handle.as_str().to_owned(),
            action: if change.artifact.is_some() { "put" } else { "deleted" },
            author: change.author.clone(),
            at: timestamp(change.at),
        }
    }
}

impl RollbackRequest {
    /// Reads the body, in JSON or YAML.
    ///
    /// # Errors
    /// When it names no revision.
    pub async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<RollbackRequest, ApiError> {
        let text = read_body(body, app.settings.max_document_bytes).await?;
        let value = parse(text, format(headers)).await?;
        serde_json::from_value(value).map_err(|_| {
            ApiError::BadRequest(
                "failed to parse rollback request: it must be a map with 'revision', a whole number"
                    .to_owned(),
            )
        })
    }
}

/// The answer with these revisions.
pub fn list(revisions: Vec<RevisionInfo>) -> Response {
    answer(StatusCode::OK, &RevisionList { status: "success", count: revisions.len(), revisions })
}

async fn artifact_at(app: &App, name: &ResourceName, revision: Revision) -> Result<StoredArtifact, ApiError> {
    let found = app.store.artifact_at(name, revision).await?;
    found.ok_or_else(|| {
        let (title, handle) = (title(name.kind), &name.handle);
        ApiError::NotFound(format!("{title} with handle '{handle}' did not exist at revision {revision}"))
    })
}
