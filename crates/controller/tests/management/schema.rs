// SPDX-License-Identifier: Apache-2.0
//! Requests made from the committed description: every endpoint with parameters, headers
//! and bodies that fit it, nearly fit it, and do not. No answer is a fault of ours, none
//! is one the description does not have, each body has the shape that the description
//! gives it, and of a request that was refused, or was a dry run, nothing is stored. The
//! requests are the same in every run.

use std::collections::BTreeMap;

use fastrand::Rng;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Gateway, api, send};

const SEED: u64 = 0x5EED;
/// Requests to each operation.
const ROUNDS: usize = 80;

/// Texts at which a reader of parameters goes wrong.
const ODD: [&str; 24] = [
    "",
    " ",
    "0",
    "-1",
    "1",
    "18446744073709551616",
    "1e3",
    "true",
    "True",
    "null",
    "live",
    "all",
    "zone:",
    "zone:a",
    "5s",
    "9999999h",
    "%",
    "\0",
    "../..",
    "a/b",
    "é",
    "\u{202e}",
    "'; DROP TABLE changes; --",
    "*",
];
/// Values for headers that are read.
const HEADERS: [(&str, &[&str]); 5] = [
    ("if-none-match", &["*", "\"1\"", "W/\"1\", \"2\"", "1", ","]),
    ("if-match", &["*", "\"1\"", "\"99999999999999999999\"", "W/\"1\"", "1", "\"", "\"1\", \"2\""]),
    (
        "idempotency-key",
        &["c0ffee00-0000-4000-8000-000000000000", "x", "", "\"c0ffee00-0000-4000-8000-000000000001\""],
    ),
    (
        "content-type",
        &[
            "application/json",
            "application/yaml",
            "text/yaml",
            "text/plain",
            "application/json; charset=utf-16",
            "x",
        ],
    ),
    ("x-correlation-id", &["same", "", "a b"]),
];

/// The description.
struct Schema(Value);

/// One operation of it.
struct Operation {
    method: Method,
    path: String,
    what: Value,
}

/// A request as it was made, for the message of a failure.
#[derive(Debug)]
struct Made {
    method: Method,
    path: String,
    headers: BTreeMap<&'static str, String>,
    body: Option<String>,
}

impl Schema {
    fn read() -> Schema {
        let text = include_str!("../../../../docs/openapi.json");
        Schema(serde_json::from_str(text).expect("the description is JSON"))
    }

    fn operations(&self) -> Vec<Operation> {
        let paths = self.0["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("operations");
            methods.iter().map(move |(method, what)| {
                let method = method.to_uppercase().parse().expect("a method");
                Operation { method, path: path.clone(), what: what.clone() }
            })
        });
        operations.collect()
    }

    /// Why an answer is not what the description says of the operation; `None` when it is.
    fn fault(&self, operation: &Operation, answer: &Answer) -> Option<String> {
        let status = answer.status.as_u16().to_string();
        if answer.status.is_server_error() {
            return Some(format!("a fault of ours: {status}"));
        }
        let Some(described) = operation.what["responses"].get(&status) else {
            return Some(format!("{status} is not described"));
        };
        let Some(content) = described.get("content") else {
            return (!answer.text.is_empty()).then(|| format!("a body is not described for {status}"));
        };
        let kind = answer.header("content-type").unwrap_or_default();
        let Some(content) = content.get(kind) else {
            return Some(format!("content type {kind:?} is not described for {status}"));
        };
        let schema = json!({"allOf": [content["schema"]], "components": self.0["components"]});
        let validator = jsonschema::validator_for(&schema).expect("the description's schemas are schemas");
        let body = serde_json::from_str(&answer.text).unwrap_or(Value::Null);
        validator.iter_errors(&body).next().map(|error| format!("{error} at {}", error.instance_path()))
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        reference.and_then(|reference| self.0.pointer(reference.strip_prefix('#')?)).unwrap_or(schema)
    }

    /// A body for the operation: one that fits its schema, or a document, or neither.
    fn body(&self, operation: &Operation, rng: &mut Rng) -> Option<String> {
        let content = operation.what["requestBody"]["content"].as_object()?;
        let schema = self.resolved(&content.values().next().expect("a content type")["schema"]);
        if schema.get("properties").is_some() && rng.u8(..4) > 0 {
            return Some(self.value(schema, rng).to_string());
        }
        Some(match rng.u8(..8) {
            0 => String::new(),
            1 => odd(rng).to_owned(),
            2 => "[".repeat(rng.usize(1..2000)),
            3 => "a: &a [x, x]\nb: [*a, *a, *a]\n".to_owned(),
            _ => document(rng),
        })
    }

    /// A value that mostly fits the schema.
    fn value(&self, schema: &Value, rng: &mut Rng) -> Value {
        let schema = self.resolved(schema);
        if rng.u8(..8) == 0 {
            let wrong = [Value::Null, json!([]), json!({}), json!(1.5), json!(odd(rng))];
            return rng.choice(wrong).unwrap_or_default();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.first().and_then(Value::as_str),
            kind => kind.as_str(),
        };
        match kind {
            Some("object") => {
                let properties = schema["properties"].as_object().into_iter().flatten();
                properties.map(|(name, inner)| (name.clone(), self.value(inner, rng))).collect()
            }
            Some("array") => json!([self.value(&schema["items"], rng)]),
            Some("integer") => json!(rng.choice([0, 1, 2, 3, u64::MAX, 1 << 63]).unwrap_or_default()),
            Some("boolean") => json!(rng.bool()),
            _ => json!(odd(rng)),
        }
    }

    fn request(&self, operation: &Operation, rng: &mut Rng) -> Made {
        let mut path = operation.path.clone();
        let mut query = Vec::new();
        for parameter in operation.what["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name");
            if parameter["in"] == "path" {
                let value = match rng.u8(..3) {
                    0 => odd(rng).to_owned(),
                    1 => format!("api-{}", rng.u8(..4)),
                    _ => rng.u8(..6).to_string(),
                };
                // An empty segment is another path.
                let value = if value.is_empty() { "x" } else { &value };
                path = path.replace(&format!("{{{name}}}"), &encoded(value));
            } else if parameter["in"] == "query" && rng.u8(..12) == 0 {
                let value = if rng.bool() {
                    odd(rng).to_owned()
                } else {
                    self.value(&parameter["schema"], rng).to_string()
                };
                query.push(format!("{name}={}", encoded(&value)));
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let mut headers = BTreeMap::new();
        for (name, values) in HEADERS {
            if rng.u8(..10) == 0 {
                headers.insert(name, rng.choice(values).copied().unwrap_or_default().to_owned());
            }
        }
        Made { method: operation.method.clone(), path, headers, body: self.body(operation, rng) }
    }
}

fn odd(rng: &mut Rng) -> &'static str {
    rng.choice(ODD).unwrap_or_default()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A document that is valid but for one line, or altogether.
fn document(rng: &mut Rng) -> String {
    let number = rng.u8(..4);
    let whole = api(&format!("api-{number}"), &format!("/context-{number}"));
    let mut lines: Vec<&str> = whole.lines().collect();
    let at = rng.usize(..lines.len());
    match rng.u8(..6) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at]),
        2 => {
            let key = lines[at].split(':').next().unwrap_or_default();
            return whole.replace(lines[at], &format!("{key}: {:?}", odd(rng)));
        }
        _ => {}
    }
    lines.join("\n")
}

/// What is stored, as far as a client can tell.
async fn stored(gateway: &Gateway) -> (Option<String>, Value) {
    let answer = gateway.get("/rest-apis").await;
    (answer.header("x-ferrogate-revision").map(str::to_owned), answer.json())
}

#[tokio::test]
async fn no_request_made_from_the_description_gets_an_answer_that_it_does_not_have() {
    let schema = Schema::read();
    let gateway = Gateway::start().await;
    let mut rng = Rng::with_seed(SEED);
    let mut statuses = BTreeMap::<u16, usize>::new();
    let mut before = stored(&gateway).await;
    for _ in 0..ROUNDS {
        for operation in schema.operations() {
            let made = schema.request(&operation, &mut rng);
            let mut request = gateway.request(made.method.clone(), &made.path);
            for (name, value) in &made.headers {
                request = request.header(*name, value);
            }
            if let Some(body) = &made.body {
                request = request.body(body.clone());
            }
            let answer = send(request).await;
            if let Some(fault) = schema.fault(&operation, &answer) {
                panic!("{fault}\n{made:?}\n{answer:?}");
            }
            *statuses.entry(answer.status.as_u16()).or_default() += 1;
            let after = stored(&gateway).await;
            let may_write = operation.method != Method::GET && answer.status.is_success();
            if !may_write || made.path.contains("dryRun=true") {
                assert_eq!(after, before, "a refused request changed something: {made:?} {answer:?}");
            }
            before = after;
        }
    }
    for status in [200, 201, 400, 404, 409] {
        assert!(statuses.get(&status).is_some_and(|count| *count > 2), "{status} hardly ever: {statuses:?}");
    }
}
