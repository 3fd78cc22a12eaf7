// SPDX-License-Identifier: Apache-2.0
//! Documents that are small and cost much: each must be refused, or cost little. Limits
//! on the text itself are tested beside the reader of documents.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ferrogate_model::document::{Defaults, Format, MAX_DOCUMENT_BYTES, parse};
use ferrogate_model::kinds::RestApi;
use ferrogate_model::kinds::rest_api::header_regex;
use ferrogate_model::route::MAX_SEGMENTS;

/// Unoptimised, on a busy machine; what is hunted takes minutes or for ever.
const LITTLE: Duration = Duration::from_secs(10);

fn document(operations: &str, more: &str) -> String {
    format!(
        "kind: RestApi\nmetadata: {{name: h}}\nspec:\n  displayName: H\n  version: v1\n  context: /h\n  \
         upstream: {{main: {{url: \"http://h:1\"}}}}\n{more}  operations:\n{operations}"
    )
}

/// Reads a document and answers what is wrong with it; none of that may take long.
fn refused(text: &str) -> Vec<String> {
    let began = Instant::now();
    let value = parse(text, Format::Yaml).expect("it can be read");
    let found = match RestApi::parse(&value, &Defaults::default()) {
        Ok(_) => Vec::new(),
        Err(refusal) => vec![refusal.to_string()],
    };
    assert!(began.elapsed() < LITTLE, "it took {:?}", began.elapsed());
    found
}

#[test]
fn hostile_expressions_are_refused_and_cost_little() {
    let began = Instant::now();
    for expression in [
        "(a{1,1000}){1,1000}",
        r"\w{1000}",
        r"(\pL{50}){50}",
        "((((a{1,10}){1,10}){1,10}){1,10}){1,10}",
        &"(".repeat(1000),
        &"a|".repeat(600),
        &format!("{}a{}", "(".repeat(400), ")".repeat(400)),
        "a)(b",
        "(?<n",
        "[",
    ] {
        assert!(header_regex(expression).is_err(), "{expression}");
    }
    // What is accepted matches in linear time, whatever it looks like.
    let value = "a".repeat(64 * 1024) + "!";
    for expression in ["(a+)+$", "(a|a)*$", "(a*)*b", "(.*)(.*)(.*)(.*)(.*)x"] {
        let regex = header_regex(expression).expect("it is small");
        assert!(!regex.is_match(value.as_bytes()), "{expression}");
    }
    assert!(began.elapsed() < LITTLE, "it took {:?}", began.elapsed());
}

#[test]
fn many_expressions_on_many_hosts_are_refused() {
    // Each compiles to a few hundred kilobytes, once for each host: gigabytes out of one small document.
    let mut operations = String::new();
    for index in 0..40 {
        writeln!(
            operations,
            "    - match: {{method: GET, path: {{type: Exact, value: /p{index}}}, headers: \
             [{{name: x-a, type: RegularExpression, value: '\\w{{1}}{index}'}}]}}"
        )
        .expect("a string");
    }
    let hosts: Vec<String> = (0..20).map(|index| format!("h{index}.example.com")).collect();
    let text = document(&operations, &format!("  vhosts: {{main: {}}}\n", hosts.join(";")));
    let found = refused(&text);
    assert!(found.iter().any(|one| one.contains("regular expressions")), "{found:?}");
    assert_eq!(refused(&document(&operations, "")), [""; 0], "on one host they are few");
}

#[test]
fn a_document_full_of_one_thing_is_read_or_refused_in_little_time() {
    let fill = |unit: &str| unit.repeat((MAX_DOCUMENT_BYTES - 1000) / unit.len());
    for unit in [
        "    - {method: GET, path: /a}\n",
        "    - {}\n",
        "    - [[[[]]]]\n",
        "    - \"\\u00e9\"\n",
        "    - ~\n",
    ] {
        assert!(!refused(&document(&fill(unit), "")).is_empty(), "{unit}");
    }
    let one = "    - {method: GET, path: /a}\n";
    for more in [
        format!("  displayName: {}\n", fill("a")).replacen("  displayName", "  version", 1),
        format!("  subscriptionPlans: [{}]\n", fill("a, ")),
        format!("  policies: [{}]\n", fill("{name: x}, ")),
        format!(
            "  vhosts: {{main: \"{}\"}}\n",
            (0..50_000).map(|index| format!("h{index}.example;")).collect::<String>()
        ),
        format!("  upstreamDefinitions: [{}]\n", fill("{name: x}, ")),
    ] {
        let text = document(one, &more).replacen(
            "  version: v1\n",
            if more.starts_with("  version") { "" } else { "  version: v1\n" },
            1,
        );
        assert!(!refused(&text).is_empty(), "{}", more.get(..30).unwrap_or_default());
    }
}

#[test]
fn a_path_deeper_than_runtimes_take_is_refused() {
    let operation = |depth: usize| format!("    - {{method: GET, path: {}}}\n", "/a".repeat(depth));
    // The context is a segment too.
    assert_eq!(refused(&document(&operation(MAX_SEGMENTS - 1), "")), [""; 0]);
    let found = refused(&document(&operation(MAX_SEGMENTS), ""));
    assert!(found.iter().any(|one| one.contains("segments")), "{found:?}");
}
