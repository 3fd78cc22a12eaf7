// SPDX-License-Identifier: Apache-2.0
//! `/rest-apis` (contract 2.2): create, list, get, replace, delete. Reads come from the
//! snapshot in memory; writes are decided by the store.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ferrogate_model::{Kind, ResourceName};
use ferrogate_store::Guard;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::documents::{ResourceStatus, document, with_status};
use super::error::{ApiError, ErrorBody, etag};
use super::json::json as answer;
use super::options::{Params, Segments, WriteOptions, WriteQuery, format, read_body};
use super::read::Reading;
use super::write::{Subject, Written, named, not_found, parse};
use crate::auth::Principal;
use crate::deploy::Admitted;
use crate::metrics::Operation;
use crate::snapshot::Entry;

/// Filters of the list; an empty one does not filter.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `spec.displayName`, exactly.
    pub display_name: Option<String>,
    /// `spec.version`, exactly.
    pub version: Option<String>,
    /// The resolved `spec.context`, exactly.
    pub context: Option<String>,
    /// `deployed` or `undeployed`.
    pub status: Option<String>,
}

/// The answer to a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct RestApiList {
    /// Always `success`.
    pub status: &'static str,
    /// How many there are.
    pub count: usize,
    /// Each with its resolved context.
    pub apis: Vec<Value>,
}

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, replace, delete))
}

/// Creates a REST API.
#[utoipa::path(
    post,
    path = "/rest-apis",
    tag = "REST APIs",
    params(WriteQuery),
    request_body(content((Value = "application/yaml"), (Value = "application/json"))),
    responses(
        (status = 201, description = "Stored; with `wait=live`, live", body = Value),
        (status = 202, description = "Stored, and not live in time: `status.live` names the stragglers", body = Value),
        (status = 200, description = "A dry run: the document would be stored", body = Value),
        (status = 400, description = "The document is not valid: `errors` names each fault", body = ErrorBody),
        (status = 409, description = "Handle, name and version, or a route is taken", body = ErrorBody),
        (status = 413, description = "The document is too large", body = ErrorBody),
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
    let text = read_body(body, app.settings.max_document_bytes).await?;
    let admitted = app.admit_one(Kind::RestApi, parse(text, format(&headers)).await?, options.strict).await?;
    if options.dry_run {
        super::preview::check(&app, std::slice::from_ref(&admitted), true).await?;
        return preview(&admitted);
    }
    let subject = Subject::of(&admitted, Guard::Absent);
    let writes = vec![(subject, Some(admitted.clone()))];
    let written = match app.write(Operation::Create, &caller, &options, writes).await {
        Ok(written) => written,
        Err(error) => {
            let writes = same_artifact(&app, &admitted, error).await?;
            app.write(Operation::Update, &caller, &options, writes).await.map_err(|error| match error {
                ApiError::PreconditionFailed { message, .. } | ApiError::NotFound(message) => {
                    ApiError::Conflict(message)
                }
                other => other,
            })?
        }
    };
    stored(&admitted, written, StatusCode::CREATED)
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

/// Lists REST APIs.
#[utoipa::path(
    get,
    path = "/rest-apis",
    tag = "REST APIs",
    params(ListQuery),
    responses(
        (status = 200, description = "All that match", body = RestApiList),
        (status = 503, description = "Nothing has been read from the store yet", body = ErrorBody),
    )
)]
async fn list(State(app): State<Arc<App>>, Params(query): Params<ListQuery>) -> Result<Response, ApiError> {
    let reading = Reading::of(&app)?;
    let mut apis = Vec::new();
    for entry in reading.snapshot.entries().filter(|entry| query.matches(entry)) {
        let mut api = document(&entry.stored)?;
        if let Some(context) = api.pointer_mut("/spec/context") {
            *context = Value::String(entry.summary.context.clone());
        }
        apis.push(api);
    }
    let list = RestApiList { status: "success", count: apis.len(), apis };
    Ok(reading.mark(answer(StatusCode::OK, &list)))
}

/// Gets one REST API.
#[utoipa::path(
    get,
    path = "/rest-apis/{id}",
    tag = "REST APIs",
    params(("id" = String, Path, description = "The handle")),
    responses(
        (status = 200, description = "The document as stored, with its status", body = Value),
        (status = 404, description = "There is none with this handle", body = ErrorBody),
        (status = 503, description = "Nothing has been read from the store yet", body = ErrorBody),
    )
)]
async fn get(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Result<Response, ApiError> {
    let reading = Reading::of(&app)?;
    let name = named(Kind::RestApi, &id)?;
    let entry = reading.snapshot.get(&name).ok_or_else(|| not_found(&name))?;
    let mut response = answer(StatusCode::OK, &document(&entry.stored)?);
    response.headers_mut().insert(http::header::ETAG, etag(entry.stored.revision));
    Ok(reading.mark(response))
}

/// Replaces a REST API.
#[utoipa::path(
    put,
    path = "/rest-apis/{id}",
    tag = "REST APIs",
    params(("id" = String, Path, description = "The handle"), WriteQuery),
    request_body(content((Value = "application/yaml"), (Value = "application/json"))),
    responses(
        (status = 200, description = "Stored; with `wait=live`, live", body = Value),
        (status = 202, description = "Stored, and not live in time: `status.live` names the stragglers", body = Value),
        (status = 400, description = "The document is not valid: `errors` names each fault", body = ErrorBody),
        (status = 404, description = "There is none with this handle", body = ErrorBody),
        (status = 409, description = "Name and version, or a route is taken", body = ErrorBody),
        (status = 412, description = "`If-Match` names another revision", body = ErrorBody),
        (status = 413, description = "The document is too large", body = ErrorBody),
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
    let text = read_body(body, app.settings.max_document_bytes).await?;
    let value = parse(text, format(&headers)).await.map_err(capitalised)?;
    let written_name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !written_name.is_empty() && written_name != id {
        return Err(ApiError::BadRequest(format!(
            "handle mismatch: path has '{id}' but YAML metadata.name has '{written_name}'"
        )));
    }
    let name = named(Kind::RestApi, &id)?;
    let admitted = match app.admit_one(Kind::RestApi, value, options.strict).await {
        Ok(admitted) => admitted,
        // Existence is checked first (contract 2.2). A valid document is left to the store to
        // judge; for a faulty one what this replica knows decides between the two refusals.
        Err(error) => return Err(if exists(&app, &name) { error } else { not_found(&name) }),
    };
    if options.dry_run {
        super::preview::check(&app, std::slice::from_ref(&admitted), false).await?;
        return preview(&admitted);
    }
    let subject = Subject::of(&admitted, options.guard_present());
    let written =
        app.write(Operation::Update, &caller, &options, vec![(subject, Some(admitted.clone()))]).await?;
    stored(&admitted, written, StatusCode::OK)
}

/// Deletes a REST API.
#[utoipa::path(
    delete,
    path = "/rest-apis/{id}",
    tag = "REST APIs",
    params(("id" = String, Path, description = "The handle"), WriteQuery),
    responses(
        (status = 200, description = "Deleted", body = Value),
        (status = 202, description = "Deleted, and still served in places: `live` names them", body = Value),
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
    let name = named(Kind::RestApi, &id)?;
    let mut body = json!({"status": "success", "message": "RestAPI deleted successfully", "id": id});
    if options.dry_run {
        if !exists(&app, &name) {
            return Err(not_found(&name));
        }
        body["message"] = Value::String("RestAPI would be deleted".to_owned());
        return Ok(answer(StatusCode::OK, &body));
    }
    let subject = Subject::bare(name, options.guard_present());
    let written = app.write(Operation::Delete, &caller, &options, vec![(subject, None)]).await?;
    body["revision"] = Value::from(written.deployed.committed.last.0);
    if let Some(live) = &written.live {
        body["live"] = json!(live);
    }
    let mut response = answer(written.status(StatusCode::OK), &body);
    written.headers(response.headers_mut(), false);
    Ok(response)
}

impl ListQuery {
    fn matches(&self, entry: &Entry) -> bool {
        let state = if entry.stored.payload.is_some() { "deployed" } else { "undeployed" };
        let summary = &entry.summary;
        entry.stored.name.kind == Kind::RestApi
            && [
                (&self.display_name, summary.display_name.as_str()),
                (&self.version, &summary.version),
                (&self.context, &summary.context),
                (&self.status, state),
            ]
            .into_iter()
            .all(|(filter, value)| {
                filter.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == value)
            })
    }
}

/// The answer to a write of one document.
pub fn stored(admitted: &Admitted, written: Written, done: StatusCode) -> Result<Response, ApiError> {
    let body = with_status(admitted.source.clone(), &status_of(admitted, &written, 0))?;
    let mut response = answer(written.status(done), &body);
    written.headers(response.headers_mut(), true);
    Ok(response)
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

/// The answer to a dry run.
pub fn preview(admitted: &Admitted) -> Result<Response, ApiError> {
    let mut status = ResourceStatus::of_admitted(admitted);
    status.dry_run = true;
    Ok(answer(StatusCode::OK, &with_status(admitted.source.clone(), &status)?))
}

/// Whether this replica knows the artifact; `true` when it knows nothing yet.
pub fn exists(app: &App, name: &ResourceName) -> bool {
    app.replica.current().is_none_or(|snapshot| snapshot.get(name).is_some())
}

/// PUT words its parse failure with a capital (contract 2.2).
pub fn capitalised(error: ApiError) -> ApiError {
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
