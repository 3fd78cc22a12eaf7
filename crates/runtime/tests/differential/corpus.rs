// SPDX-License-Identifier: Apache-2.0
//! Requests chosen for what they could go wrong with.

use ferrogate_runtime::config::Forwarding;

use crate::answers::{Answer, LAST, Pair};

/// hyper refuses these and ours does not; with the reason.
const LAXER: &[(&str, &str)] = &[
    (
        "RFC 9110, 2.5: a later minor version is read as the last one known",
        "GET /_gateway-health/healthy HTTP/1.2\r\nHost: h\r\n\r\n",
    ),
    (
        "clients send it, and in a query nothing is matched",
        "GET /_gateway-health/healthy?q=<\"b\"> HTTP/1.1\r\nHost: h\r\n\r\n",
    ),
];

/// Both gateways do the same with these, whatever it is.
const SAME: &[&str] = &[
    "GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a?x=1&y=%20 HTTP/1.1\r\nhost: h:81\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
    "\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a/../b//c/./d HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /%61%2fb HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://other:82/a HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: h\r\ntransfer-encoding: Chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n",
    "DELETE /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    "GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\nKeep-Alive: 5\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nExpect: 1\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-A:\t tab and space \t\r\nX-B:\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-A: caf\u{e9}\r\n\r\n",
    "GET /a HTTP/1.0\r\n\r\n",
    "GET /a HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
    "PATCH /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "BREW /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /_gateway-health/healthy HTTP/1.1\r\nHost: h\r\n\r\n",
    // Refused by both.
    "GET /a HTTP/1.1\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h:99999\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX : 1\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\n X: folded\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX: 1\r\n folded\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
    "GET /<a> HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a`b HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a?b`c HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a HTTP/2.0\r\nHost: h\r\n\r\n",
    "GET a/b HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET %2F%2Fa HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h:x\r\n\r\n",
    "GET http://h:x/a HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a?\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a\r\nHost: h\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nabc\r\n0\r\n\r\n",
];

/// What proxies in front may have said, or who would like to be taken for one.
const FORWARDED: &[&str] = &[
    "GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a HTTP/1.0\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6, 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-Host: other\r\nX-Forwarded-Proto: https\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nForwarded: for=6.6.6.6, for=1.1.1.1\r\nForwarded: for=x\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nForwarded: for=_a;;\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 1\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Request-Id: a\r\nX-Request-Id: b\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nVia: 1.0 inner\r\nVia: 2 edge\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nConnection: via, x-forwarded-for\r\nVia: 1.0 a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: caf\u{e9}, 1.1.1.1\r\nVia: caf\u{e9}\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Client-Cert: Subject=\"CN=mallory\"\r\nx-client-cert: again\r\n\r\n",
];

/// Ours refuses these and hyper does not; with the reason.
const STRICTER: &[(&str, &str)] = &[
    (
        "RFC 9112, 6.1: both framings",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "RFC 9112, 6.3: a length said twice",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    ),
    ("RFC 9112, 2.2: bare line feeds", "GET /a HTTP/1.1\nHost: h\n\n"),
    ("RFC 9112, 2.2: a bare line feed", "GET /a HTTP/1.1\r\nHost: h\n\r\n"),
    ("RFC 9112, 3.2: a fragment is no part of a target", "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n"),
    (
        "RFC 9112, 7.1: white space in a chunk's size",
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_corpus_is_answered_the_same_by_both_codecs() {
    let pair = Pair::start().await;
    for case in SAME {
        let bytes = latin(case);
        let (own, hyper) = pair.ask(&[&bytes, LAST.as_bytes()]).await;
        assert!(!own.is_empty(), "{case:?} was not answered");
        // A refusal may name another cause, for example a chunk that comes after the head.
        if !(refused(&own) && refused(&hyper)) {
            assert_eq!(own, hyper, "{case:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_are_told_of_the_client_the_same_by_both_codecs() {
    for (trusted_hops, rfc7239, via) in [
        (Some(0), true, None),
        (Some(1), false, Some("edge")),
        (Some(2), true, Some("edge")),
        (None, false, None),
    ] {
        let forwarding = Forwarding { trusted_hops, rfc7239, via: via.map(str::to_owned) };
        let pair = Pair::start_with(move |config| {
            config.forwarding = forwarding.clone();
            config.downstream_tls.client_certificate_header = Some("x-client-cert".parse().expect("a name"));
        })
        .await;
        for case in FORWARDED {
            let bytes = latin(case);
            let (own, hyper) = pair.ask(&[&bytes, LAST.as_bytes()]).await;
            assert!(matches!(own[..], [Answer::Echo(_), ..]), "{case:?}: {own:?}");
            assert_eq!(own, hyper, "{case:?} with {trusted_hops:?}, {rfc7239}, {via:?}");
        }
        // Ours it is, whatever the settings: nothing of this was handed over.
        let (own, _) = pair.ask(&[b"GET /a HTTP/1.1\nHost: h\n\n"]).await;
        assert_eq!(own, [Answer::Status(400)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_ours_refuses_is_known() {
    let pair = Pair::start().await;
    for (reason, case) in STRICTER {
        let (own, hyper) = pair.ask(&[case.as_bytes(), LAST.as_bytes()]).await;
        assert_eq!(own, [Answer::Status(400)], "{reason}");
        assert!(!refused(&hyper), "{reason}: hyper refuses it by now as well: {hyper:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_ours_takes_is_known() {
    let pair = Pair::start().await;
    for (reason, case) in LAXER {
        let (own, hyper) = pair.ask(&[case.as_bytes(), LAST.as_bytes()]).await;
        assert!(matches!(own[..], [Answer::Status(200), Answer::Echo(_)]), "{reason}: {own:?}");
        assert!(refused(&hyper), "{reason}: hyper takes it by now as well: {hyper:?}");
    }
}

/// Whether the first request was refused, and nothing after it answered.
pub fn refused(answers: &[Answer]) -> bool {
    matches!(answers, [] | [Answer::Status(400..=499 | 505)])
}

/// One byte a character.
fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}
