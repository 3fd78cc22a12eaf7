// SPDX-License-Identifier: Apache-2.0
//! The catalogue: every built-in policy, one line each. Adding a policy is its directory
//! and its line here.

use std::sync::Arc;

use ferrogate_policy::{Definition, Registry, Services};

/// Every built-in policy.
#[must_use]
pub fn all() -> Vec<Arc<dyn Definition>> {
    vec![
        Arc::new(crate::basic_auth::BasicAuth),
        Arc::new(crate::basic_ratelimit::BasicRatelimit),
        Arc::new(crate::cors::Cors),
        Arc::new(crate::remove_headers::RemoveHeaders),
        Arc::new(crate::respond::Respond),
        Arc::new(crate::set_headers::SetHeaders),
    ]
}

/// What the built-in policies may touch of the world, as the operator configured it.
#[must_use]
pub fn services(registry: &Registry) -> Services {
    Services { counters: Arc::new(crate::basic_ratelimit::counters(registry)) }
}

/// The README of a policy, for the generated documentation.
#[must_use]
pub(crate) fn readme(name: &str) -> &'static str {
    match name {
        crate::basic_auth::NAME => include_str!("basic_auth/README.md"),
        crate::basic_ratelimit::NAME => include_str!("basic_ratelimit/README.md"),
        crate::cors::NAME => include_str!("cors/README.md"),
        crate::remove_headers::NAME => include_str!("remove_headers/README.md"),
        crate::respond::NAME => include_str!("respond/README.md"),
        crate::set_headers::NAME => include_str!("set_headers/README.md"),
        _ => "",
    }
}
