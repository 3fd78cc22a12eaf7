// SPDX-License-Identifier: Apache-2.0
//! `{{ env "NAME" "default" }}` and `{{ file "/path" }}` in configuration files. Before
//! a file is parsed, [`extract`] replaces each token by a placeholder that is valid
//! wherever it stands; the reader resolves a placeholder when it reads the value it is
//! part of. So what a variable holds can never change a file's structure, and a token in
//! a section of another role is never resolved at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files named by tokens may be this long.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const UNCLOSED: &str = "a \"{{\" is never closed by \"}}\"";
/// Placeholders are an index between these; both are private-use characters.
const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Env { name: String, default: Option<String> },
    File(PathBuf),
    Unknown(String),
    Unclosed,
}

/// What tokens are resolved against.
pub(super) struct World<'a> {
    pub env: &'a BTreeMap<String, String>,
    pub allowed: &'a [PathBuf],
}

#[derive(Clone, Copy, PartialEq)]
enum Within {
    Plain,
    Comment,
    Text { quote: char, long: bool },
}

/// Replaces the tokens of a TOML text by placeholders, counting on from `tokens`.
pub(super) fn extract(text: &str, tokens: &mut Vec<Token>) -> Result<String, String> {
    if text.contains([OPEN, CLOSE]) {
        return Err("contains a private-use character (U+E000 or U+E001), which is reserved".to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut within = Within::Plain;
    let mut rest = text;
    while let Some(symbol) = rest.chars().next() {
        if within != Within::Comment
            && let Some(body) = rest.strip_prefix("{{")
        {
            let bare = within == Within::Plain;
            let (token, after) = match split(body, within) {
                Some((body, after)) => (parse(body), after),
                None if bare => return Err(UNCLOSED.to_owned()),
                // The text around it ends all the same: told where the setting is read, if it is.
                None => (Token::Unclosed, body),
            };
            let placeholder = format!("{OPEN}{}{CLOSE}", tokens.len());
            out.push_str(&if bare { format!("\"{placeholder}\"") } else { placeholder });
            tokens.push(token);
            rest = after;
            continue;
        }
        let taken = step(&mut within, rest, symbol);
        let (head, tail) = rest.split_at(taken);
        out.push_str(head);
        rest = tail;
    }
    Ok(out)
}

/// What stands in a token, and what follows it. It ends before the next one begins, and in a text
/// of one line on that line.
fn split(body: &str, within: Within) -> Option<(&str, &str)> {
    let (body, after) = body.split_once("}}")?;
    let leaves_text = matches!(within, Within::Text { long: false, .. }) && body.contains('\n');
    (!leaves_text && !body.contains("{{")).then_some((body, after))
}

/// Follows the lexical state over the next symbol; answers how many bytes it took.
fn step(within: &mut Within, rest: &str, symbol: char) -> usize {
    let width = symbol.len_utf8();
    match *within {
        Within::Comment => {
            if symbol == '\n' {
                *within = Within::Plain;
            }
            width
        }
        Within::Plain if symbol == '#' => {
            *within = Within::Comment;
            width
        }
        Within::Plain if symbol == '"' || symbol == '\'' => {
            let long = is_triple(rest, symbol);
            *within = Within::Text { quote: symbol, long };
            if long { 3 } else { 1 }
        }
        Within::Plain => width,
        Within::Text { quote: '"', .. } if symbol == '\\' => {
            // The escaped symbol goes with its backslash, so that \" does not end the text.
            width + rest.chars().nth(1).map_or(0, char::len_utf8)
        }
        Within::Text { quote, long } if symbol == quote => {
            if !long {
                *within = Within::Plain;
                1
            } else if is_triple(rest, quote) {
                *within = Within::Plain;
                3
            } else {
                1
            }
        }
        Within::Text { long: false, .. } if symbol == '\n' => {
            // Not TOML; the parser will say so. Do not swallow the rest of the file.
            *within = Within::Plain;
            width
        }
        Within::Text { .. } => width,
    }
}

fn is_triple(rest: &str, quote: char) -> bool {
    rest.chars().take(3).filter(|symbol| *symbol == quote).count() == 3
}

fn parse(body: &str) -> Token {
    let body = body.trim();
    let unknown = || Token::Unknown(body.to_owned());
    let (name, rest) = body.split_once(|symbol: char| symbol.is_whitespace()).unwrap_or((body, ""));
    let Some(arguments) = arguments(rest) else { return unknown() };
    match (name, arguments.as_slice()) {
        ("env", [name]) => Token::Env { name: name.clone(), default: None },
        ("env", [name, default]) => Token::Env { name: name.clone(), default: Some(default.clone()) },
        ("file", [path]) => Token::File(PathBuf::from(path)),
        _ => unknown(),
    }
}

fn arguments(text: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        // Within a TOML text the quotes may be escaped; the backslashes are not meant.
        let escaped = rest.starts_with('\\');
        rest = rest.trim_start_matches('\\');
        let quote = rest.chars().next().filter(|symbol| matches!(symbol, '"' | '\'' | '`'))?;
        let (value, after) = rest.get(1..)?.split_once(quote)?;
        found.push(if escaped { value.trim_end_matches('\\') } else { value }.to_owned());
        rest = after.trim_start();
    }
    Some(found)
}

/// Whether a text holds a placeholder.
pub(super) fn has_placeholder(text: &str) -> bool {
    text.contains(OPEN)
}

/// The text with every placeholder replaced by what its token stands for.
pub(super) fn resolve(text: &str, tokens: &[Token], world: &World<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        out.push_str(before);
        let (index, after) = after.split_once(CLOSE).ok_or("a broken placeholder")?;
        let token = index.parse().ok().and_then(|index: usize| tokens.get(index));
        out.push_str(&value_of(token.ok_or("a broken placeholder")?, world)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(token: &Token, world: &World<'_>) -> Result<String, String> {
    match token {
        Token::Env { name, default } => {
            let set = world.env.get(name).filter(|value| !value.is_empty());
            set.or(default.as_ref())
                .cloned()
                .ok_or_else(|| format!("environment variable {name} is not set and the token has no default"))
        }
        Token::File(path) => read(path, world.allowed),
        Token::Unclosed => Err(UNCLOSED.to_owned()),
        Token::Unknown(body) => Err(format!(
            "{{{{ {body} }}}} is not a token: write {{{{ env \"NAME\" }}}}, {{{{ env \"NAME\" \"default\" }}}} or {{{{ file \"/path\" }}}}"
        )),
    }
}

fn read(path: &Path, allowed: &[PathBuf]) -> Result<String, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("{{{{ file }}}} needs an absolute path, not {shown}"));
    }
    let unreadable = |error: std::io::Error| format!("cannot read {shown}: {error}");
    // Links are followed first, so that a link cannot lead out of the allowed places.
    let real = path.canonicalize().map_err(unreadable)?;
    let inside = |dir: &PathBuf| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir));
    if !allowed.iter().any(inside) {
        let places = allowed.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(format!("{shown} lies outside the allowed directories: {places}"));
    }
    let length = std::fs::metadata(&real).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("{shown} is longer than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(&real).map_err(unreadable)?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Token, World, extract, has_placeholder, resolve};
    use std::collections::BTreeMap;

    fn check(text: &str, key: &str, expected: Result<&str, &str>) {
        let env = BTreeMap::from([("SET".to_owned(), "va\"l\nx = 1".to_owned())]);
        let mut tokens = Vec::new();
        let table: toml::Table = extract(text, &mut tokens).unwrap().parse().expect(text);
        let value = table.get(key).and_then(toml::Value::as_str).expect(text);
        let world = World { env: &env, allowed: &[] };
        let resolved = resolve(value, &tokens, &world);
        match expected {
            Ok(expected) => assert_eq!(resolved.as_deref(), Ok(expected), "{text}"),
            Err(part) => assert!(resolved.unwrap_err().contains(part), "{text}"),
        }
    }

    #[test]
    fn tokens_resolve_wherever_they_stand() {
        let value = Ok("va\"l\nx = 1");
        check(r#"k = "{{ env "SET" }}""#, "k", value);
        check(r#"k = "{{ env \"SET\" }}""#, "k", value);
        check(r#"k = '{{ env "SET" }}'"#, "k", value);
        check(r#"k = {{ env "SET" }}"#, "k", value);
        check(r#"k = "a-{{ env "NONE" "b" }}-c""#, "k", Ok("a-b-c"));
        check("k = \"\"\"{{ env `NONE` `` }}\"\"\"", "k", Ok(""));
        check("# {{ broken\nk = 'x' # '{{'\n", "k", Ok("x"));
        check(
            r#"j = "\"" # "
k = "{{ env "NONE" "d" }}""#,
            "k",
            Ok("d"),
        );
    }

    #[test]
    fn what_cannot_be_resolved_says_why() {
        check(r#"k = '{{ env "NONE" }}'"#, "k", Err("NONE is not set"));
        check(r#"k = '{{ secret "x" }}'"#, "k", Err("is not a token"));
        check(r#"k = '{{ file "rel" }}'"#, "k", Err("absolute"));
        check(r#"k = '{{ file "/etc/hostname" }}'"#, "k", Err("outside the allowed directories"));
        check(r#"k = '{{ file "/no/such/file" }}'"#, "k", Err("cannot read"));
    }

    #[test]
    fn files_are_read_from_allowed_places_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "hush\n\n").unwrap();
        let tokens = [Token::File(dir.path().join("secret"))];
        let env = BTreeMap::new();
        let allowed = [dir.path().to_owned()];
        let text = "\u{E000}0\u{E001}";
        assert!(has_placeholder(text));
        assert_eq!(resolve(text, &tokens, &World { env: &env, allowed: &allowed }).as_deref(), Ok("hush"));
    }

    #[test]
    fn an_unclosed_token_is_a_fault_of_its_own_setting_only() {
        check("k = '{{ env'", "k", Err("never closed"));
        check("k = '''{{ env\n'''", "k", Err("never closed"));
        for other in ["'{{'", "\"a {{ env\"", "'''\n{{\n'''"] {
            check(&format!("o = {other}\nk = '{{{{ env \"SET\" }}}}'"), "k", Ok("va\"l\nx = 1"));
        }
        check("o = '{{'\nk = 'x'\ni = {a = {b = 1}}", "k", Ok("x"));
        // Without quotes nobody can tell where it ends.
        assert!(extract("k = {{ env", &mut Vec::new()).unwrap_err().contains("never closed"));
    }

    #[test]
    fn the_placeholders_characters_are_refused() {
        assert!(extract("k = '\u{E000}'", &mut Vec::new()).unwrap_err().contains("reserved"));
    }
}
