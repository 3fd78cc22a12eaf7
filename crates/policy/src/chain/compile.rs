// SPDX-License-Identifier: Apache-2.0
//! From an artifact's policy lists to a [`Chain`]: resolve the version, check and coerce
//! the parameters, compile the policy and its condition. Every fault of every policy is
//! told, at the field the author wrote. Pure: the controller's trial and the runtime's
//! compile give the same result.

use ferrogate_model::Violations;
use ferrogate_model::kinds::rest_api::{PolicySpec, RestApi};

use super::{Chain, Step};
use crate::condition::Condition;
use crate::definition::{Attachment, Level, Services};
use crate::hooks::Phases;
use crate::registry::Registry;

/// The most policies one list may have: a route runs them all on every request.
pub const MAX_POLICIES: usize = 256;

/// What to call the two lists in violations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefixes {
    /// `spec.policies`.
    pub api: String,
    /// `spec.operations[i].policies`.
    pub operation: String,
}

impl PathPrefixes {
    /// The prefixes for the operation with this index.
    #[must_use]
    pub fn of_operation(index: usize) -> PathPrefixes {
        PathPrefixes {
            api: "spec.policies".to_owned(),
            operation: format!("spec.operations[{index}].policies"),
        }
    }
}

impl Chain {
    /// Compiles the chain of one route: the API's policies, then the operation's.
    ///
    /// # Errors
    /// With every violation of every policy.
    pub fn compile(
        api_policies: &[PolicySpec],
        operation_policies: &[PolicySpec],
        attachment: &Attachment,
        registry: &Registry,
        services: &Services,
        path_prefixes: &PathPrefixes,
    ) -> Result<Chain, Violations> {
        let mut violations = Violations::default();
        let mut steps = Vec::with_capacity(api_policies.len() + operation_policies.len());
        for (level, specs, prefix) in [
            (Level::Api, api_policies, &path_prefixes.api),
            (Level::Operation, operation_policies, &path_prefixes.operation),
        ] {
            if specs.len() > MAX_POLICIES {
                violations.push(prefix.clone(), format!("at most {MAX_POLICIES} policies are allowed"));
                continue;
            }
            if specs.is_empty() {
                continue;
            }
            let attachment = Attachment { level, ..attachment.clone() };
            let compiler = Compiler { attachment: &attachment, registry, services };
            for (index, spec) in specs.iter().enumerate() {
                steps.extend(compiler.step(spec, &format!("{prefix}[{index}]"), &mut violations));
            }
        }
        let chain = Chain::of(steps);
        violations.into_result(chain)
    }

    fn of(steps: Vec<Step>) -> Chain {
        let needs = steps.iter().fold(Phases::default(), |needs, step| Phases {
            request: needs.request || step.phases.request,
            request_body: needs.request_body.max(step.phases.request_body),
            response: needs.response || step.phases.response,
            response_body: needs.response_body.max(step.phases.response_body),
        });
        let keeps_request_body =
            steps.iter().any(|step| step.condition.as_ref().is_some_and(Condition::wants_request_body));
        Chain { steps: steps.into_boxed_slice(), needs, keeps_request_body }
    }
}

/// Compiles every chain of an API and drops them: what the controller does before it
/// accepts one. A fault of an API-level policy is told once, not once per operation.
///
/// # Errors
/// With every violation of every policy.
pub fn admit(api: &RestApi, registry: &Registry, services: &Services) -> Result<(), Violations> {
    let mut violations = Violations::default();
    for (index, operation) in api.operations.iter().enumerate() {
        let attachment = Attachment::of(api, operation, String::new());
        let prefixes = PathPrefixes::of_operation(index);
        let compiled =
            Chain::compile(&api.policies, &operation.policies, &attachment, registry, services, &prefixes);
        for violation in compiled.err().into_iter().flat_map(|faults| faults.0) {
            if !violations.0.contains(&violation) {
                violations.0.push(violation);
            }
        }
    }
    violations.into_result(())
}

struct Compiler<'a> {
    attachment: &'a Attachment,
    registry: &'a Registry,
    services: &'a Services,
}

impl Compiler<'_> {
    fn step(&self, spec: &PolicySpec, path: &str, violations: &mut Violations) -> Option<Step> {
        let condition = self.condition(spec, path, violations);
        let registered = match self.registry.resolve(&spec.name, spec.version.as_deref()) {
            Ok(registered) => registered,
            Err(error) => {
                violations.push(format!("{path}.version"), error.to_string());
                return None;
            }
        };
        let below_params = |field: &str| match field {
            "" => format!("{path}.params"),
            field => format!("{path}.params.{field}"),
        };
        let params = match registered.check_params(&spec.params) {
            Ok(params) => params,
            Err(faults) => {
                for fault in faults {
                    violations.push(below_params(&fault.field), fault.message);
                }
                return None;
            }
        };
        match registered.definition.compile(&params, self.attachment, self.services) {
            Ok(policy) => {
                let phases = policy.phases();
                Some(Step { name: registered.definition.name(), policy, phases, condition })
            }
            Err(error) => {
                violations.push(below_params(&error.field), error.message);
                None
            }
        }
    }

    /// An absent and an empty condition are the same: none.
    fn condition(&self, spec: &PolicySpec, path: &str, violations: &mut Violations) -> Option<Condition> {
        let text = spec.execution_condition.as_deref().filter(|text| !text.trim().is_empty())?;
        Condition::compile(text)
            .map_err(|error| violations.push(format!("{path}.executionCondition"), error.to_string()))
            .ok()
    }
}
