// SPDX-License-Identifier: Apache-2.0
//! `examples/grpc.yaml` with tonic at both ends, and with curl where a client reads nothing but
//! what is on the wire.

use std::convert::Infallible;
use std::pin::Pin;

use anyhow::{Context as _, ensure};
use futures::{Stream, StreamExt as _};
use http::uri::PathAndQuery;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::gateway::Gateway;
use crate::tools::{PATIENCE, curl};
use crate::upstream::Upstream;

/// Where the service of the example is.
const THERE: &str = "http://127.0.0.1:50051";

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
    match request.into_inner().text.as_str() {
        "missing" => Err(Status::not_found("no such note")),
        "never" => std::future::pending().await,
        text => Ok(tonic::Response::new(note(&text.to_uppercase()))),
    }
}

async fn chat(request: tonic::Request<Streaming<Note>>) -> Result<tonic::Response<Notes>, Status> {
    let echoed = request.into_inner().map(|told| told.map(|told| note(&told.text.to_uppercase())));
    Ok(tonic::Response::new(Box::pin(echoed)))
}

async fn service() -> anyhow::Result<Upstream> {
    Upstream::listen(|stream, _| async move {
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
            let request = request.map(tonic::body::Body::new);
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok::<_, Infallible>(match request.uri().path() {
                "/notes.Notes/Say" => grpc.unary(tower::service_fn(say), request).await,
                _ => grpc.streaming(tower::service_fn(chat), request).await,
            })
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(stream), service).await.ok();
    })
    .await
}

async fn client(gateway: &Gateway) -> anyhow::Result<tonic::client::Grpc<Channel>> {
    let channel = Endpoint::from_shared(gateway.url(""))?.connect().await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    Ok(client)
}

async fn asked(gateway: &Gateway, path: &'static str, text: &str) -> anyhow::Result<Result<String, Status>> {
    let call = async {
        let request = tonic::Request::new(note(text));
        let path = PathAndQuery::from_static(path);
        anyhow::Ok(client(gateway).await?.unary(request, path, Codec::default()).await)
    };
    let answer = tokio::time::timeout(PATIENCE, call).await??;
    Ok(answer.map(|answer| answer.into_inner().text))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_streams_and_statuses_go_through() -> anyhow::Result<()> {
    let (gateway, service) = (Gateway::start(&[]).await?, service().await?);
    gateway.apply("grpc.yaml", &[(THERE, &service.url())]).await?;
    ensure!(asked(&gateway, "/grpc/notes.Notes/Say", "hello").await?.is_ok_and(|text| text == "HELLO"));
    let status = asked(&gateway, "/grpc/notes.Notes/Say", "missing").await?.err().context("no status")?;
    ensure!((status.code(), status.message()) == (Code::NotFound, "no such note"), "{status:?}");

    let (say, notes) = mpsc::channel(1);
    let request = tonic::Request::new(ReceiverStream::new(notes));
    let path = PathAndQuery::from_static("/grpc/notes.Notes/Chat");
    let mut client = client(&gateway).await?;
    let mut answers = client.streaming(request, path, Codec::default()).await?.into_inner();
    for text in ["one", "two", "three"] {
        say.send(note(text)).await?;
        // The next is not sent before this one came back: nothing on the way waits for more.
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await??;
        ensure!(answer.is_some_and(|told| told.text == text.to_uppercase()), "{text}");
    }
    drop(say);
    ensure!(answers.message().await?.is_none(), "status 0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_our_own_are_statuses() -> anyhow::Result<()> {
    let (gateway, service) = (Gateway::start(&[]).await?, service().await?);
    gateway.apply("grpc.yaml", &[(THERE, &service.url())]).await?;
    let status = asked(&gateway, "/none/notes.Notes/Say", "hello").await?.err().context("no status")?;
    ensure!((status.code(), status.message()) == (Code::Unimplemented, "route_not_found"), "{status:?}");

    // The call's own deadline ends it at the gateway. The message is "never", with its length before it.
    let folder = tempfile::tempdir()?;
    let message = folder.path().join("message").display().to_string();
    std::fs::write(&message, b"\0\0\0\0\x07\x0a\x05never")?;
    let url = gateway.url("/grpc/notes.Notes/Say");
    let data = format!("@{message}");
    let grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "grpc-timeout: 150m"];
    let args = [&["-i", "--http2-prior-knowledge"], &grpc[..], &["--data-binary", &data, &url]].concat();
    let told = curl(&args).await?;
    ensure!(told.starts_with("HTTP/2 200"), "{told}");
    ensure!(told.contains("grpc-status: 4") && told.contains("grpc-message: upstream_timeout"), "{told}");

    let closed = TcpListener::bind("127.0.0.1:0").await?;
    let gone = format!("http://{}", closed.local_addr()?);
    drop(closed);
    gateway.apply("grpc.yaml", &[(THERE, &gone)]).await?;
    let status = asked(&gateway, "/grpc/notes.Notes/Say", "hello").await?.err().context("no status")?;
    ensure!(
        (status.code(), status.message()) == (Code::Unavailable, "upstream_connect_failed"),
        "{status:?}"
    );
    Ok(())
}
