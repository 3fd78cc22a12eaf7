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
use serde_json::Map;
use utoipa::{IntoParams, ToSchema};

use super::{Collection, guard, preview, stored, tagged};
use crate::api::App;
use crate::api::body::{format, parse, read_body};
use crate::api::documents::{self, document, timestamp};
use crate::api::error::ApiError;
use crate::api::json::json as answer;
use crate::api::options::{Params, Segments, WriteOptions, WriteQuery, whole};
use crate::api::refused::{not_found, title};
use crate::api::write::Subject;
use crate::auth::Principal;
use crate::metrics::Operation;

/// Revisions listed when the client names no limit, and the most it may name.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: u64 = 1_000;

/// What a rollback is told as.
const ROLLBACK_BODY: &str = "it must be a map with 'revision', a whole number, and nothing else";

/// How much of a history to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The most revisions listed; 50 unless said, at most 1000.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1000)]
    pub limit: Option<String>,
    /// Only revisions below this one: the next page.
    #[param(value_type = Option<u64>)]
    pub before: Option<String>,
}

/// A part of a history.
pub struct Page {
    /// The most revisions.
    pub limit: usize,
    /// Only revisions below this one.
    pub before: Option<Revision>,
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
    let Page { limit, before } = query.page()?;
    let changes = app.store.revisions(&name, before, limit).await?;
    // The page after the last one is empty; what never existed has no page at all.
    if changes.is_empty() && (before.is_none() || app.store.revisions(&name, None, 1).await?.is_empty()) {
        return Err(not_found(&name));
    }
    Ok(list(changes.iter().map(RevisionInfo::of).collect()))
}

pub(super) async fn past<C: Collection>(
    State(app): State<Arc<App>>,
    Segments((id, revision)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = C::name(&id)?;
    let revision =
        revision.parse().map_err(|_| ApiError::BadRequest(format!("'{revision}' is not a revision")))?;
    let was = artifact_at(&app, &name, Revision(revision)).await?;
    tagged(&headers, was.revision, || document(&was))
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
    let name = C::name(&id)?;
    let was = artifact_at(&app, &name, Revision(request.revision)).await?;
    let admitted = C::admit(&app, documents::whole(&was)?, options.strict).await?;
    // A deleted artifact comes back, so it need not exist unless the client says so.
    let guard = guard(&app, &options, Guard::Any, &name).await?;
    if options.dry_run {
        return preview::<C>(Operation::Rollback, &app, &admitted, guard).await;
    }
    let writes = vec![(Subject::of(&admitted, guard), Some(admitted.clone()))];
    let written = app.write(Operation::Rollback, &caller, &options, writes).await?;
    stored::<C>(Operation::Rollback, &admitted, &written)
}

impl HistoryQuery {
    /// What it asks for.
    ///
    /// # Errors
    /// When a parameter is no number, or out of range.
    pub fn page(&self) -> Result<Page, ApiError> {
        let limit = whole("limit", self.limit.as_deref(), 1..=MAX_LIMIT)?;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(DEFAULT_LIMIT);
        let before = whole("before", self.before.as_deref(), 0..=u64::MAX)?.map(Revision);
        Ok(Page { limit, before })
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
        let refused = |why: String| ApiError::BadRequest(format!("failed to parse rollback request: {why}"));
        if text.trim().is_empty() {
            return Err(refused(format!("the body is empty, and {ROLLBACK_BODY}")));
        }
        let value = parse(text, format(headers)).await?;
        let unknown = value.as_object().into_iter().flat_map(Map::keys).find(|name| *name != "revision");
        if let Some(name) = unknown {
            return Err(refused(format!("unknown field '{name}': {ROLLBACK_BODY}")));
        }
        // A list of one number would be read as well.
        if !value.is_object() {
            return Err(refused(ROLLBACK_BODY.to_owned()));
        }
        serde_json::from_value(value).map_err(|_| refused(ROLLBACK_BODY.to_owned()))
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
