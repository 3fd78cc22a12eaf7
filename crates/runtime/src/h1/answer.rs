// SPDX-License-Identifier: Apache-2.0
//! Answers of the gateway's own on the hot path: failures, policies' answers, health. They
//! are written whole, with the form that the client's request asked for, and end the
//! connection when what the client sends next cannot be told apart. `exchange` and
//! `connection` call it.

use ferrogate_policy::ResponseHead as _;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::compose::{self, Ending, Reply};
use super::flow::Flow;
use super::framing::Framing;
use super::parse::Version;
use super::response_head::ResponseView;
use super::wires::{Stop, Wires};
use crate::access_log::Record;
use crate::config::ServerHeaderMode;
use crate::error::{Failure, OwnAnswer};
use crate::worker::Worker;

/// What a client's request says of the answer's form.
#[derive(Clone, Copy)]
pub struct Terms {
    /// Its version.
    pub version: Version,
    /// It asked by HEAD.
    pub head_only: bool,
    /// It wants trailers.
    pub trailers: bool,
    /// It will send no other request on this connection, or none can be read from it.
    pub close: bool,
}

/// An answer of the gateway's own.
pub type Own = OwnAnswer;

/// Answers a failure.
///
/// # Errors
/// When the client does not take it.
pub async fn fail<S>(
    wires: &mut Wires<'_, S>,
    failure: &Failure,
    terms: Terms,
    record: &mut Record,
) -> Result<bool, Stop>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (own, error_id) = failure.answer();
    record.fail(failure, error_id);
    answer(wires, own, terms, record).await
}

/// Answers by the gateway itself. True when another request may be read.
///
/// # Errors
/// When the client does not take it.
pub async fn answer<S>(
    wires: &mut Wires<'_, S>,
    own: Own,
    terms: Terms,
    record: &mut Record,
) -> Result<bool, Stop>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // In a box: most requests are answered by an upstream, and each would have room for this.
    Box::pin(async move {
        let Own { status, headers, body } = own;
        let stock = &wires.worker.h1.stock;
        let head = ResponseView::of_answer(status, headers, stock.take_lists());
        let answered = answer_view(wires, &head, &body, terms, record).await;
        stock.give_lists(head.fields.into_lists());
        answered
    })
    .await
}

/// As [`answer`], when response policies have seen the head.
///
/// # Errors
/// When the client does not take it.
pub async fn answer_view<S>(
    wires: &mut Wires<'_, S>,
    head: &ResponseView<'_>,
    body: &[u8],
    terms: Terms,
    record: &mut Record,
) -> Result<bool, Stop>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = body.len() as u64;
    let (ending, framing, _) = ending(head.status(), Framing::Length(length), Some(length), terms);
    let body = if framing == Framing::None { &[][..] } else { body };
    let announces_close = head
        .fields
        .added()
        .any(|added| added.name == http::header::CONNECTION && added.value.as_bytes() == b"close");
    // The rest of an unread body would be taken for the next request.
    let close =
        terms.close || announces_close || !wires.upload.is_read() || wires.alarm.ticker().is_draining();
    let mut out = wires.worker.h1.stock.take_out();
    wires.interim.finish(&mut out);
    let ending = if ending == Ending::Empty(Some(length)) && head.status() == StatusCode::NOT_MODIFIED {
        Ending::Empty(None)
    } else {
        ending
    };
    write_head(wires.worker, &mut out, head, ending, close, terms);
    record.note_response(|name| head.fields.get(name));
    out.extend_from_slice(body);
    record.status = Some(head.status());
    let mut flow = Flow::new(out, Framing::None, false, None);
    wires.answer(&mut flow).await?;
    record.traffic.received.set(wires.upload.moved);
    record.traffic.sent.set(body.len() as u64);
    record.complete = true;
    wires.worker.h1.stock.give_out(flow.into_out());
    Ok(!close)
}

/// Writes a response's head with what this gateway adds to every one.
pub fn write_head(
    worker: &Worker,
    out: &mut Vec<u8>,
    head: &ResponseView<'_>,
    ending: Ending,
    close: bool,
    terms: Terms,
) {
    let keep = worker.shared.config.server_header.mode == ServerHeaderMode::AppendIfAbsent;
    let date = worker.h1.date.get();
    let reply = Reply {
        version: terms.version,
        ending,
        close,
        server: worker.server_header.as_ref().map(|value| (value.as_bytes(), keep)),
        date: &date,
    };
    compose::response(out, head, &reply);
}

/// How the body ends for the client, what is read of the upstream's, and whether that leaves
/// some of it unread.
#[must_use]
pub fn ending(
    status: StatusCode,
    body: Framing,
    announced: Option<u64>,
    terms: Terms,
) -> (Ending, Framing, bool) {
    let dropped = body != Framing::None && body != Framing::Length(0);
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        return (Ending::Empty(None), Framing::None, dropped);
    }
    if terms.head_only || status == StatusCode::NOT_MODIFIED {
        return (Ending::Empty(announced), Framing::None, dropped);
    }
    let ending = match body {
        // A policy asked by HEAD for a client that did not.
        Framing::None => Ending::Length(0),
        Framing::Length(length) => Ending::Length(length),
        Framing::Chunked | Framing::Close if terms.version == Version::Http11 => Ending::Chunked,
        Framing::Chunked | Framing::Close => Ending::Close,
    };
    (ending, body, false)
}
