// SPDX-License-Identifier: Apache-2.0
//! The one table from cause to answer: every way a request can fail, with the status,
//! the body and the stable machine-readable reason a client and the access log see.
//! Nothing else in the data plane makes up a status. `request` and `upstream` return a
//! [`Failure`], `response` turns it into bytes, `metrics` counts by its reason.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

/// The response header that carries the error id (contract 4.8).
pub const X_ERROR_ID: HeaderName = HeaderName::from_static("x-error-id");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why the gateway answered by itself. The names are part of the wire contract: they stand in
/// error bodies, in the access log and as a metric label, and are never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No route for this host, path and method.
    RouteNotFound,
    /// No configuration was received since the start, so nothing can be said about routes.
    NotReady,
    /// The route exists, but its artifact could not be prepared (invariant 7).
    RoutePoisoned,
    /// A policy, or its condition, failed at run time.
    PolicyFailed,
    /// The request is not acceptable HTTP: no or two hosts, a bad path, a bad length.
    BadRequest,
    /// The request's head has more bytes or headers than allowed.
    RequestHeadTooLarge,
    /// The request's target is longer than allowed.
    UriTooLong,
    /// A major version of HTTP that this connection does not speak.
    VersionUnsupported,
    /// More work than this gateway can do in time.
    Overloaded,
    /// An escaped slash in the path, and the configuration refuses those.
    EscapedSlash,
    /// An escaped slash in the path, and the configuration redirects to the plain form.
    EscapedSlashRedirect,
    /// HTTP/2 asked to switch to a protocol that the route does not allow.
    UpgradeRefused,
    /// The request body exceeds the limit, or the buffer of a policy that needs it whole.
    RequestBodyTooLarge,
    /// A policy looks into the request body and it decompresses to more than the ceiling.
    RequestBodyInflated,
    /// The client took too long over its head, or stopped sending its body.
    RequestTimeout,
    /// The request body ended early or was malformed.
    RequestBodyBroken,
    /// A policy needs the whole response body and it exceeds the buffer limit.
    ResponseBodyTooLarge,
    /// A policy looks into the response body and it decompresses to more than the ceiling.
    ResponseBodyInflated,
    /// The upstream definition a policy chose does not exist, or has no usable target.
    UpstreamUnknown,
    /// The upstream's name does not resolve.
    UpstreamUnresolved,
    /// The upstream refused the connection or could not be reached.
    UpstreamConnectFailed,
    /// The connection to the upstream took too long.
    UpstreamConnectTimeout,
    /// The TLS handshake with the upstream failed.
    UpstreamTlsFailed,
    /// The upstream closed or broke the connection before its response head.
    UpstreamReset,
    /// The upstream's response is not acceptable HTTP.
    UpstreamProtocol,
    /// The whole request took longer than the route allows.
    UpstreamTimeout,
    /// Nothing moved on the request's stream for longer than the route allows.
    StreamIdleTimeout,
    /// Every endpoint of the upstream is ejected or unhealthy.
    CircuitOpen,
    /// Every usable endpoint has as many requests or connections as it may have.
    Overflow,
    /// A fault was injected, as the artifact says.
    FaultInjected,
    /// The path that a policy or a rewrite made is not a valid request target.
    BadUpstreamPath,
    /// A defect of the gateway itself.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the enum: the metrics' label values.
    pub const ALL: [Reason; 32] = [
        Reason::RouteNotFound,
        Reason::NotReady,
        Reason::RoutePoisoned,
        Reason::PolicyFailed,
        Reason::BadRequest,
        Reason::RequestHeadTooLarge,
        Reason::UriTooLong,
        Reason::VersionUnsupported,
        Reason::Overloaded,
        Reason::EscapedSlash,
        Reason::EscapedSlashRedirect,
        Reason::UpgradeRefused,
        Reason::RequestBodyTooLarge,
        Reason::RequestBodyInflated,
        Reason::RequestTimeout,
        Reason::RequestBodyBroken,
        Reason::ResponseBodyTooLarge,
        Reason::ResponseBodyInflated,
        Reason::UpstreamUnknown,
        Reason::UpstreamUnresolved,
        Reason::UpstreamConnectFailed,
        Reason::UpstreamConnectTimeout,
        Reason::UpstreamTlsFailed,
        Reason::UpstreamReset,
        Reason::UpstreamProtocol,
        Reason::UpstreamTimeout,
        Reason::StreamIdleTimeout,
        Reason::CircuitOpen,
        Reason::Overflow,
        Reason::FaultInjected,
        Reason::BadUpstreamPath,
        Reason::Internal,
    ];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// The table: name and status. The short text of the body's `error` is the status's own.
    const fn row(self) -> (&'static str, StatusCode) {
        match self {
            Reason::RouteNotFound => ("route_not_found", StatusCode::NOT_FOUND),
            Reason::NotReady => ("not_ready", StatusCode::SERVICE_UNAVAILABLE),
            Reason::RoutePoisoned => ("route_poisoned", StatusCode::INTERNAL_SERVER_ERROR),
            Reason::PolicyFailed => ("policy_failed", StatusCode::INTERNAL_SERVER_ERROR),
            Reason::BadRequest => ("bad_request", StatusCode::BAD_REQUEST),
            Reason::RequestHeadTooLarge => {
                ("request_head_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            Reason::UriTooLong => ("uri_too_long", StatusCode::URI_TOO_LONG),
            Reason::VersionUnsupported => ("version_unsupported", StatusCode::HTTP_VERSION_NOT_SUPPORTED),
            Reason::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE),
            Reason::EscapedSlash => ("escaped_slash", StatusCode::BAD_REQUEST),
            Reason::EscapedSlashRedirect => ("escaped_slash_redirect", StatusCode::TEMPORARY_REDIRECT),
            Reason::UpgradeRefused => ("upgrade_refused", StatusCode::NOT_IMPLEMENTED),
            Reason::RequestBodyTooLarge => ("request_body_too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Reason::RequestBodyInflated => {
                ("request_body_decompressed_too_large", StatusCode::PAYLOAD_TOO_LARGE)
            }
            Reason::RequestTimeout => ("request_timeout", StatusCode::REQUEST_TIMEOUT),
            Reason::RequestBodyBroken => ("request_body_broken", StatusCode::BAD_REQUEST),
            Reason::ResponseBodyTooLarge => ("response_body_too_large", StatusCode::INTERNAL_SERVER_ERROR),
            Reason::ResponseBodyInflated => {
                ("response_body_decompressed_too_large", StatusCode::INTERNAL_SERVER_ERROR)
            }
            Reason::UpstreamUnknown => ("upstream_unknown", StatusCode::SERVICE_UNAVAILABLE),
            Reason::UpstreamUnresolved => ("upstream_unresolved", StatusCode::SERVICE_UNAVAILABLE),
            Reason::UpstreamConnectFailed => ("upstream_connect_failed", StatusCode::SERVICE_UNAVAILABLE),
            Reason::UpstreamConnectTimeout => ("upstream_connect_timeout", StatusCode::SERVICE_UNAVAILABLE),
            Reason::UpstreamTlsFailed => ("upstream_tls_failed", StatusCode::SERVICE_UNAVAILABLE),
            Reason::UpstreamReset => ("upstream_reset", StatusCode::SERVICE_UNAVAILABLE),
            Reason::UpstreamProtocol => ("upstream_protocol", StatusCode::BAD_GATEWAY),
            Reason::UpstreamTimeout => ("upstream_timeout", StatusCode::GATEWAY_TIMEOUT),
            Reason::StreamIdleTimeout => ("stream_idle_timeout", StatusCode::GATEWAY_TIMEOUT),
            Reason::CircuitOpen => ("circuit_open", StatusCode::SERVICE_UNAVAILABLE),
            Reason::Overflow => ("overflow", StatusCode::SERVICE_UNAVAILABLE),
            Reason::FaultInjected => ("fault_injected", StatusCode::SERVICE_UNAVAILABLE),
            Reason::BadUpstreamPath => ("bad_upstream_path", StatusCode::INTERNAL_SERVER_ERROR),
            Reason::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// Which of the three body shapes of [`Failure::answer`] the cause has.
    const fn shape(self) -> Shape {
        match self {
            // Fixed by contract 4.8, to the byte.
            Reason::RouteNotFound | Reason::RoutePoisoned => Shape::Fixed,
            Reason::PolicyFailed | Reason::RequestBodyInflated => Shape::WithId,
            Reason::NotReady
            | Reason::BadRequest
            | Reason::RequestHeadTooLarge
            | Reason::UriTooLong
            | Reason::VersionUnsupported
            | Reason::Overloaded
            | Reason::EscapedSlash
            | Reason::EscapedSlashRedirect
            | Reason::UpgradeRefused
            | Reason::RequestBodyTooLarge
            | Reason::RequestTimeout
            | Reason::RequestBodyBroken
            | Reason::ResponseBodyTooLarge
            | Reason::ResponseBodyInflated
            | Reason::UpstreamUnknown
            | Reason::UpstreamUnresolved
            | Reason::UpstreamConnectFailed
            | Reason::UpstreamConnectTimeout
            | Reason::UpstreamTlsFailed
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::UpstreamTimeout
            | Reason::StreamIdleTimeout
            | Reason::CircuitOpen
            | Reason::Overflow
            | Reason::FaultInjected
            | Reason::BadUpstreamPath
            | Reason::Internal => Shape::WithReason,
        }
    }

    /// Whether the connection can no longer be trusted to be in step with its client.
    const fn closes(self) -> bool {
        matches!(
            self,
            Reason::BadRequest
                | Reason::RequestHeadTooLarge
                | Reason::VersionUnsupported
                | Reason::RequestBodyTooLarge
                | Reason::RequestTimeout
                | Reason::RequestBodyBroken
        )
    }

    /// Whether the failure speaks against the endpoint that was asked. What the client, a
    /// policy or the gateway itself did wrong does not.
    #[must_use]
    pub const fn blames_upstream(self) -> bool {
        matches!(
            self,
            Reason::UpstreamUnresolved
                | Reason::UpstreamConnectFailed
                | Reason::UpstreamConnectTimeout
                | Reason::UpstreamTlsFailed
                | Reason::UpstreamReset
                | Reason::UpstreamProtocol
                | Reason::UpstreamTimeout
                | Reason::StreamIdleTimeout
        )
    }

    /// Whether response policies see the answer: they run on what stands in for an
    /// upstream's response, not on refusals before one was asked (contract 4.8).
    #[must_use]
    pub const fn stands_for_upstream(self) -> bool {
        matches!(
            self,
            Reason::UpstreamUnknown
                | Reason::UpstreamUnresolved
                | Reason::UpstreamConnectFailed
                | Reason::UpstreamConnectTimeout
                | Reason::UpstreamTlsFailed
                | Reason::UpstreamReset
                | Reason::UpstreamProtocol
                | Reason::UpstreamTimeout
                | Reason::StreamIdleTimeout
                | Reason::CircuitOpen
                | Reason::Overflow
                | Reason::FaultInjected
        )
    }
}

/// The body of an answer of our own.
enum Shape {
    /// `{"error":"…"}`
    Fixed,
    /// `{"error":"…","error_id":"…"}` and `x-error-id`
    WithId,
    /// `{"error":"…","reason":"…","error_id":"…"}` and `x-error-id`
    WithReason,
}

/// A request that the gateway answers by itself because something went wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {detail}", reason.name())]
pub struct Failure {
    /// The row of the table.
    pub reason: Reason,
    /// For the access log, never for the client: it may name inner addresses.
    pub detail: String,
    /// Where to, for a redirect.
    pub location: Option<HeaderValue>,
    /// Another status than the table's, for a fault that the artifact asks for.
    pub status: Option<StatusCode>,
}

/// A complete answer of the gateway's own.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers, `content-length` excepted.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

impl Failure {
    /// A failure with nothing to add to its reason.
    #[must_use]
    pub const fn new(reason: Reason) -> Failure {
        Failure { reason, detail: String::new(), location: None, status: None }
    }

    /// A failure with a detail for the access log.
    #[must_use]
    pub fn with(reason: Reason, detail: impl ToString) -> Failure {
        Failure { reason, detail: detail.to_string(), location: None, status: None }
    }

    /// A head that took too long.
    #[must_use]
    pub fn slow_head() -> Failure {
        Failure::with(Reason::RequestTimeout, "the head took too long")
    }

    /// The answer, with a fresh error id where its shape has one; the id is returned for the log.
    #[must_use]
    pub fn answer(&self) -> (OwnAnswer, Option<Uuid>) {
        let (name, usual) = self.reason.row();
        let status = self.status.unwrap_or(usual);
        let text = status.canonical_reason().unwrap_or("Failed");
        let mut headers = vec![(CONTENT_TYPE, JSON)];
        let id = match self.reason.shape() {
            Shape::Fixed => None,
            Shape::WithId | Shape::WithReason => Some(Uuid::new_v4()),
        };
        // No row's text needs escaping: the table is ours, and a test parses every body.
        let body = match (self.reason.shape(), id) {
            (Shape::WithId, Some(id)) => format!(r#"{{"error":"{text}","error_id":"{id}"}}"#),
            (Shape::WithReason, Some(id)) => {
                format!(r#"{{"error":"{text}","reason":"{name}","error_id":"{id}"}}"#)
            }
            (Shape::Fixed | Shape::WithId | Shape::WithReason, _) => format!(r#"{{"error":"{text}"}}"#),
        };
        if let Some(id) = id
            && let Ok(value) = HeaderValue::try_from(id.to_string())
        {
            headers.push((X_ERROR_ID, value));
        }
        if let Some(location) = &self.location {
            headers.push((LOCATION, location.clone()));
        }
        let later = [Reason::NotReady, Reason::Overloaded, Reason::CircuitOpen, Reason::Overflow];
        if later.contains(&self.reason) {
            headers.push((RETRY_AFTER, HeaderValue::from_static("1")));
        }
        if self.reason.closes() {
            headers.push((CONNECTION, HeaderValue::from_static("close")));
        }
        (OwnAnswer { status, headers, body: body.into() }, id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Failure, Reason};

    #[test]
    fn every_row_has_its_own_name_and_a_body_that_is_json() {
        let mut names = HashSet::new();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "ALL is in the order of the enum");
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            let (answer, id) = Failure::new(reason).answer();
            let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("a JSON body");
            assert_eq!(body.get("error_id").is_some(), id.is_some());
            assert_eq!(answer.headers.iter().any(|(name, _)| name == super::X_ERROR_ID), id.is_some());
        }
    }

    #[test]
    fn the_contracts_bodies_are_fixed() {
        let (not_found, _) = Failure::new(Reason::RouteNotFound).answer();
        assert_eq!(not_found.body.as_ref(), br#"{"error":"Not Found"}"#);
        let (poisoned, _) = Failure::new(Reason::RoutePoisoned).answer();
        assert_eq!(poisoned.body.as_ref(), br#"{"error":"Internal Server Error"}"#);
        let (policy, id) = Failure::new(Reason::PolicyFailed).answer();
        let id = id.expect("a policy failure has an id");
        assert_eq!(
            policy.body.as_ref(),
            format!(r#"{{"error":"Internal Server Error","error_id":"{id}"}}"#).as_bytes()
        );
    }
}
