// SPDX-License-Identifier: Apache-2.0
//! The operator's side of a policy's parameters (contract 5.3, 7.4): a section of the
//! configuration with a schema of its own. Its values, completed by the schema's defaults,
//! are laid under the artifact's parameters before the policy is compiled, so that a policy
//! reads one object and an artifact overrides what its own schema lets it name. The
//! composition root reads the sections; the registry checks and keeps them.

use serde_json::{Map, Value};

use crate::params::ParamFault;

/// Which section of the operator's configuration a policy reads.
#[derive(Clone, Copy, Debug)]
pub struct OperatorSection {
    /// Below `policy_configurations`; several policies may share one.
    pub name: &'static str,
    /// The JSON schema of the section, with defaults.
    pub schema: &'static str,
    /// What the schema cannot say.
    pub check: fn(&Value) -> Result<(), ParamFault>,
}

/// Keys are compared in lower case (contract 7.4).
#[must_use]
pub(crate) fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(key, value)| (key.to_lowercase(), lower_keys(value))).collect(),
        ),
        Value::Array(items) => items.into_iter().map(lower_keys).collect(),
        other => other,
    }
}

/// The values with every default that the schema declares for what is absent.
#[must_use]
pub(crate) fn with_defaults(schema: &Value, value: Value) -> Value {
    let Value::Object(mut fields) = value else { return value };
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let given = fields.remove(name).or_else(|| property.get("default").cloned());
        let given = match (given, property.get("properties")) {
            (None, Some(_)) => Some(Value::Object(Map::new())),
            (given, _) => given,
        };
        if let Some(given) = given {
            fields.insert(name.clone(), with_defaults(property, given));
        }
    }
    Value::Object(fields)
}

/// The artifact's parameters over the operator's.
#[must_use]
pub(crate) fn overlay(operator: &Value, params: Value) -> Value {
    match (operator, params) {
        (Value::Object(below), Value::Object(above)) => {
            let mut whole = below.clone();
            whole.extend(above);
            Value::Object(whole)
        }
        (_, params) => params,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{lower_keys, overlay, with_defaults};

    #[test]
    fn defaults_fill_what_is_absent_and_the_artifact_wins() {
        let schema = json!({"properties": {
            "mode": {"default": "a"},
            "deep": {"properties": {"on": {"default": true}, "size": {"default": 3}, "free": {}}},
        }});
        let given = lower_keys(json!({"Deep": {"SIZE": 4}}));
        let operator = with_defaults(&schema, given);
        assert_eq!(operator, json!({"mode": "a", "deep": {"on": true, "size": 4}}));
        assert_eq!(with_defaults(&schema, json!({})), json!({"mode": "a", "deep": {"on": true, "size": 3}}));
        let whole = overlay(&operator, json!({"mode": "b", "own": 1}));
        assert_eq!(whole, json!({"mode": "b", "own": 1, "deep": {"on": true, "size": 4}}));
    }
}
