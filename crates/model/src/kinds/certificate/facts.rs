// SPDX-License-Identifier: Apache-2.0
//! What a text of PEM says of itself: how many certificates it has, and of the first one
//! whose it is, who vouches for it, until when, and for which names. Nothing is trusted or
//! verified here; whether a key belongs to it is for the planes, which have cryptography.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The most certificates of one text.
pub const MAX_CERTIFICATES: usize = 1_000;

/// What a text of PEM says of its first certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// How many certificates there are.
    pub count: usize,
    /// Whose it is.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// From when on it is valid, seconds since the Unix epoch.
    pub not_before: i64,
    /// Until when, likewise.
    pub not_after: i64,
    /// The host names in it, lower case.
    pub dns_names: Vec<String>,
}

/// A text that is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is none in it.
    #[error("no valid certificates found in PEM data")]
    Nothing,
    /// There are too many.
    #[error("at most {MAX_CERTIFICATES} certificates are allowed in one text")]
    TooMany,
    /// One of them cannot be read.
    #[error("certificate {0} in the PEM data cannot be read")]
    Unreadable(usize),
}

impl Facts {
    /// Reads a text.
    ///
    /// # Errors
    /// When it holds no certificate, or one that cannot be read.
    pub fn of(pem: &str) -> Result<Facts, PemError> {
        let certificates = certificates(pem)?;
        let mut facts = Facts { count: certificates.len(), ..Facts::default() };
        for (index, der) in certificates.iter().enumerate() {
            let (_, read) = X509Certificate::from_der(der).map_err(|_| PemError::Unreadable(index + 1))?;
            if index == 0 {
                facts.describe(&read);
            }
        }
        Ok(facts)
    }

    fn describe(&mut self, certificate: &X509Certificate<'_>) {
        self.subject = certificate.subject().to_string();
        self.issuer = certificate.issuer().to_string();
        self.not_before = certificate.validity().not_before.timestamp();
        self.not_after = certificate.validity().not_after.timestamp();
        let names = certificate.subject_alternative_name().ok().flatten();
        for name in names.into_iter().flat_map(|names| names.value.general_names.iter()) {
            if let GeneralName::DNSName(name) = name {
                self.dns_names.push(name.to_ascii_lowercase());
            }
        }
    }
}

/// The certificates of a text, in order.
///
/// # Errors
/// When there is none, or the text breaks off.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut certificates = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        if index >= MAX_CERTIFICATES {
            return Err(PemError::TooMany);
        }
        certificates.push(certificate.map_err(|_| PemError::Unreadable(index + 1))?);
    }
    if certificates.is_empty() { Err(PemError::Nothing) } else { Ok(certificates) }
}

/// Whether a text holds a private key that is not encrypted.
pub(super) fn is_private_key(pem: &str) -> bool {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_ok()
}
