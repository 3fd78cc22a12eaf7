// SPDX-License-Identifier: Apache-2.0
//! From an artifact's policy lists to a [`Chain`]: resolve the version, check and coerce
//! the parameters, compile the policy and its condition. Every fault of every policy is
//! told, at the field the author wrote. Pure: the controller's trial and the runtime's
//! compile give the same result.

use std::sync::Arc;

use ferrogate_model::Violations;
use ferrogate_model::kinds::rest_api::{PolicySpec, RestApi};

use super::instances::Made;
use super::{Chain, Step};
use crate::condition::Condition;
use crate::definition::{Attachment, Level, Services};
use crate::hooks::Phases;
use crate::registry::Registry;

/// The most policies one list may have: a route runs them all on every request.
pub const MAX_POLICIES: usize = 256;

/// What violations of an API's own policies begin with.
const API_PREFIX: &str = "spec.policies";

/// What violations of the policies of the operation with this index begin with.
#[must_use]
pub fn operation_prefix(index: usize) -> String {
    format!("spec.operations[{index}].policies")
}

impl Chain {
    /// Compiles an API's own policies: the chain of every operation that has none of its own,
    /// and what the others begin with. Their attachment says nothing of an operation.
    ///
    /// # Errors
    /// With every violation of every policy.
    pub fn of_api(
        policies: &[PolicySpec],
        attachment: &Attachment,
        registry: &Registry,
        services: &Services,
    ) -> Result<Chain, Violations> {
        let attachment = attachment.of_its_api();
        let compiler = Compiler { attachment: &attachment, registry, services };
        compiler.steps(policies, API_PREFIX).map(Chain::of)
    }

    /// This chain and after it an operation's policies. What was compiled is shared, not
    /// compiled again: an API's policies cost it once, however many operations it has.
    ///
    /// # Errors
    /// With every violation of every policy.
    pub fn followed_by(
        &self,
        policies: &[PolicySpec],
        attachment: &Attachment,
        registry: &Registry,
        services: &Services,
        prefix: &str,
    ) -> Result<Chain, Violations> {
        let attachment = Attachment { level: Level::Operation, ..attachment.clone() };
        let compiler = Compiler { attachment: &attachment, registry, services };
        let own = compiler.steps(policies, prefix)?;
        Ok(Chain::of(self.steps.iter().cloned().chain(own).collect()))
    }

    /// Compiles the chain of one route at once: the API's policies, then the operation's.
    ///
    /// # Errors
    /// With every violation of every policy.
    pub fn compile(
        api_policies: &[PolicySpec],
        operation_policies: &[PolicySpec],
        attachment: &Attachment,
        registry: &Registry,
        services: &Services,
        operation_prefix: &str,
    ) -> Result<Chain, Violations> {
        let api = Chain::of_api(api_policies, attachment, registry, services);
        let (api, mut violations) = match api {
            Ok(api) => (api, Violations::default()),
            Err(violations) => (Chain::default(), violations),
        };
        match api.followed_by(operation_policies, attachment, registry, services, operation_prefix) {
            Ok(chain) => violations.into_result(chain),
            Err(more) => {
                violations.0.extend(more.0);
                Err(violations)
            }
        }
    }

    fn of(steps: Vec<Arc<Step>>) -> Chain {
        let needs = steps.iter().fold(Phases::default(), |needs, step| Phases {
            request: needs.request || step.phases.request,
            request_body: needs.request_body.max(step.phases.request_body),
            response: needs.response || step.phases.response,
            response_body: needs.response_body.max(step.phases.response_body),
        });
        let keeps_request_body =
            steps.iter().any(|step| step.condition.as_ref().is_some_and(Condition::wants_request_body));
        Chain { steps: steps.into(), needs, keeps_request_body }
    }
}

/// Compiles every policy of an API and drops the result: what the controller does before it
/// accepts one.
///
/// # Errors
/// With every violation of every policy.
pub fn admit(api: &RestApi, registry: &Registry, services: &Services) -> Result<(), Violations> {
    let mut violations = Violations::default();
    let attachment = Attachment::of_api(api);
    let outer = Chain::of_api(&api.policies, &attachment, registry, services);
    violations.0.extend(outer.err().into_iter().flat_map(|faults| faults.0));
    let empty = Chain::default();
    let own = api.operations.iter().enumerate().filter(|(_, operation)| !operation.policies.is_empty());
    for (index, operation) in own {
        let (attachment, prefix) = (attachment.at(operation, Arc::default()), operation_prefix(index));
        let compiled = empty.followed_by(&operation.policies, &attachment, registry, services, &prefix);
        violations.0.extend(compiled.err().into_iter().flat_map(|faults| faults.0));
    }
    violations.into_result(())
}

struct Compiler<'a> {
    attachment: &'a Attachment,
    registry: &'a Registry,
    services: &'a Services,
}

impl Compiler<'_> {
    /// One list, each policy at its place below the prefix.
    fn steps(&self, specs: &[PolicySpec], prefix: &str) -> Result<Vec<Arc<Step>>, Violations> {
        let mut violations = Violations::default();
        if specs.len() > MAX_POLICIES {
            violations.push(prefix.to_owned(), format!("at most {MAX_POLICIES} policies are allowed"));
            return Err(violations);
        }
        let steps = specs.iter().enumerate();
        let steps = steps
            .filter_map(|(index, spec)| self.step(spec, &format!("{prefix}[{index}]"), &mut violations))
            .collect();
        violations.into_result(steps)
    }

    fn step(&self, spec: &PolicySpec, path: &str, violations: &mut Violations) -> Option<Arc<Step>> {
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
        let definition = &registered.definition;
        let condition_text = condition.as_ref().and(spec.execution_condition.as_deref());
        let made = definition
            .is_made_of_parameters()
            .then(|| Made::from(definition.name(), definition.version(), &params, condition_text));
        if let Some(step) = made.and_then(|made| self.services.instances.get(&made)) {
            return Some(step);
        }
        match definition.compile(&params, self.attachment, self.services) {
            Ok(policy) => {
                let phases = policy.phases();
                let step = Arc::new(Step { name: definition.name(), policy, phases, condition });
                Some(match made {
                    Some(made) => self.services.instances.keep(made, step),
                    None => step,
                })
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
