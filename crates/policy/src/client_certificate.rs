// SPDX-License-Identifier: Apache-2.0
//! Who a client has proved to be in the TLS handshake. The runtime reads it once for a
//! connection, from a certificate that was verified; nothing that a client sends in a message
//! becomes part of it. Policies find it in the exchange, conditions as
//! `request.ClientCertificate`.

/// What a verified client certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's.
    pub issuer: String,
    /// The serial number, hexadecimal in lower case.
    pub serial: String,
    /// SHA-256 of the certificate, hexadecimal in lower case.
    pub fingerprint: String,
    /// The host names among its alternative names, lower case.
    pub dns_names: Vec<String>,
    /// The URIs among them, such as a SPIFFE id.
    pub uris: Vec<String>,
    /// The mail addresses among them.
    pub emails: Vec<String>,
}
