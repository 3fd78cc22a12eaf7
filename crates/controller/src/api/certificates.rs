// SPDX-License-Identifier: Apache-2.0
//! `/certificates` (contract 2.6): uploading, listing and deleting what upstreams are trusted
//! by has the contract's shapes and words. Beyond it a certificate is an artifact like any
//! other, a [`Collection`]: posted as a document, read, replaced, taken back. Its private key
//! is in no answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ferrogate_model::Kind;
use ferrogate_model::document::Format;
use ferrogate_model::kinds::certificate::Facts;
use ferrogate_model::kinds::{Artifact, Certificate};
use ferrogate_store::StoredArtifact;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::body::{format, parse, read_body, sealable};
use super::collection::{self, Collection};
use super::documents::{ResourceStatus, artifact, with_status};
use super::error::{ApiError, ErrorBody};
use super::json::json as answer;
use super::read::Reading;
use crate::deploy::Admitted;
use crate::metrics::Operation;
use crate::snapshot::Snapshot;

const UPLOADED: &str = "Certificate uploaded and SDS updated successfully";
const RELOADED: &str = "Certificates reloaded and SDS updated successfully";

/// One certificate as the contract has it, and what it has not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// Its handle.
    pub id: String,
    /// The same.
    pub name: String,
    /// Whose the first certificate of the text is.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// Until when it is valid, UTC.
    pub not_after: String,
    /// How many certificates the text has.
    pub count: usize,
    /// What was done, in the answer to a write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'static str>,
    /// Always `success`.
    pub status: &'static str,
    /// What it is for: `upstreamTrust`, `server`, `clientTrust` or `named`.
    pub usage: &'static str,
    /// The names it is shown for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<String>,
    /// How the artifact stands, in the answer to a write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceStatus>,
}

/// The answer to a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateList {
    /// In the order of their names; `null` when there is none.
    pub certificates: Option<Vec<CertificateInfo>>,
    /// How many there are.
    pub total_count: usize,
    /// The bytes of their PEM.
    pub total_bytes: usize,
    /// Always `success`.
    pub status: &'static str,
}

/// The answer to a reload.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Always `success`.
    pub status: &'static str,
    /// What was done.
    pub message: &'static str,
    /// The bytes of all certificates' PEM.
    pub total_bytes: usize,
}

/// See the module.
struct Certificates;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    collection::routes::<Certificates>().routes(routes!(list)).routes(routes!(reload))
}

/// Lists certificates.
#[utoipa::path(
    get,
    path = "/certificates",
    tag = "Certificates",
    operation_id = "listCertificate",
    responses(
        (status = 200, description = "All of them", body = CertificateList),
        (status = 503, description = "Nothing has been read from the store yet", body = ErrorBody),
    )
)]
async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let reading = Reading::of(&app)?;
    let (certificates, total_bytes) = all(&reading.snapshot)?;
    let total_count = certificates.len();
    let certificates = (total_count > 0).then_some(certificates);
    let list = CertificateList { certificates, total_count, total_bytes, status: "success" };
    Ok(reading.mark(answer(StatusCode::OK, &list)))
}

/// Tells how much there is. Every write is on its way to every runtime by itself, so that
/// nothing is left to be reloaded.
#[utoipa::path(
    post,
    path = "/certificates/reload",
    tag = "Certificates",
    operation_id = "reloadCertificate",
    responses(
        (status = 200, description = "What is in effect", body = Reloaded),
        (status = 503, description = "Nothing has been read from the store yet", body = ErrorBody),
    )
)]
async fn reload(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let reading = Reading::of(&app)?;
    let (_, total_bytes) = all(&reading.snapshot)?;
    let reloaded = Reloaded { status: "success", message: RELOADED, total_bytes };
    Ok(reading.mark(answer(StatusCode::OK, &reloaded)))
}

impl Collection for Certificates {
    const KIND: Kind = Kind::Certificate;
    const NAMES: (&'static str, &'static str) = ("Certificates", "a certificate");
    const DELETED: Option<(&'static str, &'static str)> =
        Some(("Certificate deleted and SDS updated successfully", "Certificate would be deleted"));

    /// Besides documents, `{"name", "certificate"}` is read as the contract has it: in JSON, whatever
    /// the content type says (contract 1.4).
    async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
        let text = read_body(body, app.settings.max_document_bytes, app.settings.body_timeout).await?;
        let unreadable = |error| match error {
            ApiError::BadRequest(cause) => ApiError::BadRequest(format!("Invalid request body: {cause}")),
            other => other,
        };
        let document = parse(text.clone(), format(headers)).await.map_err(unreadable)?;
        if document.get("kind").is_some() {
            return Ok(document);
        }
        uploaded(parse(text, Format::Json).await.map_err(unreadable)?)
    }

    async fn admit(app: &Arc<App>, document: Value, strict: bool) -> Result<Admitted, ApiError> {
        sealable(app.settings.seals(), std::iter::once((Kind::Certificate, &document)))?;
        app.admit_one(Kind::Certificate, document, strict).await.map_err(|error| match error {
            ApiError::Invalid(faults) => {
                let told = faults.into_iter().map(|fault| match fault.field.as_str() {
                    "spec.certificate" => fault.message,
                    field => format!("{field}: {}", fault.message),
                });
                let told: Vec<String> = told.collect();
                ApiError::BadRequest(format!("Invalid certificate: {}", told.join("; ")))
            }
            other => other,
        })
    }

    fn written(
        operation: Operation,
        admitted: &Admitted,
        status: &ResourceStatus,
    ) -> Result<Value, ApiError> {
        match (&admitted.artifact, operation) {
            (Artifact::Certificate(certificate), Operation::Create) => {
                let mut info = CertificateInfo::of(certificate)?;
                info.message = Some(UPLOADED);
                info.resource = Some(status.clone());
                Ok(json!(info))
            }
            _ => with_status(admitted.source.clone(), status),
        }
    }

    fn refused(operation: Operation, _id: &str, error: ApiError) -> ApiError {
        match (operation, error) {
            (Operation::Delete, ApiError::NotFound(cause)) => {
                ApiError::NotFound(format!("Certificate not found or failed to delete: {cause}"))
            }
            (_, other) => other,
        }
    }
}

/// Every certificate of a snapshot, and the bytes of their PEM.
///
/// # Errors
/// When one that is stored is not readable.
pub fn all(snapshot: &Snapshot) -> Result<(Vec<CertificateInfo>, usize), ApiError> {
    let (mut infos, mut bytes) = (Vec::new(), 0);
    for entry in snapshot.entries().filter(|entry| entry.stored.name.kind == Kind::Certificate) {
        let certificate = certificate(&entry.stored)?;
        bytes += certificate.certificate.len();
        infos.push(CertificateInfo::of(&certificate)?);
    }
    Ok((infos, bytes))
}

impl CertificateInfo {
    fn of(certificate: &Certificate) -> Result<CertificateInfo, ApiError> {
        let Facts { count, subject, issuer, not_after, .. } =
            certificate.facts().map_err(|error| ApiError::Internal {
                message: "The stored certificate is not readable",
                cause: format!("certificates/{}: {error}", certificate.handle),
            })?;
        let not_after = Timestamp::from_second(not_after).unwrap_or(Timestamp::MAX);
        Ok(CertificateInfo {
            id: certificate.handle.as_str().to_owned(),
            name: certificate.handle.as_str().to_owned(),
            subject,
            issuer,
            not_after: not_after.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            count,
            message: None,
            status: "success",
            usage: certificate.usage.as_str(),
            server_names: certificate.server_names.clone(),
            resource: None,
        })
    }
}

fn certificate(stored: &StoredArtifact) -> Result<Certificate, ApiError> {
    match artifact(stored)? {
        Artifact::Certificate(certificate) => Ok(certificate),
        Artifact::RestApi(_) | Artifact::Secret(_) => Err(ApiError::Internal {
            message: "The stored certificate is not readable",
            cause: format!("{} is no certificate", stored.name),
        }),
    }
}

/// The document that the contract's form of an upload stands for. What it has beside the
/// name is the specification, so that a private key may come along.
fn uploaded(body: Value) -> Result<Value, ApiError> {
    let Value::Object(mut spec) = body else {
        return Err(ApiError::BadRequest("Invalid request body: it must be an object".to_owned()));
    };
    for field in ["name", "certificate"] {
        match spec.get(field) {
            Some(Value::String(text)) if !text.is_empty() => {}
            None | Some(Value::Null | Value::String(_)) => {
                return Err(ApiError::BadRequest("name and certificate are required fields".to_owned()));
            }
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                let message = format!("Invalid request body: {field}: expected text (in quotes)");
                return Err(ApiError::BadRequest(message));
            }
        }
    }
    let name = spec.remove("name");
    Ok(json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": Kind::Certificate.document_name(),
        "metadata": {"name": name},
        "spec": spec,
    }))
}
