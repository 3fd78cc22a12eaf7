// SPDX-License-Identifier: Apache-2.0
//! Upstreams: one that echoes what it received and can be slow or large, and one that
//! plays a script of bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub type Body = BoxBody<Bytes, hyper::Error>;

/// A running upstream.
pub struct Backend {
    pub address: SocketAddr,
    /// Connections accepted.
    pub connections: Arc<AtomicUsize>,
    pub control: Arc<Control>,
    _tasks: JoinSet<()>,
}

/// What a test knows of and says to its upstream.
pub struct Control {
    /// `/gate` answers once a permit is added.
    pub gate: Semaphore,
    /// Requests whose head has arrived.
    pub requests: AtomicUsize,
}

impl Backend {
    pub async fn start() -> Backend {
        Backend::listen(|stream, control| async move { serve(stream, control).await }).await
    }

    /// Answers each connection by this function.
    pub async fn listen<F>(each: impl Fn(TcpStream, Arc<Control>) -> F + Send + Sync + 'static) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Backend::over(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), each)
    }

    /// As [`Backend::listen`], on a socket that listens already.
    pub fn over<F>(
        listener: TcpListener,
        each: impl Fn(TcpStream, Arc<Control>) -> F + Send + Sync + 'static,
    ) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let control = Arc::new(Control { gate: Semaphore::new(0), requests: AtomicUsize::new(0) });
        let mut tasks = JoinSet::new();
        let (count, own) = (connections.clone(), control.clone());
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                open.spawn(each(stream, own.clone()));
            }
        });
        Backend { address, connections, control, _tasks: tasks }
    }

    /// An upstream that waits for a request's head on connection `n` and then writes
    /// `answers[n]` (the last one for all later connections) and closes. An answer in
    /// several parts waits for another head before each part.
    pub async fn scripted(answers: &'static [&'static [&'static str]]) -> Backend {
        let turn = Arc::new(AtomicUsize::new(0));
        Backend::listen(move |mut stream, _| {
            let turn = turn.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            async move {
                for part in answers[turn] {
                    if read_head(&mut stream).await.is_none()
                        || stream.write_all(part.as_bytes()).await.is_err()
                    {
                        return;
                    }
                }
            }
        })
        .await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Reads up to the end of a head; `None` when the connection ended first.
pub async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => seen.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&seen).into_owned())
}

pub async fn serve<S>(stream: S, control: Arc<Control>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let control = control.clone();
        async move {
            control.requests.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(answer(request, &control.gate).await)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    drop(serving.await);
}

pub async fn serve_h2<S>(stream: S, control: Arc<Control>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let control = control.clone();
        async move {
            control.requests.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(answer(request, &control.gate).await)
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    drop(builder.max_concurrent_streams(1000).serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(request: Request<Incoming>, gate: &Semaphore) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let number = path.rsplit('/').next().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    if path.contains("/gate") {
        gate.acquire().await.expect("an open gate").forget();
    }
    if path.contains("/turn") {
        // One at a time, a while each: an upstream with a capacity.
        let turn = gate.acquire().await.expect("an open gate");
        tokio::time::sleep(std::time::Duration::from_millis(number as u64)).await;
        drop(turn);
    }
    if path.contains("/never") {
        std::future::pending::<()>().await;
    }
    if path.contains("/mirror") {
        // The body goes back as it comes, at the reader's pace and in the same coding.
        let coding = request.headers().get("content-encoding").cloned();
        let mut response = Response::new(request.into_body().boxed());
        if let Some(coding) = coding {
            response.headers_mut().insert("content-encoding", coding);
        }
        return response;
    }
    if path.contains("/large") {
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        let frames = futures::stream::iter((0..number).map(move |_| Ok(Frame::data(chunk.clone()))));
        return Response::new(BodyExt::boxed(StreamBody::new(frames)));
    }
    if path.contains("/stall") {
        let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"begun")))]);
        return Response::new(BodyExt::boxed(StreamBody::new(first.chain(futures::stream::pending()))));
    }
    if path.contains("/events") {
        let events =
            ["one", "two", "three"].map(|text| Ok(Frame::data(Bytes::from(format!("data: {text}\n\n")))));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(events))));
        response.headers_mut().insert("content-type", "text/event-stream".parse().expect("a value"));
        return response;
    }
    let version = request.version();
    let mut response = Response::new(whole(echo(request).await));
    let headers = response.headers_mut();
    headers.insert("content-type", "application/json".parse().expect("a value"));
    headers.insert("server", "backend".parse().expect("a value"));
    headers.insert("x-backend", "1".parse().expect("a value"));
    if version < Version::HTTP_2 {
        headers.insert("connection", "x-hop".parse().expect("a value"));
        headers.insert("x-hop", "1".parse().expect("a value"));
    }
    if path.contains("/status") {
        *response.status_mut() =
            u16::try_from(number).ok().and_then(|code| code.try_into().ok()).expect("a status");
    }
    response
}

async fn echo(request: Request<Incoming>) -> String {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut headers = Map::new();
    for name in parts.headers.keys() {
        let values: Vec<Value> = parts
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned().into())
            .collect();
        headers.insert(name.as_str().to_owned(), Value::Array(values));
    }
    json!({
        "method": parts.method.as_str(),
        "path": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    })
    .to_string()
}

pub fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}
