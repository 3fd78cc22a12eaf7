// SPDX-License-Identifier: Apache-2.0
//! JWT authentication against an identity provider's key set (contract 1.3): asymmetric
//! signatures only, issuer, lifetime with leeway, audience, roles with their mapping.
//! The key set is fetched by a task of its own; a token signed with an unknown key asks
//! for one early refresh, at most every half minute, because keys rotate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Denied, Principal};

/// How often the key set is fetched.
const REFRESH_EVERY: Duration = Duration::from_secs(600);
/// The least time between two fetches, whoever asks; also the retry interval.
const REFRESH_AT_MOST_EVERY: Duration = Duration::from_secs(30);
/// The deadline of one fetch.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
/// The largest key set read, in bytes.
const MAX_KEY_SET: usize = 1024 * 1024;
/// How far clocks may differ, in seconds.
const LEEWAY_SECONDS: u64 = 60;
/// The role that takes every value the mapping does not name.
const WILDCARD: &str = "*";

/// What a token must satisfy.
#[derive(Clone, Debug, Default)]
pub struct JwtSettings {
    /// Where the keys are.
    pub jwks_url: String,
    /// Must equal `iss`.
    pub issuer: String,
    /// One of them must be in `aud`; empty checks none.
    pub audience: Vec<String>,
    /// The claim with the roles.
    pub roles_claim: String,
    /// Local role to the provider's values.
    pub role_mapping: BTreeMap<String, Vec<String>>,
}

/// The JWT authenticator.
pub struct JwtVerifier {
    settings: JwtSettings,
    keys: ArcSwapOption<JwkSet>,
    refresh: Notify,
    http: reqwest::Client,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the key set cannot be fetched: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the key set is larger than {MAX_KEY_SET} bytes")]
    TooLarge,
    #[error("the key set is not readable: {0}")]
    Json(#[from] serde_json::Error),
}

impl JwtVerifier {
    /// A verifier without keys; [`JwtVerifier::refresh`] fetches them.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(settings: JwtSettings) -> Result<JwtVerifier, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(FETCH_DEADLINE).build()?;
        Ok(JwtVerifier { settings, keys: ArcSwapOption::empty(), refresh: Notify::new(), http })
    }

    /// Keeps the key set fresh until told to stop.
    pub async fn refresh(self: Arc<Self>, token: CancellationToken) {
        loop {
            let pause = match self.fetch().await {
                Ok(keys) => {
                    tracing::debug!(keys = keys.keys.len(), "key set fetched");
                    self.keys.store(Some(Arc::new(keys)));
                    REFRESH_EVERY
                }
                Err(error) => {
                    // The keys held go on working; an outage of the provider locks nobody out.
                    tracing::warn!(%error, url = %self.settings.jwks_url, "key set not refreshed");
                    REFRESH_AT_MOST_EVERY
                }
            };
            let early = async {
                tokio::time::sleep(REFRESH_AT_MOST_EVERY).await;
                self.refresh.notified().await;
            };
            tokio::select! {
                // All arms only wait; dropping them changes nothing.
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = early => {}
            }
        }
    }

    /// Checks a token.
    ///
    /// # Errors
    /// When any part of it does not hold.
    pub async fn check(&self, token: &str) -> Result<Arc<Principal>, Denied> {
        let header = decode_header(token).map_err(|_| Denied::Failed)?;
        // No fault of the token's: the provider has not been heard of since the start.
        let keys = self.keys.load_full().ok_or(Denied::NotYet)?;
        let candidates: Vec<&Jwk> = match &header.kid {
            Some(kid) => keys.find(kid).into_iter().collect(),
            None => keys.keys.iter().collect(),
        };
        if candidates.is_empty() {
            self.refresh.notify_one();
        }
        let validation = self.validation(header.alg).ok_or(Denied::Failed)?;
        for jwk in candidates {
            let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
            if let Ok(data) = decode::<Map<String, Value>>(token, &key, &validation) {
                return Ok(Arc::new(self.principal(&data.claims)));
            }
        }
        Err(Denied::Failed)
    }

    /// `None` for algorithms whose key would be a shared secret: a public key is not one.
    fn validation(&self, algorithm: Algorithm) -> Option<Validation> {
        if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return None;
        }
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.settings.issuer]);
        let mut required = vec!["exp", "iss"];
        if self.settings.audience.is_empty() {
            validation.validate_aud = false;
        } else {
            validation.set_audience(&self.settings.audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Some(validation)
    }

    fn principal(&self, claims: &Map<String, Value>) -> Principal {
        let name = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let values: Vec<&str> = match claims.get(&self.settings.roles_claim) {
            Some(Value::String(text)) => text.split_whitespace().collect(),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        Principal { name, roles: Some(map_roles(&values, &self.settings.role_mapping)) }
    }

    async fn fetch(&self) -> Result<JwkSet, FetchError> {
        let mut response = self.http.get(&self.settings.jwks_url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_KEY_SET {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Each value becomes every local role that lists it; one that none lists goes to the role
/// mapped from `*`, or stays as it is when there is none.
fn map_roles(values: &[&str], mapping: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let wildcard = mapping.iter().find(|(_, from)| from.iter().any(|value| value == WILDCARD));
    let mut roles = Vec::new();
    for value in values {
        let mut mapped: Vec<String> = mapping
            .iter()
            .filter(|(_, from)| from.iter().any(|one| one == value))
            .map(|(local, _)| local.clone())
            .collect();
        if mapped.is_empty() {
            mapped.push(wildcard.map_or_else(|| (*value).to_owned(), |(local, _)| local.clone()));
        }
        roles.append(&mut mapped);
    }
    roles.sort();
    roles.dedup();
    roles
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Denied, JwtSettings, JwtVerifier, map_roles};

    #[tokio::test]
    async fn nothing_is_said_of_a_token_before_there_are_keys() {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let verifier = JwtVerifier::new(JwtSettings::default()).expect("a client");
        // {"alg":"ES256"}, no claims, no signature.
        assert_eq!(verifier.check("eyJhbGciOiJFUzI1NiJ9.e30.AA").await, Err(Denied::NotYet));
        assert_eq!(verifier.check("no token").await, Err(Denied::Failed));
    }

    #[test]
    fn roles_are_mapped_and_the_rest_kept_or_caught() {
        let mapping = |pairs: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
            pairs
                .iter()
                .map(|(local, from)| ((*local).to_owned(), from.iter().map(|v| (*v).to_owned()).collect()))
                .collect()
        };
        let named = mapping(&[("admin", &["ops", "root"]), ("developer", &["dev", "ops"])]);
        let caught = mapping(&[("admin", &["root"]), ("consumer", &["*"])]);
        for (values, mapping, roles) in [
            (&["ops"][..], &named, &["admin", "developer"][..]),
            (&["dev", "guest"], &named, &["developer", "guest"]),
            (&["root", "guest"], &caught, &["admin", "consumer"]),
            (&["admin"], &BTreeMap::new(), &["admin"]),
            (&[], &caught, &[]),
        ] {
            assert_eq!(map_roles(values, mapping), roles, "{values:?}");
        }
    }
}
