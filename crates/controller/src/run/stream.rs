// SPDX-License-Identifier: Apache-2.0
//! The config stream's side of a start: its options out of token and certificate files, and
//! the rule that it is never open to strangers.

use std::net::SocketAddr;
use std::sync::Arc;

use ferrogate_base::secret::Secret;
use ferrogate_base::tasks::Tasks;
use ferrogate_model::GatewayId;
use ferrogate_xds::server::{self, ServeError, ServerOptions};
use ferrogate_xds::tls::{ServerTls, TlsError, TlsIdentity, read_certificates};
use tokio::net::TcpListener;

use super::StartError;
use crate::config::{Config, StreamTls};
use crate::replicate::Replica;
use crate::status::fleet::Fleet;

/// Who may connect, and under which name this controller answers.
pub(super) fn options(config: &Config) -> Result<ServerOptions, StartError> {
    let gateway = GatewayId::from(config.gateway_id.as_str());
    let mut options = ServerOptions::new(gateway, config.replica_id.clone(), config.zone.clone());
    if let Some(path) = &config.join_token_file {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| StartError::File {
            what: "the join token file",
            path: path.clone(),
            source,
        })?;
        if text.trim().is_empty() {
            return Err(StartError::EmptyToken(path.clone()));
        }
        options.join_token = Some(Secret::new(text.trim()));
    }
    if let Some(tls) = &config.stream_tls {
        options.tls = Some(server_tls(tls)?);
    }
    Ok(options)
}

fn server_tls(files: &StreamTls) -> Result<ServerTls, StartError> {
    let StreamTls { certificates, key, client_ca } = files;
    let named = |source: TlsError| {
        let setting = if source.path() == certificates {
            "controller.stream.tls.cert_file (--stream-cert)"
        } else if source.path() == key {
            "controller.stream.tls.key_file (--stream-key)"
        } else {
            "controller.stream.tls.client_ca_file (--stream-ca)"
        };
        StartError::Tls { setting, source }
    };
    let tls = ServerTls::new(TlsIdentity::from_files(certificates, key).map_err(named)?);
    match client_ca {
        Some(path) => Ok(tls.require_clients_of(read_certificates(path).map_err(named)?)),
        None => Ok(tls),
    }
}

/// The stream may be open to others than this machine only when it asks them who they are.
pub(super) fn protected(options: &ServerOptions, address: Option<SocketAddr>) -> Result<(), StartError> {
    let guarded = options.join_token.is_some() || options.tls.as_ref().is_some_and(ServerTls::asks_clients);
    match address.filter(|address| !guarded && !address.ip().is_loopback()) {
        Some(address) => Err(StartError::Unprotected(address)),
        None => Ok(()),
    }
}

/// Serves the stream until the front is told to stop.
pub(super) fn serve(
    front: &Tasks,
    listener: Option<TcpListener>,
    replica: &Replica,
    options: ServerOptions,
    fleet: Arc<Fleet>,
) {
    let Some(listener) = listener else { return };
    let (catalogs, token) = (replica.catalogs(), front.token());
    front.spawn("config stream", async move {
        report_stream(server::serve(listener, catalogs, options, fleet, token.cancelled_owned()).await);
    });
}

fn report_stream(served: Result<(), ServeError>) {
    if let Err(error) = served {
        tracing::error!(error = &error as &dyn std::error::Error, "the config stream stopped");
    }
}
