// SPDX-License-Identifier: Apache-2.0
//! From a document's value to a [`RestApi`] (contract 3.1): the order of the checks
//! and everything about the document's head. Upstreams, operations, policies and
//! hosts are read in the files beside this one. Message texts that the contract
//! quotes are kept to the letter, for clients match on them.

use serde_json::Value;

use super::{DeploymentState, Resilience, RestApi, hosts, operations, policies, retry, steering, upstreams};
use crate::document::Defaults;
use crate::duration;
use crate::fields::{Fields, Findings, Refusal, text};
use crate::route::never_requested;
use crate::{Kind, Violations};

/// The most entries of `spec.subscriptionPlans`.
pub const MAX_PLANS: usize = 100;

const MAX_DISPLAY_NAME_CHARS: usize = 100;
const MAX_VERSION_CHARS: usize = 64;
const MAX_CONTEXT_CHARS: usize = 200;

const TIMEOUT_FORMAT: &str = "Invalid timeout format (expected a single-unit duration like '30s', '1m', '500ms', \
    or '0s' to disable; compound, negative, and unitless values are not allowed)";

/// An API, and what in its document has no effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The API.
    pub api: RestApi,
    /// Unknown and ineffective fields, each with its path. A strict client has them refused.
    pub warnings: Violations,
}

impl RestApi {
    /// Reads a document's value, with its templates already rendered.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`] when a field has the wrong type, [`Refusal::Invalid`] with every
    /// violation, in the contract's order, when the document breaks rules.
    pub fn parse(value: &Value, defaults: &Defaults) -> Result<Parsed, Refusal> {
        let mut found = Findings::default();
        let root = Fields::of(value, String::new(), &mut found);
        // `status` is written by the gateway and ignored when a client sends it back.
        root.only(&["apiVersion", "kind", "metadata", "spec", "status"], &mut found);
        root.text("apiVersion", &mut found);
        root.kind(Kind::RestApi, &mut found);
        let spec = root.fields("spec", &mut found);
        spec.only(
            &[
                "displayName",
                "version",
                "context",
                "upstream",
                "upstreamDefinitions",
                "vhosts",
                "subscriptionPlans",
                "policies",
                "resilience",
                "operations",
                "deploymentState",
            ],
            &mut found,
        );
        let display_name = display_name(&spec, &mut found);
        let version = version(&spec, &mut found);
        let context = context(&spec, &version, &mut found);
        let upstreams = upstreams::read(&spec, &mut found);
        let hosts = hosts::read(&spec, defaults, upstreams.sandbox.is_some(), &mut found);
        let resilience = resilience(&spec, &mut found);
        let mut operations = operations::read(&spec, &context, hosts.count(), &mut found);
        let api_policies = policies::read_all(&spec, &mut operations, &mut found);
        let state = deployment_state(&spec, &mut found);
        let subscription_plans = subscription_plans(&spec, &mut found);
        let metadata = root.metadata(&mut found);

        let warnings = found.finish()?;
        Ok(Parsed {
            api: RestApi {
                handle: metadata.handle.expect("a name that is no handle is a violation"),
                labels: metadata.labels,
                annotations: metadata.annotations,
                display_name,
                version,
                context,
                main_hosts: hosts.main,
                sandbox_host: hosts.sandbox,
                main: upstreams.main.expect("an upstream that cannot be read is a violation"),
                sandbox: upstreams.sandbox,
                upstream_definitions: upstreams.definitions,
                subscription_plans,
                policies: api_policies,
                resilience,
                operations: operations.into_iter().map(|authored| authored.operation).collect(),
                state,
            },
            warnings,
        })
    }
}

/// `resilience` of the API or of an operation (contract 3.4).
pub(super) fn resilience(owner: &Fields<'_>, found: &mut Findings) -> Resilience {
    let fields = owner.fields("resilience", found);
    fields.only(&["timeout", "idleTimeout", "retry", "fault"], found);
    let mut read = |name: &str| {
        let text = fields.text(name, found)?;
        let duration = duration::parse_single(&text);
        if duration.is_none() {
            found.violations.push(fields.path(name), TIMEOUT_FORMAT);
        }
        duration.map(duration::whole_millis)
    };
    let (timeout, idle_timeout) = (read("timeout"), read("idleTimeout"));
    let (retry, fault) = (retry::read(&fields, found), steering::fault(&fields, found));
    Resilience { timeout, idle_timeout, retry, fault }
}

fn display_name(spec: &Fields<'_>, found: &mut Findings) -> String {
    let name = spec.text("displayName", found).unwrap_or_default();
    let path = spec.path("displayName");
    if name.is_empty() {
        found.violations.push(path, "API display name is required");
        return name;
    }
    if name.chars().count() > MAX_DISPLAY_NAME_CHARS {
        found.violations.push(path.clone(), "API display name must be 1-100 characters");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ')) {
        found.violations.push(
            path,
            "API display name must be URL-friendly \
             (only letters, numbers, spaces, hyphens, underscores, and dots allowed)",
        );
    }
    name
}

fn version(spec: &Fields<'_>, found: &mut Findings) -> String {
    let version = spec.text("version", found).unwrap_or_default();
    let path = spec.path("version");
    if version.is_empty() {
        found.violations.push(path, "API version is required");
        return version;
    }
    let numbers: Vec<&str> = version.strip_prefix('v').unwrap_or(&version).split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if numbers.len() > 3 || !numbers.iter().all(is_number) || version.len() > MAX_VERSION_CHARS {
        found
            .violations
            .push(path, "API version must follow semantic versioning pattern (e.g., v1.0, v2.1.3)");
    }
    version
}

/// The context with `$version` substituted.
fn context(spec: &Fields<'_>, version: &str, found: &mut Findings) -> String {
    let context = spec.text("context", found).unwrap_or_default();
    let path = spec.path("context");
    if context.is_empty() {
        found.violations.push(path, "Context is required");
        return context;
    }
    if !context.starts_with('/') {
        found.violations.push(path.clone(), "Context must start with /");
    }
    if context.len() > 1 && context.ends_with('/') {
        found.violations.push(path.clone(), "Context cannot end with / (except for root context)");
    }
    if context.chars().count() > MAX_CONTEXT_CHARS {
        found.violations.push(path.clone(), "Context must be 1-200 characters");
    }
    if !context.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~!$&'()+,;=:@%".contains(c)) {
        found.violations.push(
            path.clone(),
            "Context must contain only characters of a URL path, and neither placeholders nor wildcards",
        );
    }
    // A request path is normalised before it is matched, so these could never be reached.
    let inner = context.strip_prefix('/').unwrap_or(&context);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if context != "/" && inner.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        found.violations.push(path, "Context must not contain empty, '.' or '..' segments");
    } else if let Some(why) = never_requested(&context) {
        found.warn(path, why);
    }
    context.replace("$version", version)
}

fn deployment_state(spec: &Fields<'_>, found: &mut Findings) -> DeploymentState {
    match spec.text("deploymentState", found).as_deref() {
        None | Some("deployed") => DeploymentState::Deployed,
        Some("undeployed") => DeploymentState::Undeployed,
        Some(_) => {
            let message = "Deployment state must be 'deployed' or 'undeployed'";
            found.violations.push(spec.path("deploymentState"), message);
            DeploymentState::Deployed
        }
    }
}

fn subscription_plans(spec: &Fields<'_>, found: &mut Findings) -> Vec<String> {
    let plans = spec.list("subscriptionPlans", MAX_PLANS, found);
    plans.into_iter().filter_map(|(path, value)| text(value, &path, found)).collect()
}
