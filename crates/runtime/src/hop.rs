// SPDX-License-Identifier: Apache-2.0
//! Headers that belong to one connection and not to the message (RFC 9110, 7.6.1). They are
//! removed on arrival, before any policy sees the message, so that nobody can name a header
//! that a policy sets later in `Connection` and have it stripped on the way. And those that belong
//! to a head and not behind a body: of trailers they are left out on every path, either way.

use bytes::Bytes;
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderName};
use hyper::body::Frame;

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

/// Beside the names that the gateway knows: fields that mean something in a head only.
const NEVER_TRAILING: [&[u8]; 16] = [
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"expires",
    b"location",
    b"max-forwards",
    b"pragma",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"vary",
    b"warning",
    b"www-authenticate",
    b"x-error-id",
];
const NEVER_TRAILING_FAMILIES: [&[u8]; 4] = [b"if-", b"proxy-", b"x-envoy-", b"x-forwarded-"];

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

/// Whether a field may come after the body. What frames, routes, authorises or controls a message
/// was decided by its head; a receiver that merges trailers must not learn otherwise
/// (RFC 9110, 6.5.1).
#[must_use]
pub fn may_trail(name: &[u8]) -> bool {
    let is = |refused: &&[u8]| name.eq_ignore_ascii_case(refused);
    let starts =
        |prefix: &&[u8]| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    Known::of(name) == Known::Other
        && !NEVER_TRAILING.iter().any(is)
        && !NEVER_TRAILING_FAMILIES.iter().any(starts)
}

/// A frame of a body without those trailers that may not come after one; none when no others are
/// left.
pub fn passing<E>(frame: Result<Frame<Bytes>, E>) -> Option<Result<Frame<Bytes>, E>> {
    let mut frame = match frame {
        Ok(frame) if frame.is_trailers() => frame,
        other => return Some(other),
    };
    let trailers = frame.trailers_mut()?;
    let refused: Vec<HeaderName> =
        trailers.keys().filter(|name| !may_trail(name.as_str().as_bytes())).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(Ok(frame))
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
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use hyper::body::Frame;

    use super::{Present, passing, plainly_framed, strip};

    #[test]
    fn of_trailers_only_those_pass_that_decide_nothing() {
        let left = |names: &[&'static str]| -> Option<Vec<String>> {
            let mut trailers = HeaderMap::new();
            for name in names {
                trailers.append(*name, HeaderValue::from_static("1"));
            }
            let frame: Result<_, ()> = Ok(Frame::<Bytes>::trailers(trailers));
            let trailers = passing(frame)?.ok()?.into_trailers().ok()?;
            Some(trailers.keys().map(ToString::to_string).collect())
        };
        assert_eq!(
            left(&["grpc-status", "content-length", "x-sum", "x-sum", "set-cookie", "host"]),
            Some(vec!["grpc-status".to_owned(), "x-sum".to_owned()])
        );
        for refused in ["content-type", "authorization", "if-match", "x-forwarded-for", "proxy-x", "date"] {
            assert_eq!(left(&[refused]), None, "{refused}");
        }
        let data: Result<_, ()> = Ok(Frame::data(Bytes::from_static(b"x")));
        assert!(passing(data).is_some_and(|frame| frame.is_ok_and(|frame| frame.is_data())));
        assert!(passing(Err(())).is_some_and(|frame| frame.is_err()));
    }

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
