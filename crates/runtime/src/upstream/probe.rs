// SPDX-License-Identifier: Apache-2.0
//! One question to one endpoint, on a connection of its own: an HTTP request whose status
//! decides, `grpc.health.v1.Health/Check` over HTTP/2, or whether a connection can be made at
//! all. The answer is yes, or why not in words for people. `health` asks and bounds the time.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ferrogate_base::tasks::Tasks;
use ferrogate_model::kinds::rest_api::{HealthQuestion, Scheme, UpstreamProtocol};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use smallvec::smallvec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::dial::dial;
use super::health::Checked;
use crate::dns::Dns;
use crate::tls::ClientTls;

/// An answer longer than this is no answer to a health check.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// `SERVING` of `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: u8 = 1;

/// Puts questions.
pub struct Asker {
    dns: Arc<Dns>,
    tls: Arc<ClientTls>,
    tasks: Tasks,
}

/// Runs what hyper's HTTP/2 client starts as tasks of the control side.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("health check stream", future);
    }
}

impl Asker {
    /// An asker that trusts whom requests to upstreams trust.
    #[must_use]
    pub fn new(dns: Arc<Dns>, tls: Arc<ClientTls>, tasks: Tasks) -> Asker {
        Asker { dns, tls, tasks }
    }

    /// Asks once.
    ///
    /// # Errors
    /// With what speaks against the endpoint.
    pub async fn ask(&self, checked: &Checked) -> Result<(), String> {
        let stream = self.connect(checked).await?;
        let protocol = match (&checked.check.question, checked.scheme) {
            (HealthQuestion::Tcp, Scheme::Http) => return Ok(()),
            (HealthQuestion::Grpc { .. }, Scheme::Https) => UpstreamProtocol::Http2,
            (HealthQuestion::Tcp | HealthQuestion::Http { .. }, Scheme::Https) => UpstreamProtocol::Http1,
            (HealthQuestion::Http { .. } | HealthQuestion::Grpc { .. }, Scheme::Http) => {
                return self.exchange(stream, checked).await;
            }
        };
        let (tls, name) = self
            .tls
            .towards(&checked.host, checked.tls.as_ref(), protocol)
            .map_err(|error| format!("TLS: {error}"))?;
        let stream = tls.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        self.exchange(stream, checked).await
    }

    async fn connect(&self, checked: &Checked) -> Result<TcpStream, String> {
        let addresses = match checked.address {
            Some(address) => smallvec![address],
            None => self.dns.resolve(&checked.host).await.map_err(words)?,
        };
        let deadline = Instant::now() + checked.check.timeout;
        dial(&addresses, checked.port, deadline).await.map_err(|failure| failure.detail)
    }

    async fn exchange<S>(&self, stream: S, checked: &Checked) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match &checked.check.question {
            HealthQuestion::Tcp => Ok(()),
            HealthQuestion::Http { path, host, expected_statuses } => {
                let own = || authority(&checked.host, checked.port);
                let host = host.clone().unwrap_or_else(own);
                let status = http_status(stream, path, &host).await?;
                let code = status.as_u16();
                let good = expected_statuses.iter().any(|(first, last)| (*first..=*last).contains(&code));
                if good { Ok(()) } else { Err(format!("status {code}")) }
            }
            HealthQuestion::Grpc { service } => self.grpc(stream, checked, service).await,
        }
    }

    async fn grpc<S>(&self, stream: S, checked: &Checked, service: &str) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            http2::handshake(Executor(self.tasks.clone()), io).await.map_err(words)?;
        let scheme = match checked.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let authority = authority(&checked.host, checked.port);
        let request = Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(grpc_question(service)))
            .map_err(words)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(words)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(words)?;
            let trailer = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
            let status = trailer.or_else(|| parts.headers.get("grpc-status").cloned());
            match status {
                Some(status) if status == "0" => grpc_answer(&body.to_bytes()),
                Some(status) => Err(format!("grpc-status {}", String::from_utf8_lossy(status.as_bytes()))),
                None => Err(format!("status {} without grpc-status", parts.status)),
            }
        };
        beside(exchange, connection).await
    }
}

/// The exchange's outcome; the connection runs beside it, and may end with it or before the
/// answer was looked at.
async fn beside<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    let run = async {
        drop(connection.await);
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        // The other never ends: an exchange whose connection is gone says so itself.
        outcome = exchange => outcome,
        never = run => match never {},
    }
}

async fn http_status<S>(stream: S, path: &str, host: &str) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    let request = Request::get(path)
        .header("host", host)
        .header("user-agent", "ferrogate-health-check")
        .header("connection", "close")
        .body(Full::new(Bytes::new()))
        .map_err(words)?;
    let response = beside(sender.send_request(request), connection).await.map_err(words)?;
    Ok(response.status())
}

/// A gRPC message with one `HealthCheckRequest`: field 1, the service.
fn grpc_question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        // A service's name has at most 200 characters; two bytes of length hold that.
        let length = service.len();
        if length < 0x80 {
            message.put_u8(u8::try_from(length).unwrap_or(0));
        } else {
            message.put_u8(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            message.put_u8(u8::try_from(length >> 7).unwrap_or(0));
        }
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(0));
    framed.put(message);
    framed.freeze()
}

/// Whether a gRPC message with one `HealthCheckResponse` says that the service is serving.
fn grpc_answer(framed: &[u8]) -> Result<(), String> {
    match framed {
        // Uncompressed, two bytes long, field 1 as a number.
        [0, 0, 0, 0, 2, 0x08, SERVING, ..] => Ok(()),
        [0, 0, 0, 0, 2, 0x08, status, ..] => Err(format!("the service is not serving (status {status})")),
        // A default value is not sent: UNKNOWN.
        [0, 0, 0, 0, 0, ..] => Err("the service's status is unknown".to_owned()),
        _ => Err("no health message".to_owned()),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::{grpc_answer, grpc_question};

    #[test]
    fn grpc_messages_are_those_of_the_protocol() {
        assert_eq!(grpc_question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_question("a.B").as_ref(), b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(200);
        assert_eq!(grpc_question(&long).get(5..8), Some(&[0x0a, 0xc8, 0x01][..]));
        assert!(grpc_answer(b"\0\0\0\0\x02\x08\x01").is_ok());
        for bad in [&b""[..], b"\0\0\0\0\0", b"\0\0\0\0\x02\x08\x02", b"\x01\0\0\0\x02\x08\x01", b"<html>"] {
            assert!(grpc_answer(bad).is_err(), "{bad:?}");
        }
    }
}
