// SPDX-License-Identifier: Apache-2.0
//! Headers that belong to one connection and not to the message (RFC 9110, 7.6.1). They are
//! removed on arrival, before any policy sees the message, so that nobody can name a header
//! that a policy sets later in `Connection` and have it stripped on the way.

use http::HeaderMap;
use http::header::TRANSFER_ENCODING;

use crate::h1::line::{Known, Present};
use crate::settle::Arriving;

const BY_HOP: Present = Present::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::Te,
    Known::Upgrade,
]);

/// Whether the message came in no transfer coding but `chunked`, the only one that is undone
/// here. To pass on what was coded otherwise as if it were plain would change the message
/// (RFC 9112, 6.1).
pub fn plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Removes what belongs to the connection the message came on, and `others`.
pub fn strip(headers: &mut impl Arriving, others: Present) {
    headers.take_out_listed();
    headers.take_out(BY_HOP.and(others));
}

/// The names that a value of `connection` lists, without those that frame or address the message
/// and those that are no headers or go anyway.
pub fn listed(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| {
        !name.is_empty()
            && !name.eq_ignore_ascii_case(b"keep-alive")
            && !name.eq_ignore_ascii_case(b"close")
            && !matches!(Known::of(name), Known::Host | Known::ContentLength)
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{Present, plainly_framed, strip};

    #[test]
    fn chunked_is_the_only_coding_and_comes_once() {
        for (codings, expected) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked "], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked, chunked"], false),
        ] {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append("transfer-encoding", HeaderValue::from_static(coding));
            }
            assert_eq!(plainly_framed(&headers), expected, "{codings:?}");
        }
    }

    #[test]
    fn listed_and_known_headers_go_and_the_message_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Secret"),
            ("connection", "host, content-length,, bad name"),
            ("x-secret", "1"),
            ("x-kept", "1"),
            ("host", "books.example"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers, Present::default());
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-kept"]);
    }
}
