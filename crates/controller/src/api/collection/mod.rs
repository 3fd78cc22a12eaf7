// SPDX-License-Identifier: Apache-2.0
//! The endpoints that every kind on the revision line has: create, get, replace, delete,
//! its history, its past and the way back. They are written once; a kind says in its
//! [`Collection`] what the contract wants of it in particular, and lists itself. Reads come
//! from the snapshot in memory; writes are decided by the store. [`describe`] says the same
//! to OpenAPI. The files beside this one, one a kind, call [`routes`].

mod describe;
mod past;

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use ferrogate_model::{Kind, ResourceName, Revision};
use ferrogate_store::{Guard, StoredArtifact};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;

use self::describe::{CREATE, DELETE, GET, HISTORY, PAST, REPLACE, ROLLBACK};
use super::App;
use super::body::{format, parse, read_body};
use super::documents::{ResourceStatus, document, with_status};
use super::error::{ApiError, etag};
use super::json::{bodiless, json as answer};
use super::options::{Params, Segments, WriteOptions, WriteQuery};
use super::preconditions::Preconditions;
use super::read::Reading;
use super::refused::{named, not_found};
use super::write::{Subject, Written};
use crate::auth::Principal;
use crate::deploy::Admitted;
use crate::metrics::Operation;

pub use past::{HistoryQuery, Page, RevisionInfo, RevisionList, RollbackRequest, list};

/// What the endpoints of one kind do in their own way.
pub trait Collection: Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
    /// What the description calls all of them, and one of them.
    const NAMES: (&'static str, &'static str);
    /// The status of the answer to a document that is too large.
    const TOO_LARGE: StatusCode = StatusCode::PAYLOAD_TOO_LARGE;
    /// What the answer to a deletion says, done and only tried; where there is none its body is
    /// empty.
    const DELETED: Option<(&'static str, &'static str)>;

    /// Reads the body of a write as a document.
    fn read(
        app: &App,
        headers: &HeaderMap,
        body: Body,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send {
        let (limit, within) = (app.settings.max_document_bytes, app.settings.body_timeout);
        async move { parse(read_body(body, limit, within).await?, format(headers)).await }
    }

    /// Decides whether a document may be stored.
    fn admit(
        app: &Arc<App>,
        document: Value,
        strict: bool,
    ) -> impl Future<Output = Result<Admitted, ApiError>> + Send {
        async move { app.admit_one(Self::KIND, document, strict).await }
    }

    /// The artifact that a path names.
    ///
    /// # Errors
    /// When no artifact could have this name.
    fn name(id: &str) -> Result<ResourceName, ApiError> {
        named(Self::KIND, id)
    }

    /// A stored artifact as it is answered.
    ///
    /// # Errors
    /// When what is stored is not readable.
    fn shown(stored: &StoredArtifact) -> Result<Value, ApiError> {
        document(stored)
    }

    /// The answer to a write.
    ///
    /// # Errors
    /// When it cannot be written.
    fn written(_: Operation, admitted: &Admitted, status: &ResourceStatus) -> Result<Value, ApiError> {
        with_status(admitted.source.clone(), status)
    }

    /// How a refused write to an artifact is worded.
    fn refused(_operation: Operation, _id: &str, error: ApiError) -> ApiError {
        error
    }
}

/// The endpoints of a kind, all but its list.
pub fn routes<C: Collection>() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(CREATE.of::<C>(routing::post(create::<C>)))
        .routes(GET.of::<C>(routing::get(get::<C>)))
        .routes(REPLACE.of::<C>(routing::put(replace::<C>)))
        .routes(DELETE.of::<C>(routing::delete(delete::<C>)))
        .routes(HISTORY.of::<C>(routing::get(past::history::<C>)))
        .routes(PAST.of::<C>(routing::get(past::past::<C>)))
        .routes(ROLLBACK.of::<C>(routing::post(past::rollback::<C>)))
}

async fn create<C: Collection>(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let admitted = C::admit(&app, C::read(&app, &headers, body).await?, options.strict).await?;
    let refused = |error| C::refused(Operation::Create, admitted.name.handle.as_str(), error);
    if options.dry_run {
        return preview::<C>(Operation::Create, &app, &admitted, Guard::Absent).await.map_err(refused);
    }
    let writes = vec![(Subject::of(&admitted, Guard::Absent), Some(admitted.clone()))];
    let written = match app.write(Operation::Create, &caller, &options, writes).await {
        Ok(written) => written,
        Err(error) => {
            let writes = same_artifact(&app, &admitted, error).await.map_err(refused)?;
            app.write(Operation::Update, &caller, &options, writes).await.map_err(|error| match error {
                ApiError::PreconditionFailed { message, .. } | ApiError::NotFound(message) => {
                    ApiError::Conflict(message)
                }
                other => other,
            })?
        }
    };
    stored::<C>(Operation::Create, &admitted, &written)
}

async fn get<C: Collection>(
    State(app): State<Arc<App>>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let reading = Reading::of(&app)?;
    let name = C::name(&id)?;
    let entry = reading.snapshot.get(&name).ok_or_else(|| not_found(&name))?;
    Ok(reading.mark(tagged(&headers, entry.stored.revision, || C::shown(&entry.stored))?))
}

/// A document with the tag of its revision; to a client that has it, 304 and the tag.
fn tagged(
    headers: &HeaderMap,
    revision: Revision,
    shown: impl FnOnce() -> Result<Value, ApiError>,
) -> Result<Response, ApiError> {
    // A read whose condition cannot be read is answered whole: nothing is lost by it.
    let mut response = if Preconditions::read(headers).is_ok_and(|known| known.has(revision)) {
        bodiless(StatusCode::NOT_MODIFIED)
    } else {
        answer(StatusCode::OK, &shown()?)
    };
    response.headers_mut().insert(http::header::ETAG, etag(revision));
    Ok(response)
}

async fn replace<C: Collection>(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Segments(id): Segments<String>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let refused = |error| C::refused(Operation::Update, &id, error);
    let document = C::read(&app, &headers, body).await.map_err(capitalised)?;
    let handle = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !handle.is_empty() && handle != id {
        return Err(ApiError::BadRequest(format!(
            "handle mismatch: path has '{id}' but YAML metadata.name has '{handle}'"
        )));
    }
    let name = C::name(&id)?;
    let admitted = match C::admit(&app, document, options.strict).await {
        Ok(admitted) => admitted,
        // Existence is checked first (contract 2.2). A valid document is left to the store to
        // judge; for a faulty one what this replica knows decides between the two refusals.
        Err(error) => return Err(if exists(&app, &name) { error } else { refused(not_found(&name)) }),
    };
    let guard = guard(&app, &options, Guard::Present, &name).await.map_err(refused)?;
    if options.dry_run {
        return preview::<C>(Operation::Update, &app, &admitted, guard).await.map_err(refused);
    }
    let writes = vec![(Subject::of(&admitted, guard), Some(admitted.clone()))];
    let written = app.write(Operation::Update, &caller, &options, writes).await.map_err(refused)?;
    stored::<C>(Operation::Update, &admitted, &written)
}

async fn delete<C: Collection>(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Segments(id): Segments<String>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let refused = |error| C::refused(Operation::Delete, &id, error);
    let name = C::name(&id).map_err(refused)?;
    let guard = guard(&app, &options, Guard::Present, &name).await.map_err(refused)?;
    if options.dry_run {
        super::preview::allowed(&Reading::of(&app)?.snapshot, &name, guard).map_err(refused)?;
        return Ok(deleted::<C>(&id, None));
    }
    let writes = vec![(Subject::bare(name, guard), None)];
    let written = app.write(Operation::Delete, &caller, &options, writes).await.map_err(refused)?;
    let mut response = deleted::<C>(&id, Some(&written));
    written.headers(response.headers_mut(), false);
    Ok(response)
}

/// The answer to a deletion, done or only tried.
fn deleted<C: Collection>(id: &str, written: Option<&Written>) -> Response {
    let status = written.map_or(StatusCode::OK, |written| written.status(StatusCode::OK));
    let Some((done, tried)) = C::DELETED else { return bodiless(status) };
    let message = if written.is_some() { done } else { tried };
    let mut body = json!({"status": "success", "message": message, "id": id});
    if let Some(written) = written {
        body["revision"] = Value::from(written.deployed.committed.last.0);
        if let Some(live) = &written.live {
            body["live"] = json!(live);
        }
    }
    answer(status, &body)
}

/// The guard of a write to this artifact that would have `plain` without preconditions.
async fn guard(
    app: &App,
    options: &WriteOptions,
    plain: Guard,
    name: &ResourceName,
) -> Result<Guard, ApiError> {
    if options.preconditions.ask_for_absence() {
        app.deployer.catch_up().await?;
    }
    let known = app.replica.current().and_then(|snapshot| Some(snapshot.get(name)?.stored.revision));
    options.preconditions.guard(plain, name, known)
}

/// A document that pins the id of an artifact that exists is that artifact, whatever its name
/// is now: creating it replaces it (contract 2.2). The revision decides against other writers,
/// where the contract compares the times of clocks.
async fn same_artifact(
    app: &App,
    admitted: &Admitted,
    refused: ApiError,
) -> Result<Vec<(Subject, Option<Admitted>)>, ApiError> {
    let Some(id) = admitted.uuid else { return Err(refused) };
    app.deployer.catch_up().await?;
    let Some(snapshot) = app.replica.current() else { return Err(refused) };
    let revision = |name: &ResourceName| snapshot.get(name).map(|entry| entry.stored.revision);
    match refused {
        ApiError::IdTaken { holder } if holder.kind == admitted.name.kind => {
            let Some(found) = revision(&holder) else { return Err(ApiError::IdTaken { holder }) };
            let renamed = Subject::of(admitted, Guard::Absent);
            let left = Subject::bare(holder, Guard::AtRevision(found));
            Ok(vec![(renamed, Some(admitted.clone())), (left, None)])
        }
        ApiError::Conflict(message) => {
            let same = snapshot.get(&admitted.name).filter(|entry| entry.stored.uuid == id);
            let Some(entry) = same else { return Err(ApiError::Conflict(message)) };
            let subject = Subject::of(admitted, Guard::AtRevision(entry.stored.revision));
            Ok(vec![(subject, Some(admitted.clone()))])
        }
        other => Err(other),
    }
}

/// The answer to a write of one document.
fn stored<C: Collection>(
    operation: Operation,
    admitted: &Admitted,
    written: &Written,
) -> Result<Response, ApiError> {
    let done = if operation == Operation::Create { StatusCode::CREATED } else { StatusCode::OK };
    let mut response =
        answer(written.status(done), &C::written(operation, admitted, &status_of(admitted, written, 0))?);
    written.headers(response.headers_mut(), true);
    Ok(response)
}

/// The answer to a dry run: what is checked beyond the document, and what would be made anew.
async fn preview<C: Collection>(
    operation: Operation,
    app: &Arc<App>,
    admitted: &Admitted,
    guard: Guard,
) -> Result<Response, ApiError> {
    super::preview::check(app, admitted, guard).await?;
    let subject = Subject::of(admitted, Guard::Any);
    let plan = app.plan(vec![(subject, Some(admitted.clone()))]).await?;
    let mut status = ResourceStatus::of_admitted(admitted);
    status.dry_run = true;
    status.rerendered = plan.anew(1);
    Ok(answer(StatusCode::OK, &C::written(operation, admitted, &status)?))
}

/// The status of the document with this index in a batch that was written.
pub fn status_of(admitted: &Admitted, written: &Written, index: usize) -> ResourceStatus {
    let deployed = &written.deployed;
    let revision = deployed.revision(index);
    let entry = deployed.snapshot.as_ref().and_then(|snapshot| snapshot.get(&admitted.name));
    // The snapshot may be further on already: then only the creation time is still this one's.
    let (created_at, updated_at) = match entry.map(|entry| &entry.stored) {
        Some(entry) if entry.revision == revision => (entry.created_at, entry.updated_at),
        Some(entry) => (entry.created_at.min(deployed.at), deployed.at),
        None => (deployed.at, deployed.at),
    };
    let mut status = ResourceStatus::of_admitted(admitted).at(created_at, updated_at, revision);
    status.rerendered.clone_from(&written.rerendered);
    status.live.clone_from(&written.live);
    status
}

/// Whether this replica knows the artifact; `true` when it knows nothing yet.
fn exists(app: &App, name: &ResourceName) -> bool {
    app.replica.current().is_none_or(|snapshot| snapshot.get(name).is_some())
}

/// PUT words its parse failure with a capital (contract 2.2).
fn capitalised(error: ApiError) -> ApiError {
    match error {
        ApiError::BadRequest(message) => {
            ApiError::BadRequest(match message.strip_prefix("failed to parse configuration") {
                Some(rest) => format!("Failed to parse configuration{rest}"),
                None => message,
            })
        }
        other => other,
    }
}
