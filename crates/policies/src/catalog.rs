// SPDX-License-Identifier: Apache-2.0
//! The catalogue: every built-in policy, one line each. Adding a policy is its directory
//! and its line here.

use std::sync::Arc;

use ferrogate_policy::{Definition, Fetch, Registry, Services, Shared};

/// A policy's definition, and what its README says for the generated documentation.
type BuiltIn = (fn() -> Arc<dyn Definition>, &'static str);

const BUILT_IN: [BuiltIn; 8] = [
    (|| Arc::new(crate::basic_auth::BasicAuth), include_str!("basic_auth/README.md")),
    (|| Arc::new(crate::basic_ratelimit::BasicRatelimit), include_str!("basic_ratelimit/README.md")),
    (
        || Arc::new(crate::client_certificate_auth::ClientCertificateAuth),
        include_str!("client_certificate_auth/README.md"),
    ),
    (|| Arc::new(crate::cors::Cors), include_str!("cors/README.md")),
    (|| Arc::new(crate::jwt_auth::JwtAuth), include_str!("jwt_auth/README.md")),
    (|| Arc::new(crate::remove_headers::RemoveHeaders), include_str!("remove_headers/README.md")),
    (|| Arc::new(crate::respond::Respond), include_str!("respond/README.md")),
    (|| Arc::new(crate::set_headers::SetHeaders), include_str!("set_headers/README.md")),
];

/// Every built-in policy.
#[must_use]
pub fn all() -> Vec<Arc<dyn Definition>> {
    BUILT_IN.iter().map(|(definition, _)| definition()).collect()
}

/// Every built-in policy with its README.
pub(crate) fn documented() -> impl Iterator<Item = (Arc<dyn Definition>, &'static str)> {
    BUILT_IN.iter().map(|(definition, readme)| (definition(), *readme))
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
