// SPDX-License-Identifier: Apache-2.0
//! Parameters against their schema: strings become the numbers and booleans the schema
//! asks for (templates always give strings), then every break of the schema is told
//! with its dotted path. Messages name fields and rules, never values: a parameter may
//! be a secret. Called by [`crate::registry::Registered::check_params`].

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Map, Number, Value};

/// How deep coercion follows nested parameters; what lies deeper stays as it is. The
/// document parser refuses such depths long before.
const MAX_DEPTH: usize = 64;

/// One break of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamFault {
    /// The field below `params`, dotted; empty for the whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// The parameters with strings turned into what the schema asks for. Doing it twice changes nothing.
#[must_use]
pub fn coerce(schema: &Value, params: &Value) -> Value {
    match params {
        Value::Null => Value::Object(Map::new()),
        params => coerce_at(schema, schema, params, 0),
    }
}

fn coerce_at(root: &Value, schema: &Value, value: &Value, depth: usize) -> Value {
    let schema = referenced(root, schema);
    if depth > MAX_DEPTH {
        return value.clone();
    }
    match value {
        Value::String(text) => coerce_text(schema, text),
        Value::Number(number) if asks_for(schema, "integer") => Value::Number(whole(number)),
        Value::Array(items) => match schema.get("items") {
            Some(item_schema) => {
                items.iter().map(|item| coerce_at(root, item_schema, item, depth + 1)).collect()
            }
            None => value.clone(),
        },
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, field)| {
                    let field_schema = schema
                        .get("properties")
                        .and_then(|properties| properties.get(name))
                        .or_else(|| schema.get("additionalProperties"));
                    let field = match field_schema {
                        Some(field_schema) => coerce_at(root, field_schema, field, depth + 1),
                        None => field.clone(),
                    };
                    (name.clone(), field)
                })
                .collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// The schema a local reference (`#/definitions/x`) means, or the schema itself. One step
/// is followed: a chain of references has no use in a parameter schema and could be a circle.
fn referenced<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
        .unwrap_or(schema)
}

fn coerce_text(schema: &Value, text: &str) -> Value {
    let unchanged = || Value::String(text.to_owned());
    if asks_for(schema, "string") {
        return unchanged();
    }
    if asks_for(schema, "boolean") {
        match text {
            "true" => return Value::Bool(true),
            "false" => return Value::Bool(false),
            _ => {}
        }
    }
    let (integer, number) = (asks_for(schema, "integer"), asks_for(schema, "number"));
    // JSON's own number grammar: no `+1`, no `0x10`, no `inf`, no blanks.
    let parsed = text
        .starts_with(|first: char| first == '-' || first.is_ascii_digit())
        .then(|| serde_json::from_str::<Number>(text).ok())
        .flatten()
        .filter(|_| !text.ends_with(char::is_whitespace))
        .map(|parsed| if integer { whole(&parsed) } else { parsed });
    match parsed {
        Some(parsed) if number || (integer && !parsed.is_f64()) => Value::Number(parsed),
        Some(_) | None => unchanged(),
    }
}

/// JSON Schema counts 3.0 as an integer; policies read integers, so it becomes 3.
fn whole(number: &Number) -> Number {
    /// Beyond this, a double no longer tells neighbouring integers apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT => {
            #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53, checked above")]
            let integer = float as i64;
            Number::from(integer)
        }
        Some(_) | None => number.clone(),
    }
}

fn asks_for(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        Some(_) | None => false,
    }
}

/// Every break of the schema, in the order of the schema library's walk.
pub(crate) fn faults(validator: &jsonschema::Validator, params: &Value) -> Vec<ParamFault> {
    let mut faults = Vec::new();
    for error in validator.iter_errors(params) {
        let field = dotted(error.instance_path().as_str());
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                faults.extend(unexpected.iter().map(|name| ParamFault {
                    field: field.clone(),
                    message: format!("Additional property {name} is not allowed"),
                }));
            }
            kind => faults.push(ParamFault { field, message: message(kind, error.instance()) }),
        }
    }
    faults
}

/// From a JSON pointer to the dotted form.
fn dotted(pointer: &str) -> String {
    pointer
        .split('/')
        .skip(1)
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
        .collect::<Vec<_>>()
        .join(".")
}

/// Our own wording: the schema library's would quote the value, which may be a secret.
fn message(kind: &ValidationErrorKind, instance: &Value) -> String {
    match kind {
        ValidationErrorKind::Required { property } => {
            format!("{} is required", property.as_str().unwrap_or("a property"))
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(expected) => expected.to_string(),
                TypeKind::Multiple(expected) => {
                    expected.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join("/")
                }
            };
            format!("Invalid type. Expected: {expected}, given: {}", type_name(instance))
        }
        ValidationErrorKind::Enum { options } => {
            let options: Vec<String> =
                options.as_array().into_iter().flatten().map(Value::to_string).collect();
            format!("must be one of the following: {}", options.join(", "))
        }
        ValidationErrorKind::Pattern { pattern } => format!("does not match pattern '{pattern}'"),
        ValidationErrorKind::MinLength { limit } => {
            format!("length must be greater than or equal to {limit}")
        }
        ValidationErrorKind::MaxLength { limit } => format!("length must be less than or equal to {limit}"),
        ValidationErrorKind::Minimum { limit } => format!("must be greater than or equal to {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be less than or equal to {limit}"),
        ValidationErrorKind::MinItems { limit } => {
            format!("must have at least {}", counted(*limit, "item", "items"))
        }
        ValidationErrorKind::MaxItems { limit } => {
            format!("must have at most {}", counted(*limit, "item", "items"))
        }
        ValidationErrorKind::MinProperties { limit } => {
            format!("must have at least {}", counted(*limit, "property", "properties"))
        }
        ValidationErrorKind::UniqueItems => "items must be unique".to_owned(),
        ValidationErrorKind::AnyOf { context } => match alternatives(context) {
            Some(names) => format!("at least one of {names} is required"),
            None => "has none of the forms that its schema allows".to_owned(),
        },
        ValidationErrorKind::OneOfNotValid { context } => match alternatives(context) {
            Some(names) => format!("one of {names} is required"),
            None => "has none of the forms that its schema allows".to_owned(),
        },
        ValidationErrorKind::OneOfMultipleValid { .. } => {
            "has several forms of which its schema allows one at a time".to_owned()
        }
        other => format!("does not satisfy the schema's '{}'", other.keyword()),
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The properties of which each form lacks one, when that is all that the forms lack.
fn alternatives(forms: &[Vec<ValidationError<'_>>]) -> Option<String> {
    let names = forms.iter().map(|faults| match faults.as_slice() {
        [fault] => match fault.kind() {
            ValidationErrorKind::Required { property } => property.as_str().map(|name| format!("'{name}'")),
            _ => None,
        },
        _ => None,
    });
    names.collect::<Option<Vec<String>>>().map(|names| names.join(", "))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use serde_json::{Value, json};

    use super::{ParamFault, coerce, faults};

    fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["count"],
            "definitions": { "deep": { "type": "object", "properties": { "on": { "type": "boolean" } } } },
            "properties": {
                "count": { "type": "integer", "minimum": 1 },
                "ratio": { "type": "number" },
                "on": { "type": "boolean" },
                "text": { "type": "string", "maxLength": 3 },
                "either": { "type": ["string", "integer"] },
                "list": { "type": "array", "items": { "type": "integer" } },
                "deep": { "$ref": "#/definitions/deep" },
            },
        })
    }

    #[test]
    fn strings_become_what_the_schema_asks_for() {
        for (given, expected) in [
            (json!(null), json!({})),
            (json!({"count": "7"}), json!({"count": 7})),
            (json!({"count": "-7"}), json!({"count": -7})),
            (json!({"count": "7.0"}), json!({"count": 7})),
            (json!({"count": 7.0}), json!({"count": 7})),
            (json!({"count": "7.5"}), json!({"count": "7.5"})),
            (json!({"count": "+7"}), json!({"count": "+7"})),
            (json!({"count": " 7"}), json!({"count": " 7"})),
            (json!({"count": "7\n"}), json!({"count": "7\n"})),
            (json!({"count": "seven"}), json!({"count": "seven"})),
            (json!({"ratio": "7.5"}), json!({"ratio": 7.5})),
            (json!({"ratio": "NaN"}), json!({"ratio": "NaN"})),
            (json!({"on": "true"}), json!({"on": true})),
            (json!({"on": "True"}), json!({"on": "True"})),
            (json!({"text": "7"}), json!({"text": "7"})),
            (json!({"either": "7"}), json!({"either": "7"})),
            (json!({"list": ["1", 2, "x"]}), json!({"list": [1, 2, "x"]})),
            (json!({"deep": {"on": "false"}}), json!({"deep": {"on": false}})),
            (json!({"unknown": "7"}), json!({"unknown": "7"})),
        ] {
            assert_eq!(coerce(&schema(), &given), expected, "{given}");
        }
    }

    #[test]
    fn every_fault_is_told_with_its_path_and_without_its_value() {
        let validator = jsonschema::validator_for(&schema()).expect("a schema");
        let fault =
            |field: &str, message: &str| ParamFault { field: field.to_owned(), message: message.to_owned() };
        for (given, expected) in [
            (json!({}), vec![fault("", "count is required")]),
            (json!([]), vec![fault("", "Invalid type. Expected: object, given: array")]),
            (json!({"count": 1, "x": 1}), vec![fault("", "Additional property x is not allowed")]),
            (
                json!({"count": "secret"}),
                vec![fault("count", "Invalid type. Expected: integer, given: string")],
            ),
            (
                json!({"count": 0, "text": "secret"}),
                vec![
                    fault("count", "must be greater than or equal to 1"),
                    fault("text", "length must be less than or equal to 3"),
                ],
            ),
            (
                json!({"count": 1, "list": [1, true]}),
                vec![fault("list.1", "Invalid type. Expected: integer, given: boolean")],
            ),
        ] {
            assert_eq!(faults(&validator, &given), expected, "{given}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[-+0-9.eE]{0,8}".prop_map(Value::from),
            "true|false|[a-z]{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("count|ratio|on|text|list|deep|other", inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn coercing_twice_is_coercing_once(value in any_json()) {
            let once = coerce(&schema(), &value);
            proptest::prop_assert_eq!(coerce(&schema(), &once), once);
        }
    }
}
