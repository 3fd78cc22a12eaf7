// SPDX-License-Identifier: Apache-2.0
//! Upstreams and definitions of an API as targets. Two decisions differ from the
//! contract's origin, and are listed in `docs/compatibility.md`: a `ref` uses every
//! weighted target of its definition, not only the first, so that a definition means the
//! same wherever it is named; and a target without a weight has the weight 100.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::kinds::rest_api::{
    HostRewrite, RestApi, TargetUrl, Upstream, UpstreamDefinition, UpstreamTarget,
};

use super::Slot;
use crate::router::{Endpoint, Poison, PoisonReason, Target};

/// The weight of a target whose author gave none.
const DEFAULT_WEIGHT: u8 = 100;

/// Every definition of an API, by name.
pub(super) fn definitions(api: &RestApi, connect: Duration) -> BTreeMap<String, Arc<Target>> {
    api.upstream_definitions
        .iter()
        .map(|definition| (definition.name.clone(), Arc::new(defined(definition, connect))))
        .collect()
}

/// One of an API's upstreams, with what is wrong with it.
pub(super) fn slot(
    upstream: Option<&Upstream>,
    name: &str,
    definitions: &BTreeMap<String, Arc<Target>>,
    connect: Duration,
) -> Slot {
    let host_rewrite = upstream.map_or(HostRewrite::default(), |upstream| upstream.host_rewrite);
    let direct = |endpoints: Vec<Endpoint>, base_path: &str| {
        let base_path = base_path.to_owned();
        Arc::new(Target { name: name.to_owned(), endpoints, base_path, connect_timeout: connect })
    };
    let found = match upstream.map(|upstream| &upstream.target) {
        Some(UpstreamTarget::Url(url)) => Ok(direct(vec![endpoint(url, DEFAULT_WEIGHT)], &url.base_path)),
        Some(UpstreamTarget::Ref(reference)) => definitions
            .get(reference)
            .cloned()
            .ok_or_else(|| format!("upstream definition '{reference}' does not exist")),
        None => Err(format!("the API has no {name} upstream")),
    };
    match found {
        Ok(target) => Slot { target, host_rewrite, fault: None },
        Err(detail) => {
            let fault = Some(Poison { reason: PoisonReason::DanglingUpstream, detail });
            Slot { target: direct(Vec::new(), ""), host_rewrite, fault }
        }
    }
}

/// A limit as the artifact gives it: zero disables.
pub(super) fn unless_zero(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}

fn defined(definition: &UpstreamDefinition, connect: Duration) -> Target {
    let weighted = definition.targets.iter().map(|target| (target, target.weight.unwrap_or(DEFAULT_WEIGHT)));
    Target {
        name: definition.name.clone(),
        // Weight 0 takes a target out of service without taking it out of the artifact.
        endpoints: weighted
            .filter(|(_, weight)| *weight > 0)
            .map(|(target, weight)| endpoint(&target.url, weight))
            .collect(),
        base_path: definition.base_path.clone(),
        connect_timeout: definition.connect_timeout.unwrap_or(connect),
    }
}

fn endpoint(url: &TargetUrl, weight: u8) -> Endpoint {
    Endpoint { scheme: url.scheme, host: url.host.clone(), port: url.port, weight }
}
