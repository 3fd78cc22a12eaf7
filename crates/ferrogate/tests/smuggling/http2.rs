// SPDX-License-Identifier: Apache-2.0
//! What takes frames: headers that would be others in HTTP/1.1, pseudo-headers where they must
//! not be, and floods. Written with frames of our own, because no client library sends these.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::{CODECS, Gateway};
use crate::upstream::Seen;

const PATIENCE: Duration = Duration::from_secs(30);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

/// How a request on stream 1 ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Answered 200.
    Answered,
    /// Answered otherwise, reset, or the connection ended.
    Refused,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Literals without Huffman or index: the bytes are those that are meant.
fn block(fields: Fields<'_>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).expect("a short text"));
            } else {
                block.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).expect("seven bits") | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).expect("seven bits"));
            }
            block.extend(*text);
        }
    }
    block
}

fn begin() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

fn request(fields: Fields<'_>, body: Option<&[u8]>) -> Vec<u8> {
    let ended = if body.is_none() { END_STREAM } else { 0 };
    let mut bytes = begin();
    bytes.extend(frame(HEADERS, END_HEADERS | ended, 1, &block(fields)));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    bytes
}

/// Sends the bytes and reads until stream 1 has ended or the connection does.
async fn exchange(gateway: &Gateway, bytes: &[u8]) -> anyhow::Result<End> {
    let mut stream = TcpStream::connect(gateway.http).await?;
    let (mut reading, mut writing) = stream.split();
    let answer = async {
        let mut end = End::Refused;
        let mut head = [0; 9];
        while reading.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            if reading.read_exact(&mut payload).await.is_err() {
                break;
            }
            let (kind, flags) = (head[3], head[4]);
            if kind == HEADERS && payload.first() == Some(&0x88) {
                end = End::Answered;
            }
            let over = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
            if over || kind == RST_STREAM || kind == GOAWAY {
                break;
            }
        }
        end
    };
    let both = async {
        let (_sent, end) = tokio::join!(writing.write_all(bytes), answer);
        end
    };
    Ok(tokio::time::timeout(PATIENCE, both).await?)
}

const GET: &[(&[u8], &[u8])] =
    &[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/raw/x")];

/// The usual request and these fields after it.
fn with<'a>(more: Fields<'a>) -> Vec<(&'a [u8], &'a [u8])> {
    [GET, more].concat()
}

/// The usual request with another value for one of its pseudo-headers.
fn instead<'a>(name: &'a [u8], value: &'a [u8]) -> Vec<(&'a [u8], &'a [u8])> {
    GET.iter().map(|field| if field.0 == name { (name, value) } else { *field }).collect()
}

struct Case {
    name: &'static str,
    rfc: &'static str,
    bytes: Vec<u8>,
    /// Forwarding is right as well, since what is forwarded can be read in one way only.
    may_pass: bool,
}

fn case(name: &'static str, rfc: &'static str, may_pass: bool, bytes: Vec<u8>) -> Case {
    Case { name, rfc, bytes, may_pass }
}

fn header_cases() -> Vec<Case> {
    let refused = |name, rfc, fields: &[(&[u8], &[u8])]| case(name, rfc, false, request(fields, None));
    let either = |name, rfc, fields: &[(&[u8], &[u8])]| case(name, rfc, true, request(fields, None));
    vec![
        refused("crlf-in-value", "9113 8.2.1", &with(&[(b"x", b"a\r\ntransfer-encoding: chunked")])),
        refused("lf-in-value", "9113 8.2.1", &with(&[(b"x", b"a\nb: c")])),
        refused("cr-in-value", "9113 8.2.1", &with(&[(b"x", b"a\rb")])),
        refused("nul-in-value", "9113 8.2.1", &with(&[(b"x", b"a\0b")])),
        refused("crlf-in-name", "9113 8.2.1", &with(&[(b"x\r\ny", b"a")])),
        refused("colon-in-name", "9113 8.2.1", &with(&[(b"transfer-encoding: chunked\r\nx", b"a")])),
        refused("colon-ends-name", "9113 8.2.1", &with(&[(b"x:", b"a")])),
        refused("space-in-name", "9113 8.2.1", &with(&[(b"x y", b"a")])),
        refused("nul-in-name", "9113 8.2.1", &with(&[(b"x\0", b"a")])),
        refused("upper-case-name", "9113 8.2.1", &with(&[(b"Content-Length", b"3")])),
        refused("empty-name", "9113 8.2.1", &with(&[(b"", b"a")])),
        either("spaces-around-value", "9113 8.2.1", &with(&[(b"x", b" a ")])),
        either("connection", "9113 8.2.2", &with(&[(b"connection", b"close")])),
        either("keep-alive", "9113 8.2.2", &with(&[(b"keep-alive", b"timeout=5")])),
        either("proxy-connection", "9113 8.2.2", &with(&[(b"proxy-connection", b"close")])),
        refused("transfer-encoding", "9113 8.2.2", &with(&[(b"transfer-encoding", b"chunked")])),
        either("upgrade", "9113 8.2.2", &with(&[(b"upgrade", b"websocket")])),
        either("te-other-than-trailers", "9113 8.2.2", &with(&[(b"te", b"gzip")])),
        refused(
            "pseudo-after-regular",
            "9113 8.3",
            &[
                (b":method", b"GET"),
                (b":scheme", b"http"),
                (b"x", b"a"),
                (b":authority", b"h"),
                (b":path", b"/raw/x"),
            ],
        ),
        refused("unknown-pseudo", "9113 8.3", &[GET, &[(b":evil", b"x")]].concat()),
        refused("response-pseudo", "9113 8.3", &[GET, &[(b":status", b"200")]].concat()),
        refused("method-twice", "9113 8.3.1", &[&[(&b":method"[..], &b"POST"[..])], GET].concat()),
        refused("path-twice", "9113 8.3.1", &[&[(&b":path"[..], &b"/raw/smuggled"[..])], GET].concat()),
        refused("authority-twice", "9113 8.3.1", &[&[(&b":authority"[..], &b"evil"[..])], GET].concat()),
        refused("method-missing", "9113 8.3.1", &GET[1..]),
        refused("path-missing", "9113 8.3.1", &GET[..3]),
        refused("path-empty", "9113 8.3.1", &instead(b":path", b"")),
        refused("path-with-space", "9113 8.3.1", &instead(b":path", b"/raw/x HTTP/1.1\r\nx: y")),
        refused("path-with-space-only", "9113 8.3.1", &instead(b":path", b"/raw/x y")),
        refused("path-with-lf", "9113 8.3.1", &instead(b":path", b"/raw/x\n")),
        refused("path-relative", "9113 8.3.1", &instead(b":path", b"raw/x")),
        refused("method-with-crlf", "9113 8.3.1", &instead(b":method", b"GET /raw/smuggled HTTP/1.1\r\n")),
        refused("method-with-space", "9113 8.3.1", &instead(b":method", b"GET /raw/smuggled")),
        refused("scheme-with-crlf", "9113 8.3.1", &instead(b":scheme", b"http://h/raw/smuggled\r\n")),
        refused("authority-with-userinfo", "9113 8.3.1", &instead(b":authority", b"u@h")),
        refused("authority-with-path", "9113 8.3.1", &instead(b":authority", b"h/raw")),
        refused("authority-with-crlf", "9113 8.3.1", &instead(b":authority", b"h\r\nx: y")),
        refused("authority-empty", "9113 8.3.1", &instead(b":authority", b"")),
        either("host-differs", "9113 8.3.1", &with(&[(b"host", b"evil")])),
        refused("host-twice", "9110 7.2", &with(&[(b"host", b"a"), (b"host", b"b")])),
        refused("length-plus", "9110 8.6", &with(&[(b"content-length", b"+0")])),
        refused("length-list", "9110 8.6", &with(&[(b"content-length", b"0, 3")])),
        either("cookies-split", "9113 8.2.3", &with(&[(b"cookie", b"a=1"), (b"cookie", b"b=2")])),
        refused("connect", "9113 8.5", &[(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:1")]),
        refused("connect-with-path", "9113 8.5", &instead(b":method", b"CONNECT")),
        refused(
            "connect-to-unknown-protocol",
            "8441 4",
            &[&[(&b":protocol"[..], &b"gopher"[..])], instead(b":method", b"CONNECT").as_slice()].concat(),
        ),
        refused(
            "protocol-without-connect",
            "8441 4",
            &[&[(&b":protocol"[..], &b"websocket"[..])], GET].concat(),
        ),
    ]
}

fn body_cases() -> Vec<Case> {
    let post = |more: Fields<'_>| {
        let mut fields = instead(b":method", b"POST");
        fields.extend(more);
        fields.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>()
    };
    let built = |more: Fields<'_>, body: &[u8]| {
        let fields = post(more);
        let fields: Vec<(&[u8], &[u8])> =
            fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
        request(&fields, Some(body))
    };
    let smuggled = b"abcGET /raw/smuggled HTTP/1.1\r\nhost: h\r\n\r\n";
    vec![
        case("length-too-short", "9113 8.1.1", false, built(&[(b"content-length", b"3")], smuggled)),
        case("length-too-long", "9113 8.1.1", false, built(&[(b"content-length", b"100")], b"abc")),
        case("length-of-zero", "9113 8.1.1", false, built(&[(b"content-length", b"0")], smuggled)),
        case(
            "lengths-differ",
            "9110 8.6",
            false,
            built(&[(b"content-length", b"3"), (b"content-length", b"4")], b"abc"),
        ),
        case(
            "coding-and-body",
            "9113 8.2.2",
            false,
            built(&[(b"transfer-encoding", b"chunked")], b"0\r\n\r\n"),
        ),
        case(
            "body-that-looks-like-chunks",
            "9113 8.1",
            true,
            built(&[], b"0\r\n\r\nGET /raw/smuggled HTTP/1.1\r\n"),
        ),
    ]
}

fn frame_cases() -> Vec<Case> {
    let head = block(GET);
    let with_begin = |frames: &[Vec<u8>]| [begin(), frames.concat()].concat();
    let half = head.len() / 2;
    let first = frame(HEADERS, END_STREAM, 1, &head[..half]);
    vec![
        case("data-on-idle-stream", "9113 5.1", false, with_begin(&[frame(DATA, END_STREAM, 1, b"abc")])),
        case("headers-on-stream-zero", "9113 6.2", false, with_begin(&[frame(HEADERS, 5, 0, &head)])),
        case("headers-on-even-stream", "9113 5.1.1", false, with_begin(&[frame(HEADERS, 5, 2, &head)])),
        case(
            "frame-between-headers",
            "9113 6.10",
            false,
            with_begin(&[
                first.clone(),
                frame(PING, 0, 0, &[0; 8]),
                frame(CONTINUATION, END_HEADERS, 1, &head[half..]),
            ]),
        ),
        case(
            "continuation-alone",
            "9113 6.10",
            false,
            with_begin(&[frame(CONTINUATION, END_HEADERS, 1, &head)]),
        ),
        case(
            "headers-in-two-frames",
            "9113 6.10",
            true,
            with_begin(&[first, frame(CONTINUATION, END_HEADERS, 1, &head[half..])]),
        ),
        case("frame-too-large", "9113 4.2", false, with_begin(&[frame(HEADERS, 5, 1, &vec![0; 70_000])])),
        case("settings-of-odd-size", "9113 6.5", false, with_begin(&[frame(SETTINGS, 0, 0, &[0; 5])])),
        case("ping-of-odd-size", "9113 6.7", false, with_begin(&[frame(PING, 0, 0, &[0; 7])])),
        case(
            "padding-longer-than-frame",
            "9113 6.1",
            false,
            with_begin(&[frame(HEADERS, 5 | 8, 1, &[200, 0, 0])]),
        ),
        case(
            "header-block-of-nonsense",
            "7541 2.3.3",
            false,
            with_begin(&[frame(HEADERS, 5, 1, &[0xff; 20])]),
        ),
        case(
            "header-list-too-large",
            "9113 10.5.1",
            false,
            with_begin(&[frame(HEADERS, END_STREAM, 1, &head), continuations(1, 20)]),
        ),
    ]
}

/// So many frames of headers, 15 KB each, that never end.
fn continuations(stream: u32, count: usize) -> Vec<u8> {
    let long = vec![b'a'; 15_000];
    let more = block(&[(b"x-long", &long)]);
    frame(CONTINUATION, 0, stream, &more).repeat(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_frame_becomes_another_request() -> anyhow::Result<()> {
    let gateway = Gateway::start(CODECS[0]).await?;
    let mut failed = Vec::new();
    for case in header_cases().into_iter().chain(body_cases()).chain(frame_cases()) {
        let end = exchange(&gateway, &case.bytes).await?;
        let mut whole = 0;
        for one in gateway.upstream.take() {
            match one {
                Seen::Whole(arrived) if arrived.path.contains("smuggled") => {
                    failed.push(format!("{}: smuggled {arrived:?}", case.name));
                }
                Seen::Whole(_) => whole += 1,
                Seen::Partial => {}
                Seen::Ambiguous(why, bytes) => failed.push(format!("{}: {why} in {bytes:?}", case.name)),
            }
        }
        if (end == End::Answered || whole > 0) && !(case.may_pass && whole == 1) {
            failed.push(format!("{} (RFC {}): {end:?}, {whole} arrived", case.name, case.rfc));
        }
    }
    assert!(failed.is_empty(), "{}:\n{}", failed.len(), failed.join("\n"));
    let plain = request(GET, None);
    assert_eq!(exchange(&gateway, &plain).await?, End::Answered, "and the gateway goes on");
    Ok(())
}

/// A ping that only comes back when everything before it was read.
const LAST: &[u8; 8] = b"the last";

/// Sends the flood; whether the gateway ended the connection. Where it need not, a ping after the
/// flood must come back: it was read to its last byte.
async fn flood(gateway: &Gateway, bytes: &[u8], must_end: bool) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(gateway.http).await?;
    let (mut reading, mut writing) = stream.split();
    let ended = async {
        let mut head = [0; 9];
        while reading.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
            if reading.read_exact(&mut payload).await.is_err() || head[3] == GOAWAY {
                return true;
            }
            if head[3] == PING && payload == LAST {
                return false;
            }
        }
        true
    };
    let last = if must_end { Vec::new() } else { frame(PING, 0, 0, LAST) };
    let flood = [begin(), bytes.to_vec(), last].concat();
    let both = async {
        let (_sent, ended) = tokio::join!(writing.write_all(&flood), ended);
        ended
    };
    Ok(tokio::time::timeout(PATIENCE, both).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection_or_cost_nothing() -> anyhow::Result<()> {
    let gateway = Gateway::start(CODECS[0]).await?;
    let head = block(GET);
    let resets: Vec<u8> = (0..60_000_u32)
        .flat_map(|index| {
            let stream = 2 * index + 1;
            [
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &head),
                frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    let endless = [frame(HEADERS, END_STREAM, 1, &head), continuations(1, 400)].concat();
    let empty =
        [frame(HEADERS, END_STREAM, 1, &head), frame(CONTINUATION, 0, 1, &[]).repeat(20_000)].concat();
    let window_updates =
        [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, &[]).repeat(20_000)].concat();
    for (name, must_end, bytes) in [
        ("rapid reset", true, resets),
        ("CONTINUATION without end", true, endless),
        ("empty CONTINUATION", true, empty),
        ("empty DATA", false, window_updates),
        ("SETTINGS", false, frame(SETTINGS, 0, 0, &[]).repeat(20_000)),
        ("PING", false, frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
    ] {
        let ended = flood(&gateway, &bytes, must_end).await;
        assert!(matches!(ended, Ok(ended) if ended || !must_end), "{name} goes on and on");
        // Others are served as if nothing had happened.
        let plain = request(GET, None);
        assert_eq!(exchange(&gateway, &plain).await?, End::Answered, "after {name}");
    }
    let idle = || async {
        let metrics = gateway.metrics().await.ok()?;
        metrics.contains("ferrogate_runtime_requests_in_flight 0").then_some(())
    };
    assert!(
        ferrogate_testkit::eventually::eventually_async(PATIENCE, idle).await.is_some(),
        "requests of the floods are still in flight"
    );
    for one in gateway.upstream.take() {
        assert!(!matches!(one, Seen::Ambiguous(..)), "{one:?}");
    }
    Ok(())
}
