// SPDX-License-Identifier: Apache-2.0
//! The runtime's side doors, on the control executor and never on a worker: admin (health,
//! sync status, state, redacted dump; contract 1.7), metrics, and readiness. They read what
//! others publish and change nothing. `run` starts them.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_base::readiness::Readiness;
use ferrogate_base::tasks::Tasks;
use ferrogate_base::telemetry::{METRICS_CONTENT_TYPE, encode_metrics};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Admin;
use crate::sync::RuntimeSink;
use crate::upstream::states::States;

/// Connections per side door. More wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 64;

/// A request here is small; who takes longer to send it is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is asked to end after this long: whoever holds one shares the places with others.
const CONNECTION_AGE: Duration = Duration::from_secs(60);

/// What it may still take of an answer then; who does not read it is cut off.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// What a side door answers.
pub trait Door: Send + Sync + 'static {
    /// The answer to a GET of this path.
    fn answer(&self, path: &str, client: IpAddr) -> Response<Full<Bytes>>;
}

/// `/health`, `/xds_sync_status`, `/status`, `/config_dump`.
pub struct AdminDoor {
    /// What is served.
    pub sink: Arc<RuntimeSink>,
    /// What is known of upstream endpoints.
    pub endpoints: Arc<States>,
    /// Whether the process wants traffic.
    pub readiness: Readiness,
    /// Who may see what.
    pub settings: Admin,
    /// This runtime's name.
    pub runtime_id: String,
}

/// `/ready`.
pub struct ReadyDoor(pub Readiness);

/// `/metrics`.
pub struct MetricsDoor(pub Registry);

/// Serves a side door until it is to close, or the group shuts down.
pub fn open(
    tasks: &Tasks,
    name: &'static str,
    listener: TcpListener,
    door: Arc<dyn Door>,
    closing: CancellationToken,
) {
    let token = tasks.token();
    let own = tasks.clone();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tasks.spawn(name, async move {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                // Cancel-safe: a connection not yet accepted stays in the backlog.
                () = token.cancelled() => return,
                () = closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    let (door, stop) = (door.clone(), token.clone());
                    own.spawn(name, async move {
                        let _permit = permit;
                        tokio::select! {
                            // An answer is made in one go; one cut off here is cut off by the shutdown.
                            () = stop.cancelled() => {}
                            () = serve(stream, client, door) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, door = name, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
}

async fn serve(stream: TcpStream, client: SocketAddr, door: Arc<dyn Door>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = if request.method() == Method::GET {
            door.answer(request.uri().path(), client.ip())
        } else {
            text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n")
        };
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = match timeout(CONNECTION_AGE, connection.as_mut()).await {
        Ok(ended) => Ok(ended),
        Err(_old) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a side door's connection ended"),
        Err(_) => tracing::debug!(%client, "a side door's client did not read its answer"),
    }
}

impl Door for AdminDoor {
    fn answer(&self, path: &str, client: IpAddr) -> Response<Full<Bytes>> {
        if path == "/health" {
            return self.health();
        }
        if !self.settings.allowed_ips.contains(client) {
            return text(StatusCode::FORBIDDEN, "Forbidden");
        }
        match path {
            "/xds_sync_status" => json_response(StatusCode::OK, &self.sync_status()),
            "/status" => json_response(StatusCode::OK, &self.status()),
            "/config_dump" if self.settings.config_dump => json_response(StatusCode::OK, &self.dump()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

impl AdminDoor {
    fn health(&self) -> Response<Full<Bytes>> {
        if self.sink.status().ready {
            return json_response(StatusCode::OK, &json!({ "status": "healthy", "timestamp": now() }));
        }
        let reason = "policy engine is unhealthy";
        let body = json!({ "status": "unhealthy", "timestamp": now(), "reason": reason });
        json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
    }

    fn sync_status(&self) -> Value {
        let status = self.sink.status();
        json!({
            "component": "policy-engine",
            "timestamp": now(),
            "policy_chain_version": status.position.revision.to_string(),
            "epoch": status.position.epoch,
            "revision": status.position.revision,
        })
    }

    fn status(&self) -> Value {
        let status = self.sink.status();
        let reports = self.endpoints.checks.report();
        let checks: Vec<Value> = reports
            .into_iter()
            .map(
                |report| json!({ "endpoint": report.endpoint, "state": report.state, "error": report.error }),
            )
            .collect();
        json!({
            "runtime": self.runtime_id,
            "timestamp": now(),
            "ready": self.readiness.is_ready(),
            "notReadyBecause": self.readiness.reasons(),
            "epoch": status.position.epoch,
            "revision": status.position.revision,
            "digest": status.digest.to_string(),
            "persistedRevision": status.persisted.revision,
            "persistError": status.persist_error,
            "ageSeconds": status.age.map(|age| age.as_secs_f64()),
            "fromCache": status.from_cache,
            "refusedCacheFile": status.refused_file,
            "controller": status.controller,
            "artifacts": status.artifacts,
            "routes": status.routes,
            "poisonedRoutes": status.poisoned,
            "rejects": status.rejects,
            "healthChecks": checks,
        })
    }

    /// Names, versions and targets. Parameters of policies are left out altogether: which of
    /// them are secret only their policies know.
    fn dump(&self) -> Value {
        let state = self.sink.state();
        let snapshot = state.load_full();
        let artifacts: Vec<Value> = snapshot
            .artifacts
            .iter()
            .map(|(name, held)| {
                let routes: Vec<Value> = held
                    .routes
                    .iter()
                    .map(|entry| {
                        let route = &entry.route;
                        let endpoints: Vec<String> = route
                            .target
                            .endpoints
                            .iter()
                            .map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port))
                            .collect();
                        json!({
                            "name": route.name,
                            "vhost": &*route.vhost,
                            "upstream": { "name": route.target.name, "endpoints": endpoints },
                            "policies": route.chain.as_ref().map_or(0, |chain| chain.len()),
                            "poison": route.poison().map(ToString::to_string),
                        })
                    })
                    .collect();
                json!({ "name": name.to_string(), "revision": held.version, "routes": routes })
            })
            .collect();
        json!({
            "timestamp": now(),
            "epoch": snapshot.position.epoch,
            "revision": snapshot.position.revision,
            "artifacts": artifacts,
        })
    }
}

impl Door for ReadyDoor {
    fn answer(&self, path: &str, _client: IpAddr) -> Response<Full<Bytes>> {
        match path {
            "/ready" if self.0.is_ready() => text(StatusCode::OK, "LIVE\n"),
            "/ready" => {
                let reasons = self.0.reasons().join("; ");
                text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {reasons}\n"))
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

impl Door for MetricsDoor {
    fn answer(&self, path: &str, _client: IpAddr) -> Response<Full<Bytes>> {
        if path != "/metrics" {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        match encode_metrics(&self.0) {
            Ok(body) => respond(StatusCode::OK, METRICS_CONTENT_TYPE, body.into()),
            Err(error) => {
                tracing::error!(%error, "the metrics could not be encoded");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be encoded\n")
            }
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{body}\n").into())
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use http::{Response, StatusCode};
    use http_body_util::Full;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpSocket};

    use super::{Door, respond, serve};

    /// Answers more than any two sockets hold.
    struct Endless;

    impl Door for Endless {
        fn answer(&self, _path: &str, _client: IpAddr) -> Response<Full<Bytes>> {
            respond(StatusCode::OK, "text/plain", vec![b'x'; 64 << 20].into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_gives_its_place_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let address = listener.local_addr().expect("bound");
        let mut silent = socket.connect(address).await.expect("listens");
        let (stream, client) = listener.accept().await.expect("connected");
        silent.write_all(b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n").await.expect("sent");
        let served = serve(stream, client, Arc::new(Endless));
        // The clock runs by itself while nothing else happens.
        tokio::time::timeout(Duration::from_secs(3600), served).await.expect("its end");
    }
}
