// SPDX-License-Identifier: Apache-2.0
//! A new connection to an endpoint: name, socket, TLS, HTTP/1.1, all under one deadline
//! (contract 4.6). Addresses are tried in order, IPv4 first, each with its share of what
//! is left of the deadline, so that one dead address does not use it up. The connection's
//! own task is owned by the worker; its end is seen by the pool through its sender.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::tasks::Tasks;
use ferrogate_model::kinds::rest_api::Scheme;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::body::OutgoingBody;
use crate::dns::Dns;
use crate::error::{Failure, Reason};
use crate::router::Endpoint;

/// The most headers a response may have; more is a protocol error of the upstream.
const MAX_RESPONSE_HEADERS: usize = 256;

/// Bytes buffered per connection, and so the largest response head.
const BUFFER_BYTES: usize = 256 * 1024;

/// What makes connections.
pub struct Connector {
    dns: Dns,
    tls: TlsConnector,
    tasks: Tasks,
}

impl Connector {
    /// A worker's connector.
    #[must_use]
    pub fn new(dns: Dns, tls: Arc<ClientConfig>, tasks: Tasks) -> Connector {
        Connector { dns, tls: TlsConnector::from(tls), tasks }
    }

    /// Connects, or says why not within `limit`.
    ///
    /// # Errors
    /// With the reason of the step that failed.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<SendRequest<OutgoingBody>, Failure> {
        let deadline = Instant::now() + limit;
        let late = |step: &str| {
            let detail = format!("{step} {}:{} within {limit:?}", endpoint.host, endpoint.port);
            Failure::with(Reason::UpstreamConnectTimeout, detail)
        };
        let addresses = timeout_at(deadline, self.dns.resolve(&endpoint.host))
            .await
            .map_err(|_| late("could not resolve"))?
            .map_err(|error| Failure::with(Reason::UpstreamUnresolved, error))?;
        let stream = dial(&addresses, endpoint.port, deadline).await?;
        match endpoint.scheme {
            Scheme::Http => self.speak(stream).await,
            Scheme::Https => {
                let name = ServerName::try_from(endpoint.host.clone())
                    .map_err(|error| Failure::with(Reason::UpstreamTlsFailed, error))?;
                let stream = timeout_at(deadline, self.tls.connect(name, stream))
                    .await
                    .map_err(|_| late("no TLS handshake with"))?
                    .map_err(|error| Failure::with(Reason::UpstreamTlsFailed, error))?;
                self.speak(stream).await
            }
        }
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<OutgoingBody>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::with(Reason::UpstreamConnectFailed, error))?;
        self.tasks.spawn_local("upstream connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        Ok(sender)
    }
}

async fn dial(addresses: &[IpAddr], port: u16, deadline: Instant) -> Result<TcpStream, Failure> {
    let mut failure = Failure::new(Reason::UpstreamUnresolved);
    for (index, address) in addresses.iter().enumerate() {
        let address = SocketAddr::new(*address, port);
        let left = deadline.saturating_duration_since(Instant::now());
        let untried = u32::try_from(addresses.len().saturating_sub(index)).unwrap_or(u32::MAX).max(1);
        match tokio::time::timeout(left / untried, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Heads are written in one piece; waiting for more would only add latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY was not accepted");
                }
                return Ok(stream);
            }
            Ok(Err(error)) => {
                failure = Failure::with(Reason::UpstreamConnectFailed, format!("{address}: {error}"));
            }
            Err(_) => {
                failure = Failure::with(Reason::UpstreamConnectTimeout, format!("{address}: no answer"));
            }
        }
    }
    Err(failure)
}
