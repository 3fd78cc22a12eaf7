// SPDX-License-Identifier: Apache-2.0
//! Evaluating an action: a pipeline of commands, each a string, a parenthesised
//! pipeline, or a function with arguments. Every value is text, so there is no
//! type to check but the number of arguments.

use super::lexer::Token;
use super::{Fault, MAX_NESTING, MAX_RENDERED_BYTES, State};

/// The functions, with their numbers of arguments.
const FUNCTIONS: [(&str, usize); 9] = [
    ("secret", 1),
    ("env", 1),
    ("default", 2),
    ("required", 2),
    ("upper", 1),
    ("lower", 1),
    ("trim", 1),
    ("replace", 3),
    ("redact", 1),
];

/// The text an action stands for.
pub(super) fn action(tokens: &[Token<'_>], state: &mut State<'_>) -> Result<String, Fault> {
    let mut parser = Parser { tokens, position: 0, depth: 0, state };
    let value = parser.pipeline()?;
    match parser.next() {
        None => Ok(value),
        Some(token) => Err(unexpected(token)),
    }
}

struct Parser<'p, 't, 'l> {
    tokens: &'p [Token<'t>],
    position: usize,
    depth: usize,
    state: &'p mut State<'l>,
}

impl<'p, 't> Parser<'p, 't, '_> {
    fn peek(&self) -> Option<&'p Token<'t>> {
        self.tokens.get(self.position)
    }

    fn next(&mut self) -> Option<&'p Token<'t>> {
        let token = self.peek();
        self.position += usize::from(token.is_some());
        token
    }

    /// `command | command | …`: each value becomes the last argument of the next command.
    fn pipeline(&mut self) -> Result<String, Fault> {
        let mut value = self.command(None)?;
        while self.peek() == Some(&Token::Pipe) {
            self.next();
            value = self.command(Some(value))?;
        }
        Ok(value)
    }

    fn command(&mut self, piped: Option<String>) -> Result<String, Fault> {
        match (self.peek(), piped) {
            (Some(Token::Word(name)), piped) => {
                self.next();
                let mut arguments = Vec::new();
                while let Some(Token::Quoted(_) | Token::Left | Token::Word(_)) = self.peek() {
                    arguments.push(self.operand()?);
                }
                arguments.extend(piped);
                self.call(name, arguments)
            }
            // Only a function can take what is piped into it.
            (Some(token @ (Token::Quoted(_) | Token::Left)), Some(_)) => Err(unexpected(token)),
            (_, _) => self.operand(),
        }
    }

    fn operand(&mut self) -> Result<String, Fault> {
        match self.next() {
            Some(Token::Quoted(text)) => Ok(text.clone()),
            Some(Token::Left) => {
                if self.depth >= MAX_NESTING {
                    return Err(Fault::Syntax(format!("parentheses nested deeper than {MAX_NESTING}")));
                }
                self.depth += 1;
                let value = self.pipeline()?;
                self.depth -= 1;
                match self.next() {
                    Some(Token::Right) => Ok(value),
                    Some(token) => Err(unexpected(token)),
                    None => Err(Fault::Syntax("unclosed left paren".to_owned())),
                }
            }
            // A function as an argument has none of its own, and every function wants some.
            Some(Token::Word(name)) => self.call(name, Vec::new()),
            Some(Token::Pipe) | None => Err(Fault::Syntax("missing value for command".to_owned())),
            Some(token @ Token::Right) => Err(unexpected(token)),
        }
    }

    fn call(&mut self, name: &str, arguments: Vec<String>) -> Result<String, Fault> {
        let Some((_, wanted)) = FUNCTIONS.iter().find(|(function, _)| *function == name) else {
            return Err(Fault::Syntax(format!("function {name:?} not defined")));
        };
        let wrong = format!("wrong number of args for {name}: want {wanted} got {}", arguments.len());
        match (name, arguments.as_slice()) {
            ("secret", [handle]) => match self.state.lookup.secret(handle) {
                Some(secret) => {
                    self.state.references.insert(handle.clone());
                    self.concealed(secret)
                }
                None => Err(Fault::MissingSecret(handle.clone())),
            },
            ("env", [name]) => Ok(self.state.lookup.env(name).unwrap_or_default()),
            ("default", [fallback, value]) => Ok(if value.is_empty() { fallback } else { value }.clone()),
            ("required", [message, value]) if value.is_empty() => {
                Err(Fault::Render(format!("required value missing: {message}")))
            }
            ("required", [_, value]) => Ok(value.clone()),
            ("upper", [value]) => self.derived(value, value.to_uppercase()),
            ("lower", [value]) => self.derived(value, value.to_lowercase()),
            ("trim", [value]) => self.derived(value, value.trim().to_owned()),
            ("replace", [old, new, value]) => {
                let replaced = replaced(old, new, value)?;
                self.derived(value, replaced)
            }
            ("redact", [value]) => self.concealed(value.clone()),
            (_, _) => Err(Fault::Render(wrong)),
        }
    }

    /// Remembers a text as one that must not be shown.
    fn concealed(&mut self, text: String) -> Result<String, Fault> {
        if !self.state.secrets.contains(&text) {
            self.state.bytes += text.len();
            if self.state.bytes > MAX_RENDERED_BYTES {
                return Err(too_long());
            }
            self.state.secrets.push(text.clone());
        }
        Ok(text)
    }

    /// What is made from a concealed text is concealed as well.
    fn derived(&mut self, from: &str, text: String) -> Result<String, Fault> {
        if self.state.secrets.iter().any(|secret| !secret.is_empty() && from.contains(secret.as_str())) {
            return self.concealed(text);
        }
        Ok(text)
    }
}

fn replaced(old: &str, new: &str, value: &str) -> Result<String, Fault> {
    let growth = value.matches(old).count().saturating_mul(new.len());
    if growth.saturating_add(value.len()) > MAX_RENDERED_BYTES {
        return Err(too_long());
    }
    Ok(value.replace(old, new))
}

fn too_long() -> Fault {
    Fault::Limit(format!("the result is longer than {MAX_RENDERED_BYTES} bytes"))
}

fn unexpected(token: &Token<'_>) -> Fault {
    Fault::Syntax(match token {
        Token::Word(word) => format!("unexpected {word:?} in command"),
        // The text itself may be a credential.
        Token::Quoted(_) => "unexpected string in command".to_owned(),
        Token::Pipe => "unexpected pipe in command".to_owned(),
        Token::Left => "unexpected left paren in command".to_owned(),
        Token::Right => "unexpected right paren in command".to_owned(),
    })
}
