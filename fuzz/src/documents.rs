// SPDX-License-Identifier: Apache-2.0
//! The valid documents that structure-aware targets start from: the examples of this
//! tree and of the policies' documentation, so that what is new there is fuzzed without
//! a change here. Fields that no example has are in `everything.yaml`.

use std::sync::{Arc, LazyLock};

use ferrogate_controller::deploy::{Admission, Admitted, Refusal, Secrets};
use ferrogate_model::Kind;
use ferrogate_model::document::{Defaults, Format, parse};
use ferrogate_model::kinds::rest_api::PolicySpec;
use ferrogate_model::template::Lookup;
use ferrogate_policies::catalog;
use ferrogate_policy::fetch::{Done, Fetch, Order};
use ferrogate_policy::{Registry, Services};
use serde_json::{Value, json};

/// The documents of `examples/`, and one with a part for every field there is.
const EXAMPLES: [&str; 8] = [
    include_str!("../../examples/reading-list.yaml"),
    include_str!("../../examples/respond.yaml"),
    include_str!("../../examples/basic-auth.yaml"),
    include_str!("../../examples/sandbox-and-weights.yaml"),
    include_str!("../../examples/headers.yaml"),
    include_str!("../../examples/rate-limit.yaml"),
    include_str!("../../examples/cors.yaml"),
    include_str!("everything.yaml"),
];
const POLICIES: &str = include_str!("../../docs/policies.md");

/// What a template's secret stands for. No refusal, no log and no dump may show it.
pub const SECRET: &str = "planted4secret7that2nobody9sees";

/// Texts that are no fields and no values of the examples, and interesting all the same.
const ODD: [&str; 30] = [
    "",
    " ",
    "*",
    "/",
    "/*",
    "//",
    "/../",
    "%2F",
    "{",
    "}",
    "{x}",
    "{x}{y}",
    "a)(b",
    "(a+)+$",
    "(((((a{1,99}){1,99}",
    "{{",
    "{{ secret \"x\" }}",
    "{{ env \"HOME\" }}",
    "{{ required \"m\" (env \"NONE\") }}",
    "$version",
    "_gateway_default_",
    "[::1]:80",
    "http://[::1]:99999/",
    "https://u:p@h/x?q#f",
    "HTTP://EXAMPLE.com:0",
    "true",
    "request.Path.matches('(a+)+$')",
    "0s",
    "1h30m",
    "999999999999999h",
];

/// Templates look here: every secret is the planted one.
pub struct World;

impl Lookup for World {
    fn env(&self, name: &str) -> Option<String> {
        (name != "NONE").then(|| format!("value-of-{name}"))
    }

    fn secret(&self, _handle: &str) -> Option<String> {
        Some(SECRET.to_owned())
    }
}

/// The example documents.
#[must_use]
pub fn examples() -> &'static [Value] {
    static READ: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let read = |text: &&str| parse(text, Format::Yaml).expect("an example is a document");
        EXAMPLES.iter().map(read).collect()
    });
    &READ
}

/// The payloads of the example documents.
#[must_use]
pub fn payloads() -> &'static [Value] {
    static READ: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let admit = |one: &Value| match admit(one.clone(), true) {
            Ok(admitted) => admitted.payload,
            Err(refusal) => panic!("an example is refused: {refusal}"),
        };
        let payloads = examples().iter().filter_map(admit);
        payloads.filter_map(|payload| serde_json::from_str(&payload).ok()).collect()
    });
    &READ
}

/// The policies of the documentation's examples.
#[must_use]
pub fn policies() -> &'static [PolicySpec] {
    static READ: LazyLock<Vec<PolicySpec>> = LazyLock::new(|| {
        let blocks = POLICIES.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let documents = blocks.filter_map(|block| parse(block, Format::Yaml).ok());
        documents.flat_map(|document| lists(&document)).flatten().collect()
    });
    &READ
}

/// Every policy list in a document.
fn lists(value: &Value) -> Vec<Vec<PolicySpec>> {
    let Value::Object(fields) = value else {
        return value.as_array().into_iter().flatten().flat_map(lists).collect();
    };
    let mut found: Vec<Vec<PolicySpec>> = fields.values().flat_map(lists).collect();
    found.extend(fields.get("policies").and_then(|list| serde_json::from_value(list.clone()).ok()));
    found
}

/// Every key and text of the examples, and the odd ones.
#[must_use]
pub fn words() -> &'static [String] {
    static READ: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut words: Vec<String> = ODD.iter().map(|word| (*word).to_owned()).collect();
        examples().iter().for_each(|example| gather(example, &mut words));
        policies().iter().for_each(|policy| gather(&policy.params, &mut words));
        words.sort();
        words.dedup();
        words
    });
    &READ
}

fn gather(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::String(text) => words.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| gather(item, words)),
        Value::Object(fields) => {
            for (key, field) in fields {
                words.push(key.clone());
                gather(field, words);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The key of the one authority whose tokens are accepted; nobody has its private half.
const KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k","use":"sig","alg":"ES256",
    "x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

/// The built-in policies, with what an operator has to give them before they serve.
#[must_use]
pub fn registry() -> &'static Arc<Registry> {
    static BUILT: LazyLock<Arc<Registry>> = LazyLock::new(|| {
        let mut registry = Registry::new(catalog::all()).expect("the catalogue is well formed");
        let managers = json!([{"name": "a", "issuer": "a", "jwks": {"local": {"inline": KEY}}}]);
        registry.configure("jwtauth_v1", &json!({"keyManagers": managers})).expect("a section that works");
        Arc::new(registry)
    });
    &BUILT
}

/// What those policies may touch: memory only.
#[must_use]
pub fn services() -> Services {
    catalog::services(registry(), Arc::new(Nothing))
}

/// There is nobody to fetch from.
struct Nothing;

impl Fetch for Nothing {
    fn start(&self, _order: Order, done: Done) {
        done(Err("there is no network here".to_owned()));
    }
}

/// Admission as a controller does it, but for where templates look.
#[must_use]
pub fn admission() -> &'static Admission {
    static BUILT: LazyLock<Admission> = LazyLock::new(|| Admission {
        registry: Arc::clone(registry()),
        services: Services::in_memory(),
        defaults: Defaults::default(),
        environment: Arc::new(World),
    });
    &BUILT
}

/// Admits a Secret as a controller does.
///
/// # Errors
/// As admission.
pub fn admit_secret(document: Value, strict: bool) -> Result<Admitted, Refusal> {
    admission().admit(Kind::Secret, document, strict, &Secrets::default())
}

/// Admits an API as a controller does that has secrets under the names the examples use.
///
/// # Errors
/// As admission.
pub fn admit(document: Value, strict: bool) -> Result<Admitted, Refusal> {
    static SECRETS: LazyLock<Secrets> = LazyLock::new(|| {
        let mut secrets = Secrets::default();
        for name in ["x", "reading"] {
            let document = json!({
                "kind": Kind::Secret.document_name(),
                "metadata": {"name": name},
                "spec": {"displayName": name, "value": SECRET},
            });
            match admit_secret(document, true) {
                Ok(admitted) => secrets.write(&admitted),
                Err(refusal) => panic!("the planted secret is refused: {refusal}"),
            }
        }
        secrets
    });
    admission().admit(Kind::RestApi, document, strict, &SECRETS)
}
