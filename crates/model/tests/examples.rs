// SPDX-License-Identifier: Apache-2.0
//! The examples are what a newcomer pastes first: each must be read without a warning.

use std::path::Path;

use ferrogate_model::document::{Defaults, Format, parse_many};
use ferrogate_model::kinds::{Certificate, RestApi, Secret};
use ferrogate_model::route::{claims, expand};
use ferrogate_model::template::{Lookup, render};
use serde_json::Value;

struct World;

impl Lookup for World {
    fn env(&self, name: &str) -> Option<String> {
        (name == "READING_PASSWORD").then(|| "open sesame".to_owned())
    }

    fn secret(&self, handle: &str) -> Option<String> {
        (handle == "upstream-key").then(|| "change-me".to_owned())
    }
}

fn read(path: &Path) -> RestApi {
    let text = std::fs::read_to_string(path).expect("the example is readable");
    let mut apis = Vec::new();
    for document in parse_many(&text, Format::Yaml).expect("the example is YAML") {
        let warnings = match document["kind"].as_str() {
            Some("Secret") => Secret::parse(&document).expect("a sound secret").warnings,
            Some("Certificate") => Certificate::parse(&document).expect("a sound certificate").warnings,
            _ => {
                apis.push(read_api(path, &document));
                continue;
            }
        };
        assert!(warnings.0.is_empty(), "{}: {warnings}", path.display());
    }
    let [api] = <[RestApi; 1]>::try_from(apis).expect("one API each");
    api
}

fn read_api(path: &Path, document: &Value) -> RestApi {
    let rendered = render(document, &World).expect("its templates are sound");
    let parsed = RestApi::parse(&rendered.value, &Defaults::default()).expect("the example is a sound API");
    assert!(parsed.warnings.0.is_empty(), "{}: {}", path.display(), parsed.warnings);
    parsed.api
}

#[test]
fn every_example_is_read_and_none_takes_another_s_routes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut taken = std::collections::BTreeMap::new();
    let mut examples = 0;
    for entry in std::fs::read_dir(folder).expect("there are examples") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let api = read(&path);
        assert!(!expand(&api).is_empty(), "{}", path.display());
        for claim in claims(&api) {
            let other = taken.insert(claim.clone(), path.clone());
            assert!(other.is_none(), "{} and {other:?} both have {claim}", path.display());
        }
        examples += 1;
    }
    assert!(examples >= 6, "found {examples}");
}

#[test]
fn the_first_example_is_where_the_readme_says() {
    let api = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/reading-list.yaml"));
    assert_eq!((api.handle.as_str(), api.context.as_str()), ("reading-list", "/reading-list/v1"));
    assert!(expand(&api).iter().any(|route| route.name() == "GET|/reading-list/v1/books/{id}|*"));
}
