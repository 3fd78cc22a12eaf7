// SPDX-License-Identifier: Apache-2.0
//! One entry of the table, and the leaves that hold the entries of one path. The order
//! of a leaf is contract 4.2 (c) to (e), made total by the artifact's name, so that the
//! table is a pure function of its entries and never of the order they came in.

use std::cmp::Reverse;
use std::sync::Arc;

use ferrogate_model::ResourceName;
use ferrogate_model::kinds::rest_api::{HeaderMatch, HeaderValueMatch, Method};
use ferrogate_model::route::{PathPattern, Route};
use regex::bytes::{Regex, RegexBuilder};

/// The compiled size a header's regular expression may have; beyond it the artifact is refused.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// One route as the table needs it, and what it leads to.
#[derive(Debug)]
pub struct Entry<R> {
    /// The virtual host pattern, lower case.
    pub host: Arc<str>,
    /// Matched exactly: neither HEAD nor OPTIONS is implied.
    pub method: Method,
    /// The full path.
    pub path: PathPattern,
    /// All must match.
    pub headers: Vec<HeaderRule>,
    /// Index into the artifact's operations.
    pub operation: usize,
    /// The artifact.
    pub artifact: ResourceName,
    /// What the route leads to.
    pub route: Arc<R>,
}

/// One header condition, compiled.
#[derive(Clone, Debug)]
pub struct HeaderRule {
    source: HeaderMatch,
    regex: Option<Regex>,
}

/// How an entry ranks among those of the same path: the smaller comes first.
type Rank<'a> = (Reverse<usize>, Reverse<usize>, usize, &'a ResourceName, Method, &'a [HeaderRule]);

/// The first value of a header of the request, by its lower-case name.
pub type HeaderLookup<'f, 'h> = &'f dyn Fn(&str) -> Option<&'h [u8]>;

/// The entries that end at one place of the tree, in rank order.
#[derive(Debug)]
pub(super) struct Leaf<R>(Vec<Arc<Entry<R>>>);

impl<R> Entry<R> {
    /// The entry of an artifact's route, on a host text shared by its routes.
    ///
    /// # Errors
    /// When a header condition does not compile.
    pub fn try_new(
        source: &Route,
        host: Arc<str>,
        artifact: ResourceName,
        route: Arc<R>,
    ) -> Result<Entry<R>, regex::Error> {
        Ok(Entry {
            host,
            method: source.method,
            path: source.path.clone(),
            headers: source.headers.iter().map(HeaderRule::compile).collect::<Result<_, _>>()?,
            operation: source.operation,
            artifact,
            route,
        })
    }

    fn rank(&self) -> Rank<'_> {
        let exact = self.headers.iter().filter(|rule| rule.regex.is_none()).count();
        (
            Reverse(self.headers.len()),
            Reverse(exact),
            self.operation,
            &self.artifact,
            self.method,
            &self.headers,
        )
    }

    fn accepts(&self, method: Method, headers: HeaderLookup<'_, '_>) -> bool {
        self.method == method && self.headers.iter().all(|rule| rule.accepts(headers))
    }

    /// Whether requests cannot tell this entry from the other, which is of the same path.
    fn shadows(&self, other: &Entry<R>) -> bool {
        self.method == other.method && self.headers == other.headers && self.path.tail == other.path.tail
    }
}

impl HeaderRule {
    /// Compiles a header condition.
    ///
    /// # Errors
    /// When its regular expression does not compile within the size limit.
    pub fn compile(source: &HeaderMatch) -> Result<HeaderRule, regex::Error> {
        let compiled = |pattern: &str| {
            RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_REGEX_BYTES).build()
        };
        let regex = match &source.value {
            HeaderValueMatch::Exact(_) => None,
            HeaderValueMatch::Regex(pattern) => {
                // On its own first: `a)|(b` is no expression, but would become one when anchored.
                compiled(pattern)?;
                Some(compiled(&format!("^(?:{pattern})$"))?)
            }
        };
        Ok(HeaderRule { source: source.clone(), regex })
    }

    fn accepts(&self, headers: HeaderLookup<'_, '_>) -> bool {
        let Some(value) = headers(&self.source.name) else {
            return false;
        };
        match (&self.source.value, &self.regex) {
            (HeaderValueMatch::Exact(text), _) => text.as_bytes() == value,
            (HeaderValueMatch::Regex(_), Some(regex)) => regex.is_match(value),
            // Unreachable by construction; a condition that cannot be checked is not met.
            (HeaderValueMatch::Regex(_), None) => false,
        }
    }
}

impl PartialEq for HeaderRule {
    fn eq(&self, other: &HeaderRule) -> bool {
        self.source == other.source
    }
}

impl Eq for HeaderRule {}

impl PartialOrd for HeaderRule {
    fn partial_cmp(&self, other: &HeaderRule) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderRule {
    fn cmp(&self, other: &HeaderRule) -> std::cmp::Ordering {
        self.source.cmp(&other.source)
    }
}

impl<R> Leaf<R> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an entry; true when another artifact's entry answers exactly the same requests,
    /// so that the one that ranks first hides the other.
    pub(super) fn insert(&mut self, entry: Arc<Entry<R>>) -> bool {
        let collides = self.0.iter().any(|held| held.artifact != entry.artifact && held.shadows(&entry));
        let at = self.0.partition_point(|held| held.rank() < entry.rank());
        self.0.insert(at, entry);
        collides
    }

    /// Removes an entry, known by identity; false when it is not here.
    pub(super) fn remove(&mut self, entry: &Arc<Entry<R>>) -> bool {
        match self.0.iter().position(|held| Arc::ptr_eq(held, entry)) {
            Some(at) => {
                self.0.remove(at);
                true
            }
            None => false,
        }
    }

    /// The first entry that takes the request.
    pub(super) fn pick(&self, method: Method, headers: HeaderLookup<'_, '_>) -> Option<&Entry<R>> {
        self.0.iter().find(|entry| entry.accepts(method, headers)).map(|entry| &**entry)
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> &[Arc<Entry<R>>] {
        &self.0
    }
}

/// The better of two entries that match the same request at paths of equal rank.
pub(super) fn better<'t, R>(a: Option<&'t Entry<R>>, b: Option<&'t Entry<R>>) -> Option<&'t Entry<R>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.rank() < a.rank() { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl<R> Clone for Leaf<R> {
    fn clone(&self) -> Leaf<R> {
        Leaf(self.0.clone())
    }
}

impl<R> Default for Leaf<R> {
    fn default() -> Leaf<R> {
        Leaf(Vec::new())
    }
}
