// SPDX-License-Identifier: Apache-2.0
//! From a request's body to documents: read within the limits of size and time, told to
//! be JSON or YAML, parsed off the async threads, and not taken where they hold a secret
//! that could only be stored in the clear. Every endpoint with a body reads it here.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use ferrogate_base::offload::{self, Threads};
use ferrogate_model::Kind;
use ferrogate_model::document::{self, Format, ParseError};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::LengthLimitError;
use serde_json::Value;
use tokio::time::timeout;

use super::error::ApiError;

/// Told to whoever writes a secret to a gateway that could only store it in the clear.
const NO_KEY: &str = "storage failed: this gateway has no key to seal secrets with. Make one \
    (head -c 32 /dev/urandom > FILE) and give the same file to every controller as \
    controller.encryption.key_file";

/// Reads a body up to a limit, as text.
///
/// # Errors
/// When it is too large, breaks off, is not there in time, or is not UTF-8.
pub async fn read_body(body: Body, limit: usize, within: Duration) -> Result<String, ApiError> {
    // Without a deadline one byte now and then keeps a request alive.
    let arrived = timeout(within, to_bytes(body, limit)).await;
    let arrived = arrived.map_err(|_elapsed| ApiError::Late)?;
    let bytes = arrived.map_err(|error| {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            if cause.is::<LengthLimitError>() {
                return ApiError::TooLarge { limit };
            }
            source = cause.source();
        }
        bad("Failed to read request body")
    })?;
    String::from_utf8(bytes.into()).map_err(|_| bad("failed to parse configuration: the body is not UTF-8"))
}

/// How the body says it is written (contract 1.4): the exact media types, else both are tried.
#[must_use]
pub fn format(headers: &HeaderMap) -> Format {
    match headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes) {
        Some(b"application/yaml" | b"application/x-yaml" | b"text/yaml") => Format::Yaml,
        Some(b"application/json") => Format::Json,
        Some(_) | None => Format::Either,
    }
}

/// Refuses to take what is secret where it could only be stored in the clear.
///
/// # Errors
/// When there is no key to seal it with.
pub fn sealable<'d>(
    seals: bool,
    mut documents: impl Iterator<Item = (Kind, &'d Value)>,
) -> Result<(), ApiError> {
    let secret = |(kind, document): (Kind, &Value)| match kind {
        Kind::RestApi => false,
        Kind::Secret => true,
        Kind::Certificate => document.pointer("/spec/privateKey").is_some(),
    };
    if !seals && documents.any(secret) {
        return Err(ApiError::BadRequest(NO_KEY.to_owned()));
    }
    Ok(())
}

/// Parses a body that holds one document, off the async threads like [`super::App::admit`].
///
/// # Errors
/// When it does not.
pub async fn parse(text: String, format: Format) -> Result<Value, ApiError> {
    parsed(off_thread("parsing", move || document::parse(&text, format)).await?)
}

/// As [`parse`], of a body with many documents, each with what is wrong if it is over a limit.
///
/// # Errors
/// When it holds none, or what it holds is not of the format.
pub async fn parse_many(
    text: String,
    format: Format,
    limit: usize,
) -> Result<Vec<(Value, Option<String>)>, ApiError> {
    let read = move || {
        let weigh = |value: Value| {
            let fault = document::oversize(&value, limit);
            (value, fault)
        };
        document::parse_many(&text, format).map(|values| values.into_iter().map(weigh).collect())
    };
    parsed(off_thread("parsing", read).await?)
}

fn parsed<T>(parsed: Result<T, ParseError>) -> Result<T, ApiError> {
    parsed.map_err(|error| ApiError::BadRequest(error.to_string()))
}

/// Runs what takes long, but does not wait, off the async threads.
///
/// # Errors
/// When it panicked.
pub async fn off_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    offload::carry(&Threads, what, work).await.map_err(|error| ApiError::Internal {
        message: "Internal server error",
        cause: format!("{what} failed: {error}"),
    })
}

fn bad(message: &str) -> ApiError {
    ApiError::BadRequest(message.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use ferrogate_model::Kind;
    use ferrogate_model::document::Format;
    use http::{HeaderMap, HeaderValue};
    use serde_json::json;

    use super::{ApiError, format, read_body, sealable};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let never = Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
        let refused = read_body(never, 1000, Duration::from_secs(30)).await;
        assert!(matches!(refused, Err(ApiError::Late)));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_told_apart() {
        let read = |body: Body| read_body(body, 4, Duration::from_secs(30));
        assert!(matches!(read(Body::from("12345")).await, Err(ApiError::TooLarge { limit: 4 })));
        assert_eq!(read(Body::from("1234")).await.expect("fits"), "1234");
        assert!(matches!(read(Body::from(vec![0xff])).await, Err(ApiError::BadRequest(_))));
    }

    #[test]
    fn what_is_secret_is_not_taken_without_a_key_to_seal_it() {
        let (keyed, trusted) = (json!({"spec": {"privateKey": "x"}}), json!({"spec": {"certificate": "x"}}));
        for (kind, document, secret) in [
            (Kind::RestApi, &keyed, false),
            (Kind::Secret, &trusted, true),
            (Kind::Certificate, &trusted, false),
            (Kind::Certificate, &keyed, true),
        ] {
            assert_eq!(sealable(false, std::iter::once((kind, document))).is_err(), secret, "{kind:?}");
            assert!(sealable(true, std::iter::once((kind, document))).is_ok());
        }
    }

    #[test]
    fn only_exact_media_types_decide_the_format() {
        for (value, expected) in [
            ("application/json", Format::Json),
            ("text/yaml", Format::Yaml),
            ("application/x-yaml", Format::Yaml),
            ("application/json; charset=utf-8", Format::Either),
            ("text/plain", Format::Either),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static(value));
            assert_eq!(format(&headers), expected, "{value}");
        }
        assert_eq!(format(&HeaderMap::new()), Format::Either);
    }
}
