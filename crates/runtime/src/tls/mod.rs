// SPDX-License-Identifier: Apache-2.0
//! TLS at both ends: the certificate shown to clients, and what an upstream's certificate
//! is checked against. Keys and certificates are read here once, at start; a key never
//! leaves the structures of the TLS library. `run` builds both, `conn` and
//! `upstream::connect` use them.

mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub use crate::config::{DownstreamTls, TlsVersion, UpstreamTls};

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
    /// The self-signed certificate could not be made.
    #[error("the self-signed certificate could not be made")]
    SelfSigned(#[from] rcgen::Error),
}

/// The server side: ALPN offers HTTP/2 before HTTP/1.1 (contract 1.1).
///
/// # Errors
/// When a file is unreadable, or certificate and key do not belong together.
pub fn server_config(settings: &DownstreamTls) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = match (&settings.cert_path, &settings.key_path) {
        (Some(cert), Some(key)) => (read_certificates(cert)?, read_key(key)?),
        (None, None) | (Some(_), None) | (None, Some(_)) => self_signed()?,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(settings.minimum, settings.maximum))?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The client side, for `https` upstreams.
///
/// # Errors
/// When a configured file is unreadable or holds no certificate.
pub fn client_config(settings: &UpstreamTls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(settings.minimum, settings.maximum))?;
    let mut config = if settings.disable_verification {
        tracing::warn!("certificates of https upstreams are not verified (disable_ssl_verification)");
        builder
            .dangerous()
            .with_custom_certificate_verifier(verify::Anything::new(provider))
            .with_no_client_auth()
    } else {
        let roots = roots(settings)?;
        if settings.verify_host_name {
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            let verifier = verify::AnyName::new(roots, provider);
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn versions(minimum: TlsVersion, maximum: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (minimum..=maximum).contains(version))
        .map(|(_, version)| version)
        .collect()
}

fn roots(settings: &UpstreamTls) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if settings.system_roots {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system certificate could not be read");
        }
        let (taken, refused) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(taken, refused, "system certificates loaded");
    }
    for path in &settings.extra_ca_files {
        for certificate in read_certificates(path)? {
            roots.add(certificate)?;
        }
    }
    Ok(roots)
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

/// A certificate nobody trusts, so that the HTTPS port answers before an operator has
/// configured one. It is new at every start and never written to disk.
fn self_signed() -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    tracing::warn!("no certificate is configured for the HTTPS listener: a self-signed one was made");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}
