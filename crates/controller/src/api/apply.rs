// SPDX-License-Identifier: Apache-2.0
//! `/apply`: many documents, create or replace, in one transaction and one revision
//! range: all or nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use ferrogate_model::{Kind, Violations};
use ferrogate_store::Guard;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::body::{format, parse_many, read_body, sealable};
use super::collection::status_of;
use super::documents::ResourceStatus;
use super::error::{ApiError, ErrorBody, FieldError};
use super::gateway::named;
use super::json::json as answer;
use super::options::{Params, WriteOptions, WriteQuery};
use super::preconditions::WriteHeaders;
use super::write::Subject;
use crate::auth::roles::ADMIN;
use crate::auth::{Auth, Denied, Principal};
use crate::deploy::{Admitted, Refusal, kind_of};
use crate::metrics::Operation;
use crate::status::live::Liveness;

/// What became of each document.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyAnswer {
    /// Always `success`.
    pub status: &'static str,
    /// How many documents there were.
    pub count: usize,
    /// The gateway's revision after the last one; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// In the order of the documents.
    pub results: Vec<Applied>,
    /// Artifacts beside the documents that were made anew because they name a secret among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rerendered: Vec<String>,
    /// Who serves all of it, when the client waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Liveness>,
}

/// What became of one document.
#[derive(Debug, Serialize, ToSchema)]
pub struct Applied {
    /// The artifact's kind.
    pub kind: &'static str,
    /// Its handle.
    pub name: String,
    /// `created` or `replaced`.
    pub action: &'static str,
    /// Its status.
    pub status: ResourceStatus,
}

/// One of the documents, before it is admitted.
struct Document {
    /// How it is told from the others.
    label: String,
    /// What it is, or why it is nothing.
    kind: Result<Kind, Refusal>,
    value: Value,
}

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(apply))
}

/// Creates or replaces every document of the body, all or nothing.
#[utoipa::path(
    post,
    path = "/apply",
    tag = "Gateway",
    params(WriteQuery, WriteHeaders),
    request_body(
        description = "The documents of a YAML stream, or a list of documents in either format",
        content((Value = "application/yaml"), (Value = "application/json"))
    ),
    responses(
        (status = 200, description = "Stored; with `wait=live`, live", body = ApplyAnswer),
        (status = 202, description = "Stored, and not live in time", body = ApplyAnswer),
        (status = 400, description = "A document is not valid; nothing was stored", body = ErrorBody),
        (status = 403, description = "A secret or a certificate is among them and the caller is no administrator", body = super::error::AuthErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 409, description = "Name and version, or a route is taken; nothing was stored", body = ErrorBody),
        (status = 412, description = "`If-Match` names tags: a bundle has none", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 503, description = "The store is unavailable, or the outcome unknown", body = ErrorBody),
    )
)]
async fn apply(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Principal>>,
    Params(query): Params<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let options = WriteOptions::read(&query, &headers)?;
    let text = read_body(body, app.settings.max_bundle_bytes, app.settings.body_timeout).await?;
    // A bundle has no entity tag, so that a client that asks for one is not served blindly.
    options.preconditions.hold_of_gateway(None)?;
    let read = parse_many(text, format(&headers), app.settings.max_document_bytes).await?;
    let documents: Vec<Document> =
        read.into_iter().enumerate().map(|(index, one)| Document::new(index, one)).collect();
    // What conceals is the administrator's to write on its own path, and so it is this way.
    if documents.iter().any(Document::conceals) && Auth::require(&caller, &[ADMIN]).is_err() {
        return Ok(Denied::Forbidden.into_response());
    }
    let known = documents.iter().filter_map(|one| Some((*one.kind.as_ref().ok()?, &one.value)));
    sealable(app.settings.seals(), known)?;
    let (admitted, subjects) = admit(&app, documents, options.strict).await?;
    let writes: Vec<_> = subjects.into_iter().zip(admitted.iter().cloned().map(Some)).collect();
    if options.dry_run {
        return tried(&app, &admitted, writes).await;
    }
    let mut written = app.write(Operation::Apply, &caller, &options, writes).await?;
    let status = written.status(StatusCode::OK);
    let live = written.live.take();
    let rerendered = std::mem::take(&mut written.rerendered);
    let results = admitted.iter().enumerate().map(|(index, one)| {
        let status = status_of(one, &written, index);
        // What a write created has the times of its creation and its content equal.
        let action = if status.created_at == status.updated_at { "created" } else { "replaced" };
        Applied::new(one, action, status)
    });
    let results: Vec<Applied> = results.collect();
    let revision = Some(written.deployed.committed.last.0);
    let body = ApplyAnswer { status: "success", count: results.len(), revision, results, rerendered, live };
    let mut response = answer(status, &body);
    written.headers(response.headers_mut(), false);
    Ok(response)
}

/// The answer to a dry run.
async fn tried(
    app: &Arc<App>,
    admitted: &[Admitted],
    writes: Vec<(Subject, Option<Admitted>)>,
) -> Result<Response, ApiError> {
    let snapshot = super::read::Reading::of(app)?.snapshot;
    let wanted = writes.iter().zip(admitted).map(|((subject, _), one)| (subject.clone(), one.claims.clone()));
    super::preview::claims(Arc::clone(&snapshot), wanted.collect()).await?;
    let rerendered = app.plan(writes).await?.anew(admitted.len());
    let results = admitted.iter().map(|one| {
        let status = ResourceStatus { dry_run: true, ..ResourceStatus::of_admitted(one) };
        let known = snapshot.get(&one.name).is_some();
        Applied::new(one, if known { "replaced" } else { "created" }, status)
    });
    let results: Vec<Applied> = results.collect();
    let (count, revision, live) = (results.len(), None, None);
    Ok(answer(StatusCode::OK, &ApplyAnswer { status: "success", count, revision, results, rerendered, live }))
}

impl Applied {
    fn new(admitted: &Admitted, action: &'static str, status: ResourceStatus) -> Applied {
        Applied {
            kind: admitted.name.kind.document_name(),
            name: admitted.name.handle.as_str().to_owned(),
            action,
            status,
        }
    }
}

impl Document {
    fn new(index: usize, (value, oversize): (Value, Option<String>)) -> Document {
        // By its place, and its name when it has one.
        let label = match value.pointer("/metadata/name").and_then(Value::as_str) {
            Some(name) => format!("document {} ({name})", index + 1),
            None => format!("document {}", index + 1),
        };
        let kind = match oversize {
            Some(fault) => Err(Refusal::Unreadable(fault)),
            None => kind_of(&value).map_err(|violation| Refusal::Invalid(Violations(vec![violation]))),
        };
        Document { label, kind, value }
    }

    fn conceals(&self) -> bool {
        self.kind.as_ref().is_ok_and(|kind| kind.conceals())
    }
}

/// Admits every document; the faults of all of them are told together, in their order.
async fn admit(
    app: &Arc<App>,
    documents: Vec<Document>,
    strict: bool,
) -> Result<(Vec<Admitted>, Vec<Subject>), ApiError> {
    let (mut labels, mut refused, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for Document { label, kind, value } in documents {
        labels.push(label);
        refused.push(kind.map(|kind| known.push((kind, value))).err());
    }
    let mut results = app.admit(known, strict).await?.into_iter();
    let (mut admitted, mut subjects) = (Vec::new(), Vec::new());
    let (mut faults, mut seen) = (Vec::<FieldError>::new(), HashSet::new());
    for (label, refused) in labels.into_iter().zip(refused) {
        match refused.map(Err).or_else(|| results.next()) {
            Some(Ok(one)) if seen.insert(one.name.clone()) => {
                subjects.push(Subject::of(&one, Guard::Any).at(label));
                admitted.push(one);
            }
            Some(Ok(one)) => faults.push(FieldError {
                field: format!("{label}: metadata.name"),
                message: format!("{} stands in this request twice", one.name),
            }),
            Some(Err(refusal)) => faults.extend(named(&label, refusal)),
            None => {
                return Err(ApiError::Internal {
                    message: "Internal server error",
                    cause: format!("admission lost the document {label}"),
                });
            }
        }
    }
    if !faults.is_empty() {
        return Err(ApiError::Invalid(faults));
    }
    contended(&admitted, &subjects)?;
    Ok((admitted, subjects))
}

/// Refuses two documents that want what only one may hold: the store would name the first as the
/// holder, although nothing of it is stored.
fn contended(admitted: &[Admitted], subjects: &[Subject]) -> Result<(), ApiError> {
    let mut holders = HashMap::<&str, &Subject>::new();
    for (one, subject) in admitted.iter().zip(subjects) {
        for claim in &one.claims {
            let Some(holder) = holders.insert(claim, subject) else { continue };
            let [place, other] = [subject, holder].map(|one| one.place.as_deref().unwrap_or_default());
            let what =
                if one.name_claim == *claim { "configuration already exists" } else { "route conflict" };
            return Err(ApiError::Conflict(format!("{place}: {what}: {claim} is that of {other} too")));
        }
    }
    Ok(())
}
