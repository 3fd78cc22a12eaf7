// SPDX-License-Identifier: Apache-2.0
//! The catalogue: every built-in policy, one line each. Adding a policy is its directory
//! and its line here.

use std::sync::Arc;

use ferrogate_policy::{Definition, Fetch, Registry, Services, Shared};

/// Every built-in policy.
#[must_use]
pub fn all() -> Vec<Arc<dyn Definition>> {
    vec![
        Arc::new(crate::basic_auth::BasicAuth),
        Arc::new(crate::basic_ratelimit::BasicRatelimit),
        Arc::new(crate::client_certificate_auth::ClientCertificateAuth),
        Arc::new(crate::cors::Cors),
        Arc::new(crate::jwt_auth::JwtAuth),
        Arc::new(crate::remove_headers::RemoveHeaders),
        Arc::new(crate::respond::Respond),
        Arc::new(crate::set_headers::SetHeaders),
    ]
}

/// What the built-in policies may touch of the world, as the operator configured it. `fetch`
/// gets what they need from elsewhere.
#[must_use]
pub fn services(registry: &Registry, fetch: Arc<dyn Fetch>) -> Services {
    let authority = crate::jwt_auth::authority(registry, fetch);
    Services {
        counters: Arc::new(crate::basic_ratelimit::counters(registry)),
        shared: authority.into_iter().fold(Shared::default(), Shared::with),
        instances: Arc::default(),
    }
}

/// The README of a policy, for the generated documentation.
#[must_use]
pub(crate) fn readme(name: &str) -> &'static str {
    match name {
        crate::basic_auth::NAME => include_str!("basic_auth/README.md"),
        crate::basic_ratelimit::NAME => include_str!("basic_ratelimit/README.md"),
        crate::client_certificate_auth::NAME => include_str!("client_certificate_auth/README.md"),
        crate::cors::NAME => include_str!("cors/README.md"),
        crate::jwt_auth::NAME => include_str!("jwt_auth/README.md"),
        crate::remove_headers::NAME => include_str!("remove_headers/README.md"),
        crate::respond::NAME => include_str!("respond/README.md"),
        crate::set_headers::NAME => include_str!("set_headers/README.md"),
        _ => "",
    }
}
