// SPDX-License-Identifier: Apache-2.0
//! A runtime on free ports, artifacts for it, and a client.

pub mod backend;
pub mod pki;
pub mod probe;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrogate_model::document::Defaults;
use ferrogate_model::kinds::{Artifact, Certificate, RestApi};
use ferrogate_model::{Digest, Epoch, Position, Resource, Revision};
use ferrogate_policy::{Registry, Services};
use ferrogate_runtime::config::{AccessLogTarget, Config, Listen};
use ferrogate_runtime::run::{Drained, RunningRuntime, Runtime};
use ferrogate_xds::{Sink, Update};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longer than anything here takes, shorter than a hung test run.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running runtime.
pub struct Gateway {
    running: Option<RunningRuntime>,
    revision: AtomicU64,
    pub http: SocketAddr,
    pub access_log: PathBuf,
    _dir: tempfile::TempDir,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A client's connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Gateway {
    pub async fn start() -> Gateway {
        Gateway::start_with(|_| {}).await
    }

    pub async fn start_with(edit: impl FnOnce(&mut Config)) -> Gateway {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let access_log = dir.path().join("access.log");
        let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut config = Config {
            listen: Listen {
                http: any,
                https: None,
                proxy_protocol: false,
                admin: any,
                metrics: any,
                readiness: any,
            },
            workers: 2,
            http1_codec: crate::CODEC,
            drain_delay: std::time::Duration::ZERO,
            ..Config::default()
        };
        config.access_log.target = AccessLogTarget::File(access_log.clone());
        config.upstream.tls.system_roots = false;
        edit(&mut config);
        let registry = Registry::new(vec![Arc::new(probe::Probe)]).expect("a registry");
        let services = Services::in_memory();
        let running = Runtime::start(config, Arc::new(registry), services).await.expect("a runtime");
        let http = running.addresses().http.expect("an HTTP address");
        Gateway { running: Some(running), revision: AtomicU64::new(0), http, access_log, _dir: dir }
    }

    pub fn running(&self) -> &RunningRuntime {
        self.running.as_ref().expect("not shut down yet")
    }

    /// Makes these the whole set.
    pub async fn deploy(&self, documents: &[Value]) {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        let upserts: Vec<Resource> = documents.iter().map(|document| resource(document, revision)).collect();
        let digest = upserts.iter().map(Digest::of_resource).fold(Digest::default(), Digest::plus);
        let position = Position::new(Epoch(1), Revision(revision));
        let update = Update { position, digest, full: true, upserts, removes: Vec::new() };
        let outcome = self.running().sink().apply(update).await;
        assert!(outcome.rejects.is_empty() && !outcome.diverged, "{outcome:?}");
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call(get(path)).await
    }

    /// One request on a connection of its own.
    pub async fn call(&self, request: Request<Full<Bytes>>) -> Reply {
        Client::connect(self.http).await.call(request).await
    }

    /// What a side door answers.
    pub async fn door(&self, address: Option<SocketAddr>, path: &str) -> Reply {
        Client::connect(address.expect("an open door")).await.call(get(path)).await
    }

    pub async fn shutdown(mut self) -> Drained {
        self.running.take().expect("not shut down yet").shutdown().await
    }

    /// The access log's lines, once there are `count` of them.
    pub async fn log_lines(&self, count: usize) -> Vec<Value> {
        let read = || -> Vec<Value> {
            let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        eventually("access log lines", || read().len() >= count).await;
        read()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).await.expect("a connection")).await
    }

    pub async fn over<S>(stream: S) -> Client
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Client { sender, _connection: tasks }
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await.expect("an answer in time")
    }

    pub async fn call(&mut self, request: Request<Full<Bytes>>) -> Reply {
        let response = self.send(request).await.expect("a response");
        read(response).await
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_slice(&self.body);
        assert!(parsed.is_ok(), "{parsed:?}: {:?}", self.body);
        parsed.expect("a JSON body")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a text"))
    }

    /// The stable reason in the gateway's own error body.
    pub fn reason(&self) -> String {
        let body = self.json();
        assert!(body["error"].is_string(), "{body}");
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

pub async fn read(response: Response<Incoming>) -> Reply {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time");
    Reply { status: parts.status, headers: parts.headers, body: body.expect("a whole body").to_bytes() }
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    request("GET", path, "")
}

pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "books.example")
        .body(Full::new(body.into()))
        .expect("a request")
}

/// Sends bytes and reads until the gateway closes or says nothing more.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // A gateway that has seen enough closes; what was sent beyond that is reset.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    drop(tokio::time::timeout(PATIENCE, reading).await.expect("the end in time"));
    String::from_utf8_lossy(&answer).into_owned()
}

/// An API whose every path goes to `upstream`, as `edit` changes it.
pub fn api(context: &str, upstream: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let name = format!("api{}", context.replace(['/', '.'], "-"));
    let methods = ["GET", "POST", "PUT", "DELETE", "HEAD"];
    let operations: Vec<Value> =
        methods.iter().map(|method| json!({ "method": method, "path": "/*" })).collect();
    let mut document = json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "RestApi",
        "metadata": { "name": name },
        "spec": {
            "displayName": name,
            "version": "v1.0",
            "context": context,
            "upstream": { "main": { "url": upstream } },
            "operations": operations,
        },
    });
    edit(&mut document["spec"]);
    document
}

/// A policy list with probes that do these things.
pub fn probes(what: &[Value]) -> Value {
    what.iter().map(|params| json!({ "name": "probe", "version": "v1", "params": params })).collect()
}

fn resource(document: &Value, revision: u64) -> Resource {
    let parsed = if document["kind"] == "Certificate" {
        Certificate::parse(document).map(|parsed| Artifact::Certificate(parsed.certificate))
    } else {
        RestApi::parse(document, &Defaults::default()).map(|parsed| Artifact::RestApi(parsed.api))
    };
    assert!(parsed.is_ok(), "{:?} in {document}", parsed.err());
    let artifact = parsed.expect("a valid document");
    Resource { name: artifact.name(), version: Revision(revision), payload: artifact.to_payload().into() }
}

/// Waits for a condition, and says which when it does not come.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
