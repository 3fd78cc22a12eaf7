// SPDX-License-Identifier: Apache-2.0
//! Upstreams: one that says what it saw of each request over HTTP/1.1, HTTP/2 and TLS, can wait and
//! fail when it is told to, and one that is any function of a socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{iter, once};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What gRPC health checks ask for; those of HTTP ask for `/healthz` here.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A running upstream; dropping it ends it with its connections.
pub struct Upstream {
    pub address: SocketAddr,
    pub control: Arc<Control>,
    _tasks: JoinSet<()>,
}

/// What a test knows of and says to its upstream.
pub struct Control {
    /// Requests with `x-wait`, and the second of the `/events`, wait for a permit.
    pub gate: Semaphore,
    /// Requests whose head has arrived, but for health checks.
    pub requests: AtomicUsize,
    /// While set, everything is answered 503, and gRPC health checks hear of it.
    pub failing: AtomicBool,
}

impl Upstream {
    /// One that echoes in the clear, HTTP/1.1 and HTTP/2.
    pub async fn start() -> anyhow::Result<Upstream> {
        Upstream::over(TcpListener::bind("127.0.0.1:0").await?)
    }

    /// The same where somebody listens already.
    pub fn over(listener: TcpListener) -> anyhow::Result<Upstream> {
        Upstream::on(listener, |stream, control| async move { serve(stream, control).await })
    }

    /// The same over TLS.
    pub async fn over_tls(config: ServerConfig) -> anyhow::Result<Upstream> {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Upstream::listen(move |stream, control| {
            let acceptor = acceptor.clone();
            async move {
                // A handshake that the gateway breaks off is part of some tests.
                if let Ok(tls) = acceptor.accept(stream).await {
                    serve(tls, control).await;
                }
            }
        })
        .await
    }

    /// Answers each connection by this function.
    pub async fn listen<F>(
        each: impl Fn(TcpStream, Arc<Control>) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Upstream>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Upstream::on(TcpListener::bind("127.0.0.1:0").await?, each)
    }

    fn on<F>(
        listener: TcpListener,
        each: impl Fn(TcpStream, Arc<Control>) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Upstream>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let control = Arc::new(Control {
            gate: Semaphore::new(0),
            requests: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        let own = control.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(each(stream, own.clone()));
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Upstream { address, control, _tasks: tasks })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// By a name in place of its address.
    pub fn localhost(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    pub fn requests(&self) -> usize {
        self.control.requests.load(Ordering::SeqCst)
    }
}

/// Reads until this came; answers what was read, also when the connection ended before.
pub async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(end.as_bytes()) && stream.read(&mut byte).await.is_ok_and(|count| count > 0) {
        read.push(byte[0]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

async fn serve<S>(stream: S, control: Arc<Control>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let control = control.clone();
        async move {
            if !is_health_check(request.uri().path()) {
                control.requests.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, Infallible>(answer(request, control).await)
        }
    });
    // A gateway that goes away is part of some tests.
    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

fn is_health_check(path: &str) -> bool {
    path == GRPC_HEALTH || path == "/healthz"
}

async fn answer(request: Request<Incoming>, control: Arc<Control>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == GRPC_HEALTH {
        return health(&control);
    }
    if control.failing.load(Ordering::SeqCst) {
        let mut response = Response::new(whole("failing"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return response;
    }
    if path.ends_with("/events") {
        return events(control);
    }
    if request.headers().contains_key("x-wait") {
        control.gate.acquire().await.expect("an open gate").forget();
    }
    let mut response = Response::new(whole(""));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let seen = echo(request).await.to_string();
    *response.body_mut() = if path.ends_with("/trailers") {
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        let frames = [Ok(Frame::data(Bytes::from(seen))), Ok(Frame::trailers(trailers))];
        StreamBody::new(iter(frames)).boxed_unsync()
    } else {
        whole(seen)
    };
    response
}

/// One event at once and one more when the test lets it.
fn events(control: Arc<Control>) -> Response<Body> {
    let event = |text: &str| Ok(Frame::data(Bytes::from(format!("data: {text}\n\n"))));
    let second = once(async move {
        control.gate.acquire().await.expect("an open gate").forget();
        event("two")
    });
    let body = StreamBody::new(iter([event("one")]).chain(second)).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
    response
}

/// A `HealthCheckResponse` whose one field is the status: 1 is serving, 2 is not.
fn health(control: &Control) -> Response<Body> {
    let status = 1 + u8::from(control.failing.load(Ordering::SeqCst));
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(iter(frames)).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// What was seen of a request, as `{method, path, version, headers, trailers, length, body}`.
async fn echo(request: Request<Incoming>) -> Value {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.ok();
    let trailers = body.as_ref().and_then(|body| body.trailers().cloned()).unwrap_or_default();
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    // A megabyte of it would tell nobody more.
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map(ToString::to_string),
        "version": format!("{:?}", parts.version),
        "headers": fields(&parts.headers),
        "trailers": fields(&trailers),
        "length": body.len(),
        "body": text,
    })
}

/// Values of one name are joined by `|`.
fn fields(headers: &http::HeaderMap) -> Map<String, Value> {
    let joined = |name: &http::HeaderName| {
        let values = headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect::<Vec<_>>()
            .join("|")
    };
    headers.keys().map(|name| (name.as_str().to_owned(), joined(name).into())).collect()
}

fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}
