// SPDX-License-Identifier: Apache-2.0
//! A token whose signature was good: its claims in the shapes that later requests with the
//! same token need, made once. Whether it is good for a route, `checks` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ferrogate_policy::Auth;
use http::HeaderValue;
use serde_json::{Map, Value};

/// Claims with a meaning of their own (RFC 7519, 4.1; RFC 8693, 4.2): no properties.
const STANDARD: [&str; 9] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "scp"];

/// Where a manager's tokens keep their scopes.
#[derive(Clone, Debug)]
pub(super) struct ScopeClaim {
    pub name: Option<String>,
    pub separator: String,
}

/// A verified token.
pub(super) struct Token {
    /// Which manager's key verified it.
    pub manager: usize,
    pub claims: Map<String, Value>,
    pub issuer: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
    /// As `expires_ms`.
    pub begins_ms: Option<u64>,
    pub auth: Arc<Auth>,
    /// The header's value as it came, and the token alone.
    pub whole: HeaderValue,
    pub bare: HeaderValue,
}

impl Token {
    /// `None` when a time is no time, or the token cannot stand in a header.
    pub fn new(
        manager: usize,
        claims: Map<String, Value>,
        scope_claim: &ScopeClaim,
        value: &Bytes,
        bare: &str,
    ) -> Option<Token> {
        let string = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let time = |name: &str| match claims.get(name) {
            None => Some(None),
            Some(value) => seconds_to_ms(value).map(Some),
        };
        let properties: BTreeMap<String, String> = claims
            .iter()
            .filter(|(name, _)| !STANDARD.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), text(value)))
            .collect();
        let auth = Auth {
            authenticated: true,
            kind: "jwt",
            subject: string("sub"),
            issuer: string("iss"),
            audience: list(claims.get("aud")),
            scopes: scopes(&claims, scope_claim),
            token_id: string("jti"),
            properties,
        };
        Some(Token {
            manager,
            issuer: claims.get("iss").and_then(Value::as_str).map(str::to_owned),
            expires_ms: time("exp")?,
            begins_ms: time("nbf")?,
            auth: Arc::new(auth),
            whole: HeaderValue::from_maybe_shared(value.clone()).ok()?,
            bare: HeaderValue::from_maybe_shared(value.slice_ref(bare.as_bytes())).ok()?,
            claims,
        })
    }
}

/// A claim as text: strings as they are, everything else as JSON.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// One string is a list of one.
pub(super) fn list(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(items)) => items.iter().map(text).collect(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![text(one)],
    }
}

fn scopes(claims: &Map<String, Value>, claim: &ScopeClaim) -> Vec<String> {
    let split = |value: &Value| match value.as_str() {
        Some(joined) => {
            let parts = joined.split(claim.separator.as_str()).map(str::trim);
            parts.filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
        }
        None => list(Some(value)),
    };
    let names: &[&str] = match &claim.name {
        Some(name) => &[name.as_str()],
        None => &["scope", "scp"],
    };
    names.iter().filter_map(|name| claims.get(*name)).flat_map(split).collect()
}

fn seconds_to_ms(value: &Value) -> Option<u64> {
    /// Later than any date that is meant; keeps the arithmetic in range.
    const MAX_SECONDS: f64 = 1e12;
    let seconds = value.as_f64().filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds))?;
    // In range by the line above.
    Some((seconds * 1000.0) as u64)
}
