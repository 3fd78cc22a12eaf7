// SPDX-License-Identifier: Apache-2.0
//! `/secrets` (contract 2.7): as every [`Collection`], but for the words of refusals, for a
//! status without a revision, and for the value, which only reading one secret by its name
//! shows. Writing one renders every artifact anew that names it, in the same batch; deleting
//! one leaves them as they are.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ferrogate_model::name::MAX_HANDLE_BYTES;
use ferrogate_model::{Kind, ResourceName};
use ferrogate_store::StoredArtifact;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::body::{format, parse, read_body, sealable};
use super::collection::{self, Collection};
use super::documents::{ResourceStatus, secret, source, with_status};
use super::error::{ApiError, ErrorBody};
use super::json::json as answer;
use super::read::Reading;
use super::refused::named;
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

/// See the module.
struct Secrets;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    collection::routes::<Secrets>().routes(routes!(list))
}

/// Lists secrets, without their values.
#[utoipa::path(
    get,
    path = "/secrets",
    operation_id = "listSecret",
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

impl Collection for Secrets {
    const KIND: Kind = Kind::Secret;
    const NAMES: (&'static str, &'static str) = ("Secrets", "a secret");
    const TOO_LARGE: StatusCode = StatusCode::BAD_REQUEST;
    const DELETED: Option<(&'static str, &'static str)> = None;

    async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
        let text =
            read_body(body, MAX_BYTES, app.settings.body_timeout).await.map_err(|error| match error {
                ApiError::TooLarge { .. } | ApiError::BadRequest(_) => {
                    ApiError::BadRequest("Request body too large or unreadable".to_owned())
                }
                other => other,
            })?;
        parse(text, format(headers)).await
    }

    /// Violations of a secret are told in one message (contract 2.7).
    async fn admit(app: &Arc<App>, document: Value, strict: bool) -> Result<Admitted, ApiError> {
        sealable(app.settings.seals(), std::iter::once((Kind::Secret, &document)))?;
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

    fn name(id: &str) -> Result<ResourceName, ApiError> {
        if id.len() > MAX_HANDLE_BYTES {
            let message = format!("id must be at most {MAX_HANDLE_BYTES} characters long");
            return Err(ApiError::BadRequest(message));
        }
        named(Kind::Secret, id)
    }

    fn shown(stored: &StoredArtifact) -> Result<Value, ApiError> {
        with_status(secret(stored)?.revealed(source(stored)?), &plain(ResourceStatus::of(stored)))
    }

    fn written(_: Operation, admitted: &Admitted, status: &ResourceStatus) -> Result<Value, ApiError> {
        with_status(admitted.source.clone(), &plain(status.clone()))
    }

    fn refused(operation: Operation, id: &str, error: ApiError) -> ApiError {
        match error {
            ApiError::NotFound(_) if operation == Operation::Update => {
                let message = format!("secret configuration not found: id={id}: no secret has this id");
                ApiError::NotFound(message)
            }
            other => other,
        }
    }
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
