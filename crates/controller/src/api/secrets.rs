// SPDX-License-Identifier: Apache-2.0
//! `/secrets` (contract 2.7): create, list, get, replace, delete, and their past. Only
//! reading one secret by its name shows its value. Writing one renders every artifact
//! anew that names it, in the same batch; deleting one leaves them as they are.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ferrogate_model::name::MAX_HANDLE_BYTES;
use ferrogate_model::{Kind, ResourceName};
use ferrogate_store::{Guard, StoredArtifact};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::documents::{ResourceStatus, secret, source, with_status};
use super::error::{ApiError, ErrorBody, etag};
use super::json::json as answer;
use super::options::{Params, Segments, WriteOptions, WriteQuery, format, read_body};
use super::read::Reading;
use super::rest_apis::{exists, status_of};
use super::revisions::{self, HistoryQuery, RevisionList, RollbackRequest};
use super::write::{Subject, Written, named, not_found, parse};
use crate::auth::Principal;
use crate::deploy::Admitted;
use crate::metrics::Operation;

/// The largest document (contract 2.7).
const MAX_BYTES: usize = 11 * 1024;

/// The answer to a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct SecretList {
    /// Always `success`.
    pub status: &'static str,
    /// How many there are.
    pub count: usize,
    /// Newest first, without values.
    pub secrets: Vec<Value>,
}

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, replace, delete))
        .routes(routes!(history))
        .routes(routes!(past))
        .routes(routes!(rollback))
}

/// Creates a secret.
#[utoipa::path(
    post,
    path = "/secrets",
    tag = "Secrets",
    params(WriteQuery),
    request_body(content((Value = "application/yaml"), (Value = "application/json"))),
    responses(
        (status = 201, description = "Stored; `status.rerendered` names the artifacts made anew", body = Value),
        (status = 202, description = "Stored, and not live in time: `status.live` names the stragglers", body = Value),
        (status = 200, description = "A dry run: the document would be stored", body = Value),
        (status = 400, description = "The document, or an artifact that names the secret, is not valid", body = ErrorBody),
        (status = 409, description = "The handle is taken", body = ErrorBody),
        (status = 503, description = "The store is unavailable, or the outcome unknown", body = ErrorBody),
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let admitted = admit(&app, read(&headers, body).await?, options.strict).await?;
    if options.dry_run {
        return preview(&app, &admitted, true).await;
    }
    let subject = Subject::of(&admitted, Guard::Absent);
    let writes = vec![(subject, Some(admitted.clone()))];
    let written = app.write(Operation::Create, &caller, &options, writes).await?;
    stored(&admitted, &written, StatusCode::CREATED)
}

/// Lists secrets, without their values.
#[utoipa::path(
    get,
    path = "/secrets",
    tag = "Secrets",
    responses(
        (status = 200, description = "All of them, newest first", body = SecretList),
        (status = 503, description = "Nothing has been read from the store yet", body = ErrorBody),
    )
)]
async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let reading = Reading::of(&app)?;
    let mut found: Vec<&StoredArtifact> = Vec::new();
    found.extend(
        reading.snapshot.entries().map(|entry| &entry.stored).filter(|one| one.name.kind == Kind::Secret),
    );
    found.sort_by_key(|stored| Reverse((stored.created_at, stored.revision)));
    let secrets = found.into_iter().map(listed).collect::<Result<Vec<_>, _>>()?;
    let list = SecretList { status: "success", count: secrets.len(), secrets };
    Ok(reading.mark(answer(StatusCode::OK, &list)))
}

/// Gets one secret, its value included.
#[utoipa::path(
    get,
    path = "/secrets/{id}",
    tag = "Secrets",
    params(("id" = String, Path, description = "The handle")),
    responses(
        (status = 200, description = "The whole document, with its status", body = Value),
        (status = 400, description = "The handle is too long", body = ErrorBody),
        (status = 404, description = "There is none with this handle", body = ErrorBody),
        (status = 503, description = "Nothing has been read from the store yet", body = ErrorBody),
    )
)]
async fn get(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Result<Response, ApiError> {
    let reading = Reading::of(&app)?;
    let name = name(&id)?;
    let entry = reading.snapshot.get(&name).ok_or_else(|| not_found(&name))?;
    let document = secret(&entry.stored)?.revealed(source(&entry.stored)?);
    let status = plain(ResourceStatus::of(&entry.stored));
    let mut response = answer(StatusCode::OK, &with_status(document, &status)?);
    response.headers_mut().insert(http::header::ETAG, etag(entry.stored.revision));
    Ok(reading.mark(response))
}

/// Replaces a secret, and renders anew what names it.
#[utoipa::path(
    put,
    path = "/secrets/{id}",
    tag = "Secrets",
    params(("id" = String, Path, description = "The handle"), WriteQuery),
    request_body(content((Value = "application/yaml"), (Value = "application/json"))),
    responses(
        (status = 200, description = "Stored; `status.rerendered` names the artifacts made anew", body = Value),
        (status = 202, description = "Stored, and not live in time: `status.live` names the stragglers", body = Value),
        (status = 400, description = "The document, or an artifact that names the secret, is not valid", body = ErrorBody),
        (status = 404, description = "There is none with this handle", body = ErrorBody),
        (status = 412, description = "`If-Match` names another revision", body = ErrorBody),
        (status = 503, description = "The store is unavailable, or the outcome unknown", body = ErrorBody),
    )
)]
async fn replace(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Segments(id): Segments<String>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let document = read(&headers, body).await?;
    let name = name(&id)?;
    let admitted = admit(&app, document, options.strict).await?;
    if admitted.name != name {
        let written = &admitted.name.handle;
        let message = format!("handle mismatch: path has '{id}' but YAML metadata.name has '{written}'");
        return Err(ApiError::BadRequest(message));
    }
    if options.dry_run {
        return preview(&app, &admitted, false).await;
    }
    let subject = Subject::of(&admitted, options.guard_present());
    let writes = vec![(subject, Some(admitted.clone()))];
    let written =
        app.write(Operation::Update, &caller, &options, writes).await.map_err(|error| match error {
            ApiError::NotFound(_) => absent(&id),
            other => other,
        })?;
    stored(&admitted, &written, StatusCode::OK)
}

/// Deletes a secret. What was rendered with it stays as it is.
#[utoipa::path(
    delete,
    path = "/secrets/{id}",
    tag = "Secrets",
    params(("id" = String, Path, description = "The handle"), WriteQuery),
    responses(
        (status = 200, description = "Deleted; no body"),
        (status = 404, description = "There is none with this handle", body = ErrorBody),
        (status = 412, description = "`If-Match` names another revision", body = ErrorBody),
        (status = 503, description = "The store is unavailable, or the outcome unknown", body = ErrorBody),
    )
)]
async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Segments(id): Segments<String>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let name = name(&id)?;
    let mut response = Response::new(Body::empty());
    if options.dry_run {
        return if exists(&app, &name) { Ok(response) } else { Err(not_found(&name)) };
    }
    let subject = Subject::bare(name, options.guard_present());
    let written = app.write(Operation::Delete, &caller, &options, vec![(subject, None)]).await?;
    written.headers(response.headers_mut(), false);
    Ok(response)
}

/// Lists the revisions of a secret, newest first.
#[utoipa::path(
    get,
    path = "/secrets/{id}/revisions",
    tag = "Secrets",
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
    revisions::history_of(&app, name(&id)?, &query).await
}

/// Gets a secret as it was at a revision, without its value.
#[utoipa::path(
    get,
    path = "/secrets/{id}/revisions/{revision}",
    tag = "Secrets",
    params(
        ("id" = String, Path, description = "The handle"),
        ("revision" = u64, Path, description = "A revision of the gateway's line"),
    ),
    responses(
        (status = 200, description = "The document as it was, without its value", body = Value),
        (status = 404, description = "It did not exist then, or the revision is not readable", body = ErrorBody),
        (status = 503, description = "The store is unavailable", body = ErrorBody),
    )
)]
async fn past(
    State(app): State<Arc<App>>,
    Segments((id, revision)): Segments<(String, String)>,
) -> Result<Response, ApiError> {
    revisions::past_of(&app, name(&id)?, &revision).await
}

/// Makes a new revision of a secret with the value it had, and renders anew what names it.
#[utoipa::path(
    post,
    path = "/secrets/{id}/rollback",
    tag = "Secrets",
    params(("id" = String, Path, description = "The handle"), WriteQuery),
    request_body = RollbackRequest,
    responses(
        (status = 200, description = "Stored; with `wait=live`, live", body = Value),
        (status = 202, description = "Stored, and not live in time", body = Value),
        (status = 400, description = "An artifact that names the secret is not valid with it", body = ErrorBody),
        (status = 404, description = "It did not exist then, or the revision is not readable", body = ErrorBody),
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
    revisions::rollback_of(&app, &caller, name(&id)?, &options, &request).await
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
    let text = read_body(body, MAX_BYTES).await.map_err(|error| match error {
        ApiError::TooLarge { .. } | ApiError::BadRequest(_) => {
            ApiError::BadRequest("Request body too large or unreadable".to_owned())
        }
        other => other,
    })?;
    parse(text, format(headers)).await
}

/// Violations of a secret are told in one message (contract 2.7).
async fn admit(app: &Arc<App>, document: Value, strict: bool) -> Result<Admitted, ApiError> {
    if !app.settings.seals {
        return Err(ApiError::BadRequest(NO_KEY.to_owned()));
    }
    app.admit_one(Kind::Secret, document, strict).await.map_err(|error| match error {
        ApiError::Invalid(faults) => {
            let mut message = format!("configuration validation failed with {} error(s):", faults.len());
            for (index, fault) in faults.iter().enumerate() {
                let end = if index + 1 == faults.len() { "" } else { ";" };
                message.push_str(&format!(" {}. {}: {}{end}", index + 1, fault.field, fault.message));
            }
            ApiError::BadRequest(message)
        }
        other => other,
    })
}

/// Told to whoever writes a secret to a gateway that could only store it in the clear.
pub const NO_KEY: &str = "storage failed: this gateway has no key to seal secrets with. Make one \
    (head -c 32 /dev/urandom > FILE) and give the same file to every controller as \
    controller.encryption.key_file";

async fn preview(app: &Arc<App>, admitted: &Admitted, create: bool) -> Result<Response, ApiError> {
    super::preview::check(app, std::slice::from_ref(admitted), create).await?;
    let subject = Subject::of(admitted, Guard::Any);
    let plan = app.plan(vec![(subject, Some(admitted.clone()))]).await?;
    let mut status = plain(ResourceStatus::of_admitted(admitted));
    status.dry_run = true;
    status.rerendered = plan.anew(1);
    Ok(answer(StatusCode::OK, &with_status(admitted.source.clone(), &status)?))
}

fn stored(admitted: &Admitted, written: &Written, done: StatusCode) -> Result<Response, ApiError> {
    let status = plain(status_of(admitted, written, 0));
    let mut response = answer(written.status(done), &with_status(admitted.source.clone(), &status)?);
    written.headers(response.headers_mut(), true);
    Ok(response)
}

/// What a list says of a secret.
fn listed(stored: &StoredArtifact) -> Result<Value, ApiError> {
    let mut document = source(stored)?;
    if let Some(Value::Object(spec)) = document.get_mut("spec") {
        spec.retain(|field, _| field == "displayName");
    }
    if let Some(Value::Object(metadata)) = document.get_mut("metadata") {
        metadata.retain(|field, _| field == "name");
    }
    with_status(document, &plain(ResourceStatus::of(stored)))
}

/// The status of a secret has no revision (contract 2.7); `x-revision` and `ETag` have it.
fn plain(status: ResourceStatus) -> ResourceStatus {
    ResourceStatus { revision: None, ..status }
}

fn name(id: &str) -> Result<ResourceName, ApiError> {
    if id.len() > MAX_HANDLE_BYTES {
        let message = format!("id must be at most {MAX_HANDLE_BYTES} characters long");
        return Err(ApiError::BadRequest(message));
    }
    named(Kind::Secret, id)
}

fn absent(id: &str) -> ApiError {
    let message = format!("secret configuration not found: id={id}: no secret has this id");
    ApiError::NotFound(message)
}
