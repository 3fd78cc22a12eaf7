// SPDX-License-Identifier: Apache-2.0
//! A posted text, in every format, as one document and as many, and what it says as an
//! API. What is read keeps the limits, and can be written and read again; what is refused
//! is refused in one short line.

use ferrogate_model::document::{
    Defaults, Format, MAX_BUNDLE_DOCUMENTS, MAX_DEPTH, MAX_DOCUMENT_BYTES, ParseError, parse, parse_many,
};
use ferrogate_model::kinds::RestApi;
use serde_json::Value;

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "document",
    run,
    rounds: 2400,
    words: &[
        "&a ",
        "*a",
        "<<: *a\n",
        "- ",
        "? ",
        "---\n",
        "...\n",
        "!!str ",
        "!!binary ",
        "|\n",
        ">-\n",
        "{",
        "[[[[[[[[",
        "\"\\u0000\"",
        "~",
        ": ",
        "# ",
        "%YAML 1.2\n",
        "\u{feff}",
        "spec:\n",
        "metadata:\n",
        "version: 1.10\n",
        "operations:\n",
        "{\"a\":",
        "0x1F",
        "1_000",
        ".inf",
        "2024-01-01",
    ],
};

/// The longest complaint, the fixed words around it included.
const MAX_COMPLAINT_CHARS: usize = 600;

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for format in [Format::Json, Format::Yaml, Format::Either] {
        match parse(text, format) {
            Ok(value) => read(&value),
            Err(error) => is_short(&error),
        }
        match parse_many(text, format) {
            Ok(values) => {
                assert!(!values.is_empty() && values.len() <= MAX_BUNDLE_DOCUMENTS);
                values.iter().for_each(read);
            }
            Err(error) => is_short(&error),
        }
    }
}

fn read(value: &Value) {
    assert!(depth(value) <= MAX_DEPTH, "deeper than the limit");
    let written = value.to_string();
    // Aliases may have made it longer than a document may be.
    if written.len() <= MAX_DOCUMENT_BYTES {
        let again = parse(&written, Format::Json).expect("what was read can be written and read again");
        assert_eq!(again.is_object(), value.is_object());
    }
    if let Err(refusal) = RestApi::parse(value, &Defaults::default()) {
        assert!(!refusal.to_string().is_empty());
    }
}

fn is_short(error: &ParseError) {
    assert!(error.0.chars().count() <= MAX_COMPLAINT_CHARS, "a long complaint");
    assert!(!error.0.contains('\n'), "a complaint of several lines: {error}");
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}
