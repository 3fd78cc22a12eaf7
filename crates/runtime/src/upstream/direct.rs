// SPDX-License-Identifier: Apache-2.0
//! One exchange on a connection of the hot path's pool, for requests that are not on the hot path
//! themselves: those that came over HTTP/2, and those whose route takes the whole walk. Whoever
//! awaits the response writes and reads the stream itself; hyper's client has a task for each
//! connection and channels to it, which cost more than the exchange. It serves requests whose
//! body is at hand: nothing more of it is awaited, though what sockets do not hold goes up only
//! while the response is read.
//! `lease` sends through it, `reply` reads its bodies.

use std::future::poll_fn;
use std::io::{Cursor, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::buf::Chain;
use bytes::{Buf, Bytes, BytesMut};
use ferrogate_model::kinds::rest_api::UpstreamProtocol;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::body::{BodyError, OutgoingBody};
use super::connect::BUFFER_BYTES;
use super::pick::Picked;
use crate::h1::buffer::{LARGE, USUAL};
use crate::h1::chunked::Decoder;
use crate::h1::exchange::keeps;
use crate::h1::framing::{self, Framing};
use crate::h1::line::{Line, map_of};
use crate::h1::parse::{self, ResponseHead};
use crate::h1::pool::{Lease, Pool};
use crate::h1::wires::RESPONSE_HEAD;

/// What nearly every request's head fits into.
const HEAD_BYTES: usize = 512;

/// A connection before its exchange.
pub struct Direct {
    lease: Lease,
    pool: Rc<Pool>,
}

/// A response's body, and the connection it comes on, which is closed unless it is given back.
pub struct DirectBody {
    wire: Direct,
    upload: Upload,
    buffer: BytesMut,
    source: Source,
    /// The upstream keeps the connection open.
    keeps: bool,
}

/// Why there is no response.
pub enum Lost {
    /// The connection ended before a byte of the request was written.
    Unsent(String),
    /// It ended later.
    Ended(String),
    /// What came is no response.
    Malformed(String),
}

/// The request on its way.
struct Upload {
    left: Chain<Cursor<Vec<u8>>, Bytes>,
    sent: bool,
    unflushed: bool,
    /// The upstream takes no more; it may say why.
    refused: bool,
}

/// How the rest of the body is read.
enum Source {
    Done,
    Length(u64),
    Chunked(Decoder),
    Close,
}

/// Whether this request to this endpoint can go so: HTTP/1.1 to a plain target, with a body at
/// hand and no wish for another protocol.
#[must_use]
pub fn serves(picked: &Picked<'_>, request: &Request<OutgoingBody>) -> bool {
    matches!(picked, Picked::Plain(endpoint) if endpoint.protocol == UpstreamProtocol::Http1)
        && matches!(request.body(), OutgoingBody::Whole(_))
        && !request.headers().contains_key(UPGRADE)
}

impl Direct {
    /// A connection that nothing is under way on.
    #[must_use]
    pub fn new(lease: Lease, pool: &Rc<Pool>) -> Direct {
        Direct { lease, pool: pool.clone() }
    }

    /// Sends the request, which stays as it is, and waits for the response's head.
    ///
    /// # Errors
    /// When there is none.
    pub async fn send(mut self, request: &Request<OutgoingBody>) -> Result<Response<DirectBody>, Lost> {
        let (mut upload, mut buffer, mut lines) = (Upload::of(request), BytesMut::new(), Vec::new());
        let head = poll_fn(|cx| self.poll_head(&mut upload, &mut buffer, &mut lines, cx)).await?;
        let raw = buffer.split_to(head.end).freeze();
        let malformed = |detail: &str| Lost::Malformed(detail.to_owned());
        let to_head = request.method() == Method::HEAD;
        let framing = framing::of_response(&raw, &lines, &head, to_head).map_err(malformed)?;
        let status = StatusCode::from_u16(head.status).map_err(|_| malformed("a bad status"))?;
        let headers = map_of(&raw, &lines).map_err(|error| Lost::Malformed(error.to_string()))?;
        let source = Source::of(framing);
        let keeps = framing != Framing::Close && keeps(&raw, &lines, &head);
        let mut response = Response::new(DirectBody { wire: self, upload, buffer, source, keeps });
        *response.status_mut() = status;
        *response.version_mut() = head.version.into();
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn poll_head(
        &mut self,
        upload: &mut Upload,
        buffer: &mut BytesMut,
        lines: &mut Vec<Line>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Lost>> {
        upload.poll(&mut self.lease, cx);
        loop {
            if buffer.len() >= BUFFER_BYTES {
                return Poll::Ready(Err(Lost::Malformed("the response's head is too large".to_owned())));
            }
            let ended = match ready!(self.poll_read(buffer, USUAL, cx)) {
                Ok(0) => "the connection closed".to_owned(),
                Ok(_) => match final_head(buffer, lines).map_err(Lost::Malformed)? {
                    Some(head) => return Poll::Ready(Ok(head)),
                    None => continue,
                },
                Err(error) => error.to_string(),
            };
            let lost = if upload.sent { Lost::Ended(ended) } else { Lost::Unsent(ended) };
            return Poll::Ready(Err(lost));
        }
    }

    fn poll_read(
        &mut self,
        buffer: &mut BytesMut,
        room: usize,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        if buffer.capacity() == buffer.len() {
            buffer.reserve(room);
        }
        // It keeps nothing between two polls.
        pin!(self.lease.wire.read_buf(buffer)).poll(cx)
    }
}

impl DirectBody {
    /// The next data, or the trailers.
    ///
    /// # Errors
    /// When the upstream breaks off or frames the body as it may not.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // An upstream may answer while it still reads.
        self.upload.poll(&mut self.wire.lease, cx);
        loop {
            match self.source.next(&mut self.buffer) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Err(malformed) => return Poll::Ready(Some(Err(BodyError::Malformed(malformed)))),
                Ok(None) if self.is_end() => return Poll::Ready(None),
                Ok(None) => {}
            }
            let room = self.source.room();
            match ready!(self.wire.poll_read(&mut self.buffer, room, cx)) {
                Ok(0) if matches!(self.source, Source::Close) => self.source = Source::Done,
                Ok(0) => return Poll::Ready(Some(Err(BodyError::Ended))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Failed(error)))),
            }
        }
    }

    /// Whether nothing is to come.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// What is known of its length.
    #[must_use]
    pub fn size(&self) -> SizeHint {
        match &self.source {
            Source::Done => SizeHint::with_exact(0),
            Source::Length(left) => SizeHint::with_exact(*left),
            Source::Chunked(_) | Source::Close => SizeHint::default(),
        }
    }

    /// Keeps the connection for the next request, if this one is through in both directions.
    pub fn give_back(self) {
        if self.keeps && self.is_end() && self.upload.is_done() && self.buffer.is_empty() {
            self.wire.pool.keep(self.wire.lease);
        }
    }
}

impl Upload {
    fn of(request: &Request<OutgoingBody>) -> Upload {
        let body = if let OutgoingBody::Whole(body) = request.body() { body.clone() } else { Bytes::new() };
        let left = Buf::chain(Cursor::new(composed(request, body.len())), body);
        Upload { left, sent: false, unflushed: false, refused: false }
    }

    /// Writes as much as the upstream takes.
    fn poll(&mut self, lease: &mut Lease, cx: &mut Context<'_>) {
        while self.left.has_remaining() && !self.refused {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = self.left.chunks_vectored(&mut slices);
            let slices = slices.get(..count).unwrap_or_default();
            match Pin::new(&mut lease.wire).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.left.advance(written);
                    (self.sent, self.unflushed) = (true, true);
                }
                Poll::Ready(_) => self.refused = true,
                Poll::Pending => return,
            }
        }
        if self.unflushed && Pin::new(&mut lease.wire).poll_flush(cx).is_ready() {
            self.unflushed = false;
        }
    }

    fn is_done(&self) -> bool {
        !self.left.has_remaining() && !self.unflushed
    }
}

impl Source {
    fn of(framing: Framing) -> Source {
        match framing {
            Framing::None | Framing::Length(0) => Source::Done,
            Framing::Length(length) => Source::Length(length),
            Framing::Chunked => Source::Chunked(Decoder::default()),
            Framing::Close => Source::Close,
        }
    }

    /// The frame that is there, if one is.
    fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, &'static str> {
        let data = match self {
            Source::Done => return Ok(None),
            Source::Close => buffer.split().freeze(),
            Source::Length(left) => {
                let here = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                *left -= here as u64;
                if *left == 0 {
                    *self = Source::Done;
                }
                buffer.split_to(here).freeze()
            }
            Source::Chunked(decoder) => {
                let step = decoder.step(buffer).map_err(|malformed| malformed.0)?;
                buffer.advance(step.skip);
                let data = buffer.split_to(step.data).freeze();
                if data.is_empty() && decoder.is_done() {
                    let trailers = decoder.trailers();
                    *self = Source::Done;
                    return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                }
                data
            }
        };
        Ok((!data.is_empty()).then(|| Frame::data(data)))
    }

    /// How much to make room for.
    fn room(&self) -> usize {
        match self {
            Source::Length(left) => usize::try_from(*left).unwrap_or(LARGE).clamp(USUAL, LARGE),
            Source::Done | Source::Chunked(_) | Source::Close => USUAL,
        }
    }
}

/// The request's head. Its framing is the body's, as `outbound` settled it.
fn composed(request: &Request<OutgoingBody>, body_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    for part in [request.method().as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in request.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if body_bytes > 0 && !request.headers().contains_key(CONTENT_LENGTH) {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(itoa::Buffer::new().format(body_bytes).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The final response's head, once it is there. Interim ones before it are answers to what was not
/// asked for, and read over.
fn final_head(buffer: &mut BytesMut, lines: &mut Vec<Line>) -> Result<Option<ResponseHead>, String> {
    loop {
        let head = parse::response(buffer, RESPONSE_HEAD, lines).map_err(|refusal| refusal.to_string())?;
        match head {
            Some(head) if head.status == 101 => {
                return Err("unasked-for 101 Switching Protocols".to_owned());
            }
            Some(head) if head.status < 200 => buffer.advance(head.end),
            Some(_) | None => return Ok(head),
        }
    }
}
