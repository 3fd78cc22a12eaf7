// SPDX-License-Identifier: Apache-2.0
//! `operations[].upgrades`: the protocols that a client of this operation may switch its
//! connection to (RFC 9110, 7.8). It is an addition to the contract. What is read here the
//! runtime compares with a client's `Upgrade`; it never decides by itself.

use crate::fields::{Fields, Findings, text};

/// The most entries of `operations[].upgrades`.
pub const MAX_UPGRADES: usize = 8;

const MAX_PROTOCOL_BYTES: usize = 64;

/// `None` when the author says nothing; an empty list allows no switch.
pub(super) fn read(operation: &Fields<'_>, found: &mut Findings) -> Option<Vec<String>> {
    if !operation.has("upgrades") {
        return None;
    }
    let mut protocols = Vec::new();
    for (path, value) in operation.list("upgrades", MAX_UPGRADES, found) {
        let Some(protocol) = text(value, &path, found) else { continue };
        let protocol = protocol.to_ascii_lowercase();
        if !is_protocol(&protocol) {
            found.violations.push(path, "An upgrade must be a protocol's name, such as 'websocket'");
        } else if is_http(&protocol) {
            // Requests inside such a tunnel would pass by every route and every policy.
            let message =
                format!("Switching to '{protocol}' would carry requests past the gateway's policies");
            found.violations.push(path, message);
        } else if !protocols.contains(&protocol) {
            protocols.push(protocol);
        }
    }
    Some(protocols)
}

/// `protocol-name ["/" protocol-version]`, both tokens (RFC 9110, 7.8).
fn is_protocol(text: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let parts: Vec<&str> = text.split('/').collect();
    text.len() <= MAX_PROTOCOL_BYTES && parts.len() <= 2 && parts.into_iter().all(is_token)
}

fn is_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    matches!(name, "http" | "h2c" | "h2" | "h3" | "tls")
}
