// SPDX-License-Identifier: Apache-2.0
//! `apply`: every document of every file in one request, so that all of them are stored
//! in one transaction or none is. A fault is shown with the file it stands in.

use anyhow::bail;
use http::Method;
use serde_json::Value;

use super::files::{self, Document};
use super::show::{self, field, items};
use super::{live, waiting_on};
use crate::cli::{ApplyFlags, Exit, Output};
use crate::client::{Call, Client, ClientError};
use crate::output;

/// Applies the files.
pub async fn run(flags: &ApplyFlags) -> anyhow::Result<Exit> {
    let documents = files::read(&flags.files)?;
    let bodies = documents.iter().map(|document| document.value.clone()).collect();
    let mut call = Call::new(Method::POST, "/apply").body(Value::Array(bodies));
    if flags.dry_run {
        call = call.query("dryRun", "true");
    }
    if flags.strict {
        call = call.query("strict", "true");
    }
    let sent = Client::connect(&flags.connection)?.send(waiting_on(call, &flags.waiting)).await;
    let reply = match sent {
        Ok(reply) => reply,
        Err(ClientError::Refused { status, message, body }) => {
            let message = with_files(&message, &documents);
            return Err(ClientError::Refused { status, message, body }.into());
        }
        Err(error) => return Err(error.into()),
    };
    let results = items(&reply.body, "results");
    if results.len() != documents.len() {
        bail!("the controller answered about {} of {} documents", results.len(), documents.len());
    }
    for (document, result) in documents.iter().zip(results) {
        for warning in result.pointer("/status/warnings").and_then(Value::as_array).into_iter().flatten() {
            eprintln!(
                "warning: {}: {}: {}",
                document.origin,
                field(warning, "field"),
                field(warning, "message")
            );
        }
    }
    match flags.connection.output.unwrap_or(Output::Table) {
        Output::Table => {
            for result in results {
                output::line(&line(result, flags.dry_run))?;
            }
        }
        format => show::document(&reply.body, format)?,
    }
    Ok(live::report(reply.body.get("live"), &flags.waiting))
}

fn line(result: &Value, dry_run: bool) -> String {
    let what = format!("{} {} {}", field(result, "kind"), field(result, "name"), field(result, "action"));
    if dry_run {
        return format!("{what} (dry run: nothing was stored)");
    }
    format!("{what} (revision {})", show::text(result.pointer("/status/revision")))
}

/// The controller counts documents; the user knows files.
fn with_files(message: &str, documents: &[Document]) -> String {
    let mut lines = Vec::new();
    for line in message.lines() {
        match counted(line).and_then(|(number, rest)| Some((documents.get(number.checked_sub(1)?)?, rest))) {
            Some((document, rest)) => lines.push(format!("  {}{rest}", document.origin)),
            None => lines.push(line.to_owned()),
        }
    }
    let [line] = lines.as_slice() else { return lines.join("\n") };
    let origins: Vec<&str> = documents
        .iter()
        .filter(|document| documents.len() == 1 || is_named(line, &document.value))
        .map(|document| document.origin.as_str())
        .collect();
    if origins.is_empty() { line.clone() } else { format!("{}: {line}", origins.join(", ")) }
}

/// `document N` at the beginning of a line, and what follows it.
fn counted(line: &str) -> Option<(usize, &str)> {
    let rest = line.trim_start().strip_prefix("document ")?;
    let end = rest.find(|symbol: char| !symbol.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Whether a refusal of all documents speaks of this one: by its display name and version, or
/// by a route below its context.
fn is_named(line: &str, document: &Value) -> bool {
    let text = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (title, version) = (text("/spec/displayName"), text("/spec/version"));
    let context = text("/spec/context").replace("$version", version);
    let below = context.trim_end_matches('/');
    // A route is told as method, host and path.
    let route = line.strip_prefix("route conflict: route ").and_then(|route| route.split(' ').nth(2));
    let rest = route.filter(|_| !below.is_empty()).and_then(|path| path.strip_prefix(below));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        || line.contains(&format!("name '{title}' and version '{version}'"))
}

#[cfg(test)]
mod tests {
    use super::{Document, with_files};
    use serde_json::{Value, json};

    #[test]
    fn faults_name_the_file() {
        let document = |origin: &str| Document { origin: origin.to_owned(), value: Value::Null };
        let message = "failed\n  document 2 (x): spec.context: bad\n  elsewhere: bad";
        assert_eq!(
            with_files(message, &[document("a.yaml"), document("b.yaml")]),
            "failed\n  b.yaml (x): spec.context: bad\n  elsewhere: bad"
        );
        assert_eq!(with_files("taken", &[document("a.yaml")]), "a.yaml: taken");
        let places = [document("a.yaml, document 1"), document("a.yaml, document 2")];
        let told = with_files("failed\n  document 2: metadata.name: bad", &places);
        assert_eq!(told, "failed\n  a.yaml, document 2: metadata.name: bad");
    }

    #[test]
    fn a_conflict_names_the_documents_it_is_about() {
        let document = |name: &str, version: &str| Document {
            origin: format!("{name}.yaml"),
            value: json!({"spec": {"displayName": name, "version": version, "context": format!("/{name}/$version")}}),
        };
        let documents = [document("books", "v1"), document("books2", "v1"), document("notes", "v2")];
        for (said, origins) in [
            ("route conflict: route GET * /books/v1/x is already served by RestApi 'o'", "books.yaml: "),
            ("route conflict: route GET * /books2/v1 is already served by RestApi 'o'", "books2.yaml: "),
            ("configuration with name 'notes' and version 'v2' already exists", "notes.yaml: "),
            ("rest-apis/x was changed at the same time; nothing was written", ""),
        ] {
            assert_eq!(with_files(said, &documents), format!("{origins}{said}"));
        }
    }
}
