// SPDX-License-Identifier: Apache-2.0
//! Upstreams and definitions of an API as targets. Two decisions differ from the
//! contract's origin, and are listed in `docs/compatibility.md`: a `ref` uses every
//! weighted target of its definition, not only the first, so that a definition means the
//! same wherever it is named; and a target without a weight has the weight 100.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::ResourceName;
use ferrogate_model::kinds::rest_api::{
    self, BalancingPolicy, HostRewrite, Resilience, RestApi, TargetUrl, Upstream, UpstreamDefinition,
    UpstreamProtocol, UpstreamTarget,
};

use smallvec::smallvec;

use super::{Shared, Slot};
use crate::router::{Endpoint, Endpoints, Poison, PoisonReason, Target};
use crate::upstream::group::Group;
use crate::upstream::hash::Key;
use crate::upstream::names::{Followed, Named, Recruiter};
use crate::upstream::retry::Retry;
use crate::upstream::states::States;
use crate::upstream::steering::{self, Split, Steering};

/// The weight of a target whose author gave none.
const DEFAULT_WEIGHT: u8 = 100;

/// What the targets of one API are made with.
pub(super) struct Making<'a> {
    pub(super) artifact: &'a ResourceName,
    pub(super) connect: Duration,
    pub(super) upstreams: &'a Upstreams,
}

/// What the targets of all APIs share.
#[derive(Clone, Default)]
pub struct Upstreams {
    /// The runtime's own zone; empty when it has none.
    pub zone: String,
    /// What is known of endpoints, kept from one snapshot to the next.
    pub states: Arc<States>,
}

/// Every definition of an API, by name.
pub(super) fn definitions(api: &RestApi, making: &Making<'_>) -> BTreeMap<String, Arc<Target>> {
    api.upstream_definitions
        .iter()
        .map(|definition| (definition.name.clone(), Arc::new(defined(api, definition, making))))
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
    let unnamed = |endpoints: Endpoints, base_path: &str| {
        let base_path = base_path.to_owned();
        Arc::new(Target {
            name: name.to_owned(),
            endpoints,
            base_path,
            connect_timeout: connect,
            group: None,
        })
    };
    let defined = |name: &str| {
        let target = definitions.get(name).cloned();
        target.ok_or_else(|| format!("upstream definition '{name}' does not exist"))
    };
    let split = match upstream.map(|upstream| &upstream.target) {
        Some(UpstreamTarget::Split(split)) => Some(split),
        Some(UpstreamTarget::Url(_) | UpstreamTarget::Ref(_)) | None => None,
    };
    let mirror = upstream.and_then(|upstream| upstream.mirror.as_ref());
    let found = match upstream.map(|upstream| &upstream.target) {
        Some(UpstreamTarget::Url(url)) => {
            let protocol = upstream.map(|upstream| upstream.protocol).unwrap_or_default();
            let one = endpoint(url, protocol, DEFAULT_WEIGHT);
            Ok(unnamed(smallvec![one], &url.base_path))
        }
        Some(UpstreamTarget::Ref(reference)) => defined(reference),
        // Where to when nothing is divided is nowhere asked; but each part must be there.
        Some(UpstreamTarget::Split(split)) => match split.parts.as_slice() {
            [] => Err("the split has no parts".to_owned()),
            [first, ..] => defined(&first.definition),
        },
        None => Err(format!("the API has no {name} upstream")),
    };
    let named = split.into_iter().flat_map(|split| split.parts.iter().map(|part| &part.definition));
    let missing = named.chain(mirror.map(|mirror| &mirror.definition)).find_map(|name| defined(name).err());
    let (split, mirror) = (split.cloned(), mirror.cloned());
    match missing.map_or(found, Err) {
        Ok(target) => Slot { target, host_rewrite, split, mirror, fault: None },
        Err(detail) => {
            let fault = Some(Poison { reason: PoisonReason::DanglingUpstream, detail });
            Slot { target: unnamed(Endpoints::new(), ""), host_rewrite, split, mirror, fault }
        }
    }
}

/// What is done to a route's requests beyond sending them once; `None` when nothing is.
pub(super) fn steering(slot: &Slot, limits: &Resilience, shared: &Shared<'_>) -> Option<Steering> {
    let defined = |name: &str| shared.definitions.get(name).cloned();
    let split = slot.split.as_ref().map(|split| {
        let parts = split.parts.iter();
        let parts = parts.filter_map(|part| Some((defined(&part.definition)?, u32::from(part.weight))));
        Split::new(parts.collect(), split.sticky.as_ref().and_then(Key::new))
    });
    let mirror = slot.mirror.as_ref().and_then(|mirror| {
        Some(steering::Mirror { target: defined(&mirror.definition)?, percent: mirror.percent })
    });
    let budget = || shared.upstreams.states.budget(shared.name);
    let retry = limits.retry.clone().map(|policy| Retry::new(policy, budget()));
    let steering = Steering { split, mirror, fault: limits.fault, retry };
    (!steering.is_empty()).then_some(steering)
}

/// A limit as the artifact gives it: zero disables.
pub(super) fn unless_zero(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}

fn defined(api: &RestApi, definition: &UpstreamDefinition, making: &Making<'_>) -> Target {
    // Weight 0 takes a target out of service without taking it out of the artifact.
    let weighted = definition.targets.iter().map(|target| (target, target.weight.unwrap_or(DEFAULT_WEIGHT)));
    let in_service: Vec<_> = weighted.filter(|(_, weight)| *weight > 0).collect();
    let tls = definition.tls.clone().map(Arc::new);
    let endpoints: Endpoints = in_service
        .iter()
        .map(|(target, weight)| Endpoint {
            tls: tls.clone(),
            ..endpoint(&target.url, definition.protocol, *weight)
        })
        .collect();
    let zones: Vec<Option<&str>> = in_service.iter().map(|(target, _)| target.zone.as_deref()).collect();
    Target {
        group: group(api, definition, making, &endpoints, &zones),
        name: definition.name.clone(),
        endpoints,
        base_path: definition.base_path.clone(),
        connect_timeout: definition.connect_timeout.unwrap_or(making.connect),
    }
}

/// The group of a definition that needs one. A choice of one is none, but may be guarded, or be
/// one of several addresses.
fn group(
    api: &RestApi,
    definition: &UpstreamDefinition,
    making: &Making<'_>,
    endpoints: &[Endpoint],
    zones: &[Option<&str>],
) -> Option<Arc<Group>> {
    let own_zone = (!making.upstreams.zone.is_empty()).then_some(making.upstreams.zone.as_str());
    let is_local = |zone: &Option<&str>| zone.is_some() && *zone == own_zone;
    let policy = definition.load_balancing.as_ref().map(|balancing| &balancing.policy);
    let in_turn = policy.is_none_or(|policy| *policy == BalancingPolicy::RoundRobin);
    let chooses = endpoints.len() > 1 && (!in_turn || zones.iter().any(is_local));
    let guards = definition.outlier_detection.is_some()
        || definition.circuit_breaker.is_some()
        || definition.health_check.is_some()
        || definition.endpoints == rest_api::Endpoints::PerAddress;
    if endpoints.is_empty() || !(chooses || guards) {
        return None;
    }
    let states = &making.upstreams.states;
    let recruiter = Recruiter {
        artifact: making.artifact.clone(),
        definition: definition.name.clone(),
        check: definition.health_check.clone(),
        counts: definition.circuit_breaker.is_some_and(|breaker| breaker.max_connections.is_some()),
        states: Arc::downgrade(states),
    };
    let targets = endpoints.iter().zip(zones);
    if definition.endpoints == rest_api::Endpoints::PerTarget {
        let members = targets.map(|(endpoint, zone)| recruiter.member(states, endpoint, is_local(zone)));
        return Some(Arc::new(Group::new(members.collect(), definition, &api.context)));
    }
    let named = |(endpoint, zone): (&Endpoint, &Option<&str>)| {
        Named::new(endpoint.clone(), is_local(zone), &recruiter, states)
    };
    let targets: Vec<Named> = targets.map(named).collect();
    let members = targets.iter().flat_map(|target| target.members.clone()).collect();
    let group = Arc::new(Group::new(members, definition, &api.context));
    states.names.follow(Followed { group: Arc::downgrade(&group), recruiter, targets });
    Some(group)
}

fn endpoint(url: &TargetUrl, protocol: UpstreamProtocol, weight: u8) -> Endpoint {
    Endpoint {
        scheme: url.scheme,
        protocol,
        tls: None,
        host: url.host.as_str().into(),
        port: url.port,
        address: None,
        weight,
        owner: None,
    }
}
