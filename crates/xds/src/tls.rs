// SPDX-License-Identifier: Apache-2.0
//! Certificates for both ends, from PEM. Read once at start; the binary installs the
//! process-wide crypto provider, and without one the ring provider is used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrogate_base::secret::Secret;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// A peer that opens a connection and does not finish the handshake is cut off after this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has none of what it should have.
    #[error("{path} contains no {what} in PEM form")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
}

impl TlsError {
    /// The file it is about.
    pub fn path(&self) -> &Path {
        match self {
            TlsError::Read { path, .. } | TlsError::Empty { path, .. } => path,
        }
    }
}

/// A certificate chain and its key.
#[derive(Clone)]
pub struct TlsIdentity {
    certificates: String,
    key: Secret,
}

/// How the serving end proves itself and whom it admits.
#[derive(Clone)]
pub struct ServerTls {
    identity: TlsIdentity,
    client_ca: Option<String>,
}

/// Whom the connecting end trusts and how it proves itself.
#[derive(Clone)]
pub struct ClientTls {
    ca: String,
    identity: Option<TlsIdentity>,
    server_name: Option<String>,
}

impl TlsIdentity {
    /// From PEM texts.
    #[must_use]
    pub fn from_pem(certificates: impl Into<String>, key: Secret) -> TlsIdentity {
        TlsIdentity { certificates: certificates.into(), key }
    }

    /// From PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or holds no PEM block of its kind.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<TlsIdentity, TlsError> {
        let certificates = read(certificates, "CERTIFICATE", "certificate")?;
        let key = Secret::new(read(key, "PRIVATE KEY", "private key")?);
        Ok(TlsIdentity { certificates, key })
    }

    fn to_tonic(&self) -> Identity {
        Identity::from_pem(&self.certificates, self.key.expose())
    }
}

impl ServerTls {
    /// Serves with this identity; clients need no certificate.
    #[must_use]
    pub fn new(identity: TlsIdentity) -> ServerTls {
        ServerTls { identity, client_ca: None }
    }

    /// Admits only clients whose certificate was signed by one of these (PEM).
    #[must_use]
    pub fn require_clients_of(mut self, ca: impl Into<String>) -> ServerTls {
        self.client_ca = Some(ca.into());
        self
    }

    /// Whether a client without a certificate is refused.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        self.client_ca.is_some()
    }

    pub(crate) fn to_tonic(&self) -> ServerTlsConfig {
        let config = ServerTlsConfig::new().identity(self.identity.to_tonic()).timeout(HANDSHAKE_TIMEOUT);
        match &self.client_ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
            None => config,
        }
    }
}

impl ClientTls {
    /// Trusts controllers whose certificate was signed by one of these (PEM), and nobody else.
    #[must_use]
    pub fn new(ca: impl Into<String>) -> ClientTls {
        ClientTls { ca: ca.into(), identity: None, server_name: None }
    }

    /// Proves itself with this identity.
    #[must_use]
    pub fn with_identity(mut self, identity: TlsIdentity) -> ClientTls {
        self.identity = Some(identity);
        self
    }

    /// Expects this name in every controller's certificate, instead of its URL's host.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> ClientTls {
        self.server_name = Some(name.into());
        self
    }

    pub(crate) fn to_tonic(&self) -> ClientTlsConfig {
        let mut config =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca)).timeout(HANDSHAKE_TIMEOUT);
        if let Some(identity) = &self.identity {
            config = config.identity(identity.to_tonic());
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        config
    }
}

/// Reads a PEM file of certificates, for [`ServerTls::require_clients_of`] and [`ClientTls::new`].
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn read_certificates(path: &Path) -> Result<String, TlsError> {
    read(path, "CERTIFICATE", "certificate")
}

fn read(path: &Path, label: &str, what: &'static str) -> Result<String, TlsError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    // Keys say "PRIVATE KEY", "EC PRIVATE KEY" or "RSA PRIVATE KEY"; the handshake library
    // does the real parsing, this only makes the wrong file a readable error.
    let found = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label));
    if found { Ok(text) } else { Err(TlsError::Empty { path: path.to_owned(), what }) }
}
