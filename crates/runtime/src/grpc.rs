// SPDX-License-Identifier: Apache-2.0
//! What gRPC asks of a proxy beyond HTTP/2: a client's deadline bounds the call, and a failure of
//! our own is a response whose only message is `grpc-status`, because a gRPC client reads no
//! HTTP status of a gateway. `request` recognises a call by its content type; the mapping
//! from our reasons is here and nowhere else. What an upstream answers is never touched.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const MEDIA_TYPE: &[u8] = b"application/grpc";

/// A gRPC call, as far as a proxy must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What the client waits at most.
    pub timeout: Option<Duration>,
}

impl Call {
    /// The call that these headers begin.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Call> {
        let kind = headers.get(CONTENT_TYPE)?.as_bytes();
        let (base, rest) = kind.split_at_checked(MEDIA_TYPE.len())?;
        // `application/grpc-web` is another protocol, whose clients do read HTTP's status.
        let is_grpc =
            base.eq_ignore_ascii_case(MEDIA_TYPE) && matches!(rest.first(), None | Some(b'+' | b';'));
        let timeout = || headers.get(GRPC_TIMEOUT).and_then(|text| timeout(text.as_bytes()));
        is_grpc.then(|| Call { timeout: timeout() })
    }
}

/// At most eight digits and a unit. What is neither is no limit: the upstream refuses it.
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The status that says to a gRPC client what this HTTP status would have said to another one.
/// Where the gRPC project's own table leaves a call's outcome unknown, ours is more exact: these
/// are statuses that only the gateway's failures have.
const fn status(http: StatusCode) -> &'static str {
    match http.as_u16() {
        404 | 501 => "12",       // UNIMPLEMENTED
        401 => "16",             // UNAUTHENTICATED
        403 => "7",              // PERMISSION_DENIED
        408 | 504 => "4",        // DEADLINE_EXCEEDED
        413 | 431 => "8",        // RESOURCE_EXHAUSTED
        429 | 502 | 503 => "14", // UNAVAILABLE
        _ => "13",               // INTERNAL
    }
}

/// Turns the head of an answer of the gateway's own into one for a gRPC client. Its body, which
/// would be read as a message, must be dropped.
pub fn trailers_only(http: StatusCode, message: &'static str, headers: &mut HeaderMap) -> StatusCode {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status(http)));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    StatusCode::OK
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};

    use super::Call;

    fn check(kind: &'static str, timeout: &'static str, expected: Option<Option<Duration>>) {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(kind));
        headers.insert("grpc-timeout", HeaderValue::from_static(timeout));
        assert_eq!(Call::of(&headers).map(|call| call.timeout), expected, "{kind} {timeout:?}");
    }

    #[test]
    fn a_call_is_known_by_its_type_and_bounded_by_its_timeout() {
        for kind in ["application/grpc", "Application/gRPC+proto", "application/grpc;charset=x"] {
            check(kind, "100m", Some(Some(Duration::from_millis(100))));
        }
        for kind in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            check(kind, "100m", None);
        }
        for (text, limit) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("7u", Some(Duration::from_micros(7))),
            ("8n", Some(Duration::from_nanos(8))),
            ("0m", Some(Duration::ZERO)),
            ("999999999S", None),
            ("-1S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("1s", None),
        ] {
            check("application/grpc", text, Some(limit));
        }
    }
}
