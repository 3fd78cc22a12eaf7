// SPDX-License-Identifier: Apache-2.0
//! `diff`: what `apply` would change, line by line in YAML. What the controller itself
//! adds to a document (its status, default virtual hosts) is not a difference.

use std::path::PathBuf;

use anyhow::Context;
use ferrogate_model::{Handle, Kind, ResourceName};
use http::{Method, StatusCode};
use serde_json::Value;

use super::{api, files, lines, show};
use crate::cli::{Connection, Exit, Output};
use crate::client::{Call, Client, ClientError};
use crate::output;

const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// Compares the files with what is stored.
pub async fn run(places: &[PathBuf], connection: &Connection) -> anyhow::Result<Exit> {
    let client = Client::connect(connection)?;
    let mut changes = Vec::new();
    for document in files::read(places)? {
        let name = document.value.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.with_context(|| format!("{}: metadata.name is missing", document.origin))?;
        let kind = document.value.get("kind").and_then(Value::as_str).and_then(Kind::from_document_name);
        let kind = kind.unwrap_or(Kind::RestApi);
        let path = api(&ResourceName::new(kind, Handle::try_new(name)?).to_string());
        let live = match client.send(Call::new(Method::GET, path)).await {
            Ok(reply) => Some(comparable(reply.body, &document.value)),
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let wanted = comparable(document.value.clone(), &document.value);
        if live.as_ref() != Some(&wanted) {
            let (mut live, mut wanted) = (live.unwrap_or(Value::Null), wanted);
            if kind == Kind::Secret {
                conceal(&mut live, &mut wanted);
            }
            changes.push((kind.document_name(), name.to_owned(), live, wanted));
        }
    }
    match connection.output.unwrap_or(Output::Table) {
        Output::Table => {
            for (kind, name, live, wanted) in &changes {
                print(&format!("{kind} {name}"), live, wanted)?;
            }
        }
        format => {
            let list = changes.iter().map(|(kind, name, live, wanted)| {
                serde_json::json!({ "kind": kind, "name": name, "live": live, "wanted": wanted })
            });
            show::document(&Value::Array(list.collect()), format)?;
        }
    }
    Ok(if changes.is_empty() { Exit::Done } else { Exit::Different })
}

/// A document without what the controller adds to it.
fn comparable(mut document: Value, written: &Value) -> Value {
    if let Value::Object(fields) = &mut document {
        fields.remove("status");
    }
    // Nobody is told a private key, so that it cannot be compared.
    if let Some(Value::Object(spec)) = document.get_mut("spec") {
        spec.remove("privateKey");
    }
    if written.pointer("/spec/vhosts").is_none()
        && let Some(Value::Object(spec)) = document.get_mut("spec")
    {
        spec.remove("vhosts");
    }
    document
}

/// Says whether a secret's value differs without showing either: output is kept in logs.
fn conceal(live: &mut Value, wanted: &mut Value) {
    let value = "/spec/value";
    let differs = live.pointer(value) != wanted.pointer(value);
    for (document, said) in [(live, "****** (as stored)"), (wanted, "****** (another)")] {
        if let Some(value) = document.pointer_mut(value) {
            *value = Value::from(if differs { said } else { "******" });
        }
    }
}

fn print(name: &str, live: &Value, wanted: &Value) -> anyhow::Result<()> {
    let (green, red, plain) = if show::colour() { (GREEN, RED, PLAIN) } else { ("", "", "") };
    let text = |value: &Value| if value.is_null() { Ok(String::new()) } else { show::yaml(value) };
    output::line(&format!("{name}:{}", if live.is_null() { " is not there yet" } else { "" }))?;
    for edit in lines::compare(&text(live)?, &text(wanted)?) {
        output::line(&match edit {
            lines::Edit::Same(line) => format!("  {line}"),
            lines::Edit::Removed(line) => format!("{red}- {line}{plain}"),
            lines::Edit::Added(line) => format!("{green}+ {line}{plain}"),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::conceal;
    use serde_json::json;

    #[test]
    fn a_secret_s_value_is_compared_and_not_shown() {
        let document = |value: &str| json!({"spec": {"displayName": "d", "value": value}});
        for (stored, differ) in [("same", false), ("old", true)] {
            let (mut live, mut wanted) = (document(stored), document("same"));
            conceal(&mut live, &mut wanted);
            assert_eq!(live != wanted, differ, "{live} {wanted}");
            assert!(!format!("{live}{wanted}").contains("same") && !live.to_string().contains("old"));
        }
    }
}
