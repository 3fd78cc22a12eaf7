// SPDX-License-Identifier: Apache-2.0
//! `examples/websocket.yaml`: a WebSocket client over HTTP/1.1 and over HTTP/2, another protocol,
//! and an operation that is never switched.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, StatusCode, Version};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request as Asked, Response as Answered};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use crate::gateway::{FIRST, Gateway};
use crate::tools::{PATIENCE, Talk, curl};
use crate::upstream::{Upstream, until};

/// Says what it saw of the handshake, then echoes.
async fn chat() -> anyhow::Result<Upstream> {
    Upstream::listen(|stream, _| async move {
        let mut seen = String::new();
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let see = |asked: &Asked, answered: Answered| {
            let tag = asked.headers().get("x-chat").and_then(|tag| tag.to_str().ok()).unwrap_or("none");
            seen = format!("{} {tag}", asked.uri());
            Ok(answered)
        };
        let Ok(mut socket) = accept_hdr_async(stream, see).await else { return };
        socket.send(Message::text(seen)).await.ok();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

async fn next<S>(socket: &mut WebSocketStream<S>) -> anyhow::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = tokio::time::timeout(PATIENCE, socket.next()).await?.context("an open socket")??;
    Ok(message.into_text()?.as_str().to_owned())
}

async fn converses<S>(mut socket: WebSocketStream<S>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let seen = next(&mut socket).await?;
    ensure!(seen == "/rooms/7?as=anna via-ferrogate", "the handshake: {seen}");
    for text in ["one".to_owned(), "x".repeat(300_000)] {
        socket.send(Message::text(text.clone())).await?;
        ensure!(next(&mut socket).await? == text, "{} bytes", text.len());
    }
    socket.close(None).await?;
    while socket.next().await.is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_through_over_either_version() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::start(&[]).await?, chat().await?);
    gateway.apply("websocket.yaml", &[(FIRST, &upstream.url())]).await?;
    let stream = TcpStream::connect(gateway.http).await?;
    let (socket, answer) = client_async("ws://chat.example/chat/rooms/7?as=anna", stream).await?;
    ensure!(answer.status() == StatusCode::SWITCHING_PROTOCOLS, "{answer:?}");
    converses(socket).await?;

    // Extended CONNECT (RFC 8441).
    let stream = TokioIo::new(TcpStream::connect(gateway.http).await?);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    // The server's settings, which allow it, must have arrived.
    sender.send_request(Request::get("http://chat.example/none").body(Empty::<Bytes>::new())?).await?;
    let connect = Request::builder()
        .method("CONNECT")
        .version(Version::HTTP_2)
        .uri("http://chat.example/chat/rooms/7?as=anna")
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::new())?;
    let mut answer = tokio::time::timeout(PATIENCE, sender.send_request(connect)).await??;
    ensure!(answer.status() == StatusCode::OK, "{answer:?}");
    let tunnel = TokioIo::new(hyper::upgrade::on(&mut answer).await?);
    converses(WebSocketStream::from_raw_socket(tunnel, Role::Client, None).await).await
}

const ASKING: [&str; 10] = [
    "-sSiN",
    "--http1.1",
    "-H",
    "connection: upgrade",
    "-H",
    "upgrade: websocket",
    "-H",
    "sec-websocket-version: 13",
    "-H",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[tokio::test(flavor = "multi_thread")]
async fn operations_switch_to_what_they_allow_and_to_nothing_else() -> anyhow::Result<()> {
    let gateway = Gateway::start(&[]).await?;
    let upstream = chat().await?;
    gateway.apply("websocket.yaml", &[(FIRST, &upstream.url())]).await?;
    let mut switched = Talk::start("curl", &[&ASKING[..], &[&gateway.url("/chat/rooms/1")]].concat())?;
    let told = switched.until("/rooms/1 via-ferrogate").await?;
    // The key and its answer are those of RFC 6455, 1.3.
    ensure!(told.starts_with("HTTP/1.1 101 ") && told.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{told}");
    drop(switched);

    // Asked of an upstream that tells what it was asked for.
    let plain = Upstream::start().await?;
    gateway.apply("websocket.yaml", &[(FIRST, &plain.url())]).await?;
    let told = curl(&[&ASKING[..], &[&gateway.url("/chat/rooms")]].concat()).await?;
    ensure!(told.starts_with("HTTP/1.1 200 ") && !told.contains(r#""upgrade":"#), "{told}");

    let queue = Upstream::listen(|mut stream, _| async move {
        let head = until(&mut stream, "\r\n\r\n").await.to_lowercase();
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: mqtt/5\r\n\r\n";
        if head.contains("upgrade: mqtt/5") && stream.write_all(answer.as_bytes()).await.is_ok() {
            let (mut reading, mut writing) = stream.split();
            tokio::io::copy(&mut reading, &mut writing).await.ok();
        }
    })
    .await?;
    gateway.apply("websocket.yaml", &[(FIRST, &queue.url())]).await?;
    let mut client = TcpStream::connect(gateway.http).await?;
    let asked = "GET /chat/feed HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: mqtt/5\r\n\r\n";
    client.write_all(asked.as_bytes()).await?;
    let head = until(&mut client, "\r\n\r\n").await;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.write_all(b"\x10\x0d\0\x04MQTT").await?;
    let mut back = [0; 8];
    tokio::time::timeout(PATIENCE, client.read_exact(&mut back)).await??;
    ensure!(&back == b"\x10\x0d\0\x04MQTT", "{back:?}");
    Ok(())
}
