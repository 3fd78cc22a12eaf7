// SPDX-License-Identifier: Apache-2.0
//! What every management request passes (contract 1.2 and 1.3), outermost first:
//! correlation id, metrics and panics; on known paths deprecation headers, immutable
//! mode, authentication, authorization. So a refused call carries the deprecation
//! headers too, and an unknown path is a plain 404 to anybody.

use std::net::Ipv4Addr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, MatchedPath, OriginalUri, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LINK, WARNING};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tracing::Instrument as _;
use uuid::Uuid;

use super::error::ApiError;
use super::json::INTERNAL_ERROR;
use super::{App, CURRENT_BASE};
use crate::auth::{Auth, Denied, Principal};
use crate::listener::Peer;
use crate::metrics::Refusal;

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// A longer correlation id is replaced: it stands in every log line of the request.
const MAX_CORRELATION_ID: usize = 256;

/// Gives the request an id, counts it, and turns a panic into an answer.
pub async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let correlation_id = correlation_id(&request);
    let (method, started) = (request.method().clone(), Instant::now());
    let endpoint = request.extensions().get::<MatchedPath>().map(|path| relative(path.as_str()).to_owned());
    let in_flight = app.metrics.request();
    let id = correlation_id.to_str().unwrap_or_default();
    let span = tracing::info_span!("management", %method, path = request.uri().path(), correlation_id = id);
    let answered = AssertUnwindSafe(next.run(request).instrument(span)).catch_unwind().await;
    drop(in_flight);
    let mut response = answered.unwrap_or_else(|_panic| {
        // The panic hook has logged where and why.
        app.metrics.panicked();
        internal_error()
    });
    if let Some(endpoint) = endpoint {
        let seconds = started.elapsed().as_secs_f64();
        app.metrics.answered(method.as_str(), &endpoint, response.status().as_u16(), seconds);
    }
    response.headers_mut().insert(CORRELATION_ID, correlation_id);
    response
}

/// Marks answers of paths without a prefix.
pub async fn deprecate(OriginalUri(uri): OriginalUri, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    deprecation_headers(&mut response, CURRENT_BASE, uri.path());
    response
}

/// The three headers of contract 1.2.
pub fn deprecation_headers(response: &mut Response, base: &str, path: &str) {
    let headers = response.headers_mut();
    headers.insert("deprecation", HeaderValue::from_static("true"));
    if let Ok(link) = HeaderValue::from_str(&format!("<{base}{path}>; rel=\"successor-version\"")) {
        headers.insert(LINK, link);
    }
    let warning = format!("299 - \"Deprecated API: migrate to {base} prefix\"");
    if let Ok(warning) = HeaderValue::from_str(&warning) {
        // Beside the one of a stale read, not instead of it.
        headers.append(WARNING, warning);
    }
}

/// Refuses writes of an immutable gateway.
pub async fn immutable(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let writes = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH].contains(request.method());
    if app.settings.immutable && writes {
        return ApiError::Immutable.into_response();
    }
    next.run(request).await
}

/// Finds out who is calling and whether they may.
pub async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    match caller(&app, &request).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(denied) => {
            app.metrics.refused(match denied {
                Denied::Missing => Refusal::Missing,
                Denied::Failed => Refusal::Failed,
                Denied::TooMany { .. } => Refusal::TooMany,
                Denied::Overloaded | Denied::NotYet => Refusal::Overloaded,
                Denied::Forbidden => Refusal::Forbidden,
            });
            denied.into_response()
        }
    }
}

/// What is needed is taken out of the request first: its body must not be held across an await.
fn caller(app: &Arc<App>, request: &Request) -> impl Future<Output = Result<Arc<Principal>, Denied>> + use<> {
    let app = Arc::clone(app);
    let header = authorization(request);
    let source = request.extensions().get::<ConnectInfo<Peer>>();
    let source = source.map_or(Ipv4Addr::UNSPECIFIED.into(), |info| info.0.address.ip());
    let (method, path) = (request.method().clone(), relative(request.uri().path()).to_owned());
    async move {
        let principal = app.auth.authenticate(header.as_deref(), source).await?;
        Auth::authorize(&principal, &method, &path)?;
        Ok(principal)
    }
}

/// The `Authorization` header.
pub fn authorization(request: &Request) -> Option<String> {
    Some(request.headers().get(AUTHORIZATION)?.to_str().ok()?.to_owned())
}

/// The path below whichever base path it came by.
fn relative(path: &str) -> &str {
    super::BASES.iter().find_map(|base| path.strip_prefix(base)).unwrap_or(path)
}

fn correlation_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(CORRELATION_ID);
    let usable = given
        .filter(|value| !value.is_empty() && value.len() <= MAX_CORRELATION_ID && value.to_str().is_ok());
    usable.cloned().unwrap_or_else(|| {
        // A UUID is always a valid header value.
        HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

fn internal_error() -> Response {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        INTERNAL_ERROR,
    )
        .into_response()
}

/// An unknown path, as contract 1.2 has it.
pub async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// A known path with another method, as contract 1.2 has it; the router adds `Allow`.
pub async fn method_not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n").into_response()
}
