// SPDX-License-Identifier: Apache-2.0
//! The past of one artifact: its revisions, any of them as it was, and the way back. A
//! rollback is a new revision with old content, admitted anew: what was valid then must
//! still be valid now. What a document conceals is concealed in its past as well.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ferrogate_model::{Kind, ResourceName, Revision};
use ferrogate_store::{Change, Guard, StoredArtifact};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Collection, stored, tried};
use crate::api::App;
use crate::api::body::{format, parse, read_body};
use crate::api::documents::{document, timestamp, whole};
use crate::api::error::{ApiError, etag};
use crate::api::json::json as answer;
use crate::api::options::{Params, Segments, WriteOptions, WriteQuery};
use crate::api::refused::{not_found, title};
use crate::api::write::Subject;
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

pub(super) async fn history<C: Collection>(
    State(app): State<Arc<App>>,
    Segments(id): Segments<String>,
    Params(query): Params<HistoryQuery>,
) -> Result<Response, ApiError> {
    let name = C::name(&id)?;
    let before = query.before.map(Revision);
    let changes = app.store.revisions(&name, before, query.limit()).await?;
    // The page after the last one is empty; what never existed has no page at all.
    if changes.is_empty() && (before.is_none() || app.store.revisions(&name, None, 1).await?.is_empty()) {
        return Err(not_found(&name));
    }
    Ok(list(changes.iter().map(RevisionInfo::of).collect()))
}

pub(super) async fn past<C: Collection>(
    State(app): State<Arc<App>>,
    Segments((id, revision)): Segments<(String, String)>,
) -> Result<Response, ApiError> {
    let name = C::name(&id)?;
    let revision =
        revision.parse().map_err(|_| ApiError::BadRequest(format!("'{revision}' is not a revision")))?;
    let was = artifact_at(&app, &name, Revision(revision)).await?;
    let mut response = answer(StatusCode::OK, &document(&was)?);
    response.headers_mut().insert(http::header::ETAG, etag(was.revision));
    Ok(response)
}

pub(super) async fn rollback<C: Collection>(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Segments(id): Segments<String>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let request = RollbackRequest::read(&app, &headers, body).await?;
    let was = artifact_at(&app, &C::name(&id)?, Revision(request.revision)).await?;
    let admitted = C::admit(&app, whole(&was)?, options.strict).await?;
    if options.dry_run {
        return tried::<C>(Operation::Rollback, &app, &admitted).await;
    }
    // A deleted artifact comes back, so it need not exist unless the client says so.
    let guard = options.if_match.map_or(Guard::Any, |_| options.guard_present());
    let writes = vec![(Subject::of(&admitted, guard), Some(admitted.clone()))];
    let written = app.write(Operation::Rollback, &caller, &options, writes).await?;
    stored::<C>(Operation::Rollback, &admitted, &written)
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
        let text = read_body(body, app.settings.max_document_bytes, app.settings.body_timeout).await?;
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
