// SPDX-License-Identifier: Apache-2.0
//! Heads from bytes, strictly (RFC 9112, 2 to 5). It knows no socket and no clock, keeps no
//! state and never panics, so that it can be fuzzed as it stands. What it does not
//! understand exactly it refuses: bare CR or LF, folded lines, white space before a colon (but a
//! response's, which is taken off), controls, names or targets of other characters. `intake` calls
//! it for requests, `wires` for responses, `chunked` for trailers.

use memchr::memchr;

use super::line::{Fate, Known, Line, Present};

/// Empty lines before a request that are read over (RFC 9112, 2.2).
const MAX_LEADING_LINES: usize = 2;

/// The limits of a head. Its length is the caller's business: it owns the buffer.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Header lines; more is [`Refusal::TooManyFields`].
    pub max_fields: usize,
}

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

impl From<Version> for http::Version {
    fn from(version: Version) -> http::Version {
        match version {
            Version::Http10 => http::Version::HTTP_10,
            Version::Http11 => http::Version::HTTP_11,
        }
    }
}

/// A request's head. Offsets are those of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Where the head begins, after empty lines.
    pub start: usize,
    /// Where the method ends.
    pub method_end: usize,
    /// Where the target ends; it begins one byte after the method.
    pub target_end: usize,
    /// The version.
    pub version: Version,
    /// Which known headers there are.
    pub present: Present,
    /// Where the body begins.
    pub end: usize,
}

/// A response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status, 100 to 999.
    pub status: u16,
    /// The version.
    pub version: Version,
    /// Which known headers there are.
    pub present: Present,
    /// Where the body begins.
    pub end: usize,
}

/// Why a head is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not HTTP/1 at all, or not exactly.
    #[error("{0}")]
    Malformed(&'static str),
    /// More header lines than allowed.
    #[error("too many header fields")]
    TooManyFields,
    /// A version that is well written and not ours.
    #[error("not HTTP/1")]
    Version,
}

/// What a byte may be part of.
const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        let c = byte as u8;
        if c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            table[byte] |= TOKEN;
        }
        // What a URI may have, and what is sent unescaped all the same and harms nobody.
        if c.is_ascii_graphic() && !matches!(c, b'#' | b'<' | b'>' | b'`') {
            table[byte] |= PATH;
        }
        // Nothing is matched here, and nothing of it can end a target.
        if c > b' ' && !matches!(c, b'#' | 0x7f) {
            table[byte] |= QUERY;
        }
        byte += 1;
    }
    table
}

fn is(byte: u8, class: u8) -> bool {
    CLASS.get(usize::from(byte)).is_some_and(|classes| classes & class != 0)
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| is(*byte, class))
}

/// A request's head, or `None` while it is not complete. `lines` is filled anew.
///
/// # Errors
/// As soon as what is there cannot become an acceptable head.
pub fn request(
    buffer: &[u8],
    limits: HeadLimits,
    lines: &mut Vec<Line>,
) -> Result<Option<RequestHead>, Refusal> {
    let start = leading_lines(buffer)?;
    let Some(first) = buffer.get(start) else { return Ok(None) };
    if !is(*first, TOKEN) && *first != b'\r' {
        return Err(Refusal::Malformed("no method"));
    }
    let Some((line, at)) = next_line(buffer, start)? else { return Ok(None) };
    let Some((method, rest)) = split(line, b' ') else { return Err(Refusal::Malformed("no target")) };
    let Some((target, version)) = split(rest, b' ') else { return Err(Refusal::Malformed("no version")) };
    if method.is_empty() || !all(method, TOKEN) {
        return Err(Refusal::Malformed("the method is no token"));
    }
    if !is_target(target) {
        return Err(Refusal::Malformed("the target has characters that must be escaped"));
    }
    let version = self::version(version)?;
    let method_end = start + method.len();
    let target_end = method_end + 1 + target.len();
    let Some((present, end)) = fields(buffer, at, limits, lines)? else { return Ok(None) };
    Ok(Some(RequestHead { start, method_end, target_end, version, present, end }))
}

/// A query may have any text, as `curl` and browsers' scripts send it (no RFC 3986 query, and
/// forwarded as sent); a path, which is matched, has one spelling.
fn is_target(target: &[u8]) -> bool {
    let (path, query) = split(target, b'?').unwrap_or((target, b""));
    all(path, PATH) && all(query, QUERY) && !target.is_empty() && std::str::from_utf8(query).is_ok()
}

/// A response's head, or `None` while it is not complete. `lines` is filled anew.
///
/// # Errors
/// As soon as what is there cannot become an acceptable head.
pub fn response(
    buffer: &[u8],
    limits: HeadLimits,
    lines: &mut Vec<Line>,
) -> Result<Option<ResponseHead>, Refusal> {
    let known = buffer.len().min(5);
    if buffer.get(..known) != b"HTTP/".get(..known) {
        return Err(Refusal::Malformed("no status line"));
    }
    let Some((line, at)) = next_line(buffer, 0)? else { return Ok(None) };
    let Some((version, rest)) = split(line, b' ') else { return Err(Refusal::Malformed("no status")) };
    let version = self::version(version)?;
    let (code, reason) = split(rest, b' ').unwrap_or((rest, b""));
    let status = match code {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(Refusal::Malformed("the status is no three digits")),
    };
    if value_bytes(reason) < reason.len() {
        return Err(Refusal::Malformed("a control in the status line"));
    }
    let Some((present, end)) = lines_from(buffer, at, limits, Colon::AfterSpace, lines)? else {
        return Ok(None);
    };
    Ok(Some(ResponseHead { status, version, present, end }))
}

/// Header lines from `at` up to and over the empty line, or `None` while it has not come.
///
/// # Errors
/// At the first line that is not exactly a header line.
pub fn fields(
    buffer: &[u8],
    at: usize,
    limits: HeadLimits,
    lines: &mut Vec<Line>,
) -> Result<Option<(Present, usize)>, Refusal> {
    lines_from(buffer, at, limits, Colon::AtOnce, lines)
}

/// What may stand before a colon. White space makes a request ambiguous, which is refused; a
/// proxy takes it off a response's header line (RFC 9112, 5.1).
#[derive(Clone, Copy, PartialEq)]
enum Colon {
    AtOnce,
    AfterSpace,
}

fn lines_from(
    buffer: &[u8],
    mut at: usize,
    limits: HeadLimits,
    colon: Colon,
    lines: &mut Vec<Line>,
) -> Result<Option<(Present, usize)>, Refusal> {
    lines.clear();
    let mut present = Present::default();
    loop {
        match buffer.get(at..).unwrap_or_default() {
            [b'\r', b'\n', ..] => return Ok(Some((present, at + 2))),
            [] | [b'\r'] => return Ok(None),
            _ if lines.len() >= limits.max_fields => return Err(Refusal::TooManyFields),
            _ => {}
        }
        let Some(line) = field(buffer, at, colon)? else { return Ok(None) };
        present.add(line.known);
        at = line.end as usize;
        lines.push(line);
    }
}

/// The header line that begins at `start`, or `None` while it is not complete. Each byte is looked
/// at once.
fn field(buffer: &[u8], start: usize, colon: Colon) -> Result<Option<Line>, Refusal> {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t');
    // Also what refuses folded lines and a request's white space before the colon: neither is a token.
    let rest = buffer.get(start..).unwrap_or_default();
    let name_bytes = rest.iter().position(|byte| !is(*byte, TOKEN)).unwrap_or(rest.len());
    let (name, rest) = rest.split_at_checked(name_bytes).unwrap_or((rest, b""));
    let spaces = match colon {
        Colon::AtOnce => 0,
        Colon::AfterSpace => rest.iter().take_while(|byte| space(byte)).count(),
    };
    let value = match rest.get(spaces..).and_then(<[u8]>::split_first) {
        None => return Ok(None),
        Some((b':', _)) if name.is_empty() => return Err(Refusal::Malformed("a header without a name")),
        Some((b':', value)) => value,
        Some(_) => return Err(Refusal::Malformed("a header name is no token")),
    };
    let (value, next) = match value.split_at_checked(value_bytes(value)) {
        Some((value, [b'\r', b'\n', ..])) => (value, name_bytes + spaces + 1 + value.len() + 2),
        None | Some((_, [] | [b'\r'])) => return Ok(None),
        Some((_, [b'\n', ..])) => {
            return Err(Refusal::Malformed("a line feed without its carriage return"));
        }
        Some(_) => return Err(Refusal::Malformed("a control in a header value")),
    };
    let skip = value.iter().take_while(|byte| space(byte)).count();
    let value = value.get(skip..).unwrap_or_default();
    let kept = value.len() - value.iter().rev().take_while(|byte| space(byte)).count();
    let (value_start, end) = (start + name_bytes + spaces + 1 + skip, start + next);
    // A head of more than 4 GiB cannot be: `max_head_bytes` ends at 16 MiB.
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Ok(Some(Line {
        start: offset(start),
        name_end: offset(start + name_bytes),
        value_start: offset(value_start),
        value_end: offset(value_start + kept),
        end: offset(end),
        plain: spaces == 0 && skip == 1 && end == value_start + kept + 2,
        known: Known::of(name),
        fate: Fate::Kept,
    }))
}

/// How many bytes from the first on a value may have: up to the end of its line, or a control.
fn value_bytes(bytes: &[u8]) -> usize {
    // Eight at a time, of which all are looked at: the compiler does that in one step.
    let (words, _) = bytes.as_chunks::<8>();
    let whole = |word: &&[u8; 8]| word.iter().fold(true, |whole, byte| whole & is_value(*byte));
    let before = 8 * words.iter().take_while(whole).count();
    let rest = bytes.get(before..).unwrap_or_default();
    before + rest.iter().position(|byte| !is_value(*byte)).unwrap_or(rest.len())
}

/// No control but the tab (RFC 9110, 5.5).
fn is_value(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// The line that begins at `at`, without its end, and where the next begins.
fn next_line(buffer: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Refusal> {
    let rest = buffer.get(at..).unwrap_or_default();
    let Some(feed) = memchr(b'\n', rest) else { return Ok(None) };
    match rest.get(..feed).and_then(<[u8]>::split_last) {
        Some((b'\r', line)) => Ok(Some((line, at + feed + 1))),
        Some(_) | None => Err(Refusal::Malformed("a line feed without its carriage return")),
    }
}

fn leading_lines(buffer: &[u8]) -> Result<usize, Refusal> {
    let mut start = 0;
    while buffer.get(start..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
        start += 2;
        if start > 2 * MAX_LEADING_LINES {
            return Err(Refusal::Malformed("empty lines instead of a request"));
        }
    }
    Ok(start)
}

fn split(line: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = memchr(at, line)?;
    Some((line.get(..place)?, line.get(place + 1..)?))
}

fn version(text: &[u8]) -> Result<Version, Refusal> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        // A later minor version is read as the last one known (RFC 9110, 2.5).
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Refusal::Version),
        _ => Err(Refusal::Malformed("the version is none")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::any;
    use proptest::proptest;

    use super::{HeadLimits, Refusal, Version, request, response};
    use crate::h1::line::{Known, Line};

    const LIMITS: HeadLimits = HeadLimits { max_fields: 4 };

    /// The header lines as `name=value`, or why there are none.
    fn read(text: &str) -> Result<Option<Vec<String>>, Refusal> {
        let (buffer, mut lines) = (text.as_bytes(), Vec::new());
        let head = request(buffer, LIMITS, &mut lines)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let show = |line: &Line| format!("{}={}", text(line.name(buffer)), text(line.value(buffer)));
        Ok(head.map(|_| lines.iter().map(show).collect()))
    }

    #[test]
    fn a_head_is_complete_with_its_empty_line_and_not_before() {
        let text = "\r\nGET /a?b HTTP/1.1\r\nHost: h\r\nX-A:\t1 2 \r\nx-b:\r\n\r\nbody";
        for cut in 0..text.len() - 4 {
            assert_eq!(read(&text[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(read(text), Ok(Some(vec!["Host=h".into(), "X-A=1 2".into(), "x-b=".into()])));
        let mut lines = Vec::new();
        let head = request(text.as_bytes(), LIMITS, &mut lines).expect("a head").expect("a whole head");
        assert_eq!(&text[head.start..head.method_end], "GET");
        assert_eq!(&text[head.method_end + 1..head.target_end], "/a?b");
        assert_eq!((head.version, &text[head.end..]), (Version::Http11, "body"));
        assert!(lines[0].plain && !lines[1].plain);
    }

    #[test]
    fn what_is_not_exactly_http_is_refused() {
        for bad in [
            "GET / HTTP/1.1\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: h\r\n\r\n",
            "GET / HTTP/1.1\r\n: h\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\x7fb\r\n\r\n",
            "GET / HTTP/1.1\r\nx\x0b: a\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\n\r\n",
            "GET /caf\u{e9} HTTP/1.1\r\n\r\n",
            "GET /a#b HTTP/1.1\r\n\r\n",
            "GET /a?#b HTTP/1.1\r\n\r\n",
            "GET /a?b\x7f HTTP/1.1\r\n\r\n",
            "GET /a<b HTTP/1.1\r\n\r\n",
            "GET /a`b HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET /\tHTTP/1.1\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET / HTTP/1.10\r\n\r\n",
            "GET /\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}",
            "\r\n\r\n\r\n",
            "\r\nx\n",
        ] {
            assert!(matches!(read(bad), Err(Refusal::Malformed(_))), "{bad:?}: {:?}", read(bad));
        }
        assert_eq!(read("GET / HTTP/2.0\r\n"), Err(Refusal::Version));
        assert_eq!(read("GET / HTTP/0.9\r\n"), Err(Refusal::Version));
        assert_eq!(read("GET / HTTP/1.2\r\n\r\n"), Ok(Some(Vec::new())));
        let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(5));
        assert_eq!(read(&many), Err(Refusal::TooManyFields));
    }

    #[test]
    fn a_query_may_have_any_text() {
        for query in ["<b>", "`", "caf\u{e9}", "?\"{}|\\^[]"] {
            let text = format!("GET /a?{query} HTTP/1.1\r\n\r\n");
            assert_eq!(read(&text), Ok(Some(Vec::new())), "{text:?}");
        }
        let latin = request(b"GET /a?caf\xe9 HTTP/1.1\r\n\r\n", LIMITS, &mut Vec::new());
        assert!(latin.is_err(), "no text");
    }

    #[test]
    fn white_space_before_a_colon_is_taken_off_responses_alone() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\nx-a \t:b\r\nx :c\r\n\r\n";
        let mut lines = Vec::new();
        let head = response(bytes, LIMITS, &mut lines).expect("a head").expect("a whole head");
        assert!(head.present.has(Known::ContentLength));
        let read: Vec<_> = lines.iter().map(|line| (line.name(bytes), line.value(bytes))).collect();
        assert_eq!(read, [(&b"Content-Length"[..], &b"0"[..]), (b"x-a", b"b"), (b"x", b"c")]);
        assert!(lines.iter().all(|line| !line.plain), "they are written anew");
        for bad in ["HTTP/1.1 200 OK\r\n : b\r\n\r\n", "HTTP/1.1 200 OK\r\na b: c\r\n\r\n"] {
            assert!(response(bad.as_bytes(), LIMITS, &mut lines).is_err(), "{bad:?}");
        }
        assert!(super::fields(b"x : a\r\n\r\n", 0, LIMITS, &mut lines).is_err(), "trailers");
    }

    #[test]
    fn status_lines_are_three_digits_and_a_reason() {
        let read = |text: &str| response(text.as_bytes(), LIMITS, &mut Vec::new());
        for (text, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", 200),
            ("HTTP/1.0 404 \r\n\r\n", 404),
            ("HTTP/1.1 999\r\n\r\n", 999),
            ("HTTP/1.1 500 \u{e9}t\u{e9}\r\n\r\n", 500),
        ] {
            assert_eq!(read(text).expect("a head").map(|head| head.status), Some(status), "{text:?}");
        }
        for bad in ["SMTP ready", "HTTP/1.1 20 OK\r\n", "HTTP/1.1 2000 OK\r\n", "HTTP/1.1 099 x\r\n", "HTTX"]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(read("HTTP/2.0 200 OK\r\n\r\n"), Err(Refusal::Version));
        assert_eq!(read("HT"), Ok(None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_them(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = Vec::new();
            if let Ok(Some(head)) = request(&bytes, LIMITS, &mut lines) {
                assert!(head.end <= bytes.len());
            }
            if let Ok(Some(head)) = response(&bytes, LIMITS, &mut lines) {
                assert!(head.end <= bytes.len());
            }
        }

        #[test]
        fn nearly_http_never_panics(
            text in "(GET|P[A-Z]{1,4}|\\PC) (/[!-~]{0,8}|\\PC) HTTP/1.[01]\r?\n([A-Za-z-]{1,9}[ :\t]{1,2}[ -~\t]{0,9}\r?\n){0,6}\r?\n?",
        ) {
            let mut lines = Vec::new();
            if let Ok(Some(head)) = request(text.as_bytes(), LIMITS, &mut lines) {
                let tail = &text.as_bytes()[..head.end];
                assert!(tail.ends_with(b"\r\n\r\n"));
            }
        }
    }
}
