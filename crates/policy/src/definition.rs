// SPDX-License-Identifier: Apache-2.0
//! What a policy registers: its name, its parameters' schema, and how an instance is
//! compiled from parameters. Compiling is pure: it reads nothing but its arguments,
//! so that the controller's trial compile and the runtime's are the same.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use ferrogate_model::kinds::rest_api::{Operation, RestApi};
use serde_json::Value;

use crate::chain::Instances;
use crate::operator::OperatorSection;

/// A kind of policy, as registered in the catalogue.
pub trait Definition: Send + Sync + 'static {
    /// The name artifacts use.
    fn name(&self) -> &'static str;

    /// The full version, `vX.Y.Z`; artifacts name the major only.
    fn version(&self) -> &'static str;

    /// One sentence for the catalogue.
    fn description(&self) -> &'static str;

    /// The JSON schema of the parameters.
    fn schema(&self) -> &'static str;

    /// The section of the operator's configuration that it reads, if any.
    fn operator_section(&self) -> Option<OperatorSection> {
        None
    }

    /// Whether an instance depends on its parameters and the services alone, so that artifacts with
    /// equal ones can have one between them. What remembers something of its own, or of where it
    /// stands, must say no.
    fn is_made_of_parameters(&self) -> bool {
        false
    }

    /// Compiles an instance. Parameters have passed the schema; those of the operator's section
    /// lie under them.
    ///
    /// # Errors
    /// When a combination that the schema allows makes no sense.
    fn compile(
        &self,
        params: &Value,
        attachment: &Attachment,
        services: &Services,
    ) -> Result<crate::Policy, CompileError>;
}

/// Parameters that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// The field below `params`, dotted; empty for the whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Where a policy instance is attached. An API's own policies are compiled once for all of its
/// operations, so nothing is said of an operation then. Texts are shared: every route has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The artifact's handle.
    pub api_handle: Arc<str>,
    /// `spec.displayName`.
    pub api_name: Arc<str>,
    /// `spec.version`.
    pub api_version: Arc<str>,
    /// The resolved context.
    pub api_context: Arc<str>,
    /// The operation's path as written, below the context.
    pub operation_path: Arc<str>,
    /// The operation's method.
    pub operation_method: &'static str,
    /// `METHOD|FULLPATH|VHOST` (contract 4.1).
    pub route_name: Arc<str>,
    /// Whether this policy stands at the API or at the operation.
    pub level: Level,
}

impl Attachment {
    /// The attachment of an API's own policies.
    #[must_use]
    pub fn of_api(api: &RestApi) -> Attachment {
        Attachment {
            api_handle: api.handle.as_str().into(),
            api_name: api.display_name.as_str().into(),
            api_version: api.version.as_str().into(),
            api_context: api.context.as_str().into(),
            ..Attachment::default()
        }
    }

    /// What of this is true of the whole API.
    #[must_use]
    pub fn of_its_api(&self) -> Attachment {
        Attachment {
            operation_path: Arc::default(),
            operation_method: "",
            route_name: Arc::default(),
            level: Level::Api,
            ..self.clone()
        }
    }

    /// The attachment of a route of one of the API's operations; what it says of the API is shared.
    #[must_use]
    pub fn at(&self, operation: &Operation, route_name: Arc<str>) -> Attachment {
        Attachment {
            operation_path: operation.path.as_str().into(),
            operation_method: operation.method.as_str(),
            route_name,
            ..self.clone()
        }
    }
}

/// The level a policy is declared at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// `spec.policies`.
    #[default]
    Api,
    /// `spec.operations[].policies`.
    Operation,
}

/// What compiled policies may touch of the world.
#[derive(Clone)]
pub struct Services {
    /// Counters that outlive a redeployment; shared by all workers of the process.
    pub counters: Arc<dyn Counters>,
    /// What instances of one policy have in common.
    pub shared: Shared,
    /// Instances in use, so that equal ones are one; only compiling asks it.
    pub instances: Arc<Instances>,
}

impl Services {
    /// Counters in this process's memory, and nothing shared.
    #[must_use]
    pub fn in_memory() -> Services {
        Services {
            counters: Arc::new(crate::counters::MemoryCounters::default()),
            shared: Shared::default(),
            instances: Arc::default(),
        }
    }
}

/// What the instances of a policy have in common and a redeployment leaves alone, such as keys
/// and caches: one value of a policy's own type each, made at start by whoever composes the
/// process. A controller, which only tries policies, has none.
#[derive(Clone, Default)]
pub struct Shared(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Shared {
    /// With this value besides.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, value: Arc<T>) -> Shared {
        self.0.insert(TypeId::of::<T>(), value);
        self
    }

    /// The value of this type.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.get(&TypeId::of::<T>())?).downcast().ok()
    }
}

/// Named counters, for rate limits (contract 6.11: a redeployment with equal limits keeps its counts).
pub trait Counters: Send + Sync + 'static {
    /// Takes `cost` under this rule when that much is left; a cost of 0 only looks.
    fn take(&self, key: &str, rule: Rule, cost: u64, now_ms: u64) -> Taken;
}

/// How much a counter gives away, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How it is counted.
    pub algorithm: Algorithm,
    /// So much per window.
    pub limit: u64,
    /// The window's length.
    pub window_ms: u64,
    /// So much at once, for [`Algorithm::Gcra`].
    pub burst: u64,
}

/// How a rate is counted (contract 6.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// A count per window, windows aligned to the Unix epoch.
    FixedWindow,
    /// The generic cell rate algorithm: what was taken comes back evenly over the window.
    Gcra,
}

/// What a counter said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether the cost was taken.
    pub allowed: bool,
    /// What is left afterwards.
    pub remaining: u64,
    /// When everything is there again, milliseconds since the Unix epoch.
    pub resets_at_ms: u64,
    /// When the cost would be allowed; now, where it was.
    pub retry_at_ms: u64,
}
