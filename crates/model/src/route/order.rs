// SPDX-License-Identifier: Apache-2.0
//! Which of two routes of one virtual host is tried first (contract 4.2).

use std::cmp::{Ordering, Reverse};

use super::{PathPattern, Piece, Route, Segment, Tail};
use crate::kinds::rest_api::HeaderValueMatch;

/// `Less` when `a` is tried before `b`. Two routes of different artifacts that compare equal
/// and can match the same request have the same claim, so that only one of them is admitted,
/// with an exception that the contract leaves open: mixed segments with equally many
/// literal characters. There the runtime's table decides by the artifacts' names.
#[must_use]
pub fn precedence(a: &Route, b: &Route) -> Ordering {
    let exact_class = |route: &Route| Reverse(route.path.tail == Tail::Exact);
    let exact_headers = |route: &Route| {
        route.headers.iter().filter(|header| matches!(header.value, HeaderValueMatch::Exact(_))).count()
    };
    exact_class(a)
        .cmp(&exact_class(b))
        .then_with(|| by_segments(&a.path, &b.path))
        .then_with(|| b.headers.len().cmp(&a.headers.len()))
        .then_with(|| exact_headers(b).cmp(&exact_headers(a)))
        .then_with(|| a.operation.cmp(&b.operation))
}

/// How narrow a pattern is at one position, narrowest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Literal,
    /// More literal characters first.
    Mixed(Reverse<usize>),
    Param,
    End,
    Wildcard,
}

fn by_segments(a: &PathPattern, b: &PathPattern) -> Ordering {
    let longest = a.segments.len().max(b.segments.len());
    (0..=longest)
        .map(|position| rank(a, position).cmp(&rank(b, position)))
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn rank(pattern: &PathPattern, position: usize) -> Rank {
    match pattern.segments.get(position) {
        Some(Segment::Literal(_)) => Rank::Literal,
        Some(Segment::Mixed(pieces)) => Rank::Mixed(Reverse(literal_characters(pieces))),
        Some(Segment::Param) => Rank::Param,
        None if pattern.tail == Tail::Wildcard => Rank::Wildcard,
        None => Rank::End,
    }
}

fn literal_characters(pieces: &[Piece]) -> usize {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.chars().count(),
            Piece::Param => 0,
        })
        .sum()
}
