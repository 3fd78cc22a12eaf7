// SPDX-License-Identifier: Apache-2.0
//! Where a message's body ends (RFC 9112, 6): by its length, by its last chunk, with its
//! connection, or at once. A message that says it twice is refused and not interpreted:
//! whoever interprets it otherwise would see other messages on the same connection. Pure;
//! `connection` asks for requests, `upstream` for responses.

use super::chunked::Decoder;
use super::line::{Known, Line};
use super::parse::{ResponseHead, Version};

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// It has this many bytes, possibly none.
    Length(u64),
    /// In chunks.
    Chunked,
    /// It lasts as long as its connection.
    Close,
}

/// The framing of a request.
///
/// # Errors
/// When it is ambiguous or not understood, in words.
pub fn of_request(raw: &[u8], lines: &[Line], version: Version) -> Result<Framing, &'static str> {
    let mut framing = Framing::None;
    for line in lines {
        let next = match line.known {
            Known::ContentLength => Framing::Length(length(line.value(raw)).ok_or("a bad content-length")?),
            Known::TransferEncoding if version == Version::Http10 => {
                return Err("a transfer coding in HTTP/1.0");
            }
            Known::TransferEncoding if line.value(raw).eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            Known::TransferEncoding => return Err("a transfer coding other than chunked"),
            _ => continue,
        };
        if framing != Framing::None {
            return Err("more than one content-length or transfer-encoding");
        }
        framing = next;
    }
    Ok(framing)
}

impl Framing {
    /// How many bytes a body with this framing has here, if all of it is here.
    #[must_use]
    pub fn contained(self, here: &[u8]) -> Option<usize> {
        match self {
            Framing::None => Some(0),
            Framing::Length(length) => usize::try_from(length).ok().filter(|length| *length <= here.len()),
            Framing::Chunked => {
                let (mut decoder, mut used) = (Decoder::default(), 0);
                while used < here.len() && !decoder.is_done() {
                    let step = decoder.step(here.get(used..)?).ok()?;
                    used += step.skip + step.data;
                }
                decoder.is_done().then_some(used)
            }
            Framing::Close => None,
        }
    }
}

/// The framing of a response to a request with this method.
///
/// # Errors
/// When it is ambiguous or not understood, in words.
pub fn of_response(
    raw: &[u8],
    lines: &[Line],
    head: &ResponseHead,
    to_head: bool,
) -> Result<Framing, &'static str> {
    let mut framing = None;
    for line in lines {
        let next = match line.known {
            Known::ContentLength => Framing::Length(length(line.value(raw)).ok_or("a bad content-length")?),
            Known::TransferEncoding if head.version == Version::Http10 => {
                return Err("a transfer coding in HTTP/1.0");
            }
            Known::TransferEncoding if line.value(raw).eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            Known::TransferEncoding => return Err("a transfer coding other than chunked"),
            _ => continue,
        };
        match framing {
            None => framing = Some(next),
            // Repeating the same length is harmless and seen in the wild (RFC 9112, 6.3).
            Some(Framing::Length(_)) if framing == Some(next) => {}
            Some(_) => return Err("more than one content-length or transfer-encoding"),
        }
    }
    if to_head || head.status == 204 || head.status == 304 {
        return Ok(Framing::None);
    }
    Ok(framing.unwrap_or(Framing::Close))
}

/// Digits and nothing else, within what a number holds.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value
        .iter()
        .try_fold(0_u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::{Framing, of_request, of_response};
    use crate::h1::parse::{self, HeadLimits};

    const LIMITS: HeadLimits = HeadLimits { max_fields: 16 };

    fn request(version: &str, fields: &str) -> Result<Framing, &'static str> {
        let text = format!("POST / HTTP/{version}\r\n{fields}\r\n");
        let mut lines = Vec::new();
        let head = parse::request(text.as_bytes(), LIMITS, &mut lines).expect("a head").expect("all of it");
        of_request(text.as_bytes(), &lines, head.version)
    }

    fn response(status: u16, fields: &str, to_head: bool) -> Result<Framing, &'static str> {
        let text = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        let mut lines = Vec::new();
        let head = parse::response(text.as_bytes(), LIMITS, &mut lines).expect("a head").expect("all of it");
        of_response(text.as_bytes(), &lines, &head, to_head)
    }

    #[test]
    fn a_request_says_once_where_it_ends_or_is_refused() {
        assert_eq!(request("1.1", ""), Ok(Framing::None));
        assert_eq!(request("1.1", "content-length: 0\r\n"), Ok(Framing::Length(0)));
        assert_eq!(request("1.0", "content-length: 007\r\n"), Ok(Framing::Length(7)));
        assert_eq!(request("1.1", "Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for bad in [
            "content-length: +1\r\n",
            "content-length: -1\r\n",
            "content-length: 1 1\r\n",
            "content-length: 0x1\r\n",
            "content-length: \r\n",
            "content-length: 1, 1\r\n",
            "content-length: 18446744073709551616\r\n",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked, identity\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding:\r\n",
        ] {
            assert!(request("1.1", bad).is_err(), "{bad:?}");
        }
        assert!(request("1.0", "transfer-encoding: chunked\r\n").is_err());
    }

    #[test]
    fn a_body_that_is_here_can_be_skipped() {
        for (framing, here, expected) in [
            (Framing::None, "GET", Some(0)),
            (Framing::Length(3), "abcGET", Some(3)),
            (Framing::Length(3), "ab", None),
            (Framing::Chunked, "1\r\na\r\n0\r\n\r\nGET", Some(11)),
            (Framing::Chunked, "1\r\na\r\n0\r\n", None),
            (Framing::Chunked, "x", None),
            (Framing::Close, "", None),
        ] {
            assert_eq!(framing.contained(here.as_bytes()), expected, "{framing:?} {here:?}");
        }
    }

    #[test]
    fn a_response_may_end_with_its_connection() {
        assert_eq!(response(200, "", false), Ok(Framing::Close));
        assert_eq!(
            response(200, "content-length: 3\r\ncontent-length: 3\r\n", false),
            Ok(Framing::Length(3))
        );
        assert_eq!(response(200, "transfer-encoding: chunked\r\n", false), Ok(Framing::Chunked));
        assert_eq!(response(200, "content-length: 3\r\n", true), Ok(Framing::None));
        assert_eq!(response(304, "content-length: 3\r\n", false), Ok(Framing::None));
        assert_eq!(response(204, "", false), Ok(Framing::None));
        assert!(response(200, "content-length: 3\r\ncontent-length: 4\r\n", false).is_err());
        assert!(response(200, "content-length: 3\r\ntransfer-encoding: chunked\r\n", false).is_err());
        assert!(response(200, "transfer-encoding: gzip, chunked\r\n", false).is_err());
    }
}
