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
            let (field, message) = (field(warning, "field"), field(warning, "message"));
            output::note(&format!("warning: {}: {field}: {message}\n", document.origin));
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
    let told = |line: &str| with_file(line, documents);
    match (told(message), documents) {
        // Of one document it need not say which.
        (None, [only]) if message.lines().count() == 1 => format!("{}: {message}", only.origin),
        _ => message
            .lines()
            .map(|line| told(line).unwrap_or_else(|| line.to_owned()))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

/// A line that begins with a document's number, with the file in its place, and where it speaks
/// of another document with that one's as well.
fn with_file(line: &str, documents: &[Document]) -> Option<String> {
    const OTHER: &str = " is that of ";
    let named = |text: &str| {
        let (number, rest) = counted(text)?;
        Some(format!("{}{rest}", documents.get(number.checked_sub(1)?)?.origin))
    };
    let text = line.trim_start();
    let indent = line.strip_suffix(text)?;
    let told = named(text)?;
    let both = told.split_once(OTHER).and_then(|(one, other)| Some(format!("{one}{OTHER}{}", named(other)?)));
    Some(format!("{indent}{}", both.unwrap_or(told)))
}

/// The number of `document N` at the beginning of a text, and what follows it.
fn counted(text: &str) -> Option<(usize, &str)> {
    let rest = text.strip_prefix("document ")?;
    let end = rest.find(|symbol: char| !symbol.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::{Document, with_files};
    use serde_json::Value;

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
    fn a_conflict_names_the_files_it_is_about() {
        let document = |origin: &str| Document { origin: origin.to_owned(), value: Value::Null };
        let (one, two) = ([document("a.yaml")], [document("a.yaml"), document("b.yaml")]);
        let taken = "document 1 (x): route conflict: route GET * /x is already served by RestApi 'o'";
        let told = "a.yaml (x): route conflict: route GET * /x is already served by RestApi 'o'";
        assert_eq!(with_files(taken, &one), told);
        assert_eq!(with_files(taken, &two), told);
        assert_eq!(
            with_files("document 2 (y): route conflict: GET * /x is that of document 1 (x) too", &two),
            "b.yaml (y): route conflict: GET * /x is that of a.yaml (x) too"
        );
        let moved = "rest-apis/x was changed at the same time; nothing was written";
        assert_eq!(with_files(moved, &two), moved);
    }
}
