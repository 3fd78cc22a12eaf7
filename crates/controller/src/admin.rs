// SPDX-License-Identifier: Apache-2.0
//! The admin server (contract 1.6) and the metrics server: health, sync status, config
//! dump. Health answers 200 whatever happens, as the contract has it, and says beside it
//! what the truth is; `/ready` is the one for orchestrators. The dump shows sources, in
//! which templates are unrendered, with values under telling names redacted.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, OriginalUri, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ferrogate_base::networks::Networks;
use ferrogate_base::readiness::Readiness;
use ferrogate_base::telemetry::METRICS_CONTENT_TYPE;
use ferrogate_model::Kind;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::App;
use crate::api::certificates;
use crate::api::documents::timestamp;
use crate::api::json::json as answer;
use crate::api::middleware::{authorization, deprecation_headers, method_not_allowed, not_found};
use crate::api::policies::catalogue;
use crate::auth::{Auth, Denied, roles};
use crate::listener::Peer;
use crate::replicate::StoreState;

const BASE: &str = "/api/admin/v1";
/// Shown in place of a value that may be a secret.
const REDACTED: &str = "******";
/// A value under a key that contains one of these, in lower case, is not shown.
const TELLING: [&str; 8] =
    ["password", "secret", "token", "credential", "apikey", "authorization", "privatekey", "passphrase"];

/// What the admin handlers share.
pub struct Admin {
    /// What the management API shares.
    pub app: Arc<App>,
    /// Whether this controller is ready.
    pub readiness: Readiness,
    /// Who may call.
    pub allowed_ips: Networks,
    /// Whether the dump exists.
    pub config_dump: bool,
}

/// The admin server.
pub fn router(admin: Arc<Admin>) -> Router {
    let guarded = Router::new()
        .route("/config_dump", get(config_dump))
        .route("/xds_sync_status", get(sync_status))
        .route_layer(from_fn_with_state(Arc::clone(&admin), guard));
    let open = Router::new().route("/health", get(health)).route("/ready", get(ready));
    let known = guarded.merge(open);
    Router::new()
        .nest(BASE, known.clone())
        .merge(known.route_layer(from_fn(deprecate)))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin)
}

/// The metrics server.
pub fn metrics_router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin)
}

async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let position = admin.app.replica.position();
    let mut body = json!({
        "status": "healthy",
        "timestamp": now(),
        "ready": admin.readiness.is_ready(),
        "epoch": position.epoch.0,
        "revision": position.revision.0,
    });
    match admin.app.replica.store_state() {
        StoreState::Starting => body["store"] = Value::from("starting"),
        StoreState::Available => body["store"] = Value::from("available"),
        StoreState::Sealed { .. } => body["store"] = Value::from("sealed"),
        // The reason names hosts; it is in the log and not for everybody.
        StoreState::Unavailable { .. } => body["store"] = Value::from("unavailable"),
    }
    answer(StatusCode::OK, &body)
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = admin.readiness.reasons();
    if reasons.is_empty() {
        return answer(StatusCode::OK, &json!({"status": "ready"}));
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not ready", "reasons": reasons}))
}

async fn sync_status(State(admin): State<Arc<Admin>>) -> Response {
    let position = admin.app.replica.position();
    let body = json!({
        "component": "gateway-controller",
        "timestamp": now(),
        "policy_chain_version": position.revision.to_string(),
        "epoch": position.epoch.to_string(),
    });
    answer(StatusCode::OK, &body)
}

async fn config_dump(State(admin): State<Arc<Admin>>) -> Response {
    if !admin.config_dump {
        return not_found().await;
    }
    let mut apis = Vec::new();
    let (mut certificates, mut certificate_bytes) = (Vec::new(), 0);
    if let Some(snapshot) = admin.app.replica.current() {
        match certificates::all(&snapshot) {
            Ok((found, bytes)) => (certificates, certificate_bytes) = (found, bytes),
            Err(error) => return error.into_response(),
        }
        // A secret is no API, and its value is nobody's to dump.
        for entry in snapshot.entries().filter(|entry| entry.stored.name.kind == Kind::RestApi) {
            let stored = &entry.stored;
            let mut configuration = serde_json::from_str(&stored.source).unwrap_or(Value::Null);
            redact(&mut configuration);
            let deployed = stored.payload.is_some();
            let mut api = json!({
                "configuration": configuration,
                "metadata": {
                    "status": if deployed { "deployed" } else { "undeployed" },
                    "createdAt": timestamp(stored.created_at),
                    "updatedAt": timestamp(stored.updated_at),
                },
            });
            if deployed {
                api["metadata"]["deployedAt"] = json!(timestamp(stored.updated_at));
            }
            // The handle's form as a UUID, if it has one (contract 1.6).
            if let Ok(id) = Uuid::parse_str(stored.name.handle.as_str()) {
                api["id"] = json!(id.to_string());
            }
            apis.push(api);
        }
    }
    let policies = catalogue(&admin.app.admission.registry);
    let body = json!({
        "status": "success",
        "timestamp": now(),
        "statistics": {
            "totalApis": apis.len(),
            "totalPolicies": policies.len(),
            "totalCertificates": certificates.len(),
            "totalCertificateBytes": certificate_bytes,
        },
        "apis": apis,
        "policies": policies,
        "certificates": certificates,
        "xds_sync": {"policy_chain_version": admin.app.replica.position().revision.to_string()},
    });
    answer(StatusCode::OK, &body)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.app.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, HeaderValue::from_static(METRICS_CONTENT_TYPE))], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn deprecate(OriginalUri(uri): OriginalUri, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    deprecation_headers(&mut response, BASE, uri.path());
    response
}

/// The address first, then the role: a caller from elsewhere learns nothing about passwords.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.address.ip());
    if !peer.is_some_and(|address| admin.allowed_ips.contains(address)) {
        return (StatusCode::FORBIDDEN, "Forbidden\n").into_response();
    }
    match administrator(&admin, authorization(&request), peer).await {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    }
}

async fn administrator(admin: &Admin, header: Option<String>, peer: Option<IpAddr>) -> Result<(), Denied> {
    let source = peer.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let principal = admin.app.auth.authenticate(header.as_deref(), source).await?;
    Auth::require(&principal, &[roles::ADMIN])
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.to_lowercase().replace(['-', '_'], "");
                if TELLING.iter().any(|telling| name.contains(telling))
                    && !field.is_object()
                    && !field.is_array()
                {
                    *field = Value::from(REDACTED);
                } else {
                    redact(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// RFC 3339 in whole seconds.
fn now() -> String {
    let seconds = Timestamp::now().as_second();
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::redact;

    #[test]
    fn telling_names_are_redacted_at_any_depth() {
        let mut value = json!({
            "spec": {"policies": [{"name": "basic-auth", "params": {"users": [{"username": "u", "Password": "p"}]}}]},
            "client_secret": 7,
            "tokens": ["kept: a list is looked into", {"api-key": "k"}],
        });
        redact(&mut value);
        assert_eq!(
            value.pointer("/spec/policies/0/params/users/0"),
            Some(&json!({"username": "u", "Password": "******"}))
        );
        assert_eq!(value["client_secret"], "******");
        assert_eq!(value.pointer("/tokens/1/api-key"), Some(&json!("******")));
    }
}
