// SPDX-License-Identifier: Apache-2.0
//! Upstreams that answer with something else than HTTP says: each becomes one sound answer or a
//! broken connection, never two, and nothing of it is left for the next request.

use tokio::io::AsyncWriteExt;

use crate::support::backend::{Backend, read_head};
use crate::support::{Gateway, api, raw};

/// What the client must see.
enum Sees {
    /// This status and this body.
    Answer(u16, &'static str),
    /// Either: both are right, and the codecs differ.
    AnswerOrFailure(u16, &'static str, u16, &'static str),
    /// A failure of the gateway with this reason.
    Failure(u16, &'static str),
    /// The end of the connection before the body's.
    CutOff,
}

use Sees::{Answer, AnswerOrFailure, CutOff, Failure};

const CASES: [(&str, &str, &str, Sees); 34] = [
    ("no HTTP", "GET", "SMTP ready\r\n\r\n", Failure(502, "upstream_protocol")),
    ("HTTP/0.9", "GET", "<html>hello</html>", Failure(502, "upstream_protocol")),
    ("version 2.0", "GET", "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", Failure(502, "upstream_protocol")),
    ("version 3", "GET", "HTTP/3 200 OK\r\ncontent-length: 0\r\n\r\n", Failure(502, "upstream_protocol")),
    ("status of two digits", "GET", "HTTP/1.1 20 OK\r\n\r\n", Failure(502, "upstream_protocol")),
    ("status of four digits", "GET", "HTTP/1.1 2000 OK\r\n\r\n", Failure(502, "upstream_protocol")),
    ("status of letters", "GET", "HTTP/1.1 abc OK\r\n\r\n", Failure(502, "upstream_protocol")),
    ("status 000", "GET", "HTTP/1.1 000 OK\r\n\r\n", Failure(502, "upstream_protocol")),
    ("no reason phrase", "GET", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", Answer(200, "ok")),
    ("unknown status", "GET", "HTTP/1.1 299 Odd\r\ncontent-length: 2\r\n\r\nok", Answer(299, "ok")),
    (
        "NUL in a header",
        "GET",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        Failure(502, "upstream_protocol"),
    ),
    (
        "bare CR in a header",
        "GET",
        "HTTP/1.1 200 OK\r\nx: a\rb: c\r\ncontent-length: 0\r\n\r\n",
        Failure(502, "upstream_protocol"),
    ),
    (
        "no colon",
        "GET",
        "HTTP/1.1 200 OK\r\nfoo\r\ncontent-length: 0\r\n\r\n",
        Failure(502, "upstream_protocol"),
    ),
    ("space before the colon", "GET", "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok", Answer(200, "ok")),
    (
        "lengths that differ",
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        Failure(502, "upstream_protocol"),
    ),
    (
        "a signed length",
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        Failure(502, "upstream_protocol"),
    ),
    (
        "a length of letters",
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        Failure(502, "upstream_protocol"),
    ),
    (
        "a coding nobody undoes",
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Failure(502, "upstream_protocol"),
    ),
    // Both framings: an error, or the chunks count and the connection is not used again (RFC 9112, 6.3).
    (
        "both framings",
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        AnswerOrFailure(200, "ok", 502, "upstream_protocol"),
    ),
    (
        "longer than its length",
        "GET",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        Answer(200, "ok"),
    ),
    ("shorter than its length", "GET", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", CutOff),
    ("chunks cut off", "GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", CutOff),
    (
        "a bad chunk size",
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        Failure(502, "upstream_protocol"),
    ),
    (
        "a chunk size without end",
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nok",
        Failure(502, "upstream_protocol"),
    ),
    ("until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nall of it", Answer(200, "all of it")),
    ("HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nall of it", Answer(200, "all of it")),
    ("204 with a body", "GET", "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil", Answer(204, "")),
    (
        "204 with chunks",
        "GET",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        Answer(204, ""),
    ),
    ("304 with a body", "GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil", Answer(304, "")),
    ("HEAD with a body", "HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", Answer(200, "")),
    (
        "interim answers",
        "GET",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Answer(200, "ok"),
    ),
    ("interim only", "GET", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", Failure(503, "upstream_reset")),
    (
        "a switch nobody asked for",
        "GET",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        Failure(502, "upstream_protocol"),
    ),
    ("nothing", "GET", "", Failure(503, "upstream_reset")),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_answer() {
    let gateway = Gateway::start_with(|config| config.workers = 1).await;
    let backend = Backend::listen(|mut stream, _| async move {
        let head = read_head(&mut stream).await.unwrap_or_default();
        let number = head.split(['/', ' ']).filter_map(|word| word.parse::<usize>().ok()).next();
        if let Some((_, _, answer, _)) = number.and_then(|number| CASES.get(number)) {
            drop(stream.write_all(answer.as_bytes()).await);
        }
    })
    .await;
    gateway.deploy(&[api("/a", &backend.url(), |_| {})]).await;
    let mut failed = Vec::new();
    for (index, (name, method, _, sees)) in CASES.iter().enumerate() {
        let bytes = format!("{method} /a/{index} HTTP/1.1\r\nhost: h\r\n\r\nGET /none HTTP/1.0\r\n\r\n");
        let answer = raw(gateway.http, bytes.as_bytes()).await;
        if let Err(why) = judge(sees, &answer) {
            failed.push(format!("{name}: {why} in {answer:?}"));
        }
    }
    assert!(failed.is_empty(), "{}:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_without_end_are_ended_by_the_routes_timeout() {
    let gateway = Gateway::start_with(|config| config.workers = 1).await;
    let backend = Backend::listen(|mut stream, _| async move {
        if read_head(&mut stream).await.is_some() {
            while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {}
        }
    })
    .await;
    let timeout = serde_json::json!({ "timeout": "300ms" });
    gateway.deploy(&[api("/a", &backend.url(), move |spec| spec["resilience"] = timeout)]).await;
    let reply = gateway.get("/a/x").await;
    assert_eq!((reply.status.as_u16(), reply.reason().as_str()), (504, "upstream_timeout"));
}

fn judge(sees: &Sees, answer: &str) -> Result<(), String> {
    if answer.contains("evil") {
        return Err("what belongs to nobody reached the client".to_owned());
    }
    if let AnswerOrFailure(status, body, other, reason) = sees {
        return judge(&Answer(*status, body), answer).or_else(|_| judge(&Failure(*other, reason), answer));
    }
    let (mut head, mut rest) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    while head.starts_with("HTTP/1.1 103 ") {
        (head, rest) = rest.split_once("\r\n\r\n").ok_or("hints and no head")?;
    }
    let status = head.get(9..12).unwrap_or_default().to_owned();
    // The last answer is to the request that closes the connection.
    let (body, last) = match rest.find("HTTP/1.0 404").or_else(|| rest.find("HTTP/1.1 404")) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (expected, wanted) = match sees {
        Answer(status, body) => (*status, *body),
        Failure(status, reason) => (*status, *reason),
        CutOff | AnswerOrFailure(..) => (200, ""),
    };
    if status != expected.to_string() {
        return Err(format!("status {status} and not {expected}"));
    }
    let lower = head.to_ascii_lowercase();
    if lower.contains("content-length:") && lower.contains("transfer-encoding:") {
        return Err("both framings".to_owned());
    }
    match sees {
        CutOff if last.is_empty() => Ok(()),
        CutOff => Err("the connection goes on after a body without its end".to_owned()),
        Failure(..) if body.contains(wanted) => Ok(()),
        Answer(..) if decoded(&lower, body) == wanted => Ok(()),
        Answer(..) | AnswerOrFailure(..) | Failure(..) => Err(format!("not {wanted:?}")),
    }
}

/// The body without its chunks.
fn decoded(head: &str, body: &str) -> String {
    if !head.contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let mut lines = body.split("\r\n");
    let mut text = String::new();
    while lines.next().is_some_and(|size| size != "0" && !size.is_empty()) {
        text.push_str(lines.next().unwrap_or_default());
    }
    text
}
