// SPDX-License-Identifier: Apache-2.0
//! Header conditions of an operation. A regular expression is compiled here, within
//! bounds no wider than the runtime's, so that one that is stored can be served.

use regex::bytes::{Regex, RegexBuilder};

use super::operations::MAX_HEADER_MATCHES;
use super::{HeaderMatch, HeaderValueMatch};
use crate::fields::{Fields, Findings};

/// The longest header expression, in bytes of its text.
pub const MAX_REGEX_BYTES: usize = 1024;

/// The most memory a compiled expression may take; a counted repetition reaches it first.
const MAX_COMPILED_BYTES: usize = 256 * 1024;

/// Compiles a header expression so that it matches whole values. Matching takes linear time.
/// A runtime may allow more than this does, never less.
///
/// # Errors
/// When the expression is malformed or over a limit; the text says why.
pub fn header_regex(expression: &str) -> Result<Regex, String> {
    if expression.len() > MAX_REGEX_BYTES {
        return Err(format!("it is longer than {MAX_REGEX_BYTES} bytes"));
    }
    let compile = |expression: &str| {
        RegexBuilder::new(expression)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(reason)
    };
    // On its own first: `a)(b` would close the group that the anchors rely on.
    compile(expression)?;
    compile(&format!("^(?:{expression})$"))
}

fn reason(error: regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "it needs too much memory".to_owned(),
        other => other.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

pub(super) fn read(condition: &Fields<'_>, found: &mut Findings) -> Vec<HeaderMatch> {
    let elements = condition.list("headers", MAX_HEADER_MATCHES, found);
    elements.into_iter().filter_map(|(path, value)| header(&Fields::of(value, path, found), found)).collect()
}

fn header(fields: &Fields<'_>, found: &mut Findings) -> Option<HeaderMatch> {
    fields.only(&["name", "value", "type"], found);
    let name = fields.text("name", found).unwrap_or_default().to_ascii_lowercase();
    if name.is_empty() {
        found.violations.push(fields.path("name"), "Header name is required");
    } else if !name.bytes().all(is_token_byte) {
        found.violations.push(fields.path("name"), format!("'{name}' is not a header name"));
    }
    let kind = fields.text("type", found);
    let Some(value) = fields.text("value", found) else {
        found.violations.push(fields.path("value"), "Header value is required");
        return None;
    };
    let value = match kind.as_deref() {
        None | Some("Exact") => {
            if value.chars().any(char::is_control) {
                found
                    .violations
                    .push(fields.path("value"), "Header value must not contain control characters");
            }
            HeaderValueMatch::Exact(value)
        }
        Some("RegularExpression") => {
            if let Err(why) = header_regex(&value) {
                found.violations.push(fields.path("value"), format!("Invalid regular expression: {why}"));
            }
            HeaderValueMatch::Regex(value)
        }
        Some(_) => {
            found
                .violations
                .push(fields.path("type"), "Header match type must be Exact or RegularExpression");
            return None;
        }
    };
    Some(HeaderMatch { name, value })
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
