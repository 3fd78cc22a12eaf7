// SPDX-License-Identifier: Apache-2.0
//! A new connection to an endpoint: name, socket, TLS, HTTP/1.1 or HTTP/2, all under one
//! deadline (contract 4.6). Which of a name's addresses answers is for `dial`. The connection's
//! own task is owned by the worker; its end is seen by the pool through its sender.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::tasks::Tasks;
use ferrogate_model::kinds::rest_api::{Scheme, UpstreamProtocol};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use smallvec::smallvec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::body::OutgoingBody;
use super::dial::dial;
use super::streams;
use crate::dns::Dns;
use crate::error::{Failure, Reason};
use crate::executor::LocalExecutor;
use crate::h1::wire::Wire;
use crate::router::Endpoint;
use crate::tls::ClientTls;

/// The most headers a response may have; more is a protocol error of the upstream.
pub const MAX_RESPONSE_HEADERS: usize = 256;

/// Bytes buffered per connection, and so the largest response head.
pub const BUFFER_BYTES: usize = 256 * 1024;

/// Streams opened before an upstream has said how many it allows; more wait for it to say.
/// It is a number that nobody would choose, to be told from what an upstream says.
const UNSETTLED_STREAMS: usize = 17;

/// While requests are open, a connection that is silent for this long is asked whether it lives,
/// and given up when it does not answer in time.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(10);

/// What makes connections.
pub struct Connector {
    dns: Dns,
    tls: Arc<ClientTls>,
    tasks: Tasks,
}

/// A connection just made.
pub enum Sender {
    /// It speaks HTTP/1.1.
    Http1(http1::SendRequest<OutgoingBody>),
    /// It speaks HTTP/2 and at the moment allows this many streams.
    Http2(http2::SendRequest<OutgoingBody>, Rc<Cell<usize>>),
}

impl Connector {
    /// A worker's connector.
    #[must_use]
    pub fn new(dns: Dns, tls: Arc<ClientTls>, tasks: Tasks) -> Connector {
        Connector { dns, tls, tasks }
    }

    /// Connects, or says why not within `limit`.
    ///
    /// # Errors
    /// With the reason of the step that failed.
    pub async fn connect(&self, endpoint: &Endpoint, limit: Duration) -> Result<Sender, Failure> {
        match self.open(endpoint, limit).await? {
            // Nothing is negotiated in the clear: HTTP/2 is spoken where it is known to be understood.
            Wire::Plain(stream) => self.speak(stream, endpoint.protocol == UpstreamProtocol::Http2).await,
            Wire::Tls(stream) => {
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
                if endpoint.protocol == UpstreamProtocol::Http2 && !h2 {
                    return Err(Failure::with(Reason::UpstreamTlsFailed, "it did not agree to HTTP/2"));
                }
                self.speak(stream, h2).await
            }
        }
    }

    /// Opens a stream that nobody speaks on yet.
    ///
    /// # Errors
    /// With the reason of the step that failed.
    pub async fn open(&self, endpoint: &Endpoint, limit: Duration) -> Result<Wire, Failure> {
        let deadline = Instant::now() + limit;
        let late = |step: &str| {
            let detail = format!("{step} {}:{} within {limit:?}", endpoint.host, endpoint.port);
            Failure::with(Reason::UpstreamConnectTimeout, detail)
        };
        let addresses = match endpoint.address {
            Some(address) => smallvec![address],
            None => timeout_at(deadline, self.dns.resolve(&endpoint.host))
                .await
                .map_err(|_| late("could not resolve"))?
                .map_err(|error| Failure::with(Reason::UpstreamUnresolved, error))?,
        };
        let stream = dial(&addresses, endpoint.port, deadline).await?;
        match endpoint.scheme {
            Scheme::Http => Ok(Wire::Plain(stream)),
            Scheme::Https => {
                let towards = self.tls.towards(&endpoint.host, endpoint.tls.as_ref(), endpoint.protocol);
                let (tls, name) = towards.map_err(|error| Failure::with(Reason::UpstreamTlsFailed, error))?;
                let stream = timeout_at(deadline, tls.connect(name, stream))
                    .await
                    .map_err(|_| late("no TLS handshake with"))?
                    .map_err(|error| Failure::with(Reason::UpstreamTlsFailed, error))?;
                Ok(Wire::Tls(Box::new(stream)))
            }
        }
    }

    async fn speak<S>(&self, stream: S, h2: bool) -> Result<Sender, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error: hyper::Error| Failure::with(Reason::UpstreamConnectFailed, error);
        let ended = |result: Result<(), hyper::Error>| {
            if let Err(error) = result {
                tracing::debug!(%error, "an upstream connection ended");
            }
        };
        let io = TokioIo::new(stream);
        if !h2 {
            let mut builder = http1::Builder::new();
            builder.max_headers(MAX_RESPONSE_HEADERS).max_buf_size(BUFFER_BYTES);
            // A proxy takes it off (RFC 9112, 5.1), as our own codec does.
            builder.allow_spaces_after_header_name_in_responses(true);
            let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
            let run = async move { ended(connection.with_upgrades().await) };
            self.tasks.spawn_local("upstream connection", run);
            return Ok(Sender::Http1(sender));
        }
        let mut builder = http2::Builder::new(LocalExecutor::new(self.tasks.clone(), "upstream stream"));
        builder
            .timer(TokioTimer::new())
            .initial_max_send_streams(UNSETTLED_STREAMS)
            .max_header_list_size(u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_ANSWER);
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        let allowed = Rc::new(Cell::new(usize::MAX));
        let run = streams::run(connection, allowed.clone(), |connection| {
            match connection.current_max_send_streams() {
                UNSETTLED_STREAMS => usize::MAX,
                settled => settled,
            }
        });
        self.tasks.spawn_local("upstream connection", async move { ended(run.await) });
        Ok(Sender::Http2(sender, allowed))
    }
}
