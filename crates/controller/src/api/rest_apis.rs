// SPDX-License-Identifier: Apache-2.0
//! `/rest-apis` (contract 2.2): what is particular of them is the filters of their list and
//! what a deletion answers; all else is as with every [`Collection`].

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use ferrogate_model::Kind;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::collection::{self, Collection};
use super::documents::document;
use super::error::{ApiError, ErrorBody};
use super::json::json as answer;
use super::options::Params;
use super::read::Reading;
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

/// See the module.
struct RestApis;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    collection::routes::<RestApis>().routes(routes!(list))
}

/// Lists REST APIs.
#[utoipa::path(
    get,
    path = "/rest-apis",
    operation_id = "listRestApi",
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

impl Collection for RestApis {
    const KIND: Kind = Kind::RestApi;
    const NAMES: (&'static str, &'static str) = ("REST APIs", "a REST API");
    const DELETED: Option<(&'static str, &'static str)> =
        Some(("RestAPI deleted successfully", "RestAPI would be deleted"));
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
