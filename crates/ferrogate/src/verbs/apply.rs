// SPDX-License-Identifier: Apache-2.0
//! `apply`: every document of every file in one request, so that all of them are stored
//! in one transaction or none is. A fault is shown with the file it stands in.

use anyhow::bail;
use http::Method;
use serde_json::Value;

use super::files::{self, Document};
use super::show::{self, field, items};
use super::{report_live, waiting_on};
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
    Ok(report_live(reply.body.get("live")))
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
        let number = line.trim_start().strip_prefix("document ");
        let digits = number.map(|rest| rest.split(|symbol: char| !symbol.is_ascii_digit()).next());
        let index = digits.flatten().and_then(|digits| digits.parse::<usize>().ok()?.checked_sub(1));
        match index.and_then(|index| documents.get(index)) {
            Some(document) => lines.push(format!("  {}: {}", document.origin, line.trim_start())),
            None => lines.push(line.to_owned()),
        }
    }
    if let [only] = documents
        && lines.len() == 1
    {
        return format!("{}: {}", only.origin, lines.concat());
    }
    lines.join("\n")
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
            "failed\n  b.yaml: document 2 (x): spec.context: bad\n  elsewhere: bad"
        );
        assert_eq!(with_files("taken", &[document("a.yaml")]), "a.yaml: taken");
    }
}
