// SPDX-License-Identifier: Apache-2.0
//! Virtual hosts (contract 4.3): exact, then the longest suffix wildcard, then the longest
//! prefix wildcard, then `*`. There is no fallback between them: the chosen host answers,
//! if only with 404. Two readings differ from the contract's origin on purpose: a wildcard
//! matches whatever port the client names, and a final dot of the host is ignored, so
//! that neither lands on another host's policies.

use std::borrow::Cow;
use std::sync::Arc;

use super::Map;
use super::entry::{Entry, Leaf, Place};
use super::node::{Node, Wanted};
use ferrogate_model::route::{PathPattern, Segment, Tail, same_escapes};

/// The routes of one virtual host.
pub(super) struct HostRoutes<R> {
    /// `match`-form exact paths, which rank above all others.
    exact: Map<Leaf<R>>,
    root: Arc<Node<R>>,
}

/// The virtual hosts of a table.
pub(super) struct Hosts<R> {
    exact: Map<Arc<HostRoutes<R>>>,
    /// By the text after the star.
    suffix: Wild<R>,
    /// By the text before it.
    prefix: Wild<R>,
    any: Option<Arc<HostRoutes<R>>>,
}

struct Wild<R> {
    hosts: Map<Arc<HostRoutes<R>>>,
    /// The distinct lengths of the texts, longest first, with how many texts have each: a
    /// lookup tries one hash per length that exists, and not one per label of the host.
    lengths: Vec<(usize, usize)>,
}

/// A pattern, taken apart.
enum Pattern<'p> {
    Exact(Cow<'p, str>),
    Suffix(&'p str),
    Prefix(&'p str),
    Any,
}

impl<R> Hosts<R> {
    /// Adds an entry to its host; true when it collides with another artifact's.
    pub(super) fn insert(&mut self, entry: Arc<Entry<R>>) -> bool {
        let host = entry.host.clone();
        let routes = match Pattern::of(&host) {
            Pattern::Exact(text) => self.exact.entry((&*text).into()).or_default(),
            Pattern::Suffix(text) => self.suffix.entry(text),
            Pattern::Prefix(text) => self.prefix.entry(text),
            Pattern::Any => self.any.get_or_insert_default(),
        };
        Arc::make_mut(routes).insert(entry)
    }

    /// Removes an entry, and its host when it was the last; false when it is not there.
    pub(super) fn remove(&mut self, entry: &Arc<Entry<R>>) -> bool {
        let pattern = Pattern::of(&entry.host);
        let routes = match &pattern {
            Pattern::Exact(text) => self.exact.get_mut(&**text),
            Pattern::Suffix(text) => self.suffix.hosts.get_mut(*text),
            Pattern::Prefix(text) => self.prefix.hosts.get_mut(*text),
            Pattern::Any => self.any.as_mut(),
        };
        let Some(routes) = routes else { return false };
        let routes = Arc::make_mut(routes);
        let removed = routes.remove(entry);
        if routes.is_empty() {
            match pattern {
                Pattern::Exact(text) => drop(self.exact.remove(&*text)),
                Pattern::Suffix(text) => self.suffix.remove(text),
                Pattern::Prefix(text) => self.prefix.remove(text),
                Pattern::Any => self.any = None,
            }
        }
        removed
    }

    /// The routes that answer for a `Host` or `:authority` value.
    pub(super) fn select(&self, authority: &str) -> Option<&HostRoutes<R>> {
        let lower: Cow<'_, str> = if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(authority.to_ascii_lowercase())
        } else {
            Cow::Borrowed(authority)
        };
        let host = without_port(&lower);
        let bare = host.strip_suffix('.').unwrap_or(host);
        self.exact
            .get(&*lower)
            .or_else(|| self.exact.get(bare))
            .or_else(|| self.suffix.longest(&lower, suffix_of))
            .or_else(|| self.suffix.longest(bare, suffix_of))
            .or_else(|| self.prefix.longest(bare, prefix_of))
            .or(self.any.as_ref())
            .map(|routes| &**routes)
    }

    #[cfg(test)]
    pub(super) fn dump(&self) -> Vec<(String, usize)> {
        let mut out = Vec::new();
        let maps = [("", &self.exact), ("*", &self.suffix.hosts), ("^", &self.prefix.hosts)];
        for (mark, map) in maps {
            for (text, routes) in map {
                routes.dump(&format!("{mark}{text}"), &mut out);
            }
        }
        if let Some(routes) = &self.any {
            routes.dump("any", &mut out);
        }
        for wild in [&self.suffix, &self.prefix] {
            let counted: usize = wild.lengths.iter().map(|(_, count)| count).sum();
            assert_eq!(counted, wild.hosts.len(), "the lengths count every wildcard host once");
        }
        out.sort();
        out
    }
}

impl<R> HostRoutes<R> {
    /// The best entry for a path.
    pub(super) fn find(&self, path: &str, wanted: Wanted<'_, '_>) -> Option<&Place<R>> {
        let path = &*same_escapes(path);
        self.exact
            .get(path)
            .and_then(|leaf| leaf.pick(wanted.method, wanted.headers))
            .or_else(|| self.root.find(path.strip_prefix('/')?, wanted))
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.root.is_empty()
    }

    fn insert(&mut self, entry: Arc<Entry<R>>) -> bool {
        match exact_path(&entry.path) {
            Some(path) => self.exact.entry(path.into()).or_default().insert(entry),
            None => {
                let at = entry.clone();
                Arc::make_mut(&mut self.root).insert(&at.path.segments, entry)
            }
        }
    }

    fn remove(&mut self, entry: &Arc<Entry<R>>) -> bool {
        let Some(path) = exact_path(&entry.path) else {
            return Arc::make_mut(&mut self.root).remove(&entry.path.segments, entry);
        };
        let Some(leaf) = self.exact.get_mut(path.as_str()) else { return false };
        let removed = leaf.remove(entry);
        if leaf.is_empty() {
            self.exact.remove(path.as_str());
        }
        removed
    }

    #[cfg(test)]
    fn dump(&self, host: &str, out: &mut Vec<(String, usize)>) {
        let mut below = Vec::new();
        for (path, leaf) in &self.exact {
            below.extend(leaf.entries().map(|e| (format!("={path}"), Arc::as_ptr(e) as usize)));
        }
        self.root.dump("", &mut below);
        assert!(!below.is_empty(), "an empty host was left: {host}");
        out.extend(below.into_iter().map(|(path, entry)| (format!("{host} {path}"), entry)));
    }
}

impl<R> Wild<R> {
    fn entry(&mut self, text: &str) -> &mut Arc<HostRoutes<R>> {
        if !self.hosts.contains_key(text) {
            match self.lengths.binary_search_by(|(length, _)| text.len().cmp(length)) {
                Ok(at) => self.lengths.iter_mut().skip(at).take(1).for_each(|(_, count)| *count += 1),
                Err(at) => self.lengths.insert(at, (text.len(), 1)),
            }
        }
        self.hosts.entry(text.into()).or_default()
    }

    fn remove(&mut self, text: &str) {
        if self.hosts.remove(text).is_some() {
            self.lengths
                .iter_mut()
                .filter(|(length, _)| *length == text.len())
                .for_each(|(_, count)| *count -= 1);
            self.lengths.retain(|(_, count)| *count > 0);
        }
    }

    fn longest(&self, host: &str, part: fn(&str, usize) -> Option<&str>) -> Option<&Arc<HostRoutes<R>>> {
        self.lengths.iter().find_map(|(length, _)| self.hosts.get(part(host, *length)?))
    }
}

impl<'p> Pattern<'p> {
    fn of(host: &'p str) -> Pattern<'p> {
        if host == "*" {
            Pattern::Any
        } else if let Some(suffix) = host.strip_prefix('*') {
            Pattern::Suffix(suffix)
        } else if let Some(prefix) = host.strip_suffix('*') {
            Pattern::Prefix(prefix)
        } else if host.parse::<std::net::Ipv6Addr>().is_ok() {
            // A `Host` header always has the brackets.
            Pattern::Exact(Cow::Owned(format!("[{host}]")))
        } else {
            Pattern::Exact(Cow::Borrowed(host))
        }
    }
}

/// The last `length` bytes of a host that has something before them: the star stands for
/// at least one character.
fn suffix_of(host: &str, length: usize) -> Option<&str> {
    let at = host.len().checked_sub(length).filter(|at| *at > 0)?;
    host.get(at..)
}

fn prefix_of(host: &str, length: usize) -> Option<&str> {
    if length < host.len() { host.get(..length) } else { None }
}

/// The host of an authority; brackets of an IPv6 literal stay.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

/// The text of an exact path; `None` for every pattern that belongs into the tree.
fn exact_path(path: &PathPattern) -> Option<String> {
    if path.tail != Tail::Exact {
        return None;
    }
    let mut text = String::new();
    for segment in &path.segments {
        let Segment::Literal(segment) = segment else { return None };
        text.push('/');
        text.push_str(segment);
    }
    if text.is_empty() {
        text.push('/');
    }
    Some(text)
}

// Written out because a derive would ask `R: Clone`, and what is cloned is always an `Arc`.
impl<R> Clone for HostRoutes<R> {
    fn clone(&self) -> HostRoutes<R> {
        HostRoutes { exact: self.exact.clone(), root: self.root.clone() }
    }
}

impl<R> Default for HostRoutes<R> {
    fn default() -> HostRoutes<R> {
        HostRoutes { exact: Map::default(), root: Arc::default() }
    }
}

impl<R> Clone for Wild<R> {
    fn clone(&self) -> Wild<R> {
        Wild { hosts: self.hosts.clone(), lengths: self.lengths.clone() }
    }
}

impl<R> Default for Wild<R> {
    fn default() -> Wild<R> {
        Wild { hosts: Map::default(), lengths: Vec::new() }
    }
}

impl<R> Clone for Hosts<R> {
    fn clone(&self) -> Hosts<R> {
        Hosts {
            exact: self.exact.clone(),
            suffix: self.suffix.clone(),
            prefix: self.prefix.clone(),
            any: self.any.clone(),
        }
    }
}

impl<R> Default for Hosts<R> {
    fn default() -> Hosts<R> {
        Hosts { exact: Map::default(), suffix: Wild::default(), prefix: Wild::default(), any: None }
    }
}
