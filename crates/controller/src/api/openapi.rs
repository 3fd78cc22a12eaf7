// SPDX-License-Identifier: Apache-2.0
//! The description of the management API, made from the handlers themselves: what is
//! served is what is described. `docs/openapi.json` is a committed copy that a test
//! keeps fresh.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, ContentBuilder, Ref, RefOr, ResponseBuilder, Server};

use super::error::{AuthErrorBody, ErrorBody};
use super::json::json as answer;
use super::{App, BASES};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ferrogate management API",
        description = "Deploy APIs to a gateway and see who serves them. Every write is one revision of the \
                       gateway's line, answered in the header `x-revision`; every read says in \
                       `x-ferrogate-revision` which revision it is of, and in `x-ferrogate-stale` when the store \
                       does not answer and memory does.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ErrorBody, AuthErrorBody))
)]
struct Description;

/// What the handlers' descriptions are merged into.
#[must_use]
pub fn base() -> utoipa::openapi::OpenApi {
    let mut api = Description::openapi();
    api.servers = Some(BASES.iter().map(|base| Server::new(*base)).collect());
    let components = api.components.take().unwrap_or_else(|| ComponentsBuilder::new().build());
    let mut components = components;
    for (name, scheme) in [("basic", HttpAuthScheme::Basic), ("bearer", HttpAuthScheme::Bearer)] {
        components.add_security_scheme(name, SecurityScheme::Http(Http::new(scheme)));
    }
    api.components = Some(components);
    let nothing: [&str; 0] = [];
    api.security =
        Some(vec![SecurityRequirement::new("basic", nothing), SecurityRequirement::new("bearer", nothing)]);
    api
}

/// Adds what every endpoint may answer besides its own: refused callers, and what cannot
/// be read as a request at all.
#[must_use]
pub fn complete(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let common = [
        ("400", "The request cannot be read", "ErrorBody"),
        ("401", "No valid credentials", "AuthErrorBody"),
        ("403", "Another role is needed", "AuthErrorBody"),
        ("429", "Too many failed attempts from this address", "AuthErrorBody"),
        ("500", "A fault of the gateway's own; its log has the cause", "ErrorBody"),
        ("503", "Something needed does not answer just now: try again after `Retry-After`", "ErrorBody"),
    ];
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (status, description, schema) in common {
                operation.responses.responses.entry(status.to_owned()).or_insert_with(|| {
                    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
                    let response = ResponseBuilder::new().description(description);
                    RefOr::T(response.content("application/json", content).build())
                });
            }
        }
    }
    api
}

/// Answers with the description. It names no artifact, so it needs no credentials.
pub async fn openapi(State(app): State<Arc<App>>) -> Response {
    answer(StatusCode::OK, &app.openapi)
}
