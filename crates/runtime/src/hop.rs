// SPDX-License-Identifier: Apache-2.0
//! Headers that belong to one connection and not to the message (RFC 9110, 7.6.1). They are
//! removed on arrival, before any policy sees the message, so that nobody can name a header
//! that a policy sets later in `Connection` and have it stripped on the way.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

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

/// Removes what belongs to the connection the message came on.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let mut listed: SmallVec<[HeaderName; 4]> = SmallVec::new();
        for value in headers.get_all(CONNECTION) {
            let names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            listed.extend(names.filter_map(|name| HeaderName::from_bytes(name).ok()));
        }
        for name in listed {
            // What frames and addresses the message is not the client's to hide.
            if name != HOST && name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, TE, UPGRADE] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{plainly_framed, strip};

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
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-kept"]);
    }
}
