// SPDX-License-Identifier: Apache-2.0
//! One connection to one controller, from dialling to the open stream. The controller
//! answers with its id and zone before anything is asked of it, so a link that is opened
//! for a look costs neither end more than the connection.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::secret::Secret;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::InvalidUri;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

use super::{ClientError, Controller};
use crate::protocol::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::tls::ClientTls;
use crate::transport::{Connector, Dialer};
use crate::wire::{HEADER_CONTROLLER, HEADER_RETRY_AFTER_MS, HEADER_ZONE};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connection, handshake and the answer's headers together; longer than a controller
/// lets a stream wait to be admitted.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// A half-open connection is noticed after the interval and the timeout together: a second is
/// cheap for one stream, and a process that is only busy answers within two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// What may be under way before the controller must wait for the sink.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Far above a response's usual size: a single large resource must pass.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;
/// A request is sent only after the one before was answered.
const REQUESTS: usize = 4;

/// How to reach one controller.
#[derive(Clone)]
pub(super) struct Dial {
    url: String,
    endpoint: Endpoint,
    connector: Option<Connector>,
    authorization: Option<MetadataValue<Ascii>>,
}

/// An open stream.
pub(super) struct Link {
    /// The controller's id, its URL when it does not say.
    pub(super) controller: String,
    pub(super) zone: Option<String>,
    pub(super) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(super) responses: Streaming<DeltaDiscoveryResponse>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot connect: {}", root(.0))]
    Connect(#[source] tonic::transport::Error),
    #[error("refused: {}", .0.message())]
    Refused(#[source] Box<Status>),
    #[error("no answer within {} s", OPEN_TIMEOUT.as_secs())]
    Timeout,
}

impl Dial {
    pub(super) fn try_new(
        controller: &Controller,
        tls: Option<&ClientTls>,
        token: Option<&Secret>,
    ) -> Result<Dial, ClientError> {
        let mut endpoint = Endpoint::from(address(&controller.url, tls.is_some())?);
        if let Some(tls) = tls.filter(|_| is_secure(endpoint.uri())) {
            endpoint = endpoint.tls_config(tls.to_tonic()).map_err(ClientError::Tls)?;
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES);
        let authorization = token.map(bearer).transpose()?;
        Ok(Dial { url: controller.url.clone(), endpoint, connector: None, authorization })
    }

    /// Makes its connections with this dialer.
    pub(super) fn through(mut self, dialer: Option<Arc<dyn Dialer>>) -> Dial {
        self.connector = dialer.map(Connector);
        self
    }

    /// Opens a stream and waits for the controller to introduce itself.
    pub(super) async fn open(&self) -> Result<Link, LinkError> {
        timeout(OPEN_TIMEOUT, self.dial()).await.map_err(|_| LinkError::Timeout)?
    }

    async fn dial(&self) -> Result<Link, LinkError> {
        let connected = match &self.connector {
            None => self.endpoint.connect().await,
            Some(connector) => self.endpoint.connect_with_connector(connector.clone()).await,
        };
        let channel: Channel = connected.map_err(LinkError::Connect)?;
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let (requests, stream) = mpsc::channel(REQUESTS);
        let mut request = Request::new(ReceiverStream::new(stream));
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let response = client
            .delta_aggregated_resources(request)
            .await
            .map_err(|status| LinkError::Refused(Box::new(status)))?;
        let text =
            |key| response.metadata().get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let controller = text(HEADER_CONTROLLER).unwrap_or_else(|| self.url.clone());
        let zone = text(HEADER_ZONE);
        Ok(Link { controller, zone, requests, responses: response.into_inner() })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// Where a URL leads, if that can be dialled at all: what no number of tries would get through to
/// is refused here. `trusts` says whether there is an authority for certificates.
pub(super) fn address(url: &str, trusts: bool) -> Result<Uri, ClientError> {
    let bad = |reason| ClientError::BadUrl { url: url.to_owned(), reason };
    let uri: Uri = url.parse().map_err(|error: InvalidUri| bad(error.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(ClientError::NotAUrl(url.to_owned()));
    }
    if !has_host_and_port(&uri) {
        return Err(bad("a host is needed, and a port of 1 to 65535 if any".to_owned()));
    }
    if is_secure(&uri) && !trusts {
        return Err(ClientError::NoTrust(url.to_owned()));
    }
    Ok(uri)
}

fn is_secure(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

/// A URL without a port has its scheme's. The parser lets an empty host pass, and any port.
fn has_host_and_port(uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else { return false };
    let host = authority.host();
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = place.strip_prefix(host).unwrap_or_default();
    let is_port = |text: &str| text.strip_prefix(':').is_some_and(|port| port.parse::<NonZeroU16>().is_ok());
    !host.trim_matches(['[', ']']).is_empty() && (port.is_empty() || is_port(port))
}

impl LinkError {
    /// How long the controller asked to be left alone.
    pub(super) fn retry_hint(&self) -> Option<Duration> {
        match self {
            LinkError::Refused(status) => retry_hint(status.metadata()),
            LinkError::Connect(_) | LinkError::Timeout => None,
        }
    }
}

fn retry_hint(metadata: &MetadataMap) -> Option<Duration> {
    let millis = metadata.get(HEADER_RETRY_AFTER_MS)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn bearer(token: &Secret) -> Result<MetadataValue<Ascii>, ClientError> {
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {}", token.expose()).parse().map_err(|_| ClientError::BadToken)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The innermost cause, which is what a person needs; the transport's own text says only
/// that the transport failed.
pub(super) fn root(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
