// SPDX-License-Identifier: Apache-2.0
//! Bodies in gzip, deflate and brotli, where policies look into them (contract 5.1).

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::{Gateway, Reply, api, probes, read, request};

const ALL: [&str; 3] = ["gzip", "deflate", "br"];

fn coded(coding: &str, plain: &[u8]) -> Bytes {
    let level = flate2::Compression::default();
    match coding {
        "br" => {
            let mut writer = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 20);
            writer.write_all(plain).expect("memory");
            writer.into_inner().into()
        }
        "deflate" => {
            let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), level);
            writer.write_all(plain).expect("memory");
            writer.finish().expect("memory").into()
        }
        _ => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), level);
            writer.write_all(plain).expect("memory");
            writer.finish().expect("memory").into()
        }
    }
}

fn plain(coding: &str, body: &[u8]) -> String {
    let mut text = String::new();
    let read = match coding {
        "br" => brotli::Decompressor::new(body, 4096).read_to_string(&mut text),
        "deflate" => flate2::read::ZlibDecoder::new(body).read_to_string(&mut text),
        _ => flate2::read::GzDecoder::new(body).read_to_string(&mut text),
    };
    assert!(read.is_ok(), "{coding}: {read:?} in {body:?}");
    text
}

fn post(path: &str, coding: &str, body: Bytes) -> Request<Full<Bytes>> {
    let mut sent = request("POST", path, body);
    sent.headers_mut().insert("content-encoding", HeaderValue::try_from(coding).expect("a value"));
    sent
}

async fn with(ceiling: usize, policies: &[Value]) -> (Gateway, Backend) {
    let gateway = Gateway::start_with(|config| {
        config.limits.request_decompressed_bytes = ceiling;
        config.limits.response_decompressed_bytes = ceiling;
    })
    .await;
    let backend = Backend::start().await;
    let list = probes(policies);
    gateway.deploy(&[api("/p", &backend.url(), |spec| spec["policies"] = list)]).await;
    (gateway, backend)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_see_and_change_what_a_coding_stands_for() {
    let (gateway, _backend) =
        with(1_000, &[json!({ "do": "buffer-request" }), json!({ "do": "buffer-response" })]).await;
    for coding in ALL {
        let reply = gateway.call(post("/p/mirror", coding, coded(coding, b"hello"))).await;
        assert_eq!(plain(coding, &reply.body), "HELLO|END|END");
        assert_eq!(reply.header("content-encoding"), Some(coding));
        assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
    }
    // What is not in the coding it claims is given as it is.
    let reply = gateway.call(post("/p/mirror", "gzip", "plain".into())).await;
    assert_eq!(reply.body.as_ref(), b"PLAIN|END|END");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_policies_only_look_at_goes_as_it_came() {
    let (gateway, _backend) = with(1_000, &[json!({ "do": "look" })]).await;
    for coding in ALL {
        let sent = coded(coding, &[b'x'; 1_000]);
        let reply = gateway.call(post("/p/mirror", coding, sent.clone())).await;
        assert_eq!((&reply.body, reply.header("x-seen")), (&sent, Some("1000")), "{coding}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bomb_is_refused_at_the_ceiling() {
    let (gateway, backend) = with(100_000, &[json!({ "do": "buffer-request" })]).await;
    for coding in ALL {
        let bomb = coded(coding, &vec![0; 8 << 20]);
        let reply = gateway.call(post("/p/mirror", coding, bomb)).await;
        let id = reply.header("x-error-id").expect("an error id").to_owned();
        assert_eq!(reply.status.as_u16(), 413, "{coding}");
        assert_eq!(reply.json(), json!({ "error": "Payload Too Large", "error_id": id }), "{coding}");
    }
    assert_eq!(backend.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    let (gateway, _backend) = with(100_000, &[json!({ "do": "buffer-response" })]).await;
    for coding in ALL {
        let reply = gateway.call(post("/p/mirror", coding, coded(coding, &vec![0; 8 << 20]))).await;
        assert_eq!(
            (reply.status.as_u16(), reply.reason().as_str()),
            (500, "response_body_decompressed_too_large"),
            "{coding}"
        );
    }
}

/// A POST of unknown length, its body cut in three.
async fn chunked(gateway: &Gateway, coding: &str, body: &Bytes) -> Reply {
    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let third = body.len() / 3;
    let parts = [body.slice(..third), body.slice(third..2 * third), body.slice(2 * third..)];
    let frames = parts.map(|part| Ok::<_, std::io::Error>(Frame::data(part)));
    let sent = Request::post("/p/mirror").header("host", "h").header("content-encoding", coding);
    let body = BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)));
    read(sender.send_request(sent.body(body).expect("a request")).await.expect("a response")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coded_streams_pass_their_policies_decoded() {
    // The first alone leaves the request's head to nobody else: its coding must be known before.
    for (policies, marks) in [(&["stream-request"][..], "|END"), (&["stream-both"][..], "|END|END")] {
        let policies: Vec<Value> = policies.iter().map(|what| json!({ "do": what })).collect();
        let (gateway, _backend) = with(1_000, &policies).await;
        for coding in ALL {
            let text = "one two three ".repeat(20);
            let reply = chunked(&gateway, coding, &coded(coding, text.as_bytes())).await;
            assert_eq!(plain(coding, &reply.body), text.to_uppercase() + marks, "{coding}");
        }
        let broken = chunked(&gateway, "gzip", &Bytes::from_static(b"not at all gzip")).await;
        assert_eq!((broken.status.as_u16(), broken.reason().as_str()), (400, "request_body_broken"));
        let bomb = chunked(&gateway, "gzip", &coded("gzip", &vec![0; 1 << 20])).await;
        assert_eq!(bomb.status.as_u16(), 413);
    }
}
