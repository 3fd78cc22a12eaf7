// SPDX-License-Identifier: Apache-2.0
//! Reads `http1.txt`; its head says how it is written.

use std::fmt;

/// One case of the corpus.
pub struct Case {
    pub name: String,
    pub rfc: String,
    pub want: Vec<Want>,
    pub bytes: Vec<u8>,
}

/// An outcome that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Answered with this status; nothing whole arrives upstream.
    Status(u16),
    /// The connection ends without an answer.
    Closed,
    /// Exactly this arrives first.
    Arrives { method: String, path: String, body: Vec<u8> },
}

pub fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("== ") {
            assert!(cases.iter().all(|case| case.name != name), "{name} twice");
            let (rfc, want, bytes) = (String::new(), Vec::new(), Vec::new());
            cases.push(Case { name: name.to_owned(), rfc, want, bytes });
            continue;
        }
        let case = cases.last_mut().expect("a case begins with its name");
        let (key, rest) = line.split_once(' ').expect("a key and a value");
        match key {
            "rfc" => case.rfc = rest.trim().to_owned(),
            "want" => case.want = split_outside_quotes(rest).iter().map(|text| want(text)).collect(),
            ">" => case.bytes = unescape(rest),
            other => unreachable!("{}: unknown key {other}", case.name),
        }
    }
    for case in &cases {
        assert!(
            !case.rfc.is_empty() && !case.want.is_empty() && !case.bytes.is_empty(),
            "{} is incomplete",
            case.name
        );
    }
    cases
}

fn split_outside_quotes(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '|' if !quoted => parts.push(String::new()),
            c => {
                quoted ^= c == '"';
                parts.last_mut().expect("never empty").push(c);
            }
        }
    }
    parts
}

fn want(text: &str) -> Want {
    let text = text.trim();
    if text == "closed" {
        return Want::Closed;
    }
    match text.strip_prefix("arrives ") {
        None => Want::Status(text.parse().expect("a status")),
        Some(rest) => {
            let (head, body) = rest.split_once('"').expect("a quoted body");
            let body = body.strip_suffix('"').expect("a quoted body");
            let (method, path) = head.trim().split_once(' ').expect("method and path");
            Want::Arrives { method: method.to_owned(), path: path.to_owned(), body: unescape(body) }
        }
    }
}

/// The bytes that a line of the corpus stands for.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escape = rest.chars().next().expect("an escape");
                rest = &rest[1..];
                match escape {
                    'r' => bytes.push(b'\r'),
                    'n' => bytes.push(b'\n'),
                    't' => bytes.push(b'\t'),
                    '0' => bytes.push(0),
                    'x' => {
                        bytes.push(u8::from_str_radix(&rest[..2], 16).expect("two hexadecimal digits"));
                        rest = &rest[2..];
                    }
                    other => unreachable!("unknown escape \\{other}"),
                }
            }
            '{' => {
                let (word, after) = rest.split_once('}').expect("a closed brace");
                rest = after;
                match word.split_once(':') {
                    None => bytes.extend_from_slice(b"GET /none HTTP/1.0\r\n\r\n"),
                    Some(("long", count)) => bytes.extend(vec![b'a'; count.parse().expect("a number")]),
                    Some((_, count)) => {
                        for index in 0..count.parse().expect("a number") {
                            let _: i32 = index;
                            bytes.extend_from_slice(format!("x{index}: y\r\n").as_bytes());
                        }
                    }
                }
            }
            c => bytes.extend(c.to_string().into_bytes()),
        }
    }
    bytes
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (RFC {})", self.name, self.rfc)
    }
}
