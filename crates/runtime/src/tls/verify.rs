// SPDX-License-Identifier: Apache-2.0
//! How an upstream's certificate is checked: below a trusted root and under the names that
//! are expected, which may be any (`verify_host_name = false`); or, where the operator says
//! so, not at all (`disable_ssl_verification = true`). Signatures of the handshake itself are
//! checked in any case.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Accepts every certificate.
#[derive(Debug)]
pub struct Anything {
    provider: Arc<CryptoProvider>,
}

/// Accepts a certificate that chains to a root, under one of the expected names.
#[derive(Debug)]
pub struct Rooted {
    roots: RootCertStore,
    names: Names,
    provider: Arc<CryptoProvider>,
}

/// Under which names an upstream is expected.
#[derive(Debug)]
pub enum Names {
    /// The one it is asked for.
    Asked,
    /// One of these.
    OneOf(Vec<ServerName<'static>>),
    /// Whatever name.
    Any,
}

impl Anything {
    pub fn new(provider: Arc<CryptoProvider>) -> Arc<Anything> {
        Arc::new(Anything { provider })
    }
}

impl Rooted {
    pub fn new(roots: RootCertStore, names: Names, provider: Arc<CryptoProvider>) -> Arc<Rooted> {
        Arc::new(Rooted { roots, names, provider })
    }
}

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Rooted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        match &self.names {
            Names::Asked => verify_server_name(&parsed, server_name)?,
            Names::OneOf(names) => {
                let mut refusal = Error::InvalidCertificate(CertificateError::NotValidForName);
                let mut carried = names.iter().map(|name| verify_server_name(&parsed, name));
                if !carried.any(|result| result.map_err(|error| refusal = error).is_ok()) {
                    return Err(refusal);
                }
            }
            Names::Any => {}
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
