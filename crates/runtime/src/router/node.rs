// SPDX-License-Identifier: Apache-2.0
//! The segment tree of one virtual host. It is persistent: a change copies the nodes on
//! its path and shares all others with the snapshots still in use, so that one artifact
//! costs its own routes times their depth, whatever the table holds (invariant 10).
//! The search is contract 4.2 (b), and goes back to the next best branch when a method
//! or a header does not match: only a path with no answer at all is a 404.

use std::sync::Arc;

use ferrogate_model::kinds::rest_api::Method;
use ferrogate_model::route::{Piece, Segment, Tail};
use smallvec::SmallVec;

use super::children::Children;
use super::edit;
use super::entry::{Entry, HeaderLookup, Leaf, Place, better};

/// One node: a path prefix of whole segments.
pub(super) struct Node<R> {
    literals: Children<R>,
    /// Most literal characters first, then by pieces.
    mixed: Box<[(Mixed, Arc<Node<R>>)]>,
    param: Option<Arc<Node<R>>>,
    end: Leaf<R>,
    optional_slash: Leaf<R>,
    wildcard: Leaf<R>,
}

/// A segment of text and placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mixed {
    literal_chars: usize,
    pieces: Arc<[Piece]>,
}

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'f, 'h> {
    pub method: Method,
    pub headers: HeaderLookup<'f, 'h>,
}

/// Nodes reached by equally ranked branches; one, but for mixed segments that rank equal.
type Front<'t, R> = SmallVec<[&'t Node<R>; 2]>;

impl<R> Node<R> {
    pub(super) fn is_empty(&self) -> bool {
        self.literals.is_empty()
            && self.mixed.is_empty()
            && self.param.is_none()
            && self.end.is_empty()
            && self.optional_slash.is_empty()
            && self.wildcard.is_empty()
    }

    /// Adds an entry below this node; true when it collides with another artifact's.
    pub(super) fn insert(&mut self, segments: &[Segment], entry: Arc<Entry<R>>) -> bool {
        match segments.split_first() {
            Some((first, rest)) => self.child_mut(first).insert(rest, entry),
            None => self.leaf_mut(entry.path.tail).insert(entry),
        }
    }

    /// Removes an entry below this node, and every node left empty; false when it is not there.
    pub(super) fn remove(&mut self, segments: &[Segment], entry: &Arc<Entry<R>>) -> bool {
        let Some((first, rest)) = segments.split_first() else {
            return self.leaf_mut(entry.path.tail).remove(entry);
        };
        match first {
            Segment::Literal(text) => self.literals.remove_below(text, rest, entry),
            Segment::Mixed(pieces) => {
                let Ok(at) = self.mixed_position(pieces) else { return false };
                let Some((_, child)) = self.mixed.get_mut(at) else { return false };
                let child = Arc::make_mut(child);
                let removed = child.remove(rest, entry);
                if child.is_empty() {
                    edit(&mut self.mixed, |mixed| mixed.remove(at));
                }
                removed
            }
            Segment::Param => {
                let Some(child) = &mut self.param else { return false };
                let child = Arc::make_mut(child);
                let removed = child.remove(rest, entry);
                if child.is_empty() {
                    self.param = None;
                }
                removed
            }
        }
    }

    /// The best entry for a path, given without its leading slash.
    pub(super) fn find(&self, path: &str, wanted: Wanted<'_, '_>) -> Option<&Place<R>> {
        walk(&[self], Some(path), wanted)
    }

    fn leaf_mut(&mut self, tail: Tail) -> &mut Leaf<R> {
        match tail {
            // An exact path has its own index; one with placeholders ends like any other.
            Tail::Exact | Tail::End => &mut self.end,
            Tail::OptionalSlash => &mut self.optional_slash,
            Tail::Wildcard => &mut self.wildcard,
        }
    }

    fn child_mut(&mut self, segment: &Segment) -> &mut Node<R> {
        let child = match segment {
            Segment::Literal(text) => return self.literals.child_mut(text),
            Segment::Param => self.param.get_or_insert_default(),
            Segment::Mixed(pieces) => {
                let at = self.mixed_position(pieces).unwrap_or_else(|at| {
                    edit(&mut self.mixed, |mixed| mixed.insert(at, (Mixed::new(pieces), Arc::default())));
                    at
                });
                // `at` was found or just filled.
                &mut self.mixed.get_mut(at).expect("a position of this vector").1
            }
        };
        Arc::make_mut(child)
    }

    fn mixed_position(&self, pieces: &[Piece]) -> Result<usize, usize> {
        let chars = literal_chars(pieces);
        self.mixed.binary_search_by(|(held, _)| {
            chars.cmp(&held.literal_chars).then_with(|| held.pieces.as_ref().cmp(pieces))
        })
    }

    #[cfg(test)]
    pub(super) fn dump(&self, prefix: &str, out: &mut Vec<(String, usize)>) {
        for (leaf, tail) in [(&self.end, ""), (&self.optional_slash, "[/]"), (&self.wildcard, "/*")] {
            out.extend(leaf.entries().map(|e| (format!("{prefix}{tail}"), Arc::as_ptr(e) as usize)));
        }
        for (text, child) in self.literals.sorted() {
            child.dump(&format!("{prefix}/{text}"), out);
        }
        for (mixed, child) in &self.mixed {
            child.dump(&format!("{prefix}/{:?}", mixed.pieces), out);
        }
        if let Some(child) = &self.param {
            child.dump(&format!("{prefix}/{{}}"), out);
        }
        assert!(prefix.is_empty() || !self.is_empty(), "an empty node was left at {prefix}");
    }
}

/// Searches below nodes of equal rank. `rest` is what follows the last slash consumed,
/// `None` when the path ended without one. Depth is bounded by the patterns', which
/// `prepare` limits, and never by the client's path.
fn walk<'t, R>(nodes: &[&'t Node<R>], rest: Option<&str>, wanted: Wanted<'_, '_>) -> Option<&'t Place<R>> {
    if let Some(rest) = rest
        && let Some(found) = walk_segment(nodes, rest, wanted)
    {
        return Some(found);
    }
    let Wanted { method, headers } = wanted;
    let mut ended = None;
    if rest.is_none_or(str::is_empty) {
        for node in nodes {
            ended = better(ended, node.optional_slash.pick(method, headers));
            if rest.is_none() {
                ended = better(ended, node.end.pick(method, headers));
            }
        }
    }
    ended.or_else(|| nodes.iter().fold(None, |best, node| better(best, node.wildcard.pick(method, headers))))
}

/// Tries the branches for the next segment, best first.
fn walk_segment<'t, R>(nodes: &[&'t Node<R>], rest: &str, wanted: Wanted<'_, '_>) -> Option<&'t Place<R>> {
    let (segment, after) = match memchr::memchr(b'/', rest.as_bytes()) {
        Some(at) => (rest.get(..at)?, rest.get(at + 1..)),
        None => (rest, None),
    };
    let literal: Front<'_, R> = nodes.iter().filter_map(|node| node.literals.get(segment)).collect();
    if !literal.is_empty()
        && let Some(found) = walk(&literal, after, wanted)
    {
        return Some(found);
    }
    if segment.is_empty() {
        return None;
    }
    if nodes.iter().any(|node| !node.mixed.is_empty())
        && let Some(found) = walk_mixed(nodes, segment, after, wanted)
    {
        return Some(found);
    }
    let param: Front<'_, R> = nodes.iter().filter_map(|node| node.param.as_deref()).collect();
    if param.is_empty() { None } else { walk(&param, after, wanted) }
}

/// Tries the mixed branches in groups of equal rank: within a group the segments that
/// follow decide, so the group is searched as one.
fn walk_mixed<'t, R>(
    nodes: &[&'t Node<R>],
    segment: &str,
    after: Option<&str>,
    wanted: Wanted<'_, '_>,
) -> Option<&'t Place<R>> {
    let mut matching: SmallVec<[(usize, &'t Node<R>); 4]> = nodes
        .iter()
        .flat_map(|node| node.mixed.iter())
        .filter(|(mixed, _)| mixed.matches(segment))
        .map(|(mixed, child)| (mixed.literal_chars, &**child))
        .collect();
    matching.sort_by_key(|(chars, _)| std::cmp::Reverse(*chars));
    matching.chunk_by(|a, b| a.0 == b.0).find_map(|group| {
        let front: Front<'_, R> = group.iter().map(|(_, node)| *node).collect();
        walk(&front, after, wanted)
    })
}

impl Mixed {
    fn new(pieces: &[Piece]) -> Mixed {
        Mixed { literal_chars: literal_chars(pieces), pieces: pieces.into() }
    }

    /// Linear in the segment: each text is taken at its leftmost place, which leaves the
    /// most for what follows, and the last text is anchored at the end. No client can make
    /// this backtrack.
    fn matches(&self, segment: &str) -> bool {
        let mut rest = segment;
        // Characters that placeholders since the last text must still consume.
        let mut owed = 0;
        let last = self.pieces.len().saturating_sub(1);
        for (index, piece) in self.pieces.iter().enumerate() {
            let Piece::Text(text) = piece else {
                owed += 1;
                continue;
            };
            if owed == 0 {
                let Some(after) = rest.strip_prefix(text.as_str()) else { return false };
                rest = after;
            } else if index == last {
                return rest.strip_suffix(text.as_str()).is_some_and(|before| has_chars(before, owed));
            } else {
                let Some((skip, _)) = rest.char_indices().nth(owed) else { return false };
                let Some(tail) = rest.get(skip..) else { return false };
                let Some(at) = tail.find(text.as_str()) else { return false };
                let Some(after) = tail.get(at + text.len()..) else { return false };
                rest = after;
                owed = 0;
            }
        }
        if owed == 0 { rest.is_empty() } else { has_chars(rest, owed) }
    }
}

fn has_chars(text: &str, at_least: usize) -> bool {
    text.chars().take(at_least).count() == at_least
}

fn literal_chars(pieces: &[Piece]) -> usize {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.chars().count(),
            Piece::Param => 0,
        })
        .sum()
}

// Written out because a derive would ask `R: Clone`, and what is cloned is always an `Arc`.
impl<R> Clone for Node<R> {
    fn clone(&self) -> Node<R> {
        Node {
            literals: self.literals.clone(),
            mixed: self.mixed.clone(),
            param: self.param.clone(),
            end: self.end.clone(),
            optional_slash: self.optional_slash.clone(),
            wildcard: self.wildcard.clone(),
        }
    }
}

impl<R> Default for Node<R> {
    fn default() -> Node<R> {
        Node {
            literals: Children::default(),
            mixed: Box::default(),
            param: None,
            end: Leaf::default(),
            optional_slash: Leaf::default(),
            wildcard: Leaf::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ferrogate_model::route::Piece;

    use super::{Mixed, Node};
    use crate::router::tests::get;

    fn check(pieces: &[&str], segment: &str, expected: bool) {
        let pieces: Vec<Piece> = pieces
            .iter()
            .map(|piece| if *piece == "*" { Piece::Param } else { Piece::Text((*piece).to_owned()) })
            .collect();
        assert_eq!(Mixed::new(&pieces).matches(segment), expected, "{pieces:?} on {segment:?}");
    }

    #[test]
    fn mixed_segments_match_as_their_regular_expression_would() {
        check(&["v", "*"], "v1", true);
        check(&["v", "*"], "v", false);
        check(&["v", "*"], "w1", false);
        check(&["*", ".json"], "a.json", true);
        check(&["*", ".json"], ".json", false);
        check(&["*", ".json"], "a.json.json", true);
        check(&["*", "-", "*"], "a-b", true);
        check(&["*", "-", "*"], "--b", true);
        check(&["*", "-", "*"], "---", true);
        check(&["*", "-", "*"], "--", false);
        check(&["*", "-", "*", "-", "*"], "a-b", false);
        check(&["*", "*", "x"], "abx", true);
        check(&["*", "*", "x"], "ax", false);
        check(&["*", "*", "x"], "éx", false);
        check(&["a", "*", "b", "*", "c"], "axbxbxc", true);
        check(&["a", "*", "b", "*", "c"], "abc", false);
    }

    #[test]
    fn a_change_copies_its_own_path_and_shares_the_rest() {
        let mut before = Node::<usize>::default();
        for (id, path) in ["/a/x", "/a/{p}/z", "/b/x"].iter().enumerate() {
            let entry = get(path, id);
            let segments = entry.path.segments.clone();
            before.insert(&segments, entry);
        }
        let mut after = before.clone();
        let entry = get("/a/{p}/y", 9);
        let segments = entry.path.segments.clone();
        after.insert(&segments, entry);
        let child = |node: &Node<usize>, text: &str| {
            let found = node.literals.sorted().into_iter().find(|(literal, _)| literal == text);
            found.expect("a child").1
        };
        assert!(Arc::ptr_eq(&child(&before, "b"), &child(&after, "b")));
        let (a_before, a_after) = (child(&before, "a"), child(&after, "a"));
        assert!(!Arc::ptr_eq(&a_before, &a_after));
        assert!(Arc::ptr_eq(&child(&a_before, "x"), &child(&a_after, "x")));
    }
}
