// SPDX-License-Identifier: Apache-2.0
//! The routes of an API: each operation on each of its hosts (contract 4.1).

use std::collections::HashSet;
use std::sync::Arc;

use super::{PathPattern, Route};
use crate::kinds::RestApi;
use crate::kinds::rest_api::{DeploymentState, Operation};

/// Every route of an API, host by host, operations in order. None while it is undeployed.
///
/// A host named both as a main and as the sandbox host counts as main: parsing refuses
/// such an API when it has a sandbox upstream, and a route must have one upstream.
#[must_use]
pub fn expand(api: &RestApi) -> Vec<Route> {
    if api.state == DeploymentState::Undeployed {
        return Vec::new();
    }
    let shapes: Vec<(Arc<str>, PathPattern)> = api
        .operations
        .iter()
        .map(|operation| {
            let pattern = PathPattern::new(&api.context, &operation.path, operation.exact);
            (full_path(&api.context, &operation.path).into(), pattern)
        })
        .collect();
    let mut routes = Vec::new();
    let mut seen = HashSet::new();
    for (host, sandbox) in hosts(api) {
        if !seen.insert(host.clone()) {
            continue;
        }
        for (index, (operation, (full_path, path))) in api.operations.iter().zip(&shapes).enumerate() {
            routes.push(Route {
                host: host.clone(),
                method: operation.method,
                full_path: Arc::clone(full_path),
                path: path.clone(),
                headers: sorted_headers(operation),
                operation: index,
                sandbox,
            });
        }
    }
    routes
}

/// Context and operation path in one; the root context contributes nothing.
#[must_use]
pub fn full_path(context: &str, operation_path: &str) -> String {
    if context == "/" { operation_path.to_owned() } else { format!("{context}{operation_path}") }
}

/// The hosts of an API, lower case, and whether each is for the sandbox upstream.
fn hosts(api: &RestApi) -> impl Iterator<Item = (String, bool)> {
    let main = api.main_hosts.iter().map(|host| (host.to_ascii_lowercase(), false));
    // The gateway's default may be a list; an artifact names one.
    let sandbox = api.sandbox_host.split(';').map(|host| (host.trim().to_ascii_lowercase(), true));
    main.chain(sandbox.filter(|(host, _)| api.sandbox.is_some() && !host.is_empty()))
}

fn sorted_headers(operation: &Operation) -> Vec<crate::kinds::rest_api::HeaderMatch> {
    let mut headers = operation.headers.clone();
    headers.sort();
    headers.dedup();
    headers
}
