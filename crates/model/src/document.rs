// SPDX-License-Identifier: Apache-2.0
//! Documents: what a client posts, before it is an artifact. Text (YAML or JSON)
//! becomes a JSON value within hard limits on size, depth and aliases; the value
//! becomes an artifact in [`crate::kinds`]. Both formats refuse a repeated key,
//! for the author meant one of the two and nobody can tell which.

mod reader;

use std::{fmt, io};

use serde_json::Value;

use self::reader::{Document, read_json};

/// The longest single document. A longer one is refused unread.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// The longest text with several documents. A longer one is refused unread.
pub const MAX_BUNDLE_BYTES: usize = 16 * 1024 * 1024;
/// The most documents in one text. A text with more is refused whole.
pub const MAX_BUNDLE_DOCUMENTS: usize = 1000;
/// The deepest nesting of maps and lists. A deeper document is refused.
pub const MAX_DEPTH: usize = 64;
/// The most uses of aliases in one text. A text with more is refused.
pub const MAX_ALIASES: usize = 256;
/// The most YAML events that aliases may add to a text: it bounds the "billion laughs".
pub const MAX_ALIAS_EVENTS: usize = 10_000;
/// The most nodes (maps, lists and scalars) in one YAML text.
pub const MAX_NODES: usize = 1_000_000;
/// The longest complaint about a text; the rest of a longer one is left out.
const MAX_COMPLAINT_CHARS: usize = 400;

/// How the body of a request says it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON only.
    Json,
    /// YAML only (which includes JSON's syntax).
    Yaml,
    /// YAML first, then JSON (contract 1.4: unknown or absent content type).
    Either,
}

/// A document that could not be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse configuration: {0}")]
pub struct ParseError(pub String);

/// The gateway-wide values that an artifact's omitted fields take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// What `spec.vhosts.main` is where a document names none, `;`-separated.
    pub main_host: String,
    /// The same for `spec.vhosts.sandbox`.
    pub sandbox_host: String,
    /// The patterns that the default main host stands for (contract 4.3); empty: itself.
    pub main_domains: Vec<String>,
    /// The same for the default sandbox host.
    pub sandbox_domains: Vec<String>,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            main_host: "*".to_owned(),
            sandbox_host: "sandbox-*".to_owned(),
            main_domains: Vec::new(),
            sandbox_domains: Vec::new(),
        }
    }
}

/// Reads one document.
///
/// # Errors
/// When the text is not one document of that format, is empty, or is over a limit.
pub fn parse(text: &str, format: Format) -> Result<Value, ParseError> {
    within(text, MAX_DOCUMENT_BYTES)?;
    let value = match format {
        Format::Json => json(text),
        Format::Yaml => yaml(text),
        // The YAML complaint is the one returned: JSON is what YAML would have read as well.
        Format::Either => yaml(text).or_else(|error| json(text).map_err(|_| error)),
    }?;
    if value.is_null() {
        return Err(ParseError("the document is empty".to_owned()));
    }
    Ok(value)
}

/// Why a document of a bundle is too large, if it is: how long its own part of the text was
/// is not known, so that what counts is the JSON that is kept of it.
#[must_use]
pub fn oversize(document: &Value, limit: usize) -> Option<String> {
    let mut bytes = Bytes(0);
    // Counting cannot fail, nor can a value without keys that are no text.
    serde_json::to_writer(&mut bytes, document).ok()?;
    let Bytes(bytes) = bytes;
    (bytes > limit).then(|| format!("the document is {bytes} bytes long as JSON, the limit is {limit}"))
}

/// Counts what is written to it.
struct Bytes(usize);

impl io::Write for Bytes {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        self.0 += written.len();
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads every document of a text: the documents of a YAML stream (empty ones are skipped),
/// or the elements of one list at the top, in either format.
///
/// # Errors
/// When the text is not of that format, holds no document, or is over a limit.
pub fn parse_many(text: &str, format: Format) -> Result<Vec<Value>, ParseError> {
    within(text, MAX_BUNDLE_BYTES)?;
    let documents = match format {
        Format::Json => json(text).map(|value| vec![value]),
        Format::Yaml => yaml_stream(text),
        Format::Either => {
            yaml_stream(text).or_else(|error| json(text).map(|value| vec![value]).map_err(|_| error))
        }
    }?;
    let mut values = Vec::with_capacity(documents.len());
    for document in documents {
        match document {
            Value::Array(elements) => values.extend(elements),
            other => values.push(other),
        }
    }
    values.retain(|value| !value.is_null());
    if values.is_empty() {
        return Err(ParseError("the text holds no document".to_owned()));
    }
    if values.len() > MAX_BUNDLE_DOCUMENTS {
        return Err(ParseError(format!("the text holds more than {MAX_BUNDLE_DOCUMENTS} documents")));
    }
    Ok(values)
}

fn within(text: &str, limit: usize) -> Result<(), ParseError> {
    if text.len() > limit {
        return Err(ParseError(format!("the text is {} bytes long, the limit is {limit}", text.len())));
    }
    Ok(())
}

fn json(text: &str) -> Result<Value, ParseError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = read_json(&mut deserializer).map_err(one_line)?;
    deserializer.end().map_err(one_line)?;
    Ok(value)
}

fn yaml(text: &str) -> Result<Value, ParseError> {
    let error = match serde_saphyr::from_str_with_options::<Document>(text, options()) {
        Ok(document) => return Ok(document.0),
        Err(error) => error,
    };
    // What makes files puts markers around documents, so that there are empty ones beside the one.
    if matches!(innermost(&error), serde_saphyr::Error::MultipleDocuments { .. })
        && let Ok(mut documents) = yaml_stream(text)
    {
        documents.retain(|document| !document.is_null());
        if documents.len() < 2 {
            return Ok(documents.pop().unwrap_or_default());
        }
    }
    Err(complaint(error))
}

fn yaml_stream(text: &str) -> Result<Vec<Value>, ParseError> {
    let documents: Vec<Document> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(complaint)?;
    Ok(documents.into_iter().map(|document| document.0).collect())
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_documents: MAX_BUNDLE_DOCUMENTS + 1,
            max_nodes: MAX_NODES,
            max_events: MAX_NODES * 2,
            max_total_scalar_bytes: MAX_BUNDLE_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_EVENTS,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        // A value tree has no schema to tell `yes` the answer from `yes` the word.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        // A snippet of the source in an error text could show a credential.
        with_snippet: false,
        emit_comments: false,
    }
}

/// What is wrong with a YAML text, for its author: the library words some of its errors for
/// the programmer who calls it.
fn complaint(error: serde_saphyr::Error) -> ParseError {
    use serde_saphyr::Error;
    let reason = match innermost(&error) {
        Error::MultipleDocuments { .. } => "it holds multiple documents where one is wanted".to_owned(),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key '{key}' stands twice in one map")
        }
        Error::DuplicateMappingKey { key: None, .. } => "a key stands twice in one map".to_owned(),
        Error::Budget { .. } => format!(
            "it is over a limit: {MAX_DEPTH} levels, {MAX_ALIASES} aliases, {MAX_NODES} values, \
             {MAX_BUNDLE_DOCUMENTS} documents"
        ),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "its aliases stand for more than is allowed".to_owned()
        }
        other => return one_line(other),
    };
    match error.location() {
        Some(at) => one_line(format!("{reason} at line {}, column {}", at.line(), at.column())),
        None => one_line(reason),
    }
}

fn innermost(error: &serde_saphyr::Error) -> &serde_saphyr::Error {
    match error.without_snippet() {
        serde_saphyr::Error::AliasError { error, .. } => error.without_snippet(),
        other => other,
    }
}

/// A text in the error may be the document's own, and as long: it is cut.
fn one_line(error: impl fmt::Display) -> ParseError {
    let text = error.to_string();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        let room = MAX_COMPLAINT_CHARS.saturating_sub(line.chars().count());
        line.extend(word.chars().take(room));
        if word.chars().count() > room {
            line.push('…');
            break;
        }
    }
    ParseError(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};
    use serde_json::{Value, json};

    use super::{
        Format, MAX_ALIASES, MAX_BUNDLE_DOCUMENTS, MAX_DEPTH, MAX_DOCUMENT_BYTES, oversize, parse, parse_many,
    };

    fn check(text: &str, format: Format, want: Result<Value, &str>) {
        match (parse(text, format), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{text}"),
            (Err(error), Err(part)) => {
                let error = error.to_string();
                assert!(error.starts_with("failed to parse configuration: "), "{error}");
                assert!(error.contains(part), "{error:?} should contain {part:?}");
            }
            (got, want) => panic!("{text}: got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn both_formats_give_the_same_value() {
        let want = json!({"a": [1, -2, 1.5, true, null, "x"], "b": {"c": ""}});
        check(r#"{"a":[1,-2,1.5,true,null,"x"],"b":{"c":""}}"#, Format::Json, Ok(want.clone()));
        check(r#"{"a":[1,-2,1.5,true,null,"x"],"b":{"c":""}}"#, Format::Either, Ok(want.clone()));
        check("a: [1, -2, 1.5, true, ~, x]\nb:\n  c: ''\n", Format::Yaml, Ok(want));
        check("a: &x [1]\nb: *x\n", Format::Yaml, Ok(json!({"a": [1], "b": [1]})));
        check(
            "a: yes\nb: 0755\nc: 1_000\nd: 2024-01-01\n200: e",
            Format::Yaml,
            Ok(json!({"a": "yes", "b": "0755", "c": "1_000", "d": "2024-01-01", "200": "e"})),
        );
    }

    #[test]
    fn a_plain_scalar_is_text_where_text_is_meant() {
        check(
            "kind: RestApi\nmetadata: {name: 007, labels: {build: 1.10, on: true}}\n\
             spec: {version: 1.10, displayName: 2, context: ~, resilience: {timeout: 5, retry: {attempts: 2}}, \
             subscriptionPlans: [1, ~], upstream: {main: {split: [{ref: 1, weight: 1}]}}, \
             upstreamDefinitions: [{name: 1, upstreams: [{zone: 2, weight: 3}]}], \
             operations: [{match: {headers: [{name: x, value: 1.0}]}, policies: [{version: 1, params: {version: 1.10}}]}]}",
            Format::Either,
            Ok(json!({
                "kind": "RestApi",
                "metadata": {"name": "007", "labels": {"build": "1.10", "on": "true"}},
                "spec": {"version": "1.10", "displayName": "2", "context": null,
                    "resilience": {"timeout": "5", "retry": {"attempts": 2}},
                    "subscriptionPlans": ["1", null],
                    "upstream": {"main": {"split": [{"ref": "1", "weight": 1}]}},
                    "upstreamDefinitions": [{"name": "1", "upstreams": [{"zone": "2", "weight": 3}]}],
                    "operations": [{"match": {"headers": [{"name": "x", "value": "1.0"}]},
                        "policies": [{"version": "1", "params": {"version": 1.1}}]}]},
            })),
        );
    }

    #[test]
    fn empty_documents_beside_the_one_are_left_out() {
        for text in [
            "a: 1\n---\n",
            "a: 1\n---",
            "---\na: 1\n...\n---\n# the end\n",
            "---\n---\na: 1\n",
            "a: 1\n---\n---\n",
        ] {
            for format in [Format::Yaml, Format::Either] {
                check(text, format, Ok(json!({"a": 1})));
            }
        }
        check("---\n---\n", Format::Yaml, Err("empty"));
    }

    #[test]
    fn what_cannot_be_read_is_said_in_one_line() {
        check("", Format::Yaml, Err("empty"));
        check("", Format::Json, Err("EOF"));
        check("a: 1", Format::Json, Err("line 1"));
        check("a: [1", Format::Yaml, Err("line"));
        check("a: 1\na: 2", Format::Yaml, Err("the key 'a' stands twice in one map at line 2"));
        check(r#"{"a":1,"a":2}"#, Format::Json, Err("'a' stands twice"));
        check("a: 1\n---\nb: 2", Format::Yaml, Err("multiple documents where one is wanted at line 3"));
        check("a: 1\n---\n---\nb: 2\n---\n", Format::Either, Err("multiple documents where one is wanted"));
        check(&format!("a: {}", "9".repeat(100_000)), Format::Yaml, Err("…"));
        check("{} {}", Format::Json, Err("trailing"));
        check("a: .inf", Format::Yaml, Err("finite"));
        check("spec: {version: [1]}", Format::Yaml, Err("line 1"));
    }

    #[test]
    fn every_limit_holds() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        for format in [Format::Json, Format::Yaml, Format::Either] {
            assert!(parse(&nested(MAX_DEPTH - 1), format).is_ok(), "{format:?}");
            assert!(parse(&nested(MAX_DEPTH + 1), format).is_err(), "{format:?}");
            check(&" ".repeat(MAX_DOCUMENT_BYTES + 1), format, Err("the limit is"));
        }
        let long = json!({"a": "x".repeat(MAX_DOCUMENT_BYTES)});
        assert!(oversize(&long, MAX_DOCUMENT_BYTES).is_some_and(|fault| fault.contains("the limit is")));
        assert_eq!(oversize(&json!({"a": "x"}), 9), None);
        assert!(oversize(&json!({"a": "x"}), 8).is_some());
        let block: String = (0..=MAX_DEPTH).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        check(&block, Format::Yaml, Err("over a limit: 64 levels"));
        let laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
            c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d]\n";
        check(laughs, Format::Yaml, Err("aliases stand for more"));
        let aliases = format!("a: &a 1\nb: [{}]", "*a,".repeat(MAX_ALIASES + 1));
        assert!(parse(&aliases, Format::Yaml).is_err());
        assert!(parse_many(&"---\na: 1\n".repeat(MAX_BUNDLE_DOCUMENTS + 1), Format::Yaml).is_err());
    }

    #[test]
    fn a_bundle_is_a_stream_or_a_list() {
        let want = vec![json!({"a": 1}), json!({"b": 2})];
        assert_eq!(parse_many("---\na: 1\n---\n---\nb: 2\n", Format::Yaml), Ok(want.clone()));
        assert_eq!(parse_many("- a: 1\n- b: 2\n", Format::Either), Ok(want.clone()));
        assert_eq!(parse_many(r#"[{"a":1},{"b":2}]"#, Format::Json), Ok(want));
        assert_eq!(parse_many("a: 1", Format::Yaml), Ok(vec![json!({"a": 1})]));
        for empty in ["", "---\n", "[]"] {
            assert!(parse_many(empty, Format::Yaml).is_err(), "{empty:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), lines in prop::collection::vec("[ \\-a:{}\\[\\]&*|>'\"!#%@0-9.\n]{0,12}", 0..8)) {
            for text in [text, lines.join("\n")] {
                for format in [Format::Json, Format::Yaml, Format::Either] {
                    assert_ne!(parse(&text, format), Ok(Value::Null));
                    assert_ne!(parse_many(&text, format), Ok(Vec::new()));
                }
            }
        }
    }
}
