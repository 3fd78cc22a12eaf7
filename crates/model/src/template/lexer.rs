// SPDX-License-Identifier: Apache-2.0
//! From a text to its plain parts and actions, and from an action to tokens, after
//! Go's text/template: trim markers, comments, interpreted and raw quoted strings.

use super::Fault;

const OPEN: &str = "{{";
const CLOSE: &str = "}}";

/// A stretch of a text.
#[derive(Debug)]
pub(super) enum Part<'t> {
    /// Taken as it is.
    Text(&'t str),
    /// `{{ … }}`.
    Action(Vec<Token<'t>>),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Word(&'t str),
    Quoted(String),
    Pipe,
    Left,
    Right,
}

/// Splits a text into its parts, white space trimmed where markers ask for it.
pub(super) fn parts(text: &str) -> Result<Vec<Part<'_>>, Fault> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut trim_start = false;
    loop {
        let (before, after) = match rest.split_once(OPEN) {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let before = if trim_start { before.trim_start() } else { before };
        let Some(after) = after else {
            parts.push(Part::Text(before));
            return Ok(parts);
        };
        // A trim marker is a minus with a space, so that `{{-3}}` would be a number.
        let marked = after.strip_prefix('-').filter(|after| after.starts_with(is_space));
        parts.push(Part::Text(if marked.is_some() { before.trim_end() } else { before }));
        let body = marked.unwrap_or(after);
        let (tokens, trim, next) = action(body)?;
        if let Some(tokens) = tokens {
            parts.push(Part::Action(tokens));
        }
        trim_start = trim;
        rest = next;
    }
}

/// Reads one action up to its close. Gives its tokens (`None` for a comment), whether
/// white space after it goes, and the text after it.
#[allow(clippy::type_complexity, reason = "used once, three lines above")]
fn action(body: &str) -> Result<(Option<Vec<Token<'_>>>, bool, &str), Fault> {
    let start = body.trim_start_matches(is_space);
    if let Some(comment) = start.strip_prefix("/*") {
        let (_, after) = comment.split_once("*/").ok_or_else(|| syntax("unclosed comment"))?;
        let (trim, next) = close(after).ok_or_else(|| syntax("comment ends before closing delimiter"))?;
        return Ok((None, trim, next));
    }
    let mut tokens = Vec::new();
    let mut rest = body;
    loop {
        if let Some((trim, next)) = close(rest) {
            return Ok((Some(tokens), trim, next));
        }
        let Some(first) = rest.chars().next() else { return Err(syntax("unclosed action")) };
        let after_first = rest.get(first.len_utf8()..).unwrap_or_default();
        rest = match first {
            c if is_space(c) => after_first,
            '|' => push(&mut tokens, Token::Pipe, after_first),
            '(' => push(&mut tokens, Token::Left, after_first),
            ')' => push(&mut tokens, Token::Right, after_first),
            '`' => {
                let (raw, next) =
                    after_first.split_once('`').ok_or_else(|| syntax("unterminated raw quoted string"))?;
                push(&mut tokens, Token::Quoted(raw.to_owned()), next)
            }
            '"' => {
                let (text, next) = quoted(after_first)?;
                push(&mut tokens, Token::Quoted(text), next)
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                let (word, next) = rest.split_at(end);
                push(&mut tokens, Token::Word(word), next)
            }
            c => return Err(Fault::Syntax(format!("unexpected {c:?} in template"))),
        };
    }
}

fn push<'t>(tokens: &mut Vec<Token<'t>>, token: Token<'t>, next: &'t str) -> &'t str {
    tokens.push(token);
    next
}

/// At a close, with or without a trim marker before it: whether to trim, and what follows.
fn close(text: &str) -> Option<(bool, &str)> {
    let unmarked = text.trim_start_matches(is_space);
    if let Some(next) = unmarked.strip_prefix(CLOSE) {
        return Some((false, next));
    }
    // The marker needs a space before it, or follows a comment directly.
    let spaced = unmarked.len() < text.len();
    let next = unmarked.strip_prefix('-')?.strip_prefix(CLOSE)?;
    spaced.then_some((true, next))
}

/// The rest of an interpreted string after its opening quote: its text, and what follows it.
fn quoted(body: &str) -> Result<(String, &str), Fault> {
    let mut text = String::new();
    let mut characters = body.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Ok((text, body.get(at + 1..).unwrap_or_default())),
            '\n' => break,
            '\\' => {
                let Some((_, escape)) = characters.next() else { break };
                text.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '"' | '\\' => escape,
                    'x' => unescaped(&mut characters, 2)?,
                    'u' => unescaped(&mut characters, 4)?,
                    'U' => unescaped(&mut characters, 8)?,
                    _ => return Err(syntax("unknown escape sequence in quoted string")),
                });
            }
            c => text.push(c),
        }
    }
    Err(syntax("unterminated quoted string"))
}

fn unescaped(characters: &mut std::str::CharIndices<'_>, digits: usize) -> Result<char, Fault> {
    let mut code: u32 = 0;
    for _ in 0..digits {
        let digit = characters.next().and_then(|(_, c)| c.to_digit(16));
        let digit = digit.ok_or_else(|| syntax("malformed escape sequence in quoted string"))?;
        code = code.wrapping_mul(16).wrapping_add(digit);
    }
    char::from_u32(code).ok_or_else(|| syntax("escape sequence is no character"))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn syntax(message: &str) -> Fault {
    Fault::Syntax(message.to_owned())
}
