// SPDX-License-Identifier: Apache-2.0
//! Admission of certificates: beyond what the model reads, each must be one that TLS can use,
//! and a private key one that handshakes can be signed with, and the certificate's own.
//! Runtimes find out the same way when they prepare it; here the author is told.

use std::sync::LazyLock;

use ferrogate_model::kinds::certificate::{Parsed, certificates};
use ferrogate_model::kinds::{Artifact, Certificate};
use ferrogate_model::{Violation, Violations};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use serde_json::Value;

use super::admit::{Admitted, Refusal, concealed};

static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(rustls::crypto::ring::default_provider);

/// A certificate's source is kept without its private key.
pub(super) fn admit(source: Value, strict: bool) -> Result<Admitted, Refusal> {
    let Parsed { certificate, facts: _, warnings } = Certificate::parse(&source)?;
    if let Some(message) = unusable(&certificate) {
        return Err(refusal("spec.certificate", message));
    }
    if !can_sign(&certificate) {
        let message = "The private key is not the certificate's, or of no kind that is supported";
        return Err(refusal("spec.privateKey", message.to_owned()));
    }
    concealed(Artifact::Certificate(certificate), Certificate::concealed(source), warnings, strict)
}

fn refusal(field: &str, message: String) -> Refusal {
    Refusal::Invalid(Violations(vec![Violation { field: field.to_owned(), message }]))
}

/// Why one of its certificates could not be trusted as it stands, which a runtime makes sure of
/// whatever it is for.
fn unusable(certificate: &Certificate) -> Option<String> {
    let chain = certificates(&certificate.certificate).ok()?;
    chain.into_iter().enumerate().find_map(|(index, one)| {
        let error = RootCertStore::empty().add(one).err()?;
        Some(format!("certificate {} in the PEM data cannot be used: {error}", index + 1))
    })
}

/// Whether its key, if it has one, is its own.
fn can_sign(certificate: &Certificate) -> bool {
    let Some(key) = &certificate.private_key else { return true };
    let (Ok(chain), Ok(key)) =
        (certificates(&certificate.certificate), PrivateKeyDer::from_pem_slice(key.as_bytes()))
    else {
        return false;
    };
    CertifiedKey::from_der(chain, key, &PROVIDER).is_ok()
}
