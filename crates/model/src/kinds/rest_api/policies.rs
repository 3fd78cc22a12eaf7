// SPDX-License-Identifier: Apache-2.0
//! Policy lists (contract 3.5), as far as their shape goes: name, version syntax,
//! parameters that are a map. Whether the policy exists and takes the parameters
//! is asked of the policies themselves, later and elsewhere.

use serde_json::Value;

use super::PolicySpec;
use super::operations::Authored;
use crate::fields::{Fields, Findings};

/// The most policies in one list.
pub const MAX_POLICIES: usize = 100;

/// Reads the API's policies and then those of each operation, which is the order of their messages.
pub(super) fn read_all(
    spec: &Fields<'_>,
    operations: &mut [Authored<'_>],
    found: &mut Findings,
) -> Vec<PolicySpec> {
    let api = read(spec, found);
    for authored in operations {
        authored.operation.policies = read(&authored.fields, found);
    }
    api
}

fn read(owner: &Fields<'_>, found: &mut Findings) -> Vec<PolicySpec> {
    let elements = owner.list("policies", MAX_POLICIES, found);
    elements.into_iter().map(|(path, value)| policy(&Fields::of(value, path, found), found)).collect()
}

fn policy(fields: &Fields<'_>, found: &mut Findings) -> PolicySpec {
    fields.only(&["name", "version", "executionCondition", "params"], found);
    let name = fields.text("name", found).unwrap_or_default();
    if name.is_empty() {
        found.violations.push(fields.path("name"), "Policy name is required");
    }
    let version = fields.text("version", found).filter(|version| !version.is_empty());
    if let Some(message) = version.as_deref().and_then(|version| version_fault(version, &name)) {
        found.violations.push(fields.path("version"), message);
    }
    let condition = fields.text("executionCondition", found);
    let mut params = fields.get("params").cloned().unwrap_or_default();
    if !matches!(params, Value::Object(_) | Value::Null) {
        found.mismatch(&fields.path("params"), "a map", &params);
    }
    // The payload's bytes must not depend on the order of the document's keys.
    params.sort_all_objects();
    let execution_condition = condition.filter(|text| !text.trim().is_empty());
    PolicySpec { name, version, execution_condition, params }
}

fn version_fault(version: &str, policy: &str) -> Option<String> {
    let numbers: Option<Vec<&str>> = version.strip_prefix('v').map(|rest| rest.split('.').collect());
    let numbers = numbers.unwrap_or_default();
    let all_numbers = numbers.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    match numbers.len() {
        1 if all_numbers => None,
        3 if all_numbers => Some(format!(
            "policy '{policy}' version must be major-only (e.g., v1); \
             full semantic version (e.g., v1.0.0) is not allowed"
        )),
        _ => Some(format!(
            "invalid version format '{version}' for policy '{policy}'; expected major-only version (e.g., v1)"
        )),
    }
}
