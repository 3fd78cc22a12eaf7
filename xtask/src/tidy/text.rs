// SPDX-License-Identifier: Apache-2.0
//! Just enough Rust syntax to measure a source file: blanking comments and literals,
//! matching braces, finding functions and test modules. The whole grammar is not needed
//! for that, and a parser would be a heavy dependency for counting lines.

use std::ops::Range;

/// The source with comments, text and character literals blanked, byte for byte, newlines
/// kept: what remains has balanced braces and no false keywords.
pub fn blanked(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            for byte in out.get_mut(at..end).into_iter().flatten() {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts here ends, or `at` when none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let word_before =
        at.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(|byte| is_word(*byte));
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    let raw = rest.strip_prefix(b"b").unwrap_or(rest);
    if !word_before && raw.starts_with(b"r") {
        let hashes = raw.iter().skip(1).take_while(|byte| **byte == b'#').count();
        if raw.get(1 + hashes) == Some(&b'"') {
            let opened = rest.len() - raw.len() + 2 + hashes;
            return at + opened + raw_text(rest.get(opened..).unwrap_or_default(), hashes);
        }
    }
    match rest {
        [b'"', tail @ ..] => at + 1 + quoted(tail, b'"'),
        // A lifetime has no closing quote right after its first symbol.
        [b'\'', b'\\', tail @ ..] => {
            at + 2 + tail.len().min(1) + quoted(tail.get(1..).unwrap_or_default(), b'\'')
        }
        [b'\'', first, tail @ ..] => {
            let width = char_width(*first);
            if tail.get(width - 1) == Some(&b'\'') { at + 2 + width } else { at }
        }
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(pair) = rest.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth = depth.saturating_sub(1),
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn raw_text(rest: &[u8], hashes: usize) -> usize {
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    rest.windows(close.len())
        .position(|window| window == close)
        .map_or(rest.len(), |found| found + close.len())
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut escaped = false;
    for (index, byte) in rest.iter().enumerate() {
        match *byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

fn char_width(first: u8) -> usize {
    match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The byte after the brace that closes the one at `open`.
fn matching(blanked: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, byte) in blanked.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            _ => {}
        }
    }
    blanked.len()
}

/// The byte ranges of inline test modules.
pub fn test_modules(blanked: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, attribute) in blanked.match_indices("#[cfg(test)]") {
        let after = at + attribute.len();
        let tail = blanked.get(after..).unwrap_or_default();
        let head = tail.find(['{', ';']).and_then(|end| Some((after + end, tail.get(..end)?)));
        if let Some((open, head)) = head
            && head.split_whitespace().any(|word| word == "mod")
            && blanked.get(open..=open) == Some("{")
        {
            found.push(at..matching(blanked, open));
        }
    }
    found
}

/// A function with a body: its name and its byte range from `fn` to the closing brace.
#[derive(Debug, PartialEq, Eq)]
pub struct Function<'a> {
    pub name: &'a str,
    pub range: Range<usize>,
}

/// Every function with a body.
pub fn functions(blanked: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (at, keyword) in blanked.match_indices("fn ") {
        let word_before = at
            .checked_sub(1)
            .is_some_and(|before| blanked.as_bytes().get(before).is_some_and(|byte| is_word(*byte)));
        let tail = blanked.get(at + keyword.len()..).unwrap_or_default();
        let name =
            tail.split(|symbol: char| !symbol.is_alphanumeric() && symbol != '_').next().unwrap_or_default();
        if word_before || name.is_empty() {
            continue;
        }
        // The body's brace is the first one outside of brackets; a `;` there means no body,
        // one inside of them is an array's.
        let mut depth = 0_i32;
        for (offset, byte) in tail.bytes().enumerate() {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b';' if depth == 0 => break,
                b'{' if depth == 0 => {
                    let open = at + keyword.len() + offset;
                    found.push(Function { name, range: at..matching(blanked, open) });
                    break;
                }
                _ => {}
            }
        }
    }
    found
}

/// How many lines a range touches.
pub fn lines(text: &str, range: &Range<usize>) -> usize {
    text.get(range.clone()).map_or(0, |part| part.lines().count())
}

#[cfg(test)]
mod tests {
    use super::{blanked, functions, lines, test_modules};

    #[test]
    fn literals_and_comments_are_blanked() {
        let cases = [
            (r#"a "}{" b"#, "ab"),
            ("a // {\nb", "a\nb"),
            ("a /* { /* } */ { */ b", "ab"),
            ("x('{', '\\'', '\\u{7b}')", "x(,,)"),
            ("<'a, 'b>{}", "<'a,'b>{}"),
            (r##"r#"{"# + b"{" + br"{""##, "+b+"),
            ("'é' {}", "{}"),
            ("var\"{\"", "var"),
        ];
        for (source, expected) in cases {
            let found = blanked(source);
            assert_eq!(found.len(), source.len(), "{source}");
            assert_eq!(found.replace(' ', ""), expected, "{source}");
        }
    }

    #[test]
    fn functions_are_measured_from_keyword_to_brace() {
        let source = "trait T { fn decl(&self) -> [u8; 2]; }\nfn one<const N: usize>(x: [u8; 3])\n{\n  if x { }\n}\nasync fn two() {}\n";
        let found = functions(source);
        let names: Vec<_> = found.iter().map(|function| function.name).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(found.first().map(|function| lines(source, &function.range)), Some(4));
    }

    #[test]
    fn inline_test_modules_are_found_and_declared_ones_are_not() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n#[cfg(test)]\nmod other;\n#[cfg(test)]\nfn c() {}\n";
        let found = test_modules(source);
        assert_eq!(found.len(), 1);
        assert!(
            found.iter().all(|range| source.get(range.clone()).is_some_and(|text| text.ends_with("}\n}")))
        );
    }
}
