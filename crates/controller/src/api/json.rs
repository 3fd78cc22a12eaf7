// SPDX-License-Identifier: Apache-2.0
//! How the management API writes JSON (contract 1.4): `<`, `>` and `&` escaped, so that
//! an answer shown in a page cannot become markup, and a newline at the end.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// An answer without a body.
#[must_use]
pub fn bodiless(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An answer with this value as its body.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let (status, body) = match to_bytes(value) {
        Ok(body) => (status, body),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR.to_vec())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The body of an answer that could not be made (contract 1.5).
pub const INTERNAL_ERROR: &[u8] = b"{\"status\":\"error\",\"message\":\"Internal server error\"}\n";

fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let plain = serde_json::to_vec(value)?;
    let mut escaped = Vec::with_capacity(plain.len() + 1);
    for byte in plain {
        // Outside of strings JSON has none of these, and inside none is part of another sequence.
        match byte {
            b'<' => escaped.extend_from_slice(b"\\u003c"),
            b'>' => escaped.extend_from_slice(b"\\u003e"),
            b'&' => escaped.extend_from_slice(b"\\u0026"),
            other => escaped.push(other),
        }
    }
    escaped.push(b'\n');
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::to_bytes;

    #[test]
    fn markup_is_escaped_and_reads_back() {
        let value = json!({"a<b>": "x & y \\u003c \"é\""});
        let bytes = to_bytes(&value).expect("serialisable");
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.ends_with("}\n") && !text.contains(['<', '>', '&']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
    }
}
