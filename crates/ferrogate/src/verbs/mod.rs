// SPDX-License-Identifier: Apache-2.0
//! The client verbs: each sends a request or two and shows the answer. They go through
//! the same management API as everybody else and have no way past it. `main` calls
//! [`run`]; how a controller is reached is the client's affair.

mod apply;
mod diff;
mod files;
mod lines;
mod live;
mod show;
mod status;

use anyhow::Context;
use ferrogate_model::Kind;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{Connection, Exit, Filters, Misuse, Output, Verb, Waiting};
use crate::client::{Call, Client, Reply};
use crate::output;
use show::{field, table};

/// Runs a verb to its end.
pub fn run(verb: Verb) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the client")?
        .block_on(dispatch(verb))
}

async fn dispatch(verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Apply(flags) => apply::run(&flags).await,
        Verb::Get { name, revision, connection } => get(&name, revision, &connection).await,
        Verb::List { kind, filters, connection } => list(kind.as_deref(), filters, &connection).await,
        Verb::Delete { names, waiting, connection } => delete(&names, &waiting, &connection).await,
        Verb::Diff { files, connection } => diff::run(&files, &connection).await,
        Verb::Status { connection } => status::run(&connection).await,
        Verb::History { name, limit, before, connection } => {
            let path =
                name.map_or_else(|| "/revisions".to_owned(), |name| format!("{}/revisions", api(&name)));
            let call = Call::new(Method::GET, path).query("limit", limit.to_string());
            history(call.maybe("before", before.map(|before| before.to_string())), &connection).await
        }
        Verb::Rollback { name, to, all: _, waiting, connection } => {
            rollback(name.as_deref(), to, &waiting, &connection).await
        }
    }
}

/// The path segments of kinds that are listed in their own way.
const SECRETS: &str = Kind::Secret.path_name();
const CERTIFICATES: &str = Kind::Certificate.path_name();

/// The path of one artifact: `NAME` is a REST API, `secrets/NAME` a secret, and so on. A name
/// has no slash. Only what a handle may hold is left as it is.
pub(super) fn api(name: &str) -> String {
    let (kind, name) = match name.split_once('/') {
        Some((word, rest)) => match kind(word) {
            Some(kind) => (kind, rest),
            None => (Kind::RestApi, name),
        },
        None => (Kind::RestApi, name),
    };
    let kind = kind.path_name();
    let escaped: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    format!("/{kind}/{escaped}")
}

/// The kind that is meant by its name in documents or paths, or by the latter's singular.
fn kind(word: &str) -> Option<Kind> {
    let singular = || Kind::ALL.into_iter().find(|kind| kind.path_name().strip_suffix('s') == Some(word));
    Kind::from_path_name(word).or_else(|| Kind::from_document_name(word)).or_else(singular)
}

/// The call with what was said about waiting.
pub(super) fn waiting_on(call: Call, waiting: &Waiting) -> Call {
    if !waiting.wait {
        return call;
    }
    call.query("wait", "live").query("timeout", waiting.timeout.clone()).query("scope", waiting.scope.clone())
}

async fn get(name: &str, revision: Option<u64>, connection: &Connection) -> anyhow::Result<Exit> {
    let path = match revision {
        Some(revision) => format!("{}/revisions/{revision}", api(name)),
        None => api(name),
    };
    let reply = Client::connect(connection)?.send(Call::new(Method::GET, path)).await?;
    match connection.output.unwrap_or(Output::Yaml) {
        Output::Table => apis_table(std::slice::from_ref(&reply.body))?,
        format => show::document(&reply.body, format)?,
    }
    Ok(Exit::Done)
}

async fn list(kind: Option<&str>, filters: Filters, connection: &Connection) -> anyhow::Result<Exit> {
    let apis = Kind::RestApi.path_name();
    let kind = kind.unwrap_or(apis);
    let filters = [
        ("displayName", "--display-name", filters.display_name),
        ("version", "--version", filters.version),
        ("context", "--context", filters.context),
        ("status", "--status", filters.status),
    ];
    if kind != apis
        && let Some((_, flag, _)) = filters.iter().find(|(_, _, value)| value.is_some())
    {
        return Err(Misuse(format!("{flag} filters {apis} only: leave it out to list {kind}")).into());
    }
    let call = Call::new(Method::GET, format!("/{kind}"));
    let call = filters.into_iter().fold(call, |call, (name, _, value)| call.maybe(name, value));
    let reply = Client::connect(connection)?.send(call).await?;
    match connection.output.unwrap_or(Output::Table) {
        Output::Table if kind == SECRETS => secrets_table(show::items(&reply.body, SECRETS))?,
        Output::Table if kind == CERTIFICATES => {
            certificates_table(show::items(&reply.body, CERTIFICATES))?;
        }
        Output::Table => apis_table(show::items(&reply.body, "apis"))?,
        format => show::document(&reply.body, format)?,
    }
    Ok(Exit::Done)
}

fn apis_table(apis: &[Value]) -> anyhow::Result<()> {
    let rows = apis.iter().map(|api| {
        let at = |pointer| show::text(api.pointer(pointer));
        vec![
            at("/metadata/name"),
            at("/spec/displayName"),
            at("/spec/version"),
            at("/spec/context"),
            at("/status/state"),
            at("/status/revision"),
            at("/status/updatedAt"),
        ]
    });
    let header = ["NAME", "DISPLAY NAME", "VERSION", "CONTEXT", "STATE", "REVISION", "UPDATED"];
    Ok(output::line(&table(&header, rows))?)
}

fn secrets_table(secrets: &[Value]) -> anyhow::Result<()> {
    let columns = ["/metadata/name", "/spec/displayName", "/status/createdAt", "/status/updatedAt"];
    let rows = secrets.iter().map(|one| columns.map(|at| show::text(one.pointer(at))).to_vec());
    Ok(output::line(&table(&["NAME", "DISPLAY NAME", "CREATED", "UPDATED"], rows))?)
}

fn certificates_table(certificates: &[Value]) -> anyhow::Result<()> {
    let columns = ["name", "usage", "subject", "issuer", "notAfter"];
    let rows = certificates.iter().map(|one| columns.map(|name| field(one, name)).to_vec());
    Ok(output::line(&table(&["NAME", "USAGE", "SUBJECT", "ISSUER", "NOT AFTER"], rows))?)
}

/// Deletes one after the other. A name that does not exist is found before the first is deleted.
async fn delete(names: &[String], waiting: &Waiting, connection: &Connection) -> anyhow::Result<Exit> {
    let client = Client::connect(connection)?;
    if names.len() > 1 {
        for name in names {
            let found = client.send(Call::new(Method::GET, api(name))).await;
            found.with_context(|| format!("nothing was deleted: {name}"))?;
        }
    }
    let (mut exit, mut answers) = (Exit::Done, Vec::new());
    let mut failed = None;
    for name in names {
        let call = waiting_on(Call::new(Method::DELETE, api(name)), waiting);
        let reply = match client.send(call).await.with_context(|| format!("cannot delete {name}")) {
            Ok(reply) => reply,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        if connection.output.unwrap_or(Output::Table) == Output::Table {
            written(&reply, connection, &format!("{name} deleted"))?;
        }
        if live::report(reply.body.get("live"), waiting) != Exit::Done {
            exit = Exit::NotLive;
        }
        answers.push(reply.body);
    }
    match connection.output.unwrap_or(Output::Table) {
        Output::Table => {}
        format => show::several(answers, names.len(), format)?,
    }
    failed.map_or(Ok(exit), Err)
}

/// Shows the answer to a write: one line for people, the whole for programs.
fn written(reply: &Reply, connection: &Connection, done: &str) -> anyhow::Result<()> {
    match (connection.output.unwrap_or(Output::Table), reply.revision) {
        (Output::Table, Some(revision)) => output::line(&format!("{done} (revision {revision})"))?,
        (Output::Table, None) => output::line(done)?,
        (format, _) => show::document(&reply.body, format)?,
    }
    Ok(())
}

async fn history(call: Call, connection: &Connection) -> anyhow::Result<Exit> {
    let reply = Client::connect(connection)?.send(call).await?;
    match connection.output.unwrap_or(Output::Table) {
        Output::Table => {
            let columns = ["revision", "kind", "id", "action", "author", "at"];
            let revisions = show::items(&reply.body, "revisions");
            let rows = revisions.iter().map(|one| columns.map(|name| field(one, name)).to_vec());
            output::line(&table(&["REVISION", "KIND", "NAME", "CHANGE", "BY", "AT"], rows))?;
        }
        format => show::document(&reply.body, format)?,
    }
    Ok(Exit::Done)
}

async fn rollback(
    name: Option<&str>,
    to: u64,
    waiting: &Waiting,
    connection: &Connection,
) -> anyhow::Result<Exit> {
    let path = name.map_or_else(|| "/rollback".to_owned(), |name| format!("{}/rollback", api(name)));
    let call = waiting_on(Call::new(Method::POST, path).body(json!({ "revision": to })), waiting);
    let reply = Client::connect(connection)?.send(call).await?;
    let what = name.map_or("the gateway", |name| name);
    written(&reply, connection, &format!("{what} is back to revision {to}"))?;
    Ok(live::report(reply.body.get("live").or_else(|| reply.body.pointer("/status/live")), waiting))
}

#[cfg(test)]
mod tests {
    use super::api;

    #[test]
    fn names_cannot_leave_their_path_segment() {
        assert_eq!(api("reading-list_v1.0"), "/rest-apis/reading-list_v1.0");
        assert_eq!(api("a/b?c#d é"), "/rest-apis/a%2Fb%3Fc%23d%20%C3%A9");
        assert_eq!(api("secrets/db/../x"), "/secrets/db%2F..%2Fx");
        assert_eq!(
            (api("secret/db"), api("RestApi/a"), api("certificates/tls")),
            ("/secrets/db".to_owned(), "/rest-apis/a".to_owned(), "/certificates/tls".to_owned())
        );
    }
}
