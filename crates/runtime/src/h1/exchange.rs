// SPDX-License-Identifier: Apache-2.0
//! The phases of a request that found its route on the hot path, in order: request policies,
//! upstream, response policies, body. The same walk as `crate::request::walk`, over lines
//! instead of maps and for chains that leave bodies alone; whatever fails on the way ends in
//! the same table of [`crate::error`]. `connection` calls it.

use std::net::IpAddr;
use std::sync::Arc;

use ferrogate_policy::{ChainRun, ClientCertificate, Exchange, RequestHead as _, ResponseHead as _};
use http::{HeaderName, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Own, Terms, answer, answer_view, ending, fail, write_head};
use super::buffer::Buffer;
use super::compose::{self, Ending, Onward};
use super::fields::{Fields, Lists};
use super::flow::Flow;
use super::framing::{self, Framing};
use super::line::{Known, Line};
use super::parse::{ResponseHead, Version};
use super::policies::Policies;
use super::pool::Lease;
use super::request_head::{RequestId, RequestView};
use super::response_head::ResponseView;
use super::wires::{Incoming, Stop, Wires};
use crate::access_log::Record;
use crate::error::{Failure, Reason};
use crate::forwarded;
use crate::request::outbound;
use crate::router::CompiledRoute;
use crate::upstream::pick::PickInput;

/// A request that found its route.
pub struct Routed<'b> {
    /// Its head.
    pub head: RequestView<'b>,
    /// Its route.
    pub route: Arc<CompiledRoute>,
    /// How its body ends.
    pub framing: Framing,
    /// What was read behind the head.
    pub surplus: &'b [u8],
    /// `x-request-id`.
    pub request_id: RequestId<'b>,
    /// Path and query as the client sent them.
    pub original_path: &'b [u8],
    /// Who the client is, as far as can be verified.
    pub client: IpAddr,
    /// Who it has proved to be, if it has.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// What the client is told of its connection.
    pub terms: Terms,
}

/// What the upstream answered, or what stands in for it.
enum Answered {
    Upstream(Lease, ResponseHead),
    Own(Own),
}

/// Serves it. True when another request may be read from the connection. `sent` becomes true
/// when the request is sent on, and its body with it.
///
/// # Errors
/// When nothing could be answered, or an answer was cut off.
pub async fn proxy<S>(
    wires: &mut Wires<'_, S>,
    routed: &mut Routed<'_>,
    sent: &mut bool,
    record: &mut Record,
) -> Result<bool, Stop>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stock = &wires.worker.h1.stock;
    let terms = routed.terms;
    let request_id = routed.request_id;
    let route = Arc::clone(&routed.route);
    let chain = match &route.chain {
        Ok(chain) => chain,
        Err(poison) => {
            let failure = Failure::with(Reason::RoutePoisoned, poison);
            return fail(wires, &failure, terms, record).await;
        }
    };
    let mut policies = Policies {
        chain,
        exchange: Exchange::new(&route.attachment, request_id.as_str(), routed.client, routed.now_ms),
        run: ChainRun::new(),
        metrics: &wires.worker.metrics,
    };
    policies.exchange.client_certificate = routed.certificate.take();
    match policies.ask(&mut routed.head, wires, record).await {
        Ok(None) => {}
        Ok(Some(own)) => return answer(wires, own, terms, record).await,
        Err(Stop::Failed(failure)) => return fail(wires, &failure, terms, record).await,
        Err(Stop::ClientGone) => return Err(Stop::ClientGone),
    }
    let (mut bytes, mut lists) = (None, stock.take_lists());
    let incoming = Incoming { buffer: &mut bytes, lines: &mut lists.lines };
    let answered = match send(wires, routed, &policies, incoming, sent, record).await {
        Ok((lease, head)) => Answered::Upstream(lease, head),
        Err(Stop::Failed(failure)) => {
            let (own, error_id) = failure.answer();
            record.fail(&failure, error_id);
            if !failure.reason.stands_for_upstream() {
                return answer(wires, own, terms, record).await;
            }
            Answered::Own(own)
        }
        Err(Stop::ClientGone) => return Err(Stop::ClientGone),
    };
    let result = match answered {
        Answered::Own(own) => {
            Box::pin(stand_in(wires, &mut policies, &routed.head, own, terms, record)).await
        }
        Answered::Upstream(lease, parsed) => {
            let origin = Origin { lease, parsed, sent_head: routed.head.method() == "HEAD" };
            respond(wires, &mut policies, routed, origin, &mut bytes, lists, record).await
        }
    };
    stock.give(bytes);
    stock.give_lists(routed.head.take_lists());
    result
}

/// Composes the request, with everything the policies decided, and awaits the response's head.
async fn send<S>(
    wires: &mut Wires<'_, S>,
    routed: &Routed<'_>,
    policies: &Policies<'_>,
    incoming: Incoming<'_>,
    sent: &mut bool,
    record: &mut Record,
) -> Result<(Lease, ResponseHead), Stop>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let route = &*routed.route;
    let target = outbound::choose(route, policies.exchange.upstream.as_deref()).map_err(Stop::Failed)?;
    let header = |name: &HeaderName| routed.head.fields.get(name);
    let input = PickInput { header: &header, client: routed.client, tried: &[] };
    // A plain target: `arrival` saw to that.
    let picked = wires.worker.balancer.pick(target, &input).map_err(Stop::Failed)?;
    let endpoint = picked.endpoint();
    let stock = &wires.worker.h1.stock;
    let mut out = stock.take_out();
    let onward =
        Onward { route, target, endpoint, original_path: routed.original_path, framing: routed.framing };
    let path = compose::request(&mut out, &routed.head, &onward).map_err(Stop::Failed)?;
    if record.is_logged() {
        let path = out.get(path).and_then(|path| std::str::from_utf8(path).ok());
        record.note_upstream_path(endpoint, path.unwrap_or_default());
    }
    let has_body = !matches!(routed.framing, Framing::None | Framing::Length(0));
    let here = Some(routed.surplus).filter(|surplus| has_body && !surplus.is_empty()).map(|surplus| {
        let mut here = stock.take();
        here.extend(surplus);
        here
    });
    let chunked = routed.framing == Framing::Chunked;
    let limit = wires.worker.h1.max_body;
    let trailers = routed.head.fields.declared_trailers();
    wires.upload = Flow::new(out, routed.framing, chunked, here).with_trailers(trailers).with_limit(limit);
    *sent = true;
    let repeat = !has_body && matches!(routed.head.method(), "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS");
    let answered = wires.send(endpoint, target.connect_timeout, repeat, incoming).await?;
    record.upstream_time = Some(record.started().elapsed());
    Ok(answered)
}

/// What stands in for an upstream's response, as response policies leave it.
async fn stand_in<S>(
    wires: &mut Wires<'_, S>,
    policies: &mut Policies<'_>,
    request: &RequestView<'_>,
    own: Own,
    terms: Terms,
    record: &mut Record,
) -> Result<bool, Stop>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Own { status, headers, body } = own;
    let mut head = ResponseView::of_answer(status, headers, Lists::default());
    match policies.tell(request, &mut head, record) {
        Some(own) => answer(wires, own, terms, record).await,
        None => answer_view(wires, &head, &body, terms, record).await,
    }
}

/// Where a response comes from.
struct Origin {
    lease: Lease,
    parsed: ResponseHead,
    /// It was asked for by HEAD, whatever the client said.
    sent_head: bool,
}

/// The upstream's response to the client.
async fn respond<S>(
    wires: &mut Wires<'_, S>,
    policies: &mut Policies<'_>,
    routed: &Routed<'_>,
    origin: Origin,
    bytes: &mut Option<Buffer>,
    mut lists: Lists,
    record: &mut Record,
) -> Result<bool, Stop>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Origin { mut lease, parsed, sent_head } = origin;
    let terms = routed.terms;
    let raw = bytes.as_ref().map_or(&[][..], Buffer::filled);
    let body = framing::of_response(raw, &lists.lines, &parsed, sent_head);
    let (Ok(body), Ok(status)) = (body, StatusCode::from_u16(parsed.status)) else {
        let failure = Failure::with(Reason::UpstreamProtocol, body.err().unwrap_or("a bad status"));
        let (own, error_id) = failure.answer();
        record.fail(&failure, error_id);
        return Box::pin(stand_in(wires, policies, &routed.head, own, terms, record)).await;
    };
    let reusable = keeps(raw, &lists.lines, &parsed) && body != Framing::Close;
    let announced = announced_length(raw, &lists);
    lists.added.clear();
    let fields = Fields::new(raw, parsed.present, lists);
    let mut head = ResponseView::of_upstream(fields, status);
    if let Some(via) = &wires.worker.shared.config.forwarding.via {
        forwarded::note_via(&mut head.fields, via, parsed.version.into());
    }
    head.note_service_time(record.upstream_time.unwrap_or_default());
    if let Some(own) = policies.tell(&routed.head, &mut head, record) {
        return answer(wires, own, terms, record).await;
    }
    let (ending, body, dropped) = ending(head.status(), body, announced, terms);
    let close = terms.close || ending == Ending::Close || wires.is_last(head.status());
    let trailers = if terms.trailers { head.fields.declared_trailers() } else { Vec::new() };
    let mut out = wires.worker.h1.stock.take_out();
    wires.interim.finish(&mut out);
    let at_its_beginning = out.is_empty();
    write_head(wires.worker, &mut out, &head, ending, close, terms);
    record.note_response(|name| head.fields.get(name));
    record.status = Some(head.status());
    wires.worker.h1.stock.give_lists(head.fields.into_lists());
    let mut input = bytes.take();
    if let Some(input) = &mut input {
        input.consume(parsed.end);
    }
    let mut download = Flow::new(out, body, ending == Ending::Chunked, input).with_trailers(trailers);
    wires.waited = false;
    let relayed = wires.relay(&mut lease, &mut download).await;
    wires.note_moved(&download, record);
    match relayed {
        Ok(()) => {}
        // The client has not seen a byte of what turned out to be no response.
        Err(Stop::Failed(failure)) if at_its_beginning && !download.has_sent() => {
            return fail(wires, &failure, terms, record).await;
        }
        Err(stop) => return Err(stop),
    }
    record.complete = true;
    *bytes = download.take_rest();
    let through = wires.upload.is_done() && !wires.refused;
    if reusable && !dropped && through && bytes.as_ref().is_none_or(|rest| rest.is_empty()) {
        wires.worker.h1.pool.keep(lease);
    }
    wires.worker.h1.stock.give_out(download.into_out());
    Ok(!close && wires.upload.is_read())
}

/// `content-length` as the upstream sent it; it is a number by now.
fn announced_length(raw: &[u8], lists: &Lists) -> Option<u64> {
    let line = lists.lines.iter().find(|line| line.known == Known::ContentLength)?;
    std::str::from_utf8(line.value(raw)).ok()?.parse().ok()
}

/// Whether the upstream keeps its connection open after this response (RFC 9112, 9.3).
#[must_use]
pub fn keeps(raw: &[u8], lines: &[Line], head: &ResponseHead) -> bool {
    let mut keeps = head.version == Version::Http11;
    if head.present.has(Known::Connection) {
        for line in lines.iter().filter(|line| line.known == Known::Connection) {
            for token in line.value(raw).split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if token.eq_ignore_ascii_case(b"close") {
                    return false;
                }
                keeps |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    keeps
}
