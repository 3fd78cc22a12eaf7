// SPDX-License-Identifier: Apache-2.0
//! The two streams of one exchange, driven by one task: the request going up while the
//! response is awaited or comes down, and the client watched so that nobody works for one
//! who left. The rule of `crate::upstream` for a second try holds here too: only when the
//! first provably reached nobody, or is safe to repeat and the kept connection turned out
//! stale. `exchange` calls it; it knows neither routes nor policies.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::due::{Due, Late, Waits};
use super::flow::{Broken, Flow};
use super::framing::Framing;
use super::interim::Interim;
use super::line::Line;
use super::parse::{self, HeadLimits, ResponseHead};
use super::pool::Lease;
use super::timer::Alarm;
use crate::access_log::{Record, STALLED};
use crate::error::{Failure, Reason};
use crate::router::Endpoint;
use crate::upstream::connect::{BUFFER_BYTES, MAX_RESPONSE_HEADERS};
use crate::worker::Worker;

/// What an upstream may say in a head, whichever path reads it.
pub const RESPONSE_HEAD: HeadLimits = HeadLimits { max_fields: MAX_RESPONSE_HEADERS };

/// The streams and what is on its way between them.
pub struct Wires<'c, S> {
    /// The worker.
    pub worker: &'c Worker,
    /// The client's stream.
    pub client: &'c mut S,
    /// The connection's alarm.
    pub alarm: &'c Alarm,
    /// The deadlines.
    pub due: Due,
    /// The request.
    pub upload: Flow,
    /// What the client is told before the final head.
    pub interim: Interim,
    /// The upstream takes no more of the request.
    pub refused: bool,
    /// Something had to be waited for, since this was last set to false.
    pub waited: bool,
    /// Somebody wants to know when the request had been read.
    pub timed: bool,
    /// When that was.
    pub read_at: Option<Instant>,
}

/// Why an exchange cannot go on.
#[derive(Debug)]
pub enum Stop {
    /// The gateway answers by itself, if it still can.
    Failed(Failure),
    /// There is nobody to answer.
    ClientGone,
}

/// Why a try gave no response.
enum Lost {
    /// The connection ended before a byte came.
    Unanswered(String),
    /// Any other reason.
    Over(Stop),
}

/// What an upstream has sent so far.
pub struct Incoming<'b> {
    /// The bytes.
    pub buffer: &'b mut Option<Buffer>,
    /// The header lines of the head.
    pub lines: &'b mut Vec<Line>,
}

impl<'c, S: AsyncRead + AsyncWrite + Unpin> Wires<'c, S> {
    /// The streams before a request is sent on. Until then all that matters of its body is
    /// whether the whole of it is `here`.
    #[must_use]
    pub fn new(
        worker: &'c Worker,
        client: &'c mut S,
        alarm: &'c Alarm,
        due: Due,
        interim: Interim,
        here: bool,
    ) -> Wires<'c, S> {
        let framing = if here { Framing::None } else { Framing::Close };
        let upload = Flow::new(Vec::new(), framing, false, None);
        Wires {
            worker,
            client,
            alarm,
            due,
            upload,
            interim,
            refused: false,
            waited: false,
            timed: false,
            read_at: None,
        }
    }

    /// Sends the request and waits for the response's head. Its bytes stay in `incoming`, the
    /// body behind them.
    ///
    /// # Errors
    /// When there is no response to pass on.
    pub async fn send(
        &mut self,
        endpoint: &Endpoint,
        connect_timeout: Duration,
        repeat: bool,
        mut incoming: Incoming<'_>,
    ) -> Result<(Lease, ResponseHead), Stop> {
        let metrics = &self.worker.metrics;
        let mut lease = match self.worker.h1.pool.take(endpoint) {
            Some(lease) => lease,
            None => self.connect(endpoint, connect_timeout).await?,
        };
        loop {
            match poll_fn(|cx| self.poll_reply(&mut lease, &mut incoming, cx)).await {
                Ok(head) => {
                    if lease.reused {
                        metrics.upstream_reused.one();
                    }
                    return Ok((lease, head));
                }
                // A kept one can be stale; the second try is on a connection of its own.
                Err(Lost::Unanswered(detail)) => {
                    if !lease.reused || !self.upload.rewind(repeat) {
                        return Err(Stop::Failed(Failure::with(Reason::UpstreamReset, detail)));
                    }
                    self.refused = false;
                    metrics.upstream_retried.one();
                    lease = self.connect(endpoint, connect_timeout).await?;
                }
                Err(Lost::Over(stop)) => return Err(stop),
            }
        }
    }

    /// Whether a response with this status is the connection's last: the gateway stops, or nobody
    /// will read the rest of the request, so that what the client sends next could not be told
    /// apart.
    #[must_use]
    pub fn is_last(&self, status: StatusCode) -> bool {
        let is_error = status.is_client_error() || status.is_server_error();
        let unread = (self.refused || is_error) && !self.upload.is_read();
        unread || self.alarm.ticker().is_draining()
    }

    /// Notes what passed in both directions, and when that was over.
    pub fn note_moved(&self, download: &Flow, record: &mut Record) {
        if !self.waited {
            // It ended when the head came: one look at the clock less.
            record.ended_after(record.upstream_time.unwrap_or_default());
        }
        let traffic = &record.traffic;
        traffic.received.set(self.upload.moved);
        traffic.sent.set(download.moved);
        if self.upload.is_read() {
            traffic.request_complete.since(self.read_at);
        }
    }

    /// Waits for something that is neither stream, while client and deadlines allow it.
    ///
    /// # Errors
    /// When they no longer do.
    pub async fn beside<T>(
        &mut self,
        mut other: Pin<&mut (impl Future<Output = T> + ?Sized)>,
    ) -> Result<T, Stop> {
        poll_fn(|cx| match other.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll_wait(false, cx).map(Err),
        })
        .await
    }

    async fn connect(&mut self, endpoint: &Endpoint, limit: Duration) -> Result<Lease, Stop> {
        let worker = self.worker;
        // In a box: it is large, and most requests find a connection.
        let mut opening = Box::pin(worker.upstreams.connector.open(endpoint, limit));
        let wire = self.beside(opening.as_mut()).await?.map_err(Stop::Failed)?;
        worker.upstreams.metrics.upstream_opened.one();
        Ok(worker.h1.pool.lease(endpoint, wire))
    }

    fn poll_reply(
        &mut self,
        lease: &mut Lease,
        incoming: &mut Incoming<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Lost>> {
        let wrote = self.upload.wrote;
        if let Some(broken) = self.poll_upload(lease, cx) {
            return Poll::Ready(Err(Lost::Over(Stop::Failed(broken))));
        }
        if self.upload.wrote > wrote {
            self.due.moved(self.alarm);
        }
        let stock = &self.worker.h1.stock;
        loop {
            // Hints are for now or never; a client that does not take them holds nothing up.
            let _all_taken = self.interim.poll_write(self.client, cx);
            // A full buffer would read nothing, which is what an end looks like.
            let room = incoming.buffer.as_mut().is_none_or(|buffer| buffer.make_room(BUFFER_BYTES));
            if !room {
                return Poll::Ready(Err(protocol("the response's head is too large")));
            }
            match stock.poll_fill(incoming.buffer, false, &mut lease.wire, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ended(incoming, "the connection closed"))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ended(incoming, &error.to_string()))),
                Poll::Pending => return self.poll_wait(false, cx).map(|stop| Err(Lost::Over(stop))),
            }
            self.due.moved(self.alarm);
            match final_head(incoming, &mut self.interim) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(detail) => return Poll::Ready(Err(protocol(&detail))),
            }
        }
    }

    /// The response's body to the client, and what is left of the request's to the upstream.
    ///
    /// # Errors
    /// When the response cannot be finished.
    pub async fn relay(&mut self, lease: &mut Lease, download: &mut Flow) -> Result<(), Stop> {
        poll_fn(|cx| {
            let before = (self.upload.wrote, download.wrote);
            if let Some(broken) = self.poll_upload(lease, cx) {
                return Poll::Ready(Err(Stop::Failed(broken)));
            }
            match download.poll(&mut lease.wire, self.client, &self.worker.h1.stock, cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(Broken::Receiver(_))) => return Poll::Ready(Err(Stop::ClientGone)),
                Poll::Ready(Err(broken)) => {
                    let malformed = matches!(broken, Broken::Malformed(_));
                    let reason = if malformed { Reason::UpstreamProtocol } else { Reason::UpstreamReset };
                    let detail = format!("the response broke off: {}", String::from(broken));
                    return Poll::Ready(Err(Stop::Failed(Failure::with(reason, detail))));
                }
                Poll::Pending => {}
            }
            if (self.upload.wrote, download.wrote) != before {
                self.due.moved(self.alarm);
            }
            self.poll_wait(download.waits_for_writer, cx).map(Err)
        })
        .await
    }

    /// Writes an answer of the gateway's own.
    ///
    /// # Errors
    /// When the client does not take it.
    pub async fn answer(&mut self, answer: &mut Flow) -> Result<(), Stop> {
        poll_fn(|cx| match answer.poll_write(self.client, cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Stop::ClientGone)),
            // The route's deadlines have passed, perhaps, and led to this answer.
            Poll::Pending => self.due.poll_client(self.alarm, cx).map(|()| Err(Stop::ClientGone)),
        })
        .await
    }

    /// The request on its way up, as far as it goes. The failure is the client's.
    fn poll_upload(&mut self, lease: &mut Lease, cx: &mut Context<'_>) -> Option<Failure> {
        if self.refused || self.upload.is_done() {
            return None;
        }
        if self.upload.awaits_body() {
            self.interim.go_on();
            // One that does not take it yet may send its body all the same.
            let _all_taken = self.interim.poll_write(self.client, cx);
        }
        let polled = self.upload.poll(self.client, &mut lease.wire, &self.worker.h1.stock, cx);
        if self.timed && self.read_at.is_none() && self.upload.is_read() {
            self.read_at = Some(Instant::now());
        }
        match polled {
            Poll::Pending | Poll::Ready(Ok(())) => None,
            // The upstream may have said why before it closed.
            Poll::Ready(Err(Broken::Receiver(_))) => {
                self.refused = true;
                None
            }
            Poll::Ready(Err(broken)) => {
                let too_long = matches!(broken, Broken::TooLong);
                let reason = if too_long { Reason::RequestBodyTooLarge } else { Reason::RequestBodyBroken };
                Some(Failure::with(reason, String::from(broken)))
            }
        }
    }

    /// Nothing can go on: is the client still there, and is there time left?
    fn poll_wait(&mut self, for_client: bool, cx: &mut Context<'_>) -> Poll<Stop> {
        self.waited = true;
        if self.poll_gone(cx) {
            return Poll::Ready(Stop::ClientGone);
        }
        let waits = match (for_client, self.upload.waits_for_reader) {
            (true, _) => Waits::ClientTakes,
            (false, true) => Waits::ClientSends,
            (false, false) => Waits::Upstream,
        };
        self.due.poll(self.alarm, waits, cx).map(|late| match late {
            Late::Route(reason) if for_client => Stop::Failed(Failure::with(reason, STALLED)),
            Late::Route(reason) => Stop::Failed(Failure::new(reason)),
            Late::Client => Stop::ClientGone,
        })
    }

    /// Whether the client left. What it sends meanwhile is the beginning of its next request
    /// and is kept, up to one buffer.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.upload.is_read() {
            // Its body is still being read.
            return false;
        }
        let rest = self.upload.rest_mut();
        while rest.as_ref().is_none_or(Buffer::has_room) {
            match self.worker.h1.stock.poll_fill(rest, false, self.client, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return false,
            }
        }
        false
    }
}

/// The final response's head. Of interim ones before it early hints go on; the others are answers
/// to what was not asked for, and read over.
fn final_head(incoming: &mut Incoming<'_>, interim: &mut Interim) -> Result<Option<ResponseHead>, String> {
    let Some(buffer) = incoming.buffer else { return Ok(None) };
    loop {
        let head = parse::response(buffer.filled(), RESPONSE_HEAD, incoming.lines);
        let Some(head) = head.map_err(|refusal| refusal.to_string())? else { return Ok(None) };
        match head.status {
            101 => return Err("unasked-for 101 Switching Protocols".to_owned()),
            100..200 => {
                if head.status == 103 {
                    interim.hint(buffer.filled(), &head, incoming.lines);
                }
                buffer.consume(head.end);
            }
            _ => return Ok(Some(head)),
        }
    }
}

fn ended(incoming: &Incoming<'_>, detail: &str) -> Lost {
    // Half a head is an answer, and proof that the request arrived.
    if incoming.buffer.as_ref().is_none_or(Buffer::is_empty) {
        Lost::Unanswered(detail.to_owned())
    } else {
        Lost::Over(Stop::Failed(Failure::with(Reason::UpstreamReset, detail)))
    }
}

fn protocol(detail: &str) -> Lost {
    Lost::Over(Stop::Failed(Failure::with(Reason::UpstreamProtocol, detail)))
}
