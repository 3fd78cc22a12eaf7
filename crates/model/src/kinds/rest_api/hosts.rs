// SPDX-License-Identifier: Apache-2.0
//! `spec.vhosts` (contract 4.3): which hosts an API answers on, and the defaults of
//! the gateway where the document names none or names the sentinel.

use std::net::Ipv6Addr;

use serde_json::{Value, json};

use super::RestApi;
use super::url::port_number;
use crate::document::Defaults;
use crate::fields::{Fields, Findings};

/// The most hosts in one list.
const MAX_HOSTS: usize = 100;
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Stands for the gateway's default in a document.
const SENTINEL: &str = "_gateway_default_";

pub(super) struct Hosts {
    pub(super) main: Vec<String>,
    pub(super) sandbox: String,
    with_sandbox: bool,
}

impl Hosts {
    /// How many hosts each operation is served on.
    pub(super) fn count(&self) -> usize {
        let sandbox = if self.with_sandbox { self.sandbox.split(';').count() } else { 0 };
        self.main.len() + sandbox
    }
}

impl RestApi {
    /// Fills the gateway's hosts into a source document, as it is stored and answered
    /// (contract 2.2): where it has no `vhosts`, and in place of the sentinel, so that a later
    /// change of the defaults does not move an API that is deployed. Parsing the filled
    /// document gives the same API.
    pub fn fill_hosts(source: &mut Value, defaults: &Defaults) {
        let Some(spec) = source.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let vhosts = spec.entry("vhosts").or_insert(Value::Null);
        if vhosts.is_null() {
            *vhosts = json!({"main": SENTINEL, "sandbox": SENTINEL});
        }
        for (name, default) in [("main", &defaults.main_host), ("sandbox", &defaults.sandbox_host)] {
            if let Some(Value::String(text)) = vhosts.get_mut(name) {
                *text = text.replace(SENTINEL, default);
            }
        }
    }
}

pub(super) fn read(
    spec: &Fields<'_>,
    defaults: &Defaults,
    with_sandbox: bool,
    found: &mut Findings,
) -> Hosts {
    let fields = spec.fields("vhosts", found);
    fields.only(&["main", "sandbox"], found);
    let main = list(&fields, "main", (&defaults.main_host, &defaults.main_domains), found);
    let sandbox = list(&fields, "sandbox", (&defaults.sandbox_host, &defaults.sandbox_domains), found);
    if with_sandbox {
        for host in sandbox.iter().filter(|host| main.contains(host)) {
            let message = format!("Sandbox host '{host}' must differ from the main hosts");
            found.violations.push(fields.path("sandbox"), message);
        }
    }
    Hosts { main, sandbox: sandbox.join(";"), with_sandbox }
}

/// The hosts of one `;`-separated list: lower case, without repetition, defaults in their
/// places, and the default host's patterns in the place of each of its names.
fn list(
    fields: &Fields<'_>,
    name: &str,
    (default, domains): (&str, &[String]),
    found: &mut Findings,
) -> Vec<String> {
    let written = fields.text(name, found).filter(|text| !text.trim().is_empty());
    let text = written.unwrap_or_else(|| default.to_owned()).replace(SENTINEL, default);
    let mut names: Vec<&str> = text.split(';').map(str::trim).collect();
    if !domains.is_empty() && default.split(';').all(|one| names.contains(&one.trim())) {
        names.retain(|name| !default.split(';').any(|one| one.trim() == *name));
        names.extend(domains.iter().map(|domain| domain.trim()));
    }
    let mut hosts: Vec<String> = Vec::new();
    for host in names.into_iter().map(canonical) {
        if !host.is_empty() && !hosts.contains(&host) {
            if !is_host_pattern(&host) {
                let message = format!(
                    "'{host}' is not a host: use a host name or IP address with an optional port, \
                     '*.example.com', 'name*' or '*'"
                );
                found.violations.push(fields.path(name), message);
            }
            if let Some((bare, "80" | "443")) = host.rsplit_once(':') {
                let message = format!(
                    "clients leave out the port of '{host}', and reach '{bare}' instead, which has every port"
                );
                found.warn(fields.path(name), message);
            }
            hosts.push(host);
        }
        if hosts.len() > MAX_HOSTS {
            found.violations.push(fields.path(name), format!("At most {MAX_HOSTS} hosts are allowed"));
            break;
        }
    }
    if hosts.is_empty() {
        found.violations.push(fields.path(name), "At least one host is required");
    }
    hosts
}

/// The one spelling of a host: lower case, and of an IPv6 address, which has many, that of RFC 5952.
fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let literal = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match literal.map(|(address, port)| (address.parse::<Ipv6Addr>(), port)) {
        Some((Ok(address), port)) => format!("[{address}]{port}"),
        Some((Err(_), _)) | None => host,
    }
}

/// Whether this names hosts as `spec.vhosts` does: a host with or without port, `*.example.com`,
/// `name*` or `*`.
#[must_use]
pub fn is_host_pattern(host: &str) -> bool {
    if host == "*" {
        return true;
    }
    if let Some(suffix) = host.strip_prefix("*.") {
        return is_host_name(suffix);
    }
    if let Some(prefix) = host.strip_suffix('*') {
        return prefix.len() < MAX_HOST_BYTES && prefix.bytes().all(|b| b == b'.' || is_label_byte(b));
    }
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').and_then(port_number).is_some());
    }
    match host.split_once(':') {
        Some((host, port)) => is_host_name(host) && port_number(port).is_some(),
        None => is_host_name(host),
    }
}

/// Whether this is a host name, or looks like one as an IPv4 address does.
pub(crate) fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(is_label_byte)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= MAX_HOST_BYTES && host.split('.').all(is_label)
}

/// Underscores are no part of a host name, and many internal names have them all the same.
fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}
