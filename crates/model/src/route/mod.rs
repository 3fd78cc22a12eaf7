// SPDX-License-Identifier: Apache-2.0
//! From an API to its routes (contract 4.1): which hosts, which method, which path
//! shape. The controller uses it to find overlaps between artifacts, the runtime to
//! build its table: one definition, so that what is admitted is what is served.
//! [`PathPattern::matches`] and [`precedence`] say what the table must do; the
//! runtime's table does the same faster and is tested against them.

mod claims;
mod expand;
mod normal;
mod order;
mod pattern;

use std::sync::Arc;

pub use claims::{MAX_CLAIM_BYTES, claims, name_claim};
pub use expand::{expand, full_path};
pub(crate) use normal::escape_at;
pub use normal::{EscapedSlashes, Normalised, never_requested, normalise, normalise_with};
pub use order::precedence;
pub use pattern::same_escapes;

use crate::kinds::rest_api::{HeaderMatch, Method};

/// The deepest path a route may have. Looking a path up takes one step of the stack for
/// each of a pattern's segments.
pub const MAX_SEGMENTS: usize = 256;

/// One route: an operation on one virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The virtual host pattern, lower case: `api.example.com`, `*.example.com`, `sandbox-*`, `*`.
    pub host: String,
    /// The method, matched exactly.
    pub method: Method,
    /// Context and operation path as written: it names the route and decides nothing.
    pub full_path: Arc<str>,
    /// The shape of the full path.
    pub path: PathPattern,
    /// All must match; sorted.
    pub headers: Vec<HeaderMatch>,
    /// Index into the API's operations.
    pub operation: usize,
    /// Whether the route goes to the sandbox upstream.
    pub sandbox: bool,
}

/// The shape of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// The segments between slashes, without the leading one.
    pub segments: Vec<Segment>,
    /// What may follow the last segment.
    pub tail: Tail,
}

/// One segment of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// This text. The empty text is the end of a path that ends with a slash.
    Literal(String),
    /// Text and placeholders alternating, for example `v{major}.json`.
    Mixed(Vec<Piece>),
    /// One placeholder: one or more characters other than a slash.
    Param,
}

/// A part of a mixed segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    /// This text.
    Text(String),
    /// One or more characters other than a slash.
    Param,
}

/// What may follow the last segment of a path pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tail {
    /// Nothing at all, and the pattern ranks above all others (`match` form, `Exact`).
    Exact,
    /// Nothing (a path with placeholders).
    End,
    /// Nothing or one slash (the simple form).
    OptionalSlash,
    /// Nothing, or a slash and anything (`/*`).
    Wildcard,
}

impl Route {
    /// `METHOD|FULLPATH|VHOST`, and the digest of the header conditions when there are any (contract 4.1).
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = format!("{}|{}|{}", self.method.as_str(), self.full_path, self.host);
        if !self.headers.is_empty() {
            name.push('|');
            name.push_str(&claims::headers_digest(&self.headers));
        }
        name
    }
}
