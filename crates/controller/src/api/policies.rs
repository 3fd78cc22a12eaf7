// SPDX-License-Identifier: Apache-2.0
//! `/policies`: the catalogue of policies that artifacts may attach.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::json::json as answer;

/// The catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyList {
    /// Always `success`.
    pub status: &'static str,
    /// How many there are.
    pub count: usize,
    /// By name, then by version.
    pub policies: Vec<PolicyView>,
}

/// One policy.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// The name artifacts use.
    pub name: &'static str,
    /// The full version; artifacts name the major only.
    pub version: &'static str,
    /// What it does.
    pub description: &'static str,
    /// The JSON schema of its parameters.
    pub parameters: Value,
}

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(policies))
}

/// Lists the policies of this build.
#[utoipa::path(
    get,
    path = "/policies",
    tag = "Gateway",
    responses((status = 200, description = "The catalogue", body = PolicyList))
)]
async fn policies(State(app): State<Arc<App>>) -> Response {
    let policies = catalogue(&app.admission.registry);
    answer(StatusCode::OK, &PolicyList { status: "success", count: policies.len(), policies })
}

/// The registry's policies as they are shown.
#[must_use]
pub fn catalogue(registry: &ferrogate_policy::Registry) -> Vec<PolicyView> {
    let view = |registered: &ferrogate_policy::Registered| {
        let definition = &registered.definition;
        PolicyView {
            name: definition.name(),
            version: definition.version(),
            description: definition.description(),
            // The registry has parsed it before: it is JSON.
            parameters: serde_json::from_str(definition.schema()).unwrap_or(Value::Null),
        }
    };
    registry.iter().map(view).collect()
}
