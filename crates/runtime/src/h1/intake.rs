// SPDX-License-Identifier: Apache-2.0
//! What a client sends between requests: waiting for a head under its deadlines, keeping what
//! was read beyond a request for the next, and the end of the connection. An idle connection
//! holds neither buffer nor lists. `connection` owns one and calls it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::fields::Lists;
use super::parse::{self, HeadLimits, Refusal, RequestHead};
use super::timer::{Alarm, Span};
use crate::error::{Failure, Reason};
use crate::worker::Worker;

/// What HTTP/2 by prior knowledge begins with.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2";

/// After a connection is closed on a client that may still be sending, what it sends is read
/// over for this long and up to so many bytes, or the reset that follows unread bytes would
/// take the answer with it (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// A client's stream and what was read from it.
pub struct Intake<S> {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The stream.
    pub stream: S,
    /// The connection's alarm.
    pub alarm: Alarm,
    /// Read and not yet used.
    pub input: Option<Buffer>,
    /// How long a drain leaves the connection open for a request that is on its way already.
    pub last_request: Span,
}

/// What came of waiting for a head.
pub enum Next {
    /// A head, and the lines of it.
    Head(RequestHead, Lists),
    /// No acceptable one.
    Refused(Failure),
    /// Another protocol.
    Preface,
    /// Nothing more comes.
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Intake<S> {
    /// Waits for a whole head, which then stands at the front of `input`.
    pub async fn next_head(&mut self) -> Next {
        let Intake { worker, stream, alarm, input, last_request } = self;
        let (config, ticker, stock) = (&worker.shared.config.limits, &worker.h1.ticker, &worker.h1.stock);
        let limits = HeadLimits { max_fields: config.max_headers };
        let since = ticker.now();
        let mut began = None;
        let mut looked_at = 0;
        poll_fn(|cx| {
            loop {
                if let Some(buffer) = input.as_mut().filter(|buffer| buffer.len() > looked_at) {
                    let bytes = buffer.filled();
                    if bytes.starts_with(H2_PREFACE) {
                        return Poll::Ready(Next::Preface);
                    }
                    // A head that trickles in is not parsed anew for every byte of it.
                    let fresh = bytes.get(looked_at..).unwrap_or_default();
                    if looked_at == 0 || memchr::memchr(b'\n', fresh).is_some() {
                        let mut lists = stock.take_lists();
                        match parse::request(bytes, limits, &mut lists.lines) {
                            Ok(Some(head)) if head.end <= config.max_head_bytes => {
                                return Poll::Ready(Next::Head(head, lists));
                            }
                            Ok(Some(_)) => return Poll::Ready(Next::Refused(too_large(bytes))),
                            Ok(None) => stock.give_lists(lists),
                            Err(refusal) => return Poll::Ready(Next::Refused(refused(refusal))),
                        }
                    }
                    looked_at = bytes.len();
                    let full = looked_at >= config.max_head_bytes;
                    if full || !buffer.make_room(config.max_head_bytes) {
                        return Poll::Ready(Next::Refused(too_large(buffer.filled())));
                    }
                    began.get_or_insert_with(|| ticker.now());
                }
                match stock.poll_fill(input, false, stream, cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Closed),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            let due = match began {
                Some(began) => began.after(worker.h1.head_timeout),
                // A drain waits a little for a request that may be on its way.
                None => since.after(worker.h1.idle_timeout).min(ticker.draining().after(*last_request)),
            };
            if ticker.now() < due {
                alarm.set(due, cx);
                return Poll::Pending;
            }
            Poll::Ready(match began {
                Some(_) => Next::Refused(Failure::slow_head()),
                None => Next::Closed,
            })
        })
        .await
    }

    /// What is left for the next request: of the input behind `used` bytes, then what was read
    /// since.
    pub fn keep(&mut self, used: usize, rest: Option<Buffer>) {
        let stock = &self.worker.h1.stock;
        if let Some(input) = &mut self.input {
            input.consume(used);
        }
        match (self.input.take_if(|input| input.is_empty()), rest) {
            (Some(empty), rest) => {
                stock.give(empty);
                self.input = rest;
            }
            (None, Some(rest)) => {
                if let Some(input) = &mut self.input {
                    input.extend(rest.filled());
                }
                stock.give(rest);
            }
            (None, None) => {}
        }
    }

    /// Says that nothing more will come, and reads over what a client may still be sending.
    pub async fn close(&mut self, linger: bool) {
        let Intake { worker, stream, alarm, input, .. } = self;
        let (ticker, stock) = (&worker.h1.ticker, &worker.h1.stock);
        let due = ticker.now().after(Span::of(LINGER));
        let (mut shut, mut over) = (false, 0);
        poll_fn(|cx| {
            loop {
                let step = if shut {
                    input.iter_mut().for_each(|input| input.consume(usize::MAX));
                    stock.poll_fill(input, false, stream, cx)
                } else {
                    Pin::new(&mut *stream).poll_shutdown(cx).map_ok(|()| 1)
                };
                match step {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(read)) => {
                        over += read;
                        if !linger || over > LINGER_BYTES {
                            return Poll::Ready(());
                        }
                        shut = true;
                    }
                    Poll::Pending if ticker.now() >= due => return Poll::Ready(()),
                    Poll::Pending => {
                        alarm.set(due, cx);
                        return Poll::Pending;
                    }
                }
            }
        })
        .await;
        stock.give(input.take());
    }
}

/// Of a head that is longer than allowed, the target alone may be to blame.
fn too_large(head: &[u8]) -> Failure {
    match memchr::memchr(b'\n', head.trim_ascii_start()) {
        Some(_) => Failure::with(Reason::RequestHeadTooLarge, "the head is too long"),
        None => Failure::with(Reason::UriTooLong, "the request line is too long"),
    }
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Malformed(_) => Failure::with(Reason::BadRequest, refusal),
        Refusal::Version => Failure::with(Reason::VersionUnsupported, refusal),
        Refusal::TooManyFields => Failure::with(Reason::RequestHeadTooLarge, refusal),
    }
}
