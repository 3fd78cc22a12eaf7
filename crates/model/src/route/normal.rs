// SPDX-License-Identifier: Apache-2.0
//! Path normalisation (contract 4.4), done once before routing: what is matched is what
//! policies see and what goes upstream, so that no spelling of a path reaches an operation
//! under another operation's policies. RFC 3986 section 6.2.2: unreserved characters are
//! decoded, dot segments resolved; then duplicate slashes are merged. It knows paths
//! only, never a query. The runtime calls it for each request; what is deployed is judged
//! by the same code, for a written path that is not normal is never reached.

use std::borrow::Cow;

/// What to do with `%2F` and `%5C`, which upstreams read as a slash or as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They are data: matched and forwarded as sent.
    #[default]
    KeepUnchanged,
    /// The request is refused with 400.
    Reject,
    /// The client is sent to the unescaped path with 307.
    UnescapeAndRedirect,
    /// They are slashes: matched and forwarded unescaped.
    UnescapeAndForward,
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalised<'a> {
    /// Go on with this path.
    Path(Cow<'a, str>),
    /// Send the client to this path (307), the query added.
    Redirect(String),
    /// Refuse the request (400).
    Rejected,
}

/// Settles a request path, without its query: escaped slashes by the action, then all else by
/// [`normalise`], unless `disabled`. The two are settings of their own (contract 4.4): who turns
/// the second off still has the first.
#[inline]
#[must_use]
pub fn normalise_with(path: &str, escaped: EscapedSlashes, disabled: bool) -> Normalised<'_> {
    if escaped == EscapedSlashes::KeepUnchanged {
        return Normalised::Path(normalise_unless(disabled, path));
    }
    let Some(unescaped) = unescape_slashes(path) else {
        return Normalised::Path(normalise_unless(disabled, path));
    };
    let path = normalise_unless(disabled, &unescaped);
    match escaped {
        EscapedSlashes::KeepUnchanged | EscapedSlashes::UnescapeAndForward => {
            Normalised::Path(Cow::Owned(path.into_owned()))
        }
        EscapedSlashes::Reject => Normalised::Rejected,
        EscapedSlashes::UnescapeAndRedirect => {
            // `//host` in a `Location` is another host, and browsers take `\\` for a slash.
            let below = path.trim_start_matches(['/', '\\']);
            let doubled = path.len() - below.len() > 1;
            Normalised::Redirect(if doubled { format!("/{below}") } else { path.into_owned() })
        }
    }
}

fn normalise_unless(disabled: bool, path: &str) -> Cow<'_, str> {
    if disabled { Cow::Borrowed(path) } else { normalise(path) }
}

/// Normalises a request path, without its query. Borrowed, and without a second look at
/// any byte, when there is nothing to do.
#[inline]
#[must_use]
pub fn normalise(path: &str) -> Cow<'_, str> {
    if !needs_work(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let resolved = resolve_dots(&decoded);
    Cow::Owned(merge_slashes(&resolved))
}

/// Why no request has this path by the time it is matched, if so. Placeholders and a wildcard
/// at the end stand for anything; the text around them is judged.
#[must_use]
pub fn never_requested(path: &str) -> Option<String> {
    let literal = literal(path);
    let normal = normalise(&literal);
    if normal != literal {
        return Some(format!(
            "request paths are normalised before matching, so this path cannot be reached: it would be '{normal}'"
        ));
    }
    let c = literal.chars().find(|c| !c.is_ascii())?;
    let escaped: String = c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    Some(format!(
        "clients send '{c}' percent-encoded, so this path is not reached by them: write '{escaped}'"
    ))
}

/// The path without the names of its placeholders, which are normal whatever they are.
fn literal(path: &str) -> String {
    let mut rest = path;
    let mut literal = String::with_capacity(path.len());
    while let Some((before, (_name, after))) =
        rest.split_once('{').and_then(|(before, inner)| Some((before, inner.split_once('}')?)))
    {
        literal.push_str(before);
        literal.push_str("{}");
        rest = after;
    }
    literal.push_str(rest);
    literal
}

/// Whether any of the three steps could change the path: a percent sign, a backslash,
/// a doubled slash, or a dot at the start of a segment.
fn needs_work(path: &[u8]) -> bool {
    let mut previous = 0_u8;
    path.iter().any(|&byte| {
        let hit = matches!(byte, b'%' | b'\\') || (previous == b'/' && matches!(byte, b'/' | b'.'));
        previous = byte;
        hit
    })
}

/// Decodes escaped unreserved characters, and turns backslashes into slashes as user
/// agents do (WHATWG URL). A stray `%` is kept, and the two characters after it are not
/// decoded: they could complete an escape that was never sent (`%%32%65` must not
/// become `%2e`).
fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    let mut guarded = 0_u8;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match (c, escape_at(rest)) {
            ('%', Some(byte)) if guarded == 0 && is_unreserved(byte) => {
                decoded.push(char::from(byte));
                taken = 3;
            }
            ('%', Some(_)) => {
                decoded.push_str(rest.get(..3).unwrap_or_default());
                taken = 3;
                guarded = 0;
            }
            ('%', None) => {
                decoded.push('%');
                guarded = 3;
            }
            ('\\', _) => decoded.push('/'),
            (other, _) => decoded.push(other),
        }
        guarded = guarded.saturating_sub(1);
        rest = rest.get(taken..).unwrap_or_default();
    }
    decoded
}

/// The byte that a text's first three characters escape (RFC 3986, 2.1).
pub(crate) fn escape_at(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 5.2.4 on a path whose dots are no longer escaped.
fn resolve_dots(path: &str) -> String {
    let Some(relative) = path.strip_prefix('/') else {
        return path.to_owned();
    };
    let mut resolved = String::with_capacity(path.len());
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    resolved.truncate(resolved.rfind('/').unwrap_or(0));
                }
                // `/a/.` and `/a/b/..` name the directory: the slash stays.
                if last {
                    resolved.push('/');
                }
            }
            other => {
                resolved.push('/');
                resolved.push_str(other);
            }
        }
    }
    resolved
}

fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// The path with escaped slashes and backslashes as slashes; `None` when it has none.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut unescaped = String::with_capacity(path.len());
    let mut found = false;
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        let taken = match escape_at(rest) {
            Some(b'/' | b'\\') => {
                unescaped.push('/');
                found = true;
                3
            }
            _ => {
                unescaped.push(c);
                c.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    found.then_some(unescaped)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::proptest;

    use super::{EscapedSlashes, Normalised, never_requested, normalise, normalise_with};

    fn check(path: &str, expected: &str) {
        assert_eq!(normalise(path), expected, "{path:?}");
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "/a", "/a/b.c/", "/a/b..c", "/a..", "/tilde~/-_", "*", ""] {
            assert!(matches!(normalise(path), Cow::Borrowed(same) if same == path), "{path:?}");
        }
    }

    #[test]
    fn dot_segments_are_resolved_however_spelt() {
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/a/b/..", "/a/");
        check("/a/b/.", "/a/b/");
        check("/../../a", "/a");
        check("/..", "/");
        check("/.", "/");
        check("/a/%2e%2e/b", "/b");
        check("/a/.%2E/b", "/b");
        check("/a/%2e/b", "/a/b");
        check("/.hidden/...", "/.hidden/...");
        check("/a\\..\\b", "/b");
    }

    #[test]
    fn duplicate_slashes_merge_after_dots() {
        check("//a///b//", "/a/b/");
        check("/a//../b", "/a/b");
    }

    #[test]
    fn unreserved_characters_are_decoded_and_others_are_not() {
        check("/%61%41%30%7e%5F", "/aA0~_");
        check("/a%2Fb%2f", "/a%2Fb%2f");
        check("/a%20b%25%3f", "/a%20b%25%3f");
        check("/caf%C3%A9/é", "/caf%C3%A9/é");
        check("/100%/x%4", "/100%/x%4");
        check("/%%32%65%%32%65/x", "/%%32e%%32e/x");
        check("/%4%31", "/%4%31");
        check("/%252e%252e/a", "/%252e%252e/a");
    }

    #[test]
    fn escaped_slashes_follow_the_action() {
        for (path, action, expected) in [
            ("/a%2Fb", EscapedSlashes::KeepUnchanged, Normalised::Path("/a%2Fb".into())),
            ("/a%2Fb", EscapedSlashes::Reject, Normalised::Rejected),
            ("/a%5cb", EscapedSlashes::Reject, Normalised::Rejected),
            ("/a%2f..%2Fb", EscapedSlashes::UnescapeAndRedirect, Normalised::Redirect("/b".into())),
            ("/a%2fb%5Cc", EscapedSlashes::UnescapeAndForward, Normalised::Path("/a/b/c".into())),
            ("/a/../b", EscapedSlashes::Reject, Normalised::Path("/b".into())),
            ("/a", EscapedSlashes::UnescapeAndRedirect, Normalised::Path("/a".into())),
        ] {
            assert_eq!(normalise_with(path, action, false), expected, "{path:?} {action:?}");
        }
    }

    #[test]
    fn escaped_slashes_follow_the_action_where_nothing_is_normalised() {
        for (path, action, expected) in [
            ("/a/../b//c", EscapedSlashes::Reject, Normalised::Path("/a/../b//c".into())),
            ("/a%2Fb", EscapedSlashes::Reject, Normalised::Rejected),
            ("/a%5cb", EscapedSlashes::Reject, Normalised::Rejected),
            ("/./a%2F%61", EscapedSlashes::UnescapeAndForward, Normalised::Path("/./a/%61".into())),
            ("/./a%2Fb", EscapedSlashes::UnescapeAndRedirect, Normalised::Redirect("/./a/b".into())),
            ("/%2Fevil/a", EscapedSlashes::UnescapeAndRedirect, Normalised::Redirect("/evil/a".into())),
            ("/\\evil/a%2F", EscapedSlashes::UnescapeAndRedirect, Normalised::Redirect("/evil/a/".into())),
            ("/a%2Fb/./c", EscapedSlashes::KeepUnchanged, Normalised::Path("/a%2Fb/./c".into())),
        ] {
            assert_eq!(normalise_with(path, action, true), expected, "{path:?} {action:?}");
        }
    }

    #[test]
    fn a_path_that_no_request_has_is_told() {
        for (path, cause) in [
            ("/a//b", "it would be '/a/b'"),
            ("/a//*", "it would be '/a/*'"),
            ("//", "it would be '/'"),
            ("/a/../b", "it would be '/b'"),
            ("/a\\b", "it would be '/a/b'"),
            ("/a%41", "it would be '/aA'"),
            ("/{id}/%7Ex", "it would be '/{}/~x'"),
            ("/café", "write '%C3%A9'"),
        ] {
            let why = never_requested(path).unwrap_or_default();
            assert!(why.ends_with(cause), "{path}: {why:?} should end with {cause:?}");
        }
        for path in
            ["/", "/a", "/a/", "/*", "/a/*", "/a%2Fb", "/a%zz", "/100%", "/{é}", "/{a\\b}.x", "/a.b/.c"]
        {
            assert_eq!(never_requested(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(path in "/[a/.%2eEfF\\\\5c3216é]{0,24}") {
            let once = normalise(&path).into_owned();
            assert_eq!(normalise(&once), once, "{path:?}");
            assert!(once.starts_with('/'), "{path:?} -> {once:?}");
            assert!(!once.contains("//"), "{path:?} -> {once:?}");
            assert!(!once.split('/').any(|segment| segment == "." || segment == ".."), "{path:?} -> {once:?}");
        }

        #[test]
        fn any_text_is_safe(path in "\\PC*") {
            let once = normalise(&path).into_owned();
            assert_eq!(normalise(&once), once);
        }
    }
}
