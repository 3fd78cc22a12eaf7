// SPDX-License-Identifier: Apache-2.0
//! Heads as bytes: what a request or a response became, written once into the vector that is
//! sent. Lines that nobody touched go out as they came, several at a time. What frames a
//! message is written here alone, from the body that will follow, and never taken from a
//! policy or the other side. `exchange` calls it.

use ferrogate_model::kinds::rest_api::{HostRewrite, Scheme};
use ferrogate_policy::{RequestHead, ResponseHead};
use http::StatusCode;

use super::fields::Fields;
use super::framing::Framing;
use super::line::{Fate, Known, Line, Present};
use super::parse::Version;
use super::request_head::RequestView;
use super::response_head::ResponseView;
use crate::error::Failure;
use crate::request::inbound::{X_ENVOY_EXPECTED_TIMEOUT, X_ENVOY_ORIGINAL_PATH};
use crate::request::outbound;
use crate::router::{CompiledRoute, Endpoint, Target};

/// What is never copied into a request to an upstream: it is written from what is known.
const OURS_UPSTREAM: Present = Present::of(&[
    Known::Host,
    Known::ContentLength,
    Known::TransferEncoding,
    Known::Connection,
    Known::OriginalPath,
    Known::ExpectedTimeout,
    // Never sent, whoever set it (contract 4.5).
    Known::TargetUpstream,
]);

/// As above, in a response to a client.
const OURS_CLIENT: Present = Present::of(&[Known::ContentLength, Known::TransferEncoding, Known::Connection]);

/// Where a request goes, and what is told of where it came from.
pub struct Onward<'a> {
    /// Its route.
    pub route: &'a CompiledRoute,
    /// The target.
    pub target: &'a Target,
    /// The endpoint of the target.
    pub endpoint: &'a Endpoint,
    /// Path and query as the client sent them.
    pub original_path: &'a [u8],
    /// How the body ends.
    pub framing: Framing,
}

/// How a response's body ends, as its client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There is no body; a GET's would have had this length.
    Empty(Option<u64>),
    /// It has this many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// The connection closes.
    Close,
}

/// What a response's head is told beside its headers.
pub struct Reply<'a> {
    /// The client's version.
    pub version: Version,
    /// How the body ends.
    pub ending: Ending,
    /// No other request will be read from this connection.
    pub close: bool,
    /// Our `server`, and whether the upstream's stays when it has one.
    pub server: Option<(&'a [u8], bool)>,
    /// The date, for a response without one.
    pub date: &'a [u8],
}

/// Writes a request's head; the place of its path is returned, for the log.
///
/// # Errors
/// When a policy made a path that cannot be sent.
pub fn request(
    out: &mut Vec<u8>,
    head: &RequestView<'_>,
    onward: &Onward<'_>,
) -> Result<std::ops::Range<usize>, Failure> {
    let Onward { route, target, endpoint, original_path, framing } = onward;
    put(out, head.method().as_bytes());
    out.push(b' ');
    let path_start = out.len();
    match head.changed_target() {
        // The client's was checked when it came, the base path when it was deployed.
        None => {
            let parts = route.rewrite.upstream_parts(head.path_and_query(), &target.base_path);
            parts.iter().for_each(|part| put(out, part.as_bytes()));
        }
        Some(changed) => {
            let uri = outbound::checked(route.rewrite.upstream_path(changed, &target.base_path))?;
            put(out, uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
        }
    }
    let path = path_start..out.len();
    put(out, b" HTTP/1.1\r\nhost: ");
    match (head.upstream_authority(), route.host_rewrite) {
        (Some(chosen), _) => put(out, chosen.as_bytes()),
        (None, HostRewrite::Manual) if !head.authority().is_empty() => put(out, head.authority().as_bytes()),
        (None, HostRewrite::Auto | HostRewrite::Manual) => put_host(out, endpoint),
    }
    put(out, b"\r\n");
    put_fields(out, &head.fields, OURS_UPSTREAM);
    put_header(out, X_ENVOY_ORIGINAL_PATH.as_str(), original_path);
    if let Some(timeout) = route.timeouts.request {
        let millis = itoa::Buffer::new().format(timeout.as_millis()).to_owned();
        put_header(out, X_ENVOY_EXPECTED_TIMEOUT.as_str(), millis.as_bytes());
    }
    match framing {
        Framing::Length(length) => put_number(out, b"content-length: ", *length),
        Framing::Chunked => put(out, b"transfer-encoding: chunked\r\n"),
        // A request never lasts as long as its connection.
        Framing::None | Framing::Close => {}
    }
    put(out, b"\r\n");
    Ok(path)
}

/// Writes a response's head.
pub fn response(out: &mut Vec<u8>, head: &ResponseView<'_>, reply: &Reply<'_>) {
    put(out, if reply.version == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    put_status(out, head.status());
    let mut ours = OURS_CLIENT;
    let kept_server = head.fields.first(Known::Server).is_some()
        || head.fields.added().any(|added| added.name == http::header::SERVER);
    let server = reply.server.filter(|(_, keep)| !(*keep && kept_server));
    if let Some((value, _)) = server {
        ours.add(Known::Server);
        put_header(out, "server", value);
    }
    put_fields(out, &head.fields, ours);
    let dated = head.fields.first(Known::Date).is_some()
        || head.fields.added().any(|added| added.name == http::header::DATE);
    if !dated {
        put_header(out, "date", reply.date);
    }
    match reply.ending {
        Ending::Empty(None) | Ending::Close => {}
        Ending::Empty(Some(length)) | Ending::Length(length) => {
            put_number(out, b"content-length: ", length);
        }
        Ending::Chunked => put(out, b"transfer-encoding: chunked\r\n"),
    }
    match (reply.close, reply.version) {
        (true, _) => put(out, b"connection: close\r\n"),
        (false, Version::Http10) => put(out, b"connection: keep-alive\r\n"),
        (false, Version::Http11) => {}
    }
    put(out, b"\r\n");
}

fn put_status(out: &mut Vec<u8>, status: StatusCode) {
    put(out, status.as_str().as_bytes());
    out.push(b' ');
    put(out, status.canonical_reason().unwrap_or_default().as_bytes());
    put(out, b"\r\n");
}

/// Every header that goes on but those of `ours`.
fn put_fields(out: &mut Vec<u8>, fields: &Fields<'_>, ours: Present) {
    let raw = fields.raw();
    // Plain lines that follow one another are one copy.
    let mut run = 0..0;
    for line in fields.lines() {
        let goes = line.fate == Fate::Kept && !ours.has(line.known);
        if goes && line.plain {
            if run.end != line.start as usize {
                put(out, raw.get(run).unwrap_or_default());
                run = line.start as usize..0;
            }
            run.end = line.end as usize;
        } else if goes {
            put(out, raw.get(std::mem::replace(&mut run, 0..0)).unwrap_or_default());
            put_line(out, line, raw);
        }
    }
    put(out, raw.get(run).unwrap_or_default());
    for added in fields.added().filter(|added| !ours.has(Known::of(added.name.as_str().as_bytes()))) {
        put_header(out, added.name.as_str(), added.value.as_bytes());
    }
}

fn put_line(out: &mut Vec<u8>, line: &Line, raw: &[u8]) {
    put(out, line.name(raw));
    put(out, b": ");
    put(out, line.value(raw));
    put(out, b"\r\n");
}

fn put_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, name.as_bytes());
    put(out, b": ");
    put(out, value);
    put(out, b"\r\n");
}

fn put_number(out: &mut Vec<u8>, name: &[u8], number: u64) {
    put(out, name);
    put(out, itoa::Buffer::new().format(number).as_bytes());
    put(out, b"\r\n");
}

/// Host and, where it is not the scheme's own, port (RFC 9110, 7.2).
fn put_host(out: &mut Vec<u8>, endpoint: &Endpoint) {
    let usual = match endpoint.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let bracketed = endpoint.host.contains(':');
    if bracketed {
        out.push(b'[');
    }
    put(out, endpoint.host.as_bytes());
    if bracketed {
        out.push(b']');
    }
    if endpoint.port != usual {
        out.push(b':');
        put(out, itoa::Buffer::new().format(endpoint.port).as_bytes());
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}
