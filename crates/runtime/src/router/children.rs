// SPDX-License-Identifier: Apache-2.0
//! The literal children of a node. Most nodes have a few; below a host there may be one
//! for every API, and both must be found without an allocation and copied at little cost.

use std::sync::Arc;

use ferrogate_model::route::Segment;
use smol_str::SmolStr;

use super::entry::Entry;
use super::node::Node;
use super::{Map, edit};

/// A node with more children than this keeps them in a hash map; with fewer, a scan of a
/// sorted array is cheaper than a hash, and a copy of it small.
const MANY: usize = 16;
/// A hash map that shrinks to this becomes an array again; below [`MANY`], so that a node
/// at the border does not change form with every update.
const FEW: usize = 8;

/// The children of a node whose segment is a literal, by that literal.
pub(super) enum Children<R> {
    /// Sorted by segment.
    Few(Box<[(SmolStr, Arc<Node<R>>)]>),
    Many(Box<Map<Arc<Node<R>>>>),
}

impl<R> Children<R> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Children::Few(few) => few.is_empty(),
            Children::Many(many) => many.is_empty(),
        }
    }

    pub(super) fn get(&self, segment: &str) -> Option<&Node<R>> {
        match self {
            Children::Few(few) => few.iter().find(|(text, _)| *text == segment).map(|(_, child)| &**child),
            Children::Many(many) => many.get(segment).map(|child| &**child),
        }
    }

    pub(super) fn child_mut(&mut self, segment: &str) -> &mut Node<R> {
        if let Children::Few(few) = self
            && few.len() >= MANY
            && few.binary_search_by(|(text, _)| text.as_str().cmp(segment)).is_err()
        {
            *self = Children::Many(Box::new(std::mem::take(few).into_iter().collect()));
        }
        let child = match self {
            Children::Few(few) => {
                let at = few.binary_search_by(|(text, _)| text.as_str().cmp(segment)).unwrap_or_else(|at| {
                    edit(few, |few| few.insert(at, (segment.into(), Arc::default())));
                    at
                });
                // `at` was found or just filled.
                &mut few.get_mut(at).expect("a position of this vector").1
            }
            Children::Many(many) => many.entry(segment.into()).or_default(),
        };
        Arc::make_mut(child)
    }

    pub(super) fn remove_below(&mut self, segment: &str, rest: &[Segment], entry: &Arc<Entry<R>>) -> bool {
        let child = match self {
            Children::Few(few) => few.iter_mut().find(|(text, _)| *text == segment).map(|(_, child)| child),
            Children::Many(many) => many.get_mut(segment),
        };
        let Some(child) = child else { return false };
        let child = Arc::make_mut(child);
        let removed = child.remove(rest, entry);
        if child.is_empty() {
            self.remove(segment);
        }
        removed
    }

    fn remove(&mut self, segment: &str) {
        match self {
            Children::Few(few) => edit(few, |few| few.retain(|(text, _)| *text != segment)),
            Children::Many(many) => {
                many.remove(segment);
                if many.len() <= FEW {
                    let mut few: Box<[_]> =
                        many.iter().map(|(text, child)| (text.clone(), child.clone())).collect();
                    few.sort_by(|a, b| a.0.cmp(&b.0));
                    *self = Children::Few(few);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn sorted(&self) -> Vec<(SmolStr, Arc<Node<R>>)> {
        let mut all: Vec<_> = match self {
            Children::Few(few) => few.to_vec(),
            Children::Many(many) => many.iter().map(|(text, child)| (text.clone(), child.clone())).collect(),
        };
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

// Written out because a derive would ask `R: Clone`, and what is cloned is always an `Arc`.
impl<R> Clone for Children<R> {
    fn clone(&self) -> Children<R> {
        match self {
            Children::Few(few) => Children::Few(few.clone()),
            Children::Many(many) => Children::Many(many.clone()),
        }
    }
}

impl<R> Default for Children<R> {
    fn default() -> Children<R> {
        Children::Few(Box::default())
    }
}
