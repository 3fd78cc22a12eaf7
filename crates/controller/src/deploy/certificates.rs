// SPDX-License-Identifier: Apache-2.0
//! Admission of certificates: beyond what the model reads, a private key must be one that
//! handshakes can be signed with, and the certificate's own. Runtimes find out the same way
//! when they prepare it; here the author is told.

use std::sync::LazyLock;

use ferrogate_model::kinds::certificate::{Parsed, certificates};
use ferrogate_model::kinds::{Artifact, Certificate};
use ferrogate_model::{Violation, Violations};
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
    if !can_sign(&certificate) {
        let message = "The private key is not the certificate's, or of no kind that is supported";
        let violation = Violation { field: "spec.privateKey".to_owned(), message: message.to_owned() };
        return Err(Refusal::Invalid(Violations(vec![violation])));
    }
    concealed(Artifact::Certificate(certificate), Certificate::concealed(source), warnings, strict)
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
