// SPDX-License-Identifier: Apache-2.0
//! Header lists in parameters: `{name, value}` and `{name}` entries, turned into `http`
//! types once. Refuses the headers that frame a message or belong to one connection:
//! the codec writes those, and a policy that could would desynchronise peers.

use ferrogate_policy::CompileError;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

/// Decided by the codec, message by message.
const RESERVED: [HeaderName; 9] = [
    http::header::CONNECTION,
    http::header::CONTENT_LENGTH,
    http::header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
];

/// A header to set or to answer with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameValue {
    name: String,
    value: String,
}

/// A header to remove.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameOnly {
    name: String,
}

/// The headers of `field`, in order.
pub(crate) fn pairs(field: &str, list: &[NameValue]) -> Result<Vec<(HeaderName, HeaderValue)>, CompileError> {
    let mut headers = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let name = header_name(field, index, &entry.name)?;
        let value = HeaderValue::from_bytes(entry.value.as_bytes()).map_err(|_| CompileError {
            field: format!("{field}.{index}.value"),
            message: "a header value must not contain control characters".to_owned(),
        })?;
        headers.push((name, value));
    }
    Ok(headers)
}

/// The header names of `field`, in order.
pub(crate) fn names(field: &str, list: &[NameOnly]) -> Result<Vec<HeaderName>, CompileError> {
    list.iter().enumerate().map(|(index, entry)| header_name(field, index, &entry.name)).collect()
}

fn header_name(field: &str, index: usize, name: &str) -> Result<HeaderName, CompileError> {
    writable(&format!("{field}.{index}.name"), name)
}

/// The name of a header that a policy may write, given in `field`.
pub(crate) fn writable(field: &str, name: &str) -> Result<HeaderName, CompileError> {
    let refused = |message: String| CompileError { field: field.to_owned(), message };
    // Lower case by itself: a header name of the `http` crate has no other.
    let name =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused("not a valid header name".to_owned()))?;
    if RESERVED.contains(&name) {
        return Err(refused(format!("'{name}' is written by the gateway and cannot be changed by a policy")));
    }
    Ok(name)
}

/// Parameters that the schema let pass and the policy's own type does not take.
pub(crate) fn unreadable(error: &serde_json::Error) -> CompileError {
    CompileError { field: String::new(), message: format!("unreadable parameters: {error}") }
}

#[cfg(test)]
mod tests {
    use super::{NameValue, pairs};

    fn check(name: &str, value: &str) -> Result<(), String> {
        let entry = NameValue { name: name.to_owned(), value: value.to_owned() };
        pairs("headers", &[entry]).map(|_| ()).map_err(|error| format!("{}: {error}", error.field))
    }

    #[test]
    fn headers_that_frame_a_message_are_refused() {
        assert_eq!(check("X-Good", "value"), Ok(()));
        assert_eq!(check("x-utf8", "grüße"), Ok(()));
        for name in ["Content-Length", "transfer-encoding", "HOST", "Connection"] {
            let refused = check(name, "1").expect_err("a framing header");
            assert!(refused.starts_with("headers.0.name: '"), "{refused}");
        }
        for value in ["a\r\nx-evil: 1", "a\nb", "a\0"] {
            assert_eq!(
                check("x-split", value),
                Err("headers.0.value: a header value must not contain control characters".to_owned())
            );
        }
    }
}
