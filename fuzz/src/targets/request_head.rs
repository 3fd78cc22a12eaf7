// SPDX-License-Identifier: Apache-2.0
//! A client's bytes to the gateway's own HTTP/1.1 parser. However they are cut, they are
//! one head, no head yet, or refused; what is taken for a head another parser takes for the
//! same one; and written again it is read the same, its body framed the same.

use ferrogate_runtime::h1::framing::{self, Framing};
use ferrogate_runtime::h1::line::Line;
use ferrogate_runtime::h1::parse::{self, HeadLimits, Refusal, RequestHead, Version};

use crate::Target;
use crate::split::cuts;

/// The target.
pub const TARGET: Target = Target {
    name: "request_head",
    run,
    rounds: 4000,
    words: &[
        "GET / HTTP/1.1\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        ": ",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "content-length: 05\r\n",
        "Content-Length: 5, 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:chunked \r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding\x0b: chunked\r\n",
        "Connection: close, te\r\n",
        "Expect: 100-continue\r\n",
        "HTTP/1.0",
        "HTTP/2.0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "http://a/b",
        "0\r\n\r\n",
    ],
};

/// As of the limits' default, but small enough to be reached.
pub const LIMITS: HeadLimits = HeadLimits { max_fields: 16 };

/// A head and its lines, as far as two readings of it must agree.
type Read = Result<Option<(RequestHead, Vec<Line>)>, Refusal>;

fn run(data: &[u8]) {
    let whole = read(data);
    for cut in cuts(data) {
        agree(&read(data.get(..cut).unwrap_or_default()), &whole, cut);
    }
    if let Ok(Some((head, lines))) = whole {
        assert!(head.end <= data.len());
        same_elsewhere(data, &head, &lines);
        same_again(data, &head, &lines);
    }
}

fn read(data: &[u8]) -> Read {
    let mut lines = Vec::new();
    Ok(parse::request(data, LIMITS, &mut lines)?.map(|head| (head, lines)))
}

/// A beginning says less than the whole, and nothing else.
fn agree(part: &Read, whole: &Read, cut: usize) {
    match part {
        Ok(None) => {
            if let Ok(Some((head, _))) = whole {
                assert!(cut < head.end, "a whole head was not taken for one");
            }
        }
        Ok(Some(_)) | Err(_) => assert_eq!(part, whole, "the first {cut} bytes say something else"),
    }
}

/// A reader that is stricter nowhere and understands another head is what smuggling needs.
fn same_elsewhere(data: &[u8], head: &RequestHead, lines: &[Line]) {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut other = httparse::Request::new(&mut headers);
    let end = match other.parse(data) {
        // To us a minor version that nobody knows yet is HTTP/1.1 (RFC 9110, 2.5).
        Err(httparse::Error::Version) if head.version == Version::Http11 => return,
        parsed => parsed.expect("a head for us is one for others"),
    };
    assert_eq!(end, httparse::Status::Complete(head.end));
    assert_eq!(other.method.map(str::as_bytes), data.get(head.start..head.method_end));
    assert_eq!(other.path.map(str::as_bytes), data.get(head.method_end + 1..head.target_end));
    assert_eq!(other.version, Some(u8::from(head.version == Version::Http11)));
    same_lines(data, lines, other.headers);
}

/// The same names and values in the same order.
pub fn same_lines(data: &[u8], lines: &[Line], theirs: &[httparse::Header<'_>]) {
    let ours: Vec<(&[u8], &[u8])> = lines.iter().map(|line| (line.name(data), line.value(data))).collect();
    let theirs: Vec<(&[u8], &[u8])> =
        theirs.iter().map(|header| (header.name.as_bytes(), header.value)).collect();
    assert_eq!(ours, theirs);
}

/// Written as the gateway writes heads, it is read as it was.
fn same_again(data: &[u8], head: &RequestHead, lines: &[Line]) {
    let mut written = data.get(head.start..head.target_end).unwrap_or_default().to_vec();
    written.extend_from_slice(if head.version == Version::Http11 {
        b" HTTP/1.1\r\n"
    } else {
        b" HTTP/1.0\r\n"
    });
    write_lines(&mut written, data, lines);
    let (again, again_lines) = read(&written).expect("a head").expect("a whole head");
    assert_eq!((again.version, again.present, again.end), (head.version, head.present, written.len()));
    let framing = framing::of_request(data, lines, head.version);
    assert_eq!(framing::of_request(&written, &again_lines, again.version), framing);
    let framed = lines.iter().filter(|line| {
        let name = line.name(data);
        name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
    });
    match (framed.count(), framing) {
        (0, Ok(Framing::None)) | (1, Ok(Framing::Length(_) | Framing::Chunked)) | (1.., Err(_)) => {}
        (count, framing) => panic!("{count} headers that frame the body make {framing:?}"),
    }
}

/// Header lines as the gateway writes them, and the empty line.
pub fn write_lines(written: &mut Vec<u8>, data: &[u8], lines: &[Line]) {
    for line in lines {
        for part in [line.name(data), b": ", line.value(data), b"\r\n"] {
            written.extend_from_slice(part);
        }
    }
    written.extend_from_slice(b"\r\n");
}
