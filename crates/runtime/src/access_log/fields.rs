// SPDX-License-Identifier: Apache-2.0
//! From a request's record to its line. Everything a client may choose is escaped here, so
//! that no client writes lines of its own: in JSON as JSON does, in text by `\xHH` for what
//! is not printable, quotes and backslashes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderValue, Version};

use super::Record;
use super::format::{Field, Format, Piece, Shape};
use crate::error::Reason;

/// The response flags of contract 8.3 for failures that it knows.
const FLAGS: [(Reason, &str); 9] = [
    (Reason::RouteNotFound, "NR"),
    (Reason::UpstreamUnknown, "NC"),
    (Reason::UpstreamUnresolved, "UH"),
    (Reason::UpstreamConnectFailed, "UF"),
    (Reason::UpstreamConnectTimeout, "UF"),
    (Reason::UpstreamReset, "UC"),
    (Reason::UpstreamProtocol, "UPE"),
    (Reason::UpstreamTimeout, "UT"),
    (Reason::StreamIdleTimeout, "SI"),
];

/// A field's value in one request.
enum Value<'r> {
    Absent,
    Text(Cow<'r, str>),
    Number(u64),
    Time(Duration),
}

/// Appends the line of a request that took so long.
pub(super) fn write(format: &Format, record: &Record, took: Duration, line: &mut String) {
    match &format.shape {
        Shape::Text(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Literal(text) => line.push_str(text),
                    Piece::Value(fields, length) => text(first(fields, *length, record, took), line),
                }
            }
        }
        Shape::Json(fields) => {
            let begin = line.len();
            for (key, pieces) in fields {
                let before = line.len();
                line.push(if before == begin { '{' } else { ',' });
                line.push_str(key);
                line.push(':');
                if !member(pieces, record, took, line) {
                    line.truncate(before);
                }
            }
            line.push_str(if line.len() == begin { "{}" } else { "}" });
        }
    }
    line.push('\n');
}

/// One operator alone keeps its type and may be absent; anything else is a text.
fn member(pieces: &[Piece], record: &Record, took: Duration, line: &mut String) -> bool {
    if let [Piece::Value(fields, length)] = pieces {
        return json(first(fields, *length, record, took), line);
    }
    let mut whole = String::new();
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => whole.push_str(literal),
            Piece::Value(fields, length) => match first(fields, *length, record, took) {
                Value::Absent => whole.push('-'),
                Value::Text(text) => whole.push_str(&text),
                Value::Number(number) => push_number(number, &mut whole),
                Value::Time(time) => push_number(whole_milliseconds(time), &mut whole),
            },
        }
    }
    json(Value::Text(whole.into()), line)
}

fn first<'r>(fields: &[Field], length: Option<usize>, record: &'r Record, took: Duration) -> Value<'r> {
    let found = fields.iter().map(|field| value(*field, record, took));
    let found = found.into_iter().find(|value| !matches!(value, Value::Absent)).unwrap_or(Value::Absent);
    match (found, length) {
        (Value::Text(text), Some(length)) => {
            Value::Text(text.chars().take(length).collect::<String>().into())
        }
        (found, _) => found,
    }
}

fn value<'r>(field: Field, record: &'r Record, took: Duration) -> Value<'r> {
    let forwarded = record.upstream_path.as_deref();
    match field {
        Field::Start => {
            let start = jiff::Timestamp::from_microsecond(record.started_micros).unwrap_or_default();
            Value::Text(start.to_string().into())
        }
        Field::Method => Value::Text(record.method.as_str().into()),
        Field::Path => Value::Text(record.target.as_str().into()),
        Field::ForwardedPath => Value::Text(forwarded.unwrap_or(&record.target).into()),
        Field::Protocol => Value::Text(protocol(record.version).into()),
        Field::Status => Value::Number(record.status.map_or(0, |status| status.as_u16().into())),
        Field::Flags => flags(record).map_or(Value::Absent, |flags| Value::Text(flags.into())),
        Field::Detail if record.client_is_gone() => Value::Text("client_gone".into()),
        Field::Detail => present(Some(record.detail.as_str())),
        Field::Nothing => Value::Absent,
        Field::Received => Value::Number(record.traffic.received.get()),
        Field::Sent => Value::Number(record.traffic.sent.get()),
        Field::Duration => Value::Time(took),
        Field::RequestDuration => time(record.request_duration()),
        Field::RequestSent => time(record.request_sent()),
        Field::ResponseDuration => time(record.response_duration()),
        Field::ResponseSent => time(record.response_duration().and_then(|began| took.checked_sub(began))),
        Field::RequestId => present(Some(&record.request_id)),
        Field::Host => header(record.host.as_ref()),
        Field::Client => record.client.map_or(Value::Absent, |client| Value::Text(client.to_string().into())),
        Field::UpstreamHost => present(record.upstream_host.as_deref()),
        Field::UpstreamProtocol => {
            present(record.upstream_host.as_ref().map(|_| protocol(record.upstream_version)))
        }
        Field::UpstreamPath => present(forwarded),
        Field::UpstreamTime => time(record.upstream_time),
        Field::Route => present(record.route.as_ref().map(|route| route.name.as_ref())),
        Field::Artifact => match &record.route {
            Some(route) => Value::Text(route.artifact.to_string().into()),
            None => Value::Absent,
        },
        Field::Policy => present(record.policy),
        Field::Reason => present(record.reason.map(Reason::name)),
        Field::ErrorId => record.error_id.map_or(Value::Absent, |id| Value::Text(id.to_string().into())),
        Field::Revision => Value::Number(record.position.revision.0),
        Field::Epoch => Value::Number(record.position.epoch.0),
        Field::RequestHeader(place) => header(record.asked.get(place).and_then(Option::as_ref)),
        Field::ResponseHeader(place) => header(record.answered.get(place).and_then(Option::as_ref)),
    }
}

fn flags(record: &Record) -> Option<&'static str> {
    if record.client_is_gone() {
        return Some("DC");
    }
    let reason = record.reason?;
    FLAGS.into_iter().find(|(known, _)| *known == reason).map(|(_, flags)| flags)
}

fn present(text: Option<&str>) -> Value<'_> {
    text.filter(|text| !text.is_empty()).map_or(Value::Absent, |text| Value::Text(text.into()))
}

fn time(time: Option<Duration>) -> Value<'static> {
    time.map_or(Value::Absent, Value::Time)
}

fn header(value: Option<&HeaderValue>) -> Value<'_> {
    value.map_or(Value::Absent, |value| Value::Text(String::from_utf8_lossy(value.as_bytes())))
}

/// False when there is nothing to write.
fn json(value: Value<'_>, line: &mut String) -> bool {
    match value {
        Value::Absent => return false,
        Value::Number(number) => push_number(number, line),
        Value::Time(time) => push_milliseconds(time, line),
        Value::Text(text) if is_plain(&text) => {
            line.push('"');
            line.push_str(&text);
            line.push('"');
        }
        Value::Text(text) => line.push_str(&serde_json::Value::from(text.into_owned()).to_string()),
    }
    true
}

fn text(value: Value<'_>, line: &mut String) {
    match value {
        Value::Absent => line.push('-'),
        Value::Number(number) => push_number(number, line),
        Value::Time(time) => push_number(whole_milliseconds(time), line),
        Value::Text(text) if is_plain(&text) => line.push_str(&text),
        Value::Text(text) => {
            for symbol in text.chars() {
                if symbol == '"' || symbol == '\\' || symbol.is_control() {
                    // Writing to a string cannot fail.
                    write!(line, "\\x{:02X}", u32::from(symbol)).unwrap_or_default();
                } else {
                    line.push(symbol);
                }
            }
        }
    }
}

/// Nearly everything is: it needs no escape in either kind of line.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..0x7F).contains(&byte) && byte != b'"' && byte != b'\\')
}

fn push_number(number: u64, line: &mut String) {
    line.push_str(itoa::Buffer::new().format(number));
}

fn whole_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds with up to three decimals: what a log reader can use, without float noise.
fn push_milliseconds(time: Duration, line: &mut String) {
    push_number(whole_milliseconds(time), line);
    let micros = time.subsec_micros() % 1_000;
    if micros > 0 {
        write!(line, ".{micros:03}").unwrap_or_default();
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        // `Version` has no other public value than 1.1.
        _ => "HTTP/1.1",
    }
}
