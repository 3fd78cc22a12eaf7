// SPDX-License-Identifier: Apache-2.0
//! Edits of a JSON value, chosen by the input: the value stays a value of about the same
//! shape, so that the faults it ends up with lie deep. It knows no kind of document.

use serde_json::{Map, Value};

use crate::choices::Choices;

/// More edits than these make nothing new.
const MAX_EDITS: usize = 12;
/// The most copies that one edit makes of a list's element.
const MAX_COPIES: usize = 300;
/// What is larger, in values and bytes of text, is refused before it is looked at: edits end there,
/// for copies of copies would grow without end.
const MAX_SIZE: usize = 1 << 20;
/// How deep one edit may wrap a value.
const MAX_WRAPS: usize = 80;

/// Edits the value until the choices are used up.
pub fn edit(value: &mut Value, choices: &mut Choices<'_>, words: &[String]) {
    for _ in 0..MAX_EDITS {
        if choices.is_empty() || size(value) > MAX_SIZE {
            return;
        }
        let count = nodes(value);
        let other = choices.byte();
        let mut copied = choices.below(count);
        let copied = if other == 0 { nth(value, &mut copied).map(|node| node.clone()) } else { None };
        let mut at = choices.below(count);
        if let Some(node) = nth(value, &mut at) {
            match copied {
                Some(copied) => *node = copied,
                None => change(node, choices, words),
            }
        }
    }
}

/// How many values there are, the outermost one included.
fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum::<usize>(),
        Value::Object(fields) => fields.values().map(nodes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The same, and the bytes of its texts.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(key, field)| key.len() + size(field)).sum(),
        Value::String(text) => text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn nth<'v>(value: &'v mut Value, at: &mut usize) -> Option<&'v mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, at)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth(field, at)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn change(node: &mut Value, choices: &mut Choices<'_>, words: &[String]) {
    let word = |choices: &mut Choices<'_>| choices.pick(words).cloned().unwrap_or_default();
    match choices.byte() % 14 {
        0 => *node = Value::String(word(choices)),
        1 => *node = Value::String(choices.text()),
        2 => *node = Value::from(choices.number()),
        3 => *node = Value::from(choices.number().cast_signed().wrapping_neg()),
        4 => *node = Value::from(f64::from_bits(choices.number())),
        5 => {
            *node = choices
                .pick(&[Value::Null, Value::Bool(true), Value::Bool(false)])
                .cloned()
                .unwrap_or_default()
        }
        6 => {
            *node = choices
                .pick(&[Value::Array(Vec::new()), Value::Object(Map::new())])
                .cloned()
                .unwrap_or_default()
        }
        7 => remove(node, choices),
        8 => insert(node, word(choices), choices, words),
        9 => copy(node, choices),
        10 => {
            let inserted = word(choices);
            splice(node, &inserted, choices);
        }
        11 => {
            let inserted = choices.text();
            splice(node, &inserted, choices);
        }
        12 => wrap(node, choices),
        _ => lengthen(node, choices),
    }
}

fn remove(node: &mut Value, choices: &mut Choices<'_>) {
    match node {
        Value::Array(items) if !items.is_empty() => {
            items.remove(choices.below(items.len()));
        }
        Value::Object(fields) => {
            let key = fields.keys().nth(choices.below(fields.len())).cloned();
            key.and_then(|key| fields.remove(&key));
        }
        other => *other = Value::Null,
    }
}

fn insert(node: &mut Value, key: String, choices: &mut Choices<'_>, words: &[String]) {
    let value = choices.pick(words).cloned().map(Value::String).unwrap_or_default();
    match node {
        Value::Array(items) => items.push(value),
        Value::Object(fields) => drop(fields.insert(key, value)),
        other => *other = Value::Array(vec![other.take(), value]),
    }
}

/// Copies an element of a list, or a field under names that are not its own.
fn copy(node: &mut Value, choices: &mut Choices<'_>) {
    let wanted = choices.below(MAX_COPIES) + 1;
    let copies = |of: &Value| wanted.min(MAX_SIZE / size(of));
    match node {
        Value::Array(items) => {
            if let Some(item) = items.get(choices.below(items.len())).cloned() {
                let copies = copies(&item);
                items.extend(std::iter::repeat_n(item, copies));
            }
        }
        Value::Object(fields) => {
            if let Some(field) = fields.values().nth(choices.below(fields.len())).cloned() {
                let copies = copies(&field);
                fields.extend((0..copies).map(|index| (format!("x-{index}"), field.clone())));
            }
        }
        other => {
            let copies = copies(other);
            *other = Value::Array(vec![other.take(); copies]);
        }
    }
}

/// Puts a text into a text, or over its end.
fn splice(node: &mut Value, inserted: &str, choices: &mut Choices<'_>) {
    let Value::String(text) = node else {
        *node = Value::String(inserted.to_owned());
        return;
    };
    let wanted = choices.below(text.len() + 1);
    let at = (0..=wanted).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if choices.byte().is_multiple_of(2) {
        text.insert_str(at, inserted);
    } else {
        text.truncate(at);
        text.push_str(inserted);
    }
}

fn wrap(node: &mut Value, choices: &mut Choices<'_>) {
    for _ in 0..=choices.below(MAX_WRAPS) {
        *node = Value::Array(vec![node.take()]);
    }
}

/// Repeats a text: what has a limit on its length must have it everywhere.
fn lengthen(node: &mut Value, choices: &mut Choices<'_>) {
    if let Value::String(text) = node
        && text.len() <= 64
    {
        *text = text.repeat(1 + choices.below(2000));
    }
}
