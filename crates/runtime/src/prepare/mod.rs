// SPDX-License-Identifier: Apache-2.0
//! From a resource to what serves: decode, expand routes, resolve targets, compile
//! chains. All of it happens here, before the swap and off the hot path, and is pure:
//! equal resources prepare equally on every runtime. What cannot be decoded is a reject
//! and changes nothing (invariant 6); what decodes but points nowhere or does not compile
//! becomes routes that answer a fixed 500 (invariant 7). [`crate::sync`] calls it.

mod targets;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use ferrogate_model::Violations;
use ferrogate_model::kinds::Artifact;
use ferrogate_model::kinds::rest_api::{HostRewrite, Mirror, Operation, PolicySpec, RestApi, TrafficSplit};
use ferrogate_model::route::{MAX_SEGMENTS, Route, expand};
use ferrogate_model::{Digest, Resource, ResourceName, Revision};
use ferrogate_policy::{Attachment, BodyNeed, Chain, Registry, Services, operation_prefix};

use crate::router::{CompiledRoute, Entry, Poison, PoisonReason, Rewrite, Target, Timeouts, Upgrades};
use crate::state::{HeldArtifact, Refused};
use crate::tls::certificates::Prepared;

pub use targets::Upstreams;

/// What an artifact is prepared with; the same for all artifacts of a process.
pub struct Compiler {
    registry: Arc<Registry>,
    services: Services,
    defaults: Timeouts,
    upstreams: Upstreams,
}

/// What came of one artifact.
struct Compiled {
    routes: Vec<Arc<Entry<CompiledRoute>>>,
    certificate: Option<Arc<Prepared>>,
}

/// What is the same for all routes of one artifact.
struct Shared<'a> {
    api: &'a RestApi,
    name: &'a ResourceName,
    version: Revision,
    definitions: Arc<BTreeMap<String, Arc<Target>>>,
    /// Whether all of them are plain.
    plain_definitions: bool,
    main: Slot,
    sandbox: Slot,
    attachment: Attachment,
    /// The API's own policies: all there is for an operation that has none.
    chain: Result<Arc<Chain>, Poison>,
    upstreams: &'a Upstreams,
}

/// One of an API's two upstreams.
struct Slot {
    target: Arc<Target>,
    host_rewrite: HostRewrite,
    split: Option<TrafficSplit>,
    mirror: Option<Mirror>,
    fault: Option<Poison>,
}

impl Compiler {
    /// A compiler for these policies and these time limits, which routes inherit.
    #[must_use]
    pub fn new(registry: Arc<Registry>, services: Services, defaults: Timeouts) -> Compiler {
        Compiler { registry, services, defaults, upstreams: Upstreams::default() }
    }

    /// The same, for a runtime of this zone that keeps what it knows of endpoints here.
    #[must_use]
    pub fn with_upstreams(mut self, upstreams: Upstreams) -> Compiler {
        self.upstreams = upstreams;
        self
    }

    /// Prepares one resource.
    ///
    /// # Errors
    /// When the payload is not an artifact this version understands, or one of its routes
    /// cannot stand in the table.
    pub fn prepare(&self, resource: &Resource) -> Result<HeldArtifact, Refused> {
        let refuse = |reason: String| Refused {
            version: resource.version,
            contribution: Digest::of_resource(resource),
            reason,
        };
        // Decoding and compiling run code of many authors over foreign data. A panic in it is a
        // bug; it must cost the one artifact and not the runtime's configuration stream.
        let prepared = catch_unwind(AssertUnwindSafe(|| self.compile(resource)));
        let Compiled { routes, certificate } = match prepared {
            Ok(compiled) => compiled.map_err(refuse)?,
            Err(_) => return Err(refuse("the runtime failed while it prepared the artifact".to_owned())),
        };
        Ok(HeldArtifact {
            version: resource.version,
            contribution: Digest::of_resource(resource),
            // A copy of its own: what arrives from the network is a slice of a whole message, and
            // the smallest artifact would keep all of that alive.
            payload: Bytes::copy_from_slice(&resource.payload),
            poisoned: routes.iter().filter(|entry| entry.route.poison().is_some()).count(),
            certificate,
            routes,
        })
    }

    fn compile(&self, resource: &Resource) -> Result<Compiled, String> {
        let artifact =
            Artifact::from_payload(resource.name.kind, &resource.payload).map_err(|e| e.to_string())?;
        if artifact.name() != resource.name {
            return Err(format!("the payload is of {}", artifact.name()));
        }
        match artifact {
            Artifact::RestApi(api) => {
                Ok(Compiled { routes: self.rest_api(&api, resource)?, certificate: None })
            }
            Artifact::Certificate(certificate) => {
                let certificate = Some(Arc::new(Prepared::new(&certificate)?));
                Ok(Compiled { routes: Vec::new(), certificate })
            }
            Artifact::Secret(_) => Err("secrets stay with the controllers".to_owned()),
        }
    }

    fn rest_api(&self, api: &RestApi, resource: &Resource) -> Result<Vec<Arc<Entry<CompiledRoute>>>, String> {
        let connect = self.defaults.connect;
        let making = targets::Making { artifact: &resource.name, connect, upstreams: &self.upstreams };
        let definitions = Arc::new(targets::definitions(api, &making));
        let attachment = Attachment::of_api(api);
        let shared = Shared {
            main: targets::slot(Some(&api.main), "main", &definitions, connect),
            sandbox: targets::slot(api.sandbox.as_ref(), "sandbox", &definitions, connect),
            api,
            plain_definitions: definitions.values().all(|target| target.is_plain()),
            name: &resource.name,
            version: resource.version,
            definitions,
            chain: self.api_chain(api, &attachment),
            attachment,
            upstreams: &self.upstreams,
        };
        let mut hosts = BTreeSet::<Arc<str>>::new();
        let mut entries = Vec::new();
        for route in expand(api) {
            if route.path.segments.len() > MAX_SEGMENTS {
                return Err(format!("{}: a path has at most {MAX_SEGMENTS} segments", route.name()));
            }
            let host = hosts.get(route.host.as_str()).cloned().unwrap_or_else(|| {
                let host: Arc<str> = route.host.as_str().into();
                hosts.insert(Arc::clone(&host));
                host
            });
            let compiled = Arc::new(self.route(&shared, &route, Arc::clone(&host))?);
            let entry = Entry::try_new(&route, host, resource.name.clone(), compiled)
                .map_err(|error| format!("{}: {error}", route.name()))?;
            entries.push(Arc::new(entry));
        }
        Ok(entries)
    }

    fn route(&self, shared: &Shared<'_>, route: &Route, vhost: Arc<str>) -> Result<CompiledRoute, String> {
        let api = shared.api;
        let Some(operation) = api.operations.get(route.operation) else {
            return Err(format!("{}: the operation does not exist", route.name()));
        };
        let name: Arc<str> = route.name().into();
        let attachment = shared.attachment.at(operation, Arc::clone(&name));
        let slot = if route.sandbox { &shared.sandbox } else { &shared.main };
        let chain = match &slot.fault {
            Some(poison) => Err(poison.clone()),
            None => self.chain(shared, route.operation, operation, &attachment),
        };
        let limits = operation.resilience.or(&api.resilience);
        let steering = targets::steering(slot, &limits, shared);
        let is_plain =
            passes_bodies(&chain) && steering.is_none() && slot.target.is_plain() && shared.plain_definitions;
        Ok(CompiledRoute {
            vhost,
            sandbox: route.sandbox,
            attachment,
            artifact: shared.name.clone(),
            version: shared.version,
            chain,
            rewrite: Rewrite::new(&api.context, &operation.path),
            definitions: Arc::clone(&shared.definitions),
            host_rewrite: slot.host_rewrite,
            steering: steering.map(Box::new),
            timeouts: Timeouts {
                request: limits.timeout.map_or(self.defaults.request, targets::unless_zero),
                idle: limits.idle_timeout.map_or(self.defaults.idle, targets::unless_zero),
                connect: slot.target.connect_timeout,
            },
            target: Arc::clone(&slot.target),
            upgrades: Upgrades::of(operation),
            is_plain,
            name,
        })
    }

    fn api_chain(&self, api: &RestApi, attachment: &Attachment) -> Result<Arc<Chain>, Poison> {
        self.compiled(&api.policies, || {
            Chain::of_api(&api.policies, attachment, &self.registry, &self.services)
        })
    }

    fn chain(
        &self,
        shared: &Shared<'_>,
        index: usize,
        operation: &Operation,
        attachment: &Attachment,
    ) -> Result<Arc<Chain>, Poison> {
        let outer = shared.chain.as_ref().map_err(Poison::clone)?;
        if operation.policies.is_empty() {
            return Ok(Arc::clone(outer));
        }
        let (own, prefix) = (&operation.policies, operation_prefix(index));
        self.compiled(own, || outer.followed_by(own, attachment, &self.registry, &self.services, &prefix))
    }

    fn compiled(
        &self,
        specs: &[PolicySpec],
        compile: impl FnOnce() -> Result<Chain, Violations>,
    ) -> Result<Arc<Chain>, Poison> {
        for spec in specs {
            if let Err(error) = self.registry.resolve(&spec.name, spec.version.as_deref()) {
                return Err(Poison { reason: PoisonReason::UnknownPolicy, detail: error.to_string() });
            }
        }
        // Caught here and not only around the whole artifact, so that a policy that panics
        // costs its own routes.
        let broken = |detail: String| Poison { reason: PoisonReason::BrokenChain, detail };
        match catch_unwind(AssertUnwindSafe(compile)) {
            Ok(Ok(chain)) => Ok(Arc::new(chain)),
            Ok(Err(violations)) => Err(broken(violations.to_string())),
            Err(_) => Err(broken("a policy panicked while it was compiled".to_owned())),
        }
    }
}

/// Whether these policies leave bodies alone; so do those that cannot run.
fn passes_bodies(chain: &Result<Arc<Chain>, Poison>) -> bool {
    chain.as_ref().ok().is_none_or(|chain| {
        chain.request_body_need() == BodyNeed::None && chain.response_body_need() == BodyNeed::None
    })
}
