// SPDX-License-Identifier: Apache-2.0
//! Certificates made for one test, artifacts of them, and both ends of TLS outside of the
//! gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::backend::{Backend, serve};

/// Who vouches for the certificates of a test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names, of both servers and clients.
    pub fn issue(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let common = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("sound names");
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Identity {
    /// The artifact of this name, as `edit` changes its specification.
    pub fn artifact(&self, name: &str, edit: impl FnOnce(&mut Value)) -> Value {
        certificate(name, &self.certificate, |spec| {
            spec["privateKey"] = json!(self.key);
            edit(spec);
        })
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let read = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>();
        read.expect("a certificate")
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }
}

/// A Certificate artifact without a private key.
pub fn certificate(name: &str, pem: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "Certificate",
        "metadata": { "name": name },
        "spec": { "certificate": pem },
    });
    edit(&mut document["spec"]);
    document
}

/// A client that trusts this authority and shows this certificate, if any.
pub fn client(trusted: &Authority, shown: Option<&Identity>) -> ClientConfig {
    client_of(rustls::ALL_VERSIONS, trusted, shown)
}

/// The same, of these versions.
pub fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    trusted: &Authority,
    shown: Option<&Identity>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots(trusted));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            builder.with_client_auth_cert(shown.chain(), shown.private_key()).expect("a usable key")
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// A handshake that asks for this server.
pub async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    server: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(server.to_owned()).expect("a name");
    TlsConnector::from(config.clone()).connect(name, stream).await
}

/// An https upstream that shows this certificate; with an authority it demands one of it.
pub async fn backend(shown: &Identity, clients: Option<&Authority>) -> Backend {
    let acceptor = TlsAcceptor::from(Arc::new(server(shown, clients)));
    Backend::listen(move |stream, control| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, control).await;
            }
        }
    })
    .await
}

/// The same, without a socket.
pub fn server(shown: &Identity, clients: Option<&Authority>) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(roots(clients));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    builder.with_single_cert(shown.chain(), shown.private_key()).expect("a server")
}

fn roots(trusted: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.0.der().clone()).expect("an authority");
    roots
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
