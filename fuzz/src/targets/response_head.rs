// SPDX-License-Identifier: Apache-2.0
//! An upstream's bytes to the gateway's own HTTP/1.1 parser. As for requests: however they
//! are cut they say the same, another parser understands the same head, and written again
//! it is read the same, its body framed the same for every kind of request.

use ferrogate_runtime::h1::framing::{self, Framing};
use ferrogate_runtime::h1::line::Line;
use ferrogate_runtime::h1::parse::{self, Refusal, ResponseHead, Version};

use super::request_head::{LIMITS, same_lines, write_lines};
use crate::Target;
use crate::split::cuts;

/// The target.
pub const TARGET: Target = Target {
    name: "response_head",
    run,
    rounds: 4000,
    words: &[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 204 \r\n",
        "HTTP/1.0 304\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/2.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "999",
        "099",
        "Content-Length: 0\r\n",
        "Content-Length: 5\r\n",
        "content-length: 5\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Connection: close\r\n",
        "X: \u{e9}\r\n",
        " folded\r\n",
    ],
};

/// A head and its lines.
type Read = Result<Option<(ResponseHead, Vec<Line>)>, Refusal>;

fn run(data: &[u8]) {
    let whole = read(data);
    for cut in cuts(data) {
        let part = read(data.get(..cut).unwrap_or_default());
        match (&part, &whole) {
            (Ok(None), Ok(Some((head, _)))) => assert!(cut < head.end, "a whole head was not taken for one"),
            (Ok(None), _) => {}
            (Ok(Some(_)) | Err(_), _) => assert_eq!(part, whole, "the first {cut} bytes say something else"),
        }
    }
    if let Ok(Some((head, lines))) = whole {
        assert!((100..=999).contains(&head.status) && head.end <= data.len());
        same_elsewhere(data, &head, &lines);
        same_again(data, &head, &lines);
    }
}

fn read(data: &[u8]) -> Read {
    let mut lines = Vec::new();
    Ok(parse::response(data, LIMITS, &mut lines)?.map(|head| (head, lines)))
}

fn same_elsewhere(data: &[u8], head: &ResponseHead, lines: &[Line]) {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut other = httparse::Response::new(&mut headers);
    // White space before a colon is taken off a response's line (RFC 9112, 5.1).
    let mut reader = httparse::ParserConfig::default();
    reader.allow_spaces_after_header_name_in_responses(true);
    let end = match reader.parse_response(&mut other, data) {
        // To us a minor version that nobody knows yet is HTTP/1.1 (RFC 9110, 2.5).
        Err(httparse::Error::Version) if head.version == Version::Http11 => return,
        parsed => parsed.expect("a head for us is one for others"),
    };
    assert_eq!(end, httparse::Status::Complete(head.end));
    assert_eq!(
        (other.code, other.version),
        (Some(head.status), Some(u8::from(head.version == Version::Http11)))
    );
    same_lines(data, lines, other.headers);
}

fn same_again(data: &[u8], head: &ResponseHead, lines: &[Line]) {
    let version = if head.version == Version::Http11 { "1.1" } else { "1.0" };
    let mut written = format!("HTTP/{version} {}\r\n", head.status).into_bytes();
    write_lines(&mut written, data, lines);
    let (again, again_lines) = read(&written).expect("a head").expect("a whole head");
    assert_eq!((again.status, again.present, again.end), (head.status, head.present, written.len()));
    for to_head in [false, true] {
        let framing = framing::of_response(data, lines, head, to_head);
        assert_eq!(framing::of_response(&written, &again_lines, &again, to_head), framing);
        let bodiless = to_head || matches!(head.status, 204 | 304);
        assert!(!bodiless || framing.is_err() || framing == Ok(Framing::None), "{framing:?}");
    }
}
