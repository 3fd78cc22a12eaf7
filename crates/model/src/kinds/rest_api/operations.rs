// SPDX-License-Identifier: Apache-2.0
//! `spec.operations` (contract 3.2): the simple form and the `match` form. Violations
//! name the field in the form the author used.

use std::collections::HashMap;

use super::parse::resilience;
use super::{HeaderMatch, HeaderValueMatch, Method, Operation, Resilience, headers, upgrades};
use crate::fields::{Fields, Findings};
use crate::route::{MAX_SEGMENTS, PathPattern, full_path, never_requested, normalise};

/// The most operations of one API.
pub const MAX_OPERATIONS: usize = 1000;
/// The most header conditions of one operation.
pub const MAX_HEADER_MATCHES: usize = 32;
/// The most routes of one API, which are its operations times its hosts.
pub const MAX_ROUTES: usize = 20_000;

/// The most regular expressions of one API, counted once for each of its hosts: every route
/// holds its own, compiled.
pub const MAX_EXPRESSIONS: usize = 500;

/// Paths below this one are the gateway's own.
const RESERVED: &str = "/_gateway-health";

/// An operation and the fields it was read from; its policies are read from them later.
pub(super) struct Authored<'v> {
    pub(super) operation: Operation,
    pub(super) fields: Fields<'v>,
}

pub(super) fn read<'v>(
    spec: &Fields<'v>,
    context: &str,
    hosts: usize,
    found: &mut Findings,
) -> Vec<Authored<'v>> {
    let before = found.violations.0.len();
    let elements = spec.list("operations", MAX_OPERATIONS, found);
    if elements.is_empty() && found.violations.0.len() == before {
        found.violations.push(spec.path("operations"), "At least one operation is required");
    }
    if elements.len().saturating_mul(hosts) > MAX_ROUTES {
        let message = format!("At most {MAX_ROUTES} routes are allowed, which are operations times hosts");
        found.violations.push(spec.path("operations"), message);
    }
    let mut seen = HashMap::new();
    let mut operations = Vec::with_capacity(elements.len());
    for (index, (path, value)) in elements.into_iter().enumerate() {
        let fields = Fields::of(value, path, found);
        let operation = operation(&fields, context, index, &mut seen, found);
        operations.push(Authored { operation, fields });
    }
    let headers = operations.iter().flat_map(|authored| &authored.operation.headers);
    let expressions = headers.filter(|header| matches!(header.value, HeaderValueMatch::Regex(_))).count();
    if expressions.saturating_mul(hosts) > MAX_EXPRESSIONS {
        let message =
            format!("At most {MAX_EXPRESSIONS} regular expressions are allowed, counted once for each host");
        found.violations.push(spec.path("operations"), message);
    }
    operations
}

/// What two operations of one API must not share, and the first operation that has it.
type Seen = HashMap<(Method, PathPattern, Vec<HeaderMatch>), usize>;

/// Reads one operation. What cannot be read gets a stand-in: a violation is recorded, so
/// that no API with a stand-in is ever made.
fn operation(
    fields: &Fields<'_>,
    context: &str,
    index: usize,
    seen: &mut Seen,
    found: &mut Findings,
) -> Operation {
    fields.only(&["method", "path", "match", "policies", "resilience", "upgrades"], found);
    let conditional = fields.has("match");
    let matcher = fields.fields("match", found);
    matcher.only(&["method", "path", "headers"], found);
    let place = if conditional { &matcher } else { fields };
    for name in ["method", "path"] {
        if conditional && fields.has(name) {
            found.warn(fields.path(name), format!("ignored, because match is present; set match.{name}"));
        }
    }
    let method = method(place, found);
    let (path, path_field, exact) = if conditional {
        let inner = matcher.fields("path", found);
        inner.only(&["type", "value"], found);
        let (path, exact) = matched_path(&inner, found);
        (path, inner.path("value"), exact)
    } else {
        (fields.text("path", found).unwrap_or_default(), fields.path("path"), false)
    };
    let sound = check_path(&path, &path_field, context, found);
    let headers = headers::read(&matcher, found);
    if let (Some(method), true) = (method, sound) {
        let mut sorted = headers.clone();
        sorted.sort();
        sorted.dedup();
        // Every operation stands below the same context, which may itself be faulty: without a
        // slash at its start it would swallow the paths and make them all alike.
        let pattern = PathPattern::new("/", &path, exact);
        let first = *seen.entry((method, pattern, sorted)).or_insert(index);
        if first != index {
            let message = format!(
                "Duplicates spec.operations[{first}] (same method, path and header conditions), \
                 so one of the two could never be reached"
            );
            found.violations.push(fields.own_path(), message);
        }
    }
    Operation {
        method: method.unwrap_or(Method::Get),
        path,
        exact,
        headers,
        policies: Vec::new(),
        resilience: if fields.has("resilience") { resilience(fields, found) } else { Resilience::default() },
        upgrades: upgrades::read(fields, found),
    }
}

fn method(place: &Fields<'_>, found: &mut Findings) -> Option<Method> {
    let text = place.text("method", found).unwrap_or_default();
    let method = Method::from_token(&text.to_ascii_uppercase());
    if text.is_empty() {
        let message = "HTTP method is required (set operation.method or operation.match.method)";
        found.violations.push(place.path("method"), message);
    } else if method.is_none() {
        let message =
            format!("Invalid HTTP method '{text}' (must be GET, POST, PUT, DELETE, PATCH, HEAD, or OPTIONS)");
        found.violations.push(place.path("method"), message);
    }
    method
}

/// `match.path`: the path, and whether it matches exactly.
fn matched_path(fields: &Fields<'_>, found: &mut Findings) -> (String, bool) {
    let path = fields.text("value", found).unwrap_or_default();
    match fields.text("type", found).as_deref() {
        None | Some("Exact") => (path, true),
        // A prefix is what the wildcard form says; there is one way to say it inside.
        Some("PathPrefix") if path.starts_with('/') && !path.ends_with("/*") => {
            (format!("{}/*", path.trim_end_matches('/')), false)
        }
        Some("PathPrefix") => (path, false),
        Some(_) => {
            found.violations.push(fields.path("type"), "Path match type must be Exact or PathPrefix");
            (path, true)
        }
    }
}

/// Whether the path can be made a pattern.
fn check_path(path: &str, field: &str, context: &str, found: &mut Findings) -> bool {
    let before = found.violations.0.len();
    if path.is_empty() {
        let message = "Operation path is required (set operation.path or operation.match.path.value)";
        found.violations.push(field, message);
        return false;
    }
    if !path.starts_with('/') {
        found.violations.push(field, "Operation path must start with /");
    }
    if !path.split('/').all(braces_pair_up) {
        found.violations.push(field, "Operation path has unbalanced braces in parameters");
    }
    if path.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
        let message = "Operation path must not contain whitespace, control characters, '?' or '#'";
        found.violations.push(field, message);
    }
    let literal = path.strip_suffix("/*").unwrap_or(path);
    if literal.contains('*') {
        found.warn(field, "'*' is a wildcard only as the last segment; here it stands for itself");
    }
    if let Some(why) = never_requested(path) {
        found.warn(field, why);
    }
    if PathPattern::new(context, path, false).segments.len() > MAX_SEGMENTS {
        let message =
            format!("Context and operation path must have at most {MAX_SEGMENTS} segments together");
        found.violations.push(field, message);
    }
    let full = full_path(context, path);
    if normalise(&full).strip_prefix(RESERVED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        let message = format!("path conflicts with the reserved gateway health-check namespace ({RESERVED})");
        found.violations.push(field, message);
    }
    found.violations.0.len() == before
}

/// Braces open and close in turn, within one segment.
fn braces_pair_up(segment: &str) -> bool {
    let mut open = false;
    for c in segment.chars() {
        match c {
            '{' if open => return false,
            '}' if !open => return false,
            '{' => open = true,
            '}' => open = false,
            _ => {}
        }
    }
    !open
}
