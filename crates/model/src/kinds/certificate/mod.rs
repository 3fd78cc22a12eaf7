// SPDX-License-Identifier: Apache-2.0
//! The Certificate artifact: what upstreams are trusted by (contract 2.6), and, beyond the
//! contract, what the gateway shows of itself, what clients are trusted by and what an
//! upstream definition names. Its document is told to its readers without the private key,
//! which is in the payload alone; the payload is stored sealed, and reaches every runtime.

mod facts;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use facts::{Facts, MAX_CERTIFICATES, PemError, certificates};

use super::rest_api::hosts::is_host_name;
use crate::fields::{self, Fields, Findings, Refusal};
use crate::{Handle, Kind, Violations};

/// The largest `spec.certificate`, in bytes: more than the bundle of a whole operating system.
pub const MAX_PEM_BYTES: usize = 512 * 1024;
/// The largest `spec.privateKey`, in bytes: an RSA key of 16,384 bits has 13 KB.
pub const MAX_KEY_BYTES: usize = 16 * 1024;
/// The largest `spec.ocspResponse`, in bytes of base64.
pub const MAX_OCSP_BYTES: usize = 32 * 1024;
/// What stands in the place of a name in a path of its own (contract 2.6).
const RESERVED: &str = "reload";
/// The most names of one certificate.
pub const MAX_SERVER_NAMES: usize = 500;

/// A certificate, or several in one text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// `metadata.name`.
    pub handle: Handle,
    /// `spec.usage`.
    pub usage: Usage,
    /// `spec.certificate`: PEM, of a chain its own first.
    pub certificate: String,
    /// `spec.privateKey`: PEM, the first certificate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// The names it is shown for, lower case: `spec.serverNames`, else those in the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<String>,
    /// `spec.default`: shown to clients that name no server, or one that nobody has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// `spec.ocspResponse`: DER in base64, stapled to the handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp_response: Option<String>,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Usage {
    /// Every `https` upstream may prove itself by it (contract 2.6, 4.6).
    UpstreamTrust,
    /// Clients are shown it.
    Server,
    /// Clients may prove themselves by it.
    ClientTrust,
    /// Nothing, but where an artifact names it.
    Named,
}

/// A certificate, and what in its document has no effect.
#[derive(Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The certificate.
    pub certificate: Certificate,
    /// What it says of itself.
    pub facts: Facts,
    /// Unknown fields, each with its path.
    pub warnings: Violations,
}

/// The key is left out: what is printed may be kept.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("handle", &self.handle)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

impl Usage {
    /// Every usage, as documents spell it.
    pub const ALL: [(&'static str, Usage); 4] = [
        ("upstreamTrust", Usage::UpstreamTrust),
        ("server", Usage::Server),
        ("clientTrust", Usage::ClientTrust),
        ("named", Usage::Named),
    ];

    /// As documents spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Usage::UpstreamTrust => "upstreamTrust",
            Usage::Server => "server",
            Usage::ClientTrust => "clientTrust",
            Usage::Named => "named",
        }
    }
}

impl Certificate {
    /// Reads a document's value.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`] when a field has the wrong type, [`Refusal::Invalid`] with every
    /// violation when the document breaks rules. Neither quotes the private key.
    pub fn parse(document: &Value) -> Result<Parsed, Refusal> {
        let mut found = Findings::default();
        let root = Fields::of(document, String::new(), &mut found);
        root.only(&["apiVersion", "kind", "metadata", "spec", "status"], &mut found);
        root.text("apiVersion", &mut found);
        root.kind(Kind::Certificate, &mut found);
        let spec = root.fields("spec", &mut found);
        spec.only(
            &["usage", "certificate", "privateKey", "serverNames", "default", "ocspResponse"],
            &mut found,
        );
        let private_key = private_key(&spec, &mut found);
        let usage = usage(&spec, &mut found);
        let (certificate, facts) = certificate(&spec, &mut found);
        let default = spec.flag("default", &mut found).unwrap_or(false);
        let server_names = server_names(&spec, usage, &facts, default, &mut found);
        let ocsp_response = ocsp_response(&spec, &mut found);
        for name in ["serverNames", "default", "ocspResponse"] {
            if usage != Usage::Server && spec.has(name) {
                found.violations.push(spec.path(name), "Has no meaning unless the usage is 'server'");
            }
        }
        let metadata = root.metadata(&mut found);
        if metadata.handle.as_ref().is_some_and(|handle| handle.as_str() == RESERVED) {
            found.violations.push("metadata.name", format!("'{RESERVED}' cannot be a certificate's name"));
        }
        let warnings = found.finish()?;
        let handle = metadata.handle.expect("a name that is no handle is a violation");
        let certificate =
            Certificate { handle, usage, certificate, private_key, server_names, default, ocsp_response };
        Ok(Parsed { certificate, facts, warnings })
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it is no certificate, which only a payload of another release could be.
    pub fn facts(&self) -> Result<Facts, PemError> {
        Facts::of(&self.certificate)
    }

    /// The document without its private key: what is kept in the clear and told to readers.
    #[must_use]
    pub fn concealed(mut document: Value) -> Value {
        if let Some(Value::Object(spec)) = document.get_mut("spec") {
            spec.remove("privateKey");
        }
        document
    }

    /// The document with the private key in its place again.
    #[must_use]
    pub fn revealed(&self, mut document: Value) -> Value {
        if let (Some(Value::Object(spec)), Some(key)) = (document.get_mut("spec"), &self.private_key) {
            spec.insert("privateKey".to_owned(), Value::String(key.clone()));
        }
        document
    }
}

/// What is not said follows from whether there is a key to show the certificate with.
fn usage(spec: &Fields<'_>, found: &mut Findings) -> Usage {
    let has_key = spec.has("privateKey");
    let usage = match spec.text("usage", found) {
        None if has_key => Usage::Server,
        None => Usage::UpstreamTrust,
        Some(text) => match Usage::ALL.into_iter().find(|(name, _)| *name == text) {
            Some((_, usage)) => usage,
            None => {
                let message = "Usage must be 'upstreamTrust', 'server', 'clientTrust' or 'named'";
                found.violations.push(spec.path("usage"), message);
                Usage::Named
            }
        },
    };
    match usage {
        Usage::Server if !has_key => {
            found.violations.push(spec.path("privateKey"), "A certificate with usage 'server' needs its key");
        }
        Usage::UpstreamTrust | Usage::ClientTrust if has_key => {
            let message = "A certificate that is only trusted needs no private key: leave it out";
            found.violations.push(spec.path("privateKey"), message);
        }
        Usage::Server | Usage::UpstreamTrust | Usage::ClientTrust | Usage::Named => {}
    }
    usage
}

fn certificate(spec: &Fields<'_>, found: &mut Findings) -> (String, Facts) {
    let text = spec.text("certificate", found).unwrap_or_default();
    let path = spec.path("certificate");
    if text.is_empty() {
        found.violations.push(path, "Certificate is required");
        return (text, Facts::default());
    }
    if text.len() > MAX_PEM_BYTES {
        found.violations.push(path, format!("Certificate must be at most {MAX_PEM_BYTES} bytes"));
        return (text, Facts::default());
    }
    // This text is kept in the clear and read back.
    if facts::is_private_key(&text) {
        let message = "There is a private key among the certificates: its place is 'privateKey'";
        found.violations.push(path, message);
        return (String::new(), Facts::default());
    }
    match Facts::of(&text) {
        Ok(facts) => (text, facts),
        Err(error) => {
            found.violations.push(path, error.to_string());
            (text, Facts::default())
        }
    }
}

fn private_key(spec: &Fields<'_>, found: &mut Findings) -> Option<String> {
    let key = spec.text("privateKey", found)?;
    if key.len() > MAX_KEY_BYTES || !facts::is_private_key(&key) {
        // The fault is not described any closer: its words could quote the key.
        let message =
            format!("Private key must be one unencrypted key in PEM, of at most {MAX_KEY_BYTES} bytes");
        found.violations.push(spec.path("privateKey"), message);
    }
    Some(key)
}

fn server_names(
    spec: &Fields<'_>,
    usage: Usage,
    facts: &Facts,
    default: bool,
    found: &mut Findings,
) -> Vec<String> {
    let mut names = Vec::new();
    for (path, value) in spec.list("serverNames", MAX_SERVER_NAMES, found) {
        let Some(name) = fields::text(value, &path, found) else { continue };
        let name = name.to_ascii_lowercase();
        if is_server_name(&name) {
            names.push(name);
        } else {
            let message = "A server name must be a host name such as 'example.com', or '*.example.com'";
            found.violations.push(path, message);
        }
    }
    if usage != Usage::Server {
        return Vec::new();
    }
    if !spec.has("serverNames") {
        names = facts.dns_names.iter().filter(|name| is_server_name(name)).cloned().collect();
        if names.is_empty() && !default && facts.count > 0 {
            let message = "The certificate names no server: say for which it is, or make it the default";
            found.violations.push(spec.path("serverNames"), message);
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn ocsp_response(spec: &Fields<'_>, found: &mut Findings) -> Option<String> {
    let text = spec.text("ocspResponse", found)?;
    // As runtimes read it, so that none refuses what was admitted.
    let is_base64 = STANDARD.decode(&text).is_ok_and(|der| !der.is_empty());
    if text.len() > MAX_OCSP_BYTES || !is_base64 {
        let message = format!("OCSP response must be DER in base64, of at most {MAX_OCSP_BYTES} bytes");
        found.violations.push(spec.path("ocspResponse"), message);
    }
    Some(text)
}

/// A host name as TLS clients send it, or a wildcard for its first label.
fn is_server_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    is_host_name(host) && host.parse::<IpAddr>().is_err()
}
