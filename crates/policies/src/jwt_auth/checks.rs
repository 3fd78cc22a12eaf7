// SPDX-License-Identifier: Apache-2.0
//! What a route asks of a token whose signature is good: audience, scopes and claims. Read
//! out of the artifact's parameters once, when its chain is compiled.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::token::{Token, list, text};

/// All of the first and, when there are any, one of the second.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Groups<T> {
    #[serde(default = "Vec::new")]
    all_of: Vec<T>,
    #[serde(default = "Vec::new")]
    any_of: Vec<T>,
}

/// A claim with one of these values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimCheck {
    claim: String,
    values: Vec<String>,
}

/// The parameters that say what is asked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CheckParams {
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    required_scopes: Vec<String>,
    #[serde(default)]
    required_claims: BTreeMap<String, String>,
    scopes: Option<Groups<String>>,
    claims: Option<Groups<ClaimCheck>>,
}

/// What is asked.
pub(super) struct Checks {
    audiences: Vec<String>,
    scopes: Groups<String>,
    claims: Claims,
}

enum Claims {
    Exact(BTreeMap<String, String>),
    Groups(Groups<ClaimCheck>),
}

impl From<CheckParams> for Checks {
    fn from(params: CheckParams) -> Checks {
        let CheckParams { audiences, required_scopes, required_claims, scopes, claims } = params;
        Checks {
            audiences,
            scopes: scopes.unwrap_or(Groups { all_of: Vec::new(), any_of: required_scopes }),
            claims: claims.map_or(Claims::Exact(required_claims), Claims::Groups),
        }
    }
}

impl<T> Groups<T> {
    fn hold(&self, holds: impl Fn(&T) -> bool) -> bool {
        self.all_of.iter().all(&holds) && (self.any_of.is_empty() || self.any_of.iter().any(&holds))
    }
}

impl Checks {
    /// What the token lacks, if anything.
    pub fn missing(&self, token: &Token) -> Option<&'static str> {
        let auth = &token.auth;
        if !self.audiences.is_empty() && !self.audiences.iter().any(|one| auth.audience.contains(one)) {
            return Some("the token is for another audience");
        }
        if !self.scopes.hold(|scope| auth.scopes.contains(scope)) {
            return Some("the token lacks a scope");
        }
        let claims = match &self.claims {
            Claims::Exact(pairs) => pairs.iter().all(|(name, value)| equals(&token.claims, name, value)),
            Claims::Groups(groups) => groups.hold(|check| check.holds(&token.claims)),
        };
        (!claims).then_some("the token lacks a claim")
    }
}

impl ClaimCheck {
    fn holds(&self, claims: &Map<String, Value>) -> bool {
        list(claims.get(&self.claim)).iter().any(|value| self.values.contains(value))
    }
}

fn equals(claims: &Map<String, Value>, name: &str, value: &str) -> bool {
    match claims.get(name) {
        Some(Value::String(own)) => own == value,
        Some(other) => text(other) == value,
        None => false,
    }
}
