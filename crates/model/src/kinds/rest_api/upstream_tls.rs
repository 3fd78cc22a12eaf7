// SPDX-License-Identifier: Apache-2.0
//! `spec.upstreamDefinitions[].tls`, an addition to the contract: by what an upstream must
//! prove itself, under which names, and what it is shown of us. There is no word for not
//! checking: that is the operator's to say, for the whole gateway (contract 4.6).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::hosts::is_host_name;
use crate::Handle;
use crate::fields::{Fields, Findings, text};

/// The most names of which an upstream must have one.
pub const MAX_SUBJECT_ALT_NAMES: usize = 20;

/// How an `https` upstream is spoken to; at least one field says something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamTls {
    /// `caCertificate`: the Certificate that alone vouches for the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<Handle>,
    /// `clientCertificate`: the Certificate with a private key that the upstream is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<Handle>,
    /// `serverName`: the name that is asked for (SNI) and must be in its certificate, instead
    /// of the URL's host. Lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// `subjectAltNames`: of these one must be in its certificate, instead of that name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
}

pub(super) fn read(definition: &Fields<'_>, found: &mut Findings) -> Option<UpstreamTls> {
    if !definition.has("tls") {
        return None;
    }
    let fields = definition.fields("tls", found);
    fields.only(&["caCertificate", "clientCertificate", "serverName", "subjectAltNames"], found);
    let server_name = fields.text("serverName", found).map(|name| name.to_ascii_lowercase());
    if server_name.as_ref().is_some_and(|name| !is_name(name)) {
        found
            .violations
            .push(fields.path("serverName"), "Server name must be a host name such as 'example.com'");
    }
    let mut subject_alt_names = Vec::new();
    for (path, value) in fields.list("subjectAltNames", MAX_SUBJECT_ALT_NAMES, found) {
        let Some(name) = text(value, &path, found).map(|name| name.to_ascii_lowercase()) else { continue };
        if !is_name(&name) && name.parse::<IpAddr>().is_err() {
            found.violations.push(path, "A name must be a host name or an IP address");
        }
        subject_alt_names.push(name);
    }
    let tls = UpstreamTls {
        ca_certificate: handle(&fields, "caCertificate", found),
        client_certificate: handle(&fields, "clientCertificate", found),
        server_name,
        subject_alt_names,
    };
    (tls != UpstreamTls::default()).then_some(tls)
}

fn handle(fields: &Fields<'_>, name: &str, found: &mut Findings) -> Option<Handle> {
    let handle = Handle::try_new(&fields.text(name, found)?);
    handle.map_err(|error| found.violations.push(fields.path(name), error.to_string())).ok()
}

/// A host name; an address has no place where one is asked for by name.
fn is_name(name: &str) -> bool {
    is_host_name(name) && name.parse::<IpAddr>().is_err()
}
