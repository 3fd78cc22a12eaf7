// SPDX-License-Identifier: Apache-2.0
//! `/apply`: many documents, create or replace, in one transaction and one revision
//! range: all or nothing.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use ferrogate_model::Kind;
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
use super::write::Subject;
use crate::auth::roles::ADMIN;
use crate::auth::{Auth, Denied, Principal};
use crate::deploy::{Admitted, kind_of};
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

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(apply))
}

/// Creates or replaces every document of the body, all or nothing.
#[utoipa::path(
    post,
    path = "/apply",
    tag = "Gateway",
    params(WriteQuery),
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
    let documents = parse_many(text, format(&headers)).await?;
    let documents: Vec<(Kind, Value)> = documents.into_iter().map(|one| (kind_of(&one), one)).collect();
    // What conceals is the administrator's to write on its own path, and so it is this way.
    if documents.iter().any(|(kind, _)| kind.conceals()) && Auth::require(&caller, &[ADMIN]).is_err() {
        return Ok(Denied::Forbidden.into_response());
    }
    sealable(app.settings.seals(), documents.iter().map(|(kind, document)| (*kind, document)))?;
    let admitted = admit(&app, documents, options.strict).await?;
    if options.dry_run {
        let snapshot = super::read::Reading::of(&app)?.snapshot;
        super::preview::claims(Arc::clone(&snapshot), &admitted).await?;
        let writes = admitted.iter().map(|one| (Subject::of(one, Guard::Any), Some(one.clone()))).collect();
        let rerendered = app.plan(writes).await?.anew(admitted.len());
        let results = admitted.iter().map(|one| {
            let status = ResourceStatus { dry_run: true, ..ResourceStatus::of_admitted(one) };
            let known = snapshot.get(&one.name).is_some();
            Applied::new(one, if known { "replaced" } else { "created" }, status)
        });
        let results: Vec<Applied> = results.collect();
        let body = ApplyAnswer {
            status: "success",
            count: results.len(),
            revision: None,
            results,
            rerendered,
            live: None,
        };
        return Ok(answer(StatusCode::OK, &body));
    }
    let writes = admitted.iter().map(|one| (Subject::of(one, Guard::Any), Some(one.clone()))).collect();
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

/// Admits every document; the faults of all of them are told together.
async fn admit(
    app: &Arc<App>,
    documents: Vec<(Kind, Value)>,
    strict: bool,
) -> Result<Vec<Admitted>, ApiError> {
    let labels: Vec<String> =
        documents.iter().enumerate().map(|(index, (_, one))| label(index, one)).collect();
    let (mut admitted, mut faults, mut seen) = (Vec::new(), Vec::<FieldError>::new(), HashSet::new());
    for (label, result) in labels.iter().zip(app.admit(documents, strict).await?) {
        match result {
            Ok(one) if seen.insert(one.name.clone()) => admitted.push(one),
            Ok(one) => faults.push(FieldError {
                field: format!("{label}: metadata.name"),
                message: format!("{} stands in this request twice", one.name),
            }),
            Err(refusal) => faults.extend(named(label, refusal)),
        }
    }
    if faults.is_empty() { Ok(admitted) } else { Err(ApiError::Invalid(faults)) }
}

/// How a document is told from the others: by its place, and its name when it has one.
fn label(index: usize, document: &Value) -> String {
    match document.pointer("/metadata/name").and_then(Value::as_str) {
        Some(name) => format!("document {} ({name})", index + 1),
        None => format!("document {}", index + 1),
    }
}
