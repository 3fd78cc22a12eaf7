// SPDX-License-Identifier: Apache-2.0
//! Who a client has proved to be: read from its certificate once per connection, after the
//! handshake has verified it. Upstreams are told in a header, if the operator names one, which
//! clients cannot set: `settle` puts it in the place of whatever they sent.

use std::fmt::Write as _;

use ferrogate_policy::ClientCertificate;
use http::HeaderValue;
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a verified certificate says; `None` when it cannot be read, which verification would
/// not have let pass.
#[must_use]
pub fn read(certificate: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut identity = ClientCertificate {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: hex(parsed.raw_serial()),
        fingerprint: hex(digest(&SHA256, certificate).as_ref()),
        ..ClientCertificate::default()
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    for name in names.into_iter().flat_map(|names| names.value.general_names.iter()) {
        match name {
            GeneralName::DNSName(name) => identity.dns_names.push(name.to_ascii_lowercase()),
            GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(address) => identity.emails.push((*address).to_owned()),
            _ => {}
        }
    }
    Some(identity)
}

/// The header's value.
#[must_use]
pub fn header(identity: &ClientCertificate) -> Option<HeaderValue> {
    // In quotes, what would end them escaped; what cannot stand in a header is left out.
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut value = format!("Hash={};Subject=\"{}\"", identity.fingerprint, quoted(&identity.subject));
    for uri in &identity.uris {
        value.push_str(&format!(";URI=\"{}\"", quoted(uri)));
    }
    for dns in &identity.dns_names {
        value.push_str(&format!(";DNS=\"{}\"", quoted(dns)));
    }
    HeaderValue::try_from(&value)
        .or_else(|_| HeaderValue::try_from(format!("Hash={}", identity.fingerprint)))
        .ok()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a text does not fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}
