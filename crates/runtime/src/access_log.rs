// SPDX-License-Identifier: Apache-2.0
//! One line per request, whatever became of it: [`Record`] is a drop guard that travels
//! with the request and then with its response body, so that an aborted request is logged
//! as surely as a finished one. Lines are gathered per worker and handed to one writer
//! thread through a bounded queue; when the writer is behind they are dropped and counted,
//! because traffic never waits for a log. Field names follow contract 8.3.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use ferrogate_model::Position;
use http::header::{HOST, USER_AGENT};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use serde::Serialize;
use uuid::Uuid;

use crate::config::{AccessLog, AccessLogTarget};
use crate::error::{Failure, Reason};
use crate::grpc::Call;
use crate::metrics::WorkerMetrics;
use crate::router::{CompiledRoute, Endpoint};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A block is handed to the writer when it has this many bytes, or at the next tick.
const BLOCK_BYTES: usize = 16 * 1024;

/// How long a line may wait in its worker before it is handed over.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// The writer's end of the queue, and its thread.
pub struct Writer {
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A worker's end of the queue.
#[derive(Clone)]
pub struct Blocks {
    queue: Option<SyncSender<Vec<u8>>>,
}

/// One worker's log: where its records go when they end.
pub struct WorkerLog {
    blocks: Blocks,
    pending: RefCell<(Vec<u8>, u64)>,
    metrics: Arc<WorkerMetrics>,
}

/// What a request shares with the bodies that travel on their own.
pub struct Traffic {
    /// Body bytes received from the client.
    pub received: Cell<u64>,
    /// Body bytes sent to the client.
    pub sent: Cell<u64>,
    /// The request's body has been read to its end.
    pub request_complete: Cell<bool>,
    /// The client broke off its body.
    pub request_broken: Cell<bool>,
    /// When a byte last moved, in either direction.
    pub last_moved: Cell<tokio::time::Instant>,
}

/// What is known about one request. Dropping it ends the request: it is counted and logged.
pub struct Record {
    log: Rc<WorkerLog>,
    started: Instant,
    took: Option<Duration>,
    started_micros: i64,
    method: Method,
    target: String,
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    /// Shared with the bodies.
    pub traffic: Rc<Traffic>,
    /// `x-request-id`.
    pub request_id: Rc<str>,
    /// The gRPC call that the request is, if it is one.
    pub grpc: Option<Call>,
    /// The route that matched.
    pub route: Option<Arc<CompiledRoute>>,
    /// The snapshot that served it.
    pub position: Position,
    /// The status sent, once it is known.
    pub status: Option<StatusCode>,
    /// The response reached its end.
    pub complete: bool,
    /// Why the gateway answered by itself.
    pub reason: Option<Reason>,
    /// More about it.
    pub detail: String,
    /// The id that stands in the error body.
    pub error_id: Option<Uuid>,
    /// The policy that answered or failed.
    pub policy: Option<&'static str>,
    /// `host:port` of the target.
    pub upstream_host: Option<String>,
    /// The version of HTTP that the target spoke.
    pub upstream_version: Version,
    /// What the upstream was asked for.
    pub upstream_path: Option<String>,
    /// From the last byte sent upstream to the response's head.
    pub upstream_time: Option<Duration>,
}

/// The line, as it is written.
#[derive(Serialize)]
struct Line<'a> {
    t: String,
    meth: &'a str,
    path: &'a str,
    proto: &'static str,
    #[serde(rename = "respCd")]
    status: u16,
    #[serde(rename = "respCdDtl", skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(rename = "bytesRx")]
    received: u64,
    #[serde(rename = "bytesTx")]
    sent: u64,
    dur: f64,
    #[serde(rename = "upSvcT", skip_serializing_if = "Option::is_none")]
    upstream_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xff: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ua: Option<String>,
    #[serde(rename = "reqId", skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(rename = "upHost", skip_serializing_if = "Option::is_none")]
    upstream_host: Option<&'a str>,
    #[serde(rename = "upProto", skip_serializing_if = "Option::is_none")]
    upstream_protocol: Option<&'static str>,
    #[serde(rename = "upPath", skip_serializing_if = "Option::is_none")]
    upstream_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(rename = "errorId", skip_serializing_if = "Option::is_none")]
    error_id: Option<String>,
    revision: u64,
    epoch: u64,
}

/// Why the access log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the access log {path} could not be opened")]
pub struct OpenError {
    path: String,
    source: std::io::Error,
}

/// Opens the log and starts its writer.
///
/// # Errors
/// When the file cannot be opened for appending, or no thread can be started.
pub fn open(settings: &AccessLog) -> Result<(Writer, Blocks), OpenError> {
    let (sink, path): (Box<dyn Write + Send>, String) = match &settings.target {
        AccessLogTarget::Off => return Ok((Writer { thread: None }, Blocks { queue: None })),
        AccessLogTarget::Stdout => (Box::new(std::io::stdout()), "on standard output".to_owned()),
        AccessLogTarget::File(path) => {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| OpenError { path: path.display().to_string(), source })?;
            (Box::new(file), path.display().to_string())
        }
    };
    let (queue, blocks) = sync_channel(settings.queue_blocks.max(1));
    let thread = std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write_blocks(sink, &blocks))
        .map_err(|source| OpenError { path, source })?;
    Ok((Writer { thread: Some(thread) }, Blocks { queue: Some(queue) }))
}

fn write_blocks(mut sink: Box<dyn Write + Send>, blocks: &Receiver<Vec<u8>>) {
    let mut failing = false;
    // Ends when every worker has dropped its sender.
    for block in blocks {
        match sink.write_all(&block).and_then(|()| sink.flush()) {
            Ok(()) => failing = false,
            // Said once per outage: a full disk must not fill the other log as well.
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "access log lines are being lost");
            }
            Err(_) => {}
        }
    }
}

impl Writer {
    /// Waits until everything handed over is written. Every [`Blocks`] must be gone.
    pub fn finish(mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the access log's writer panicked");
        }
    }
}

impl WorkerLog {
    /// The log of one worker.
    #[must_use]
    pub fn new(blocks: Blocks, metrics: Arc<WorkerMetrics>) -> WorkerLog {
        WorkerLog { blocks, pending: RefCell::new((Vec::new(), 0)), metrics }
    }

    /// The worker's counts.
    #[must_use]
    pub fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    /// Hands the gathered lines to the writer.
    pub fn flush(&self) {
        let (block, lines) = self.pending.take();
        if block.is_empty() {
            return;
        }
        let Some(queue) = &self.blocks.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(block) {
            self.metrics.access_log_dropped_lines.add(lines);
        }
    }

    fn append(&self, line: &Line<'_>) {
        let full = {
            let (block, lines) = &mut *self.pending.borrow_mut();
            if block.capacity() == 0 {
                block.reserve(BLOCK_BYTES + 1024);
            }
            let before = block.len();
            if serde_json::to_writer(&mut *block, line).is_err() {
                block.truncate(before);
                return;
            }
            block.push(b'\n');
            *lines += 1;
            block.len() >= BLOCK_BYTES
        };
        if full {
            self.flush();
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            received: Cell::default(),
            sent: Cell::default(),
            request_complete: Cell::default(),
            request_broken: Cell::default(),
            last_moved: Cell::new(tokio::time::Instant::now()),
        }
    }
}

impl Traffic {
    /// Ready for another request of the same connection.
    pub fn restart(&self) {
        self.received.set(0);
        self.sent.set(0);
        self.request_complete.set(false);
        self.request_broken.set(false);
    }

    /// A byte moved.
    pub fn moved(&self) {
        self.last_moved.set(tokio::time::Instant::now());
    }
}

/// What a request says of itself, as its line will have it.
pub struct Opening<'a> {
    /// The method; `-` when not even that was understood.
    pub method: Method,
    /// Path and query as they came.
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// `Host` or what stands for it.
    pub host: Option<&'a [u8]>,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// `X-Forwarded-For`.
    pub forwarded_for: Option<&'a [u8]>,
    /// The gRPC call that it is, if it is one.
    pub grpc: Option<Call>,
}

impl Record {
    /// Begins a request, with its host wherever it stands: HTTP/2 has it beside the headers.
    #[must_use]
    pub fn begin(log: Rc<WorkerLog>, now_micros: i64, parts: &Parts) -> Record {
        let Parts { method, uri, version, headers, .. } = parts;
        let header = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
        let opening = Opening {
            method: method.clone(),
            target: uri.path_and_query().map_or("", |target| target.as_str()),
            version: *version,
            host: uri.authority().map(|host| host.as_str().as_bytes()).or_else(|| header(&HOST)),
            user_agent: header(&USER_AGENT),
            forwarded_for: header(&X_FORWARDED_FOR),
            grpc: Call::of(headers),
        };
        Record::open(log, Instant::now(), now_micros, opening, Rc::default())
    }

    /// Begins a request that came at this time. What a policy may change later is copied now,
    /// but only when there is a log to write it to.
    #[must_use]
    pub fn open(
        log: Rc<WorkerLog>,
        started: Instant,
        started_micros: i64,
        opening: Opening<'_>,
        traffic: Rc<Traffic>,
    ) -> Record {
        let logged = log.blocks.queue.is_some();
        let kept = |value: Option<&[u8]>| {
            value.filter(|_| logged).and_then(|value| HeaderValue::from_bytes(value).ok())
        };
        log.metrics.requests_started.one();
        Record {
            started,
            took: None,
            started_micros,
            method: opening.method,
            target: if logged { opening.target.to_owned() } else { String::new() },
            version: opening.version,
            host: kept(opening.host),
            user_agent: kept(opening.user_agent),
            forwarded_for: kept(opening.forwarded_for),
            traffic,
            request_id: Rc::default(),
            grpc: opening.grpc,
            route: None,
            position: Position::default(),
            status: None,
            complete: false,
            reason: None,
            detail: String::new(),
            error_id: None,
            policy: None,
            upstream_host: None,
            upstream_version: Version::HTTP_11,
            upstream_path: None,
            upstream_time: None,
            log,
        }
    }

    /// Notes why the gateway answers by itself.
    pub fn fail(&mut self, failure: &Failure, error_id: Option<Uuid>) {
        self.reason = Some(failure.reason);
        self.detail.clone_from(&failure.detail);
        self.error_id = error_id;
    }

    /// Notes where the request goes.
    pub fn note_upstream(&mut self, endpoint: &Endpoint, uri: &Uri) {
        self.note_upstream_path(endpoint, uri.path_and_query().map_or("", |path| path.as_str()));
    }

    /// Notes where the request goes, by path and query.
    pub fn note_upstream_path(&mut self, endpoint: &Endpoint, path: &str) {
        if self.is_logged() {
            self.upstream_host = Some(format!("{}:{}", endpoint.host, endpoint.port));
            self.upstream_path = Some(path.to_owned());
        }
    }

    /// Whether there is a log that will have it: what only a log needs need not be copied else.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.log.blocks.queue.is_some()
    }

    /// The method the client sent.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Whether the client's connection carries one request at a time.
    #[must_use]
    pub fn is_http1(&self) -> bool {
        self.version < Version::HTTP_2
    }

    /// When the request began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The worker's log.
    #[must_use]
    pub fn log(&self) -> &Rc<WorkerLog> {
        &self.log
    }

    /// Tells how long it took where that is known already, to save a look at the clock.
    pub fn ended_after(&mut self, took: Duration) {
        self.took = Some(took);
    }

    fn write(&self, took: Duration) {
        let gone = !self.complete && self.reason.is_none();
        let line = Line {
            t: jiff::Timestamp::from_microsecond(self.started_micros).unwrap_or_default().to_string(),
            meth: self.method.as_str(),
            path: &self.target,
            proto: protocol(self.version),
            status: self.status.map_or(0, |status| status.as_u16()),
            detail: if gone { "client_gone" } else { &self.detail },
            received: self.traffic.received.get(),
            sent: self.traffic.sent.get(),
            dur: milliseconds(took),
            upstream_time: self.upstream_time.map(milliseconds),
            xff: self.forwarded_for.as_ref().map(text),
            ua: self.user_agent.as_ref().map(text),
            request_id: &self.request_id,
            host: self.host.as_ref().map(text),
            upstream_host: self.upstream_host.as_deref(),
            upstream_protocol: self.upstream_host.is_some().then(|| protocol(self.upstream_version)),
            upstream_path: self.upstream_path.as_deref(),
            route: self.route.as_ref().map(|route| route.name.as_ref()),
            artifact: self.route.as_ref().map(|route| route.artifact.to_string()),
            policy: self.policy,
            reason: self.reason.map(Reason::name),
            error_id: self.error_id.map(|id| id.to_string()),
            revision: self.position.revision.0,
            epoch: self.position.epoch.0,
        };
        self.log.append(&line);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.took.unwrap_or_else(|| self.started.elapsed());
        let metrics = &self.log.metrics;
        metrics.request_ended(self.status, self.reason, took);
        if !self.complete && self.reason.is_none() {
            metrics.client_gone.one();
        }
        if self.is_logged() {
            self.write(took);
        }
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Milliseconds with three decimals: what a log reader can use, without float noise.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        // `Version` has no other public value than 1.1.
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use http::{Request, StatusCode};

    use super::{Record, WorkerLog, open};
    use crate::config::{AccessLog, AccessLogTarget};
    use crate::error::{Failure, Reason};
    use crate::metrics::WorkerMetrics;

    #[test]
    fn every_end_of_a_request_leaves_one_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("access.log");
        let target = AccessLogTarget::File(path.clone());
        let (writer, blocks) = open(&AccessLog { target, queue_blocks: 4 }).expect("a log");
        let metrics = Arc::<WorkerMetrics>::default();
        let log = Rc::new(WorkerLog::new(blocks, metrics.clone()));
        let begin = |target: &str| {
            let (parts, ()) = Request::get(target).body(()).expect("a request").into_parts();
            Record::begin(log.clone(), 1_000_000, &parts)
        };
        let mut done = begin("/done");
        (done.status, done.complete) = (Some(StatusCode::OK), true);
        drop(done);
        drop(begin("http://books.example/gone"));
        let mut failed = begin("/failed");
        let failure = Failure::with(Reason::UpstreamReset, "closed");
        failed.fail(&failure, failure.answer().1);
        failed.status = Some(failure.reason.status());
        drop(failed);
        drop(log);
        writer.finish();

        let text = std::fs::read_to_string(&path).expect("the log file");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["respCd"], &lines[0]["path"]), (&200.into(), &"/done".into()));
        assert_eq!((&lines[1]["host"], &lines[1]["path"]), (&"books.example".into(), &"/gone".into()));
        assert_eq!((&lines[1]["respCd"], &lines[1]["respCdDtl"]), (&0.into(), &"client_gone".into()));
        assert_eq!((&lines[2]["reason"], &lines[2]["respCd"]), (&"upstream_reset".into(), &503.into()));
        assert!(lines[2]["errorId"].is_string());
        assert_eq!((metrics.requests_ended.get(), metrics.client_gone.get()), (3, 1));
    }
}
