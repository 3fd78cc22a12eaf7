// SPDX-License-Identifier: Apache-2.0
//! The generated documentation of the policies: a table, then per policy its README and
//! its parameters out of the schema. The committed `docs/policies.md` must equal it; a
//! test compares. Regenerate with `cargo run -p ferrogate-policies --example policy-docs`.

use std::fmt::Write as _;

use ferrogate_policy::Definition;
use serde_json::Value;

use crate::catalog;

const INTRODUCTION: &str = "\
<!-- Generated: do not edit. Regenerate with `cargo run -p ferrogate-policies --example policy-docs`. -->
# Policies

A policy is attached to an API (`spec.policies`) or to an operation
(`spec.operations[].policies`). The API's run first, then the operation's, in the order written;
on the response they run in reverse. All request header hooks run before any body hook. Artifacts
name the major version only (`v1`); without one they get the latest. A list has at most 100
policies.

Parameters are checked when the artifact is deployed, and nothing is stored of an artifact that has
a fault. Everything that breaks a schema is told at once with its field; of what a policy refuses
beyond its schema (what is refused at deployment, below), the first of each policy. Where the schema asks
for a number or a boolean, a string that reads as one is taken for it, since templates always give
strings.

`executionCondition` is an expression in CEL; where it is false, the policy is skipped in that
phase. It is compiled when the artifact is deployed, and one that cannot be evaluated on a request
fails that request with 500: it never lets one pass. It sees `processing.phase`
(`request_headers`, `request_body`, `response_headers`, `response_body`), `request` (`Headers`,
`Body`, `Path`, `Method`, `RequestID`, `ClientCertificate`, `Metadata`) and `response`
(`RequestHeaders`, `RequestBody`, `RequestPath`, `RequestMethod`, `ResponseHeaders`, `ResponseBody`,
`ResponseStatus`, `RequestID`, `Metadata`); the same names with a small first letter work too. An
empty one is none.

Bodies are null until they are there, and looking into null fails the request: ask
`response.RequestBody != null && …` first. `request.Body` is there in the phase `request_body`.
After it, and as `response.RequestBody` in the phases of the response, it is there only on routes
with a policy that wants the whole body (`set-headers` with `request.phase: body`); conditions alone
make the gateway keep none.

A condition has at most 4,096 bytes and 96 levels of nesting, and iterations (`all`, `exists`,
`exists_one`, `map`, `filter`) nest two deep. It takes at most 100,000 steps: each operator, call,
name and value in it is one, and within an iteration as many as the list or map it goes over has
elements written out in the condition. What goes over that is refused at deployment. Lists of the
request, such as its headers, have the limits of requests.

```yaml
policies:
  - name: set-headers
    version: v1
    executionCondition: response.ResponseStatus >= 500
    params:
      response:
        headers:
          - name: Cache-Control
            value: no-store
```
";

/// The content of `docs/policies.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n| Policy | Version | What it does |\n|---|---|---|\n");
    for (definition, _) in catalog::documented() {
        let (name, version) = (definition.name(), definition.version());
        line(&mut text, format_args!("| [{name}](#{name}) | {version} | {} |", definition.description()));
    }
    for (definition, readme) in catalog::documented() {
        policy(&mut text, definition.as_ref(), readme);
    }
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    if writeln!(text, "{content}").is_err() {
        text.push('\n');
    }
}

fn policy(text: &mut String, definition: &dyn Definition, readme: &str) {
    line(text, format_args!("\n## {}\n", definition.name()));
    text.push_str(readme);
    // The schemas are known to be JSON: the registry's tests read each of them.
    let schema: Value = serde_json::from_str(definition.schema()).unwrap_or_default();
    text.push_str("\n| Parameter | Type | Required | Default | Constraints | Meaning |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    rows(text, &schema, &schema, "");
    if let Some(section) = definition.operator_section() {
        line(
            text,
            format_args!(
                "\nThe operator's side, `[policy_configurations.{}]` in the configuration of the runtimes:\n",
                section.name
            ),
        );
        let schema: Value = serde_json::from_str(section.schema).unwrap_or_default();
        text.push_str("| Key | Type | Required | Default | Constraints | Meaning |\n");
        text.push_str("|---|---|---|---|---|---|\n");
        rows(text, &schema, &schema, "");
    }
}

/// One row per property, below its parent's.
fn rows(text: &mut String, root: &Value, schema: &Value, prefix: &str) {
    let required = schema.get("required").and_then(Value::as_array);
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let property = resolved(root, property);
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let is_required = required.is_some_and(|required| required.iter().any(|one| one == name));
        let items = property.get("items").map(|items| resolved(root, items));
        let kind = match (property.get("type").and_then(Value::as_str), items) {
            (Some("array"), Some(items)) => {
                format!("{}[]", items.get("type").and_then(Value::as_str).unwrap_or("any"))
            }
            (kind, _) => kind.unwrap_or("any").to_owned(),
        };
        let default = property.get("default").map(|default| format!("`{default}`")).unwrap_or_default();
        line(
            text,
            format_args!(
                "| `{path}` | {kind} | {} | {} | {} | {} |",
                if is_required { "yes" } else { "no" },
                cell(&default),
                cell(&constraints(property, items)),
                cell(property.get("description").and_then(Value::as_str).unwrap_or_default()),
            ),
        );
        rows(text, root, property, &path);
        if let Some(items) = items {
            rows(text, root, items, &format!("{path}[]"));
        }
    }
}

/// The schema a local reference means.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
        .unwrap_or(schema)
}

fn constraints(property: &Value, items: Option<&Value>) -> String {
    let mut told = Vec::new();
    for (schema, of_items) in [(Some(property), ""), (items, "each ")] {
        let get = |key: &str| schema.and_then(|schema| schema.get(key));
        if let Some(options) = get("enum").and_then(Value::as_array) {
            let options: Vec<String> = options.iter().map(|option| format!("`{option}`")).collect();
            told.push(format!("{of_items}one of {}", options.join(", ")));
        }
        for (low, high, unit) in [
            ("minimum", "maximum", ""),
            ("minLength", "maxLength", " characters"),
            ("minItems", "maxItems", " items"),
        ] {
            told.extend(match (get(low), get(high)) {
                (Some(low), Some(high)) => Some(format!("{of_items}{low} to {high}{unit}")),
                (Some(low), None) => Some(format!("{of_items}at least {low}{unit}")),
                (None, Some(high)) => Some(format!("{of_items}at most {high}{unit}")),
                (None, None) => None,
            });
        }
        if let Some(pattern) = get("pattern").and_then(Value::as_str) {
            // Two ticks, as a pattern may have one.
            told.push(format!("{of_items}`` {pattern} ``"));
        }
    }
    told.join(", ")
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ferrogate_model::kinds::rest_api::PolicySpec;
    use ferrogate_policy::harness::Route;
    use ferrogate_policy::{Registry, Services};

    use super::markdown;
    use crate::catalog;

    #[test]
    fn the_committed_documentation_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policies.md");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == markdown(),
            "docs/policies.md is stale; run: cargo run -p ferrogate-policies --example policy-docs"
        );
    }

    #[test]
    fn every_policy_has_a_readme_a_schema_and_a_sentence() {
        let registry = Registry::new(catalog::all()).expect("the catalogue is well formed");
        assert_eq!(registry.iter().count(), 8);
        for (definition, readme) in catalog::documented() {
            assert!(readme.contains("```yaml"), "{} has no example", definition.name());
        }
        for registered in registry.iter() {
            let name = registered.definition.name();
            assert!(registered.definition.description().ends_with('.'), "{name}");
            assert_eq!(registered.schema()["additionalProperties"], false, "{name}");
        }
    }

    /// The examples are what people paste: each must compile.
    #[test]
    fn every_example_compiles() {
        let registry = Registry::new(catalog::all()).expect("the catalogue is well formed");
        let text = markdown();
        let mut examples = 0;
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let document = ferrogate_model::document::parse(block, ferrogate_model::document::Format::Yaml)
                .expect("an example is YAML");
            let lists = match document.get("operations").and_then(serde_json::Value::as_array) {
                Some(operations) => operations.iter().map(|operation| &operation["policies"]).collect(),
                None => vec![&document["policies"]],
            };
            for list in lists {
                let specs: Vec<PolicySpec> =
                    serde_json::from_value(list.clone()).expect("an example is a policy list");
                assert!(!specs.is_empty());
                let compiled = Route::with_policies(&registry, &specs, &[], &Services::in_memory());
                assert!(compiled.is_ok(), "{block}: {:?}", compiled.err());
                examples += 1;
            }
        }
        assert!(examples >= 10, "{examples} examples were found");
    }
}
