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

use super::edit;

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
pub(super) struct Leaf<R>(Box<[Place<R>]>);

/// An entry in its leaf, with what decides whether it is the one: most entries need not be
/// looked into, which would be memory to wait for.
pub(super) struct Place<R> {
    pub(super) entry: Arc<Entry<R>>,
    /// The entry's.
    pub(super) route: Arc<R>,
    method: Method,
    has_conditions: bool,
}

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
        let collides = {
            let mut held = self.0.iter().map(|place| &place.entry);
            held.any(|held| held.artifact != entry.artifact && held.shadows(&entry))
        };
        let at = self.0.partition_point(|held| held.entry.rank() < entry.rank());
        edit(&mut self.0, |places| places.insert(at, Place::of(entry)));
        collides
    }

    /// Removes an entry, known by identity; false when it is not here.
    pub(super) fn remove(&mut self, entry: &Arc<Entry<R>>) -> bool {
        match self.0.iter().position(|held| Arc::ptr_eq(&held.entry, entry)) {
            Some(at) => {
                edit(&mut self.0, |places| places.remove(at));
                true
            }
            None => false,
        }
    }

    /// The first entry that takes the request.
    pub(super) fn pick(&self, method: Method, headers: HeaderLookup<'_, '_>) -> Option<&Place<R>> {
        self.0.iter().find(|place| place.accepts(method, headers))
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry<R>>> {
        self.0.iter().map(|place| &place.entry)
    }
}

impl<R> Place<R> {
    fn of(entry: Arc<Entry<R>>) -> Place<R> {
        let (route, method) = (Arc::clone(&entry.route), entry.method);
        Place { has_conditions: !entry.headers.is_empty(), route, method, entry }
    }

    fn accepts(&self, method: Method, headers: HeaderLookup<'_, '_>) -> bool {
        self.method == method
            && (!self.has_conditions || self.entry.headers.iter().all(|rule| rule.accepts(headers)))
    }
}

/// The better of two entries that match the same request at paths of equal rank.
pub(super) fn better<'t, R>(a: Option<&'t Place<R>>, b: Option<&'t Place<R>>) -> Option<&'t Place<R>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.entry.rank() < a.entry.rank() { b } else { a }),
        (a, b) => a.or(b),
    }
}

// Written out because a derive would ask `R: Clone`, and what is cloned is always an `Arc`.
impl<R> Clone for Place<R> {
    fn clone(&self) -> Place<R> {
        Place {
            entry: Arc::clone(&self.entry),
            route: Arc::clone(&self.route),
            method: self.method,
            has_conditions: self.has_conditions,
        }
    }
}

impl<R> Clone for Leaf<R> {
    fn clone(&self) -> Leaf<R> {
        Leaf(self.0.clone())
    }
}

impl<R> Default for Leaf<R> {
    fn default() -> Leaf<R> {
        Leaf(Box::default())
    }
}
