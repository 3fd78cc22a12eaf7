// SPDX-License-Identifier: Apache-2.0
//! gRPC through the gateway with tonic at both ends: messages in lockstep, statuses in trailers,
//! and failures of our own in the only words that a gRPC client reads.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::support::backend::Backend;
use crate::support::{Gateway, PATIENCE, api, probes};

#[derive(Clone, PartialEq, prost::Message)]
struct Note {
    #[prost(string, tag = "1")]
    text: String,
}

type Codec = ProstCodec<Note, Note>;
type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

fn note(text: &str) -> Note {
    Note { text: text.to_owned() }
}

async fn say(request: tonic::Request<Note>) -> Result<tonic::Response<Note>, Status> {
    let te = request.metadata().get("te").and_then(|te| te.to_str().ok()).unwrap_or("none").to_owned();
    match request.into_inner().text.as_str() {
        "missing" => {
            let mut status = Status::not_found("no such note");
            status.metadata_mut().insert("x-shelf", "7".parse().expect("a value"));
            Err(status)
        }
        "never" => std::future::pending().await,
        text => Ok(tonic::Response::new(note(&format!("{text} te={te}")))),
    }
}

async fn chat(request: tonic::Request<Streaming<Note>>) -> Result<tonic::Response<Notes>, Status> {
    let echoed = request.into_inner().map(|note| note.map(|note| Note { text: note.text.to_uppercase() }));
    Ok(tonic::Response::new(Box::pin(echoed)))
}

async fn answer(request: Request<Incoming>) -> Result<Response<tonic::body::Body>, Infallible> {
    let request = request.map(tonic::body::Body::new);
    let mut grpc = tonic::server::Grpc::new(Codec::default());
    Ok(match request.uri().path() {
        "/notes.Notes/Say" => grpc.unary(tower::service_fn(say), request).await,
        _ => grpc.streaming(tower::service_fn(chat), request).await,
    })
}

async fn server() -> Backend {
    Backend::listen(|stream, _| async move {
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        drop(serving.await);
    })
    .await
}

fn over_http2(spec: &mut Value) {
    spec["upstream"]["main"]["protocol"] = json!("http2");
}

async fn client(gateway: &Gateway) -> tonic::client::Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.http)).expect("an address");
    let channel = endpoint.connect().await.expect("a connection");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("a ready channel");
    client
}

async fn unary(gateway: &Gateway, path: &'static str, text: &str) -> Result<String, Status> {
    let path = PathAndQuery::from_static(path);
    let mut client = client(gateway).await;
    let call = client.unary(tonic::Request::new(note(text)), path, Codec::default());
    let answer = tokio::time::timeout(PATIENCE, call).await.expect("an answer in time")?;
    Ok(answer.into_inner().text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_their_statuses_go_through() {
    let (gateway, server) = (Gateway::start().await, server().await);
    gateway.deploy(&[api("/grpc", &server.url(), over_http2)]).await;
    let said = unary(&gateway, "/grpc/notes.Notes/Say", "hello").await.expect("an answer");
    assert_eq!(said, "hello te=trailers");
    let status = unary(&gateway, "/grpc/notes.Notes/Say", "missing").await.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such note"));
    assert_eq!(status.metadata().get("x-shelf").and_then(|shelf| shelf.to_str().ok()), Some("7"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_stream_in_lockstep() {
    let (gateway, server) = (Gateway::start().await, server().await);
    gateway.deploy(&[api("/grpc", &server.url(), over_http2)]).await;
    let (say, notes) = mpsc::channel(1);
    let mut client = client(&gateway).await;
    let request = tonic::Request::new(ReceiverStream::new(notes));
    let path = PathAndQuery::from_static("/grpc/notes.Notes/Chat");
    let mut answers = client.streaming(request, path, Codec::default()).await.expect("a stream").into_inner();
    for text in ["one", "two", "three"] {
        say.send(note(text)).await.expect("an open stream");
        // The next is not sent before this one came back: nothing on the way waits for more.
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer in time");
        assert_eq!(answer.expect("no failure").expect("a note").text, text.to_uppercase());
    }
    drop(say);
    assert!(answers.message().await.expect("status 0").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_our_own_are_statuses() {
    let (gateway, server) = (Gateway::start().await, server().await);
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gone = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    gateway
        .deploy(&[
            api("/gone", &gone, over_http2),
            api("/slow", &server.url(), |spec| {
                over_http2(spec);
                spec["resilience"] = json!({ "timeout": "200ms" });
            }),
            api("/refusing", &server.url(), |spec| {
                over_http2(spec);
                spec["policies"] = probes(&[json!({ "do": "answer", "value": "no" })]);
            }),
        ])
        .await;
    for (path, code, reason) in [
        ("/none/notes.Notes/Say", Code::Unimplemented, "route_not_found"),
        ("/gone/notes.Notes/Say", Code::Unavailable, "upstream_connect_failed"),
        ("/slow/notes.Notes/Say", Code::DeadlineExceeded, "upstream_timeout"),
    ] {
        let status = unary(&gateway, path, "never").await.expect_err("a status");
        assert_eq!((status.code(), status.message()), (code, reason), "{path}");
        // What has an id in its body elsewhere has it here as well.
        assert_eq!(status.metadata().contains_key("x-error-id"), code != Code::Unimplemented, "{path}");
    }
    // A policy's refusal is one of them; what else it says goes along.
    let status = unary(&gateway, "/refusing/notes.Notes/Say", "hello").await.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::Internal, "I'm a teapot"));
    assert_eq!(status.metadata().get("x-policy").and_then(|value| value.to_str().ok()), Some("answered"));
    // A client that does not speak gRPC is told as ever.
    assert_eq!(gateway.get("/refusing/x").await.body.as_ref(), b"no");
    assert_eq!(gateway.get("/none/x").await.status.as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calls_own_deadline_ends_it_at_the_gateway() {
    let (gateway, server) = (Gateway::start().await, server().await);
    gateway.deploy(&[api("/grpc", &server.url(), over_http2)]).await;
    let stream = tokio::net::TcpStream::connect(gateway.http).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    // A length-prefixed note that says "never".
    let message = [&b"\0\0\0\0\x07\x0a\x05"[..], b"never"].concat();
    let call = Request::post("http://books.example/grpc/notes.Notes/Say")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "150m")
        .body(http_body_util::Full::new(bytes::Bytes::from(message)))
        .expect("a request");
    let began = Instant::now();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(call)).await.expect("an answer in time");
    let answer = answer.expect("an answer");
    assert!(began.elapsed() >= Duration::from_millis(150));
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    assert_eq!(answer.status(), 200);
    assert_eq!(header("content-type"), Some("application/grpc"));
    assert_eq!((header("grpc-status"), header("grpc-message")), (Some("4"), Some("upstream_timeout")));
    let lines = gateway.log_lines(1).await;
    assert_eq!(lines[0]["reason"], "upstream_timeout", "{lines:?}");
}
