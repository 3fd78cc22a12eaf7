// SPDX-License-Identifier: Apache-2.0
//! TLS at both ends: what clients are shown ([`ServerTls`]), and by what upstreams prove
//! themselves ([`ClientTls`]). Files are read once, at start; certificates that are artifacts
//! come with each snapshot ([`certificates`]). A key never leaves the structures of the TLS
//! library. `run` builds both ends, `conn` and `upstream::connect` use them.

pub mod certificates;
mod client;
pub mod identity;
mod server;
mod trust;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::server::VerifierBuilderError;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsVersion;

pub use client::{ClientTls, TowardsError};
pub use server::ServerTls;

/// Why a TLS configuration could not be built; each names its file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is unreadable, or holds nothing usable.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate, key or versions do not fit together.
    #[error("the TLS configuration is not usable")]
    Config(#[from] rustls::Error),
    /// Clients cannot be verified by what is trusted.
    #[error("clients cannot be verified")]
    Clients(#[from] VerifierBuilderError),
    /// The self-signed certificate could not be made.
    #[error("the self-signed certificate could not be made")]
    SelfSigned(#[from] rcgen::Error),
}

fn shared_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

fn versions(minimum: TlsVersion, maximum: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (minimum..=maximum).contains(version))
        .map(|(_, version)| version)
        .collect()
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?.collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(bad("holds no certificate".into())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| TlsError::File { path: path.to_owned(), reason: error.to_string() })
}
