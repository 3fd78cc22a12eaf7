// SPDX-License-Identifier: Apache-2.0
//! Path patterns: how a written path becomes segments and a tail, how a pattern is
//! shown, and what it matches. The match here is the plain meaning, one pattern at
//! a time; the runtime's table must give the same answers.

use std::borrow::Cow;
use std::fmt;

use super::{PathPattern, Piece, Segment, Tail};

impl PathPattern {
    /// The pattern of an operation's path below a context (contract 4.1); `exact` is
    /// the `match` form with type `Exact`. The context is `/` or has no slash at its end.
    #[must_use]
    pub fn new(context: &str, operation_path: &str, exact: bool) -> PathPattern {
        let full = super::full_path(context, operation_path);
        let (text, tail) = if let Some(prefix) = full.strip_suffix("/*") {
            (prefix, Tail::Wildcard)
        } else if operation_path.contains('{') {
            (full.as_str(), Tail::End)
        } else if exact && operation_path != "/" {
            (full.as_str(), Tail::Exact)
        } else {
            (full.strip_suffix('/').unwrap_or(&full), Tail::OptionalSlash)
        };
        let segments = match text.strip_prefix('/') {
            Some(text) => text.split('/').map(segment).collect(),
            None => Vec::new(),
        };
        PathPattern { segments, tail }
    }

    /// Whether a normalised path, without its query, has this shape.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let path = same_escapes(path);
        let Some(path) = path.strip_prefix('/') else { return false };
        let parts: Vec<&str> = path.split('/').collect();
        let Some((head, rest)) = parts.split_at_checked(self.segments.len()) else { return false };
        if !self.segments.iter().zip(head).all(|(segment, part)| segment.matches(part)) {
            return false;
        }
        match self.tail {
            Tail::Exact | Tail::End => rest.is_empty(),
            Tail::OptionalSlash => rest.is_empty() || *rest == [""],
            Tail::Wildcard => true,
        }
    }
}

impl Segment {
    /// Whether the text between two slashes has this shape.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Segment::Literal(literal) => literal == text,
            Segment::Param => !text.is_empty(),
            Segment::Mixed(pieces) => mixed_matches(pieces, text),
        }
    }
}

/// Shown with placeholders' names left out: `/books/{}/v{}.json`, `/files/*`, `/exact (exact)`.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            write!(f, "/{segment}")?;
        }
        match self.tail {
            Tail::Wildcard => f.write_str("/*"),
            Tail::Exact => f.write_str(" (exact)"),
            Tail::End | Tail::OptionalSlash if self.segments.is_empty() => f.write_str("/"),
            Tail::End | Tail::OptionalSlash => Ok(()),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Segment::Literal(text) => f.write_str(text),
            Segment::Param => f.write_str("{}"),
            Segment::Mixed(pieces) => pieces.iter().try_for_each(|piece| match piece {
                Piece::Text(text) => f.write_str(text),
                Piece::Param => f.write_str("{}"),
            }),
        }
    }
}

/// A segment from its text. Braces that do not pair up are text: validation refuses them
/// before, and a payload that has them anyway must not stop a runtime.
fn segment(text: &str) -> Segment {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((_name, after)) = after.split_once('}') else { break };
        if !before.is_empty() {
            pieces.push(Piece::Text(same_escapes(before).into_owned()));
        }
        pieces.push(Piece::Param);
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(same_escapes(rest).into_owned()));
    }
    match pieces.as_slice() {
        [] => Segment::Literal(String::new()),
        [Piece::Text(_)] => Segment::Literal(same_escapes(text).into_owned()),
        [Piece::Param] => Segment::Param,
        _ => Segment::Mixed(pieces),
    }
}

/// The text with the hex digits of its percent-encodings in upper case: `%2f` and `%2F` are the
/// same (RFC 3986, 6.2.2.1). Patterns are kept so, and paths are looked up so; what is forwarded
/// stays as it was sent.
#[must_use]
pub fn same_escapes(text: &str) -> Cow<'_, str> {
    let lower = |escape: &[u8]| {
        matches!(escape, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()
            && (a.is_ascii_lowercase() || b.is_ascii_lowercase()))
    };
    let Some(first) = text.find('%') else { return Cow::Borrowed(text) };
    if !text.as_bytes().windows(3).skip(first).any(lower) {
        return Cow::Borrowed(text);
    }
    let mut same = String::with_capacity(text.len());
    let mut in_escape = 0_u8;
    for (at, c) in text.char_indices() {
        if text.as_bytes().get(at..at + 3).is_some_and(lower) {
            in_escape = 3;
        }
        same.push(if in_escape > 0 { c.to_ascii_uppercase() } else { c });
        in_escape = in_escape.saturating_sub(1);
    }
    Cow::Owned(same)
}

/// All ways at once: the set of positions reachable after each piece. It costs pieces times
/// length, where backtracking could cost an exponential of the pieces.
fn mixed_matches(pieces: &[Piece], text: &str) -> bool {
    let mut reachable = vec![false; text.len() + 1];
    if let Some(start) = reachable.first_mut() {
        *start = true;
    }
    for piece in pieces {
        let mut next = vec![false; text.len() + 1];
        let mut after_any = false;
        for (position, (here, next_here)) in reachable.iter().zip(next.iter_mut()).enumerate() {
            match piece {
                Piece::Param => {
                    *next_here = after_any;
                    after_any |= here;
                }
                Piece::Text(piece) => {
                    *next_here = position.checked_sub(piece.len()).is_some_and(|start| {
                        reachable.get(start) == Some(&true) && text.get(start..position) == Some(piece)
                    });
                }
            }
        }
        reachable = next;
    }
    reachable.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{PathPattern, same_escapes};

    /// `hits` must match, `misses` must not.
    fn check(context: &str, path: &str, exact: bool, shown: &str, hits: &[&str], misses: &[&str]) {
        let pattern = PathPattern::new(context, path, exact);
        assert_eq!(pattern.to_string(), shown);
        for hit in hits {
            assert!(pattern.matches(hit), "{shown} should match {hit}");
        }
        for miss in misses {
            assert!(!pattern.matches(miss), "{shown} should not match {miss}");
        }
    }

    #[test]
    fn the_table_of_contract_4_1() {
        check("/c", "/a/*", false, "/c/a/*", &["/c/a", "/c/a/", "/c/a/b/c"], &["/c/ab", "/c", "/a"]);
        check("/", "/*", false, "/*", &["/", "/a", "/a/b"], &[""]);
        check("/c", "/*", false, "/c/*", &["/c", "/c/", "/c/x"], &["/cx", "/"]);
        check("/c", "/b/{id}", false, "/c/b/{}", &["/c/b/7"], &["/c/b/7/", "/c/b/", "/c/b", "/c/b/7/x"]);
        check("/c", "/b/{id}/", false, "/c/b/{}/", &["/c/b/7/"], &["/c/b/7"]);
        check("/c", "/b/{id}/*", false, "/c/b/{}/*", &["/c/b/7", "/c/b/7/x/y"], &["/c/b", "/c/b/"]);
        check("/c", "/", false, "/c", &["/c", "/c/"], &["/c//", "/c/x", "/"]);
        check("/", "/", false, "/", &["/"], &["/x", "//"]);
        check("/", "/", true, "/", &["/"], &["/x"]);
        check("/c", "/b", true, "/c/b (exact)", &["/c/b"], &["/c/b/"]);
        check("/c", "/b/", true, "/c/b/ (exact)", &["/c/b/"], &["/c/b"]);
        check("/c", "/b", false, "/c/b", &["/c/b", "/c/b/"], &["/c/b//", "/c/B", "/c/bb"]);
        check("/c", "/b/", false, "/c/b", &["/c/b", "/c/b/"], &["/c"]);
        check("/", "/{a}", false, "/{}", &["/x"], &["/", "/x/", "/x/y"]);
    }

    #[test]
    fn a_mixed_segment_wants_one_character_per_placeholder() {
        check(
            "/",
            "/v{n}.json",
            false,
            "/v{}.json",
            &["/v1.json", "/v.json.json", "/vé.json"],
            &["/v.json", "/v1.xml"],
        );
        check("/", "/{a}-{b}", false, "/{}-{}", &["/x-y", "/x--y", "/---"], &["/x-", "/-y", "/--"]);
        check("/", "/{a}{b}", false, "/{}{}", &["/xy", "/xyz"], &["/x", "/"]);
    }

    #[test]
    fn percent_encodings_are_the_same_in_either_case() {
        let both = ["/c%2F/a%2Fb", "/c%2f/a%2fb", "/c%2F/a%2fb"];
        for context in ["/c%2f", "/c%2F"] {
            check(context, "/a%2fb", false, "/c%2F/a%2Fb", &both, &["/c%2F/a%2FB", "/c/a/b"]);
            check(context, "/a%2Fb", true, "/c%2F/a%2Fb (exact)", &both, &["/C%2F/a%2Fb"]);
        }
        check("/", "/%c3%{a}%2f", false, "/%C3%{}%2F", &["/%c3%x%2F", "/%C3%x%2f"], &["/%c3%%2F"]);
        for (text, same) in [("/a%zf%2", "/a%zf%2"), ("%%2f%2%3a", "%%2F%2%3A"), ("é%c3%a9é", "é%C3%A9é")]
        {
            assert_eq!(same_escapes(text), same);
            assert_eq!(same_escapes(same), same);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_literal_matches_itself(pattern in "/[a-c{}/*.é]{0,12}", path in any::<String>(), literal in "(/[a-c]{1,3}){1,4}") {
            for exact in [false, true] {
                let pattern = PathPattern::new("/", &pattern, exact);
                assert!(path.starts_with('/') || !pattern.matches(&path));
                assert!(PathPattern::new("/", &literal, exact).matches(&literal));
                assert!(PathPattern::new("/c", &literal, exact).matches(&format!("/c{literal}")));
            }
        }
    }
}
