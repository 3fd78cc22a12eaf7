// SPDX-License-Identifier: Apache-2.0
//! One direction of an exchange: what was composed first, then a body from one stream to the
//! other at the receiver's pace. At most one buffer is held, and nothing is read while
//! something waits to be written. Bodies of known length pass without a copy; chunks are
//! checked and framed anew. `exchange` polls both directions in one task.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::{Buffer, Stock, USUAL};
use super::chunked::{Decoder, write_chunk};
use super::framing::Framing;

/// Up to this a body is copied behind its head: one piece costs the kernel less than two.
const COPIED: usize = 4096;

/// A direction.
pub struct Flow {
    /// Composed here and written first; kept until more is composed, for a second try.
    out: Vec<u8>,
    written: usize,
    /// Read and not yet used.
    input: Option<Buffer>,
    /// Bytes at the front of `input` that are written as they are, after `out`.
    direct: usize,
    source: Source,
    /// Whether the body is written in chunks.
    chunked: bool,
    /// The trailers that may pass, as the message declares them.
    trailers: Vec<u8>,
    /// Found broken behind what is yet to be written.
    broken: Option<&'static str>,
    /// The most bytes of the body that may pass, where their number is not told beforehand.
    limit: u64,
    /// Some of the body was used.
    begun: bool,
    /// A byte was written.
    sent: bool,
    unflushed: bool,
    /// The last read filled its buffer: the next gets a larger one.
    gushing: bool,
    /// Bytes of the body that have passed.
    pub moved: u64,
    /// Bytes written, heads and framing included.
    pub wrote: u64,
    /// What the last `Pending` waits for.
    pub waits_for_writer: bool,
    /// The body has more to come and its sender sends nothing.
    pub waits_for_reader: bool,
}

/// How the body is read.
enum Source {
    /// There is no more.
    Done,
    /// This many bytes are to come.
    Length(u64),
    /// Chunks.
    Chunked(Decoder),
    /// Until the stream ends.
    Close,
}

/// Why a direction broke.
#[derive(Debug)]
pub enum Broken {
    /// The sender's stream failed, ended early, or carried what is no body.
    Sender(String),
    /// What the sender framed is not acceptable.
    Malformed(&'static str),
    /// The body is longer than allowed.
    TooLong,
    /// The receiver's stream failed.
    Receiver(io::Error),
}

impl Flow {
    /// A direction that writes `out` and then a body with this framing. `input` is what was
    /// read of it already.
    #[must_use]
    pub fn new(out: Vec<u8>, framing: Framing, chunked: bool, input: Option<Buffer>) -> Flow {
        let source = match framing {
            Framing::None | Framing::Length(0) => Source::Done,
            Framing::Length(length) => Source::Length(length),
            Framing::Chunked => Source::Chunked(Decoder::default()),
            Framing::Close => Source::Close,
        };
        Flow {
            out,
            written: 0,
            input,
            direct: 0,
            source,
            chunked,
            trailers: Vec::new(),
            broken: None,
            limit: u64::MAX,
            begun: false,
            sent: false,
            unflushed: false,
            gushing: false,
            moved: 0,
            wrote: 0,
            waits_for_writer: false,
            waits_for_reader: false,
        }
    }

    /// Lets these trailers pass, which the message's head declares.
    #[must_use]
    pub fn with_trailers(mut self, declared: Vec<u8>) -> Flow {
        self.trailers = declared;
        self
    }

    /// Lets so many bytes of a body in chunks pass; more break it.
    #[must_use]
    pub fn with_limit(mut self, bytes: u64) -> Flow {
        self.limit = bytes;
        self
    }

    /// Whether the body has been read to its end.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// Whether its receiver has been given anything.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        self.sent
    }

    /// Whether everything has been read and written.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_read() && !self.has_pending() && !self.unflushed
    }

    /// Begins anew on another stream: if nothing was written yet, or `repeat` allows it and
    /// all that was written is still here.
    pub fn rewind(&mut self, repeat: bool) -> bool {
        if self.sent && (self.begun || !repeat) {
            return false;
        }
        self.written = 0;
        (self.sent, self.unflushed) = (false, false);
        true
    }

    /// Bytes that were read beyond the body.
    #[must_use]
    pub fn take_rest(&mut self) -> Option<Buffer> {
        self.input.take()
    }

    /// Where to put bytes that arrive after the body.
    pub fn rest_mut(&mut self) -> &mut Option<Buffer> {
        &mut self.input
    }

    /// The vector it composed in.
    #[must_use]
    pub fn into_out(self) -> Vec<u8> {
        self.out
    }

    /// Whether it still waits for the body's first byte.
    #[must_use]
    pub fn awaits_body(&self) -> bool {
        !self.begun && !self.is_read() && self.input.as_ref().is_none_or(Buffer::is_empty)
    }

    /// Goes on as far as both streams allow. Of chunks that turn out to be none, those before them
    /// still pass once something was written; before that nothing does, so that something better
    /// can be said.
    ///
    /// # Errors
    /// When either stream or the body's framing is broken.
    pub fn poll<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        stock: &Stock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // What came with the head goes out with it.
        if !self.begun && !self.is_read() {
            self.compose()?;
        }
        loop {
            ready!(self.poll_write(writer, cx))?;
            if let Some(broken) = self.broken {
                return Poll::Ready(Err(Broken::Malformed(broken)));
            }
            if self.is_read() {
                return Poll::Ready(Ok(()));
            }
            if self.input.as_ref().is_none_or(Buffer::is_empty) {
                self.waits_for_reader = true;
                ready!(self.poll_read(reader, stock, cx))?;
                self.waits_for_reader = false;
            }
            self.compose()?;
        }
    }

    /// Writes what is composed.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_write<W>(&mut self, writer: &mut W, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>
    where
        W: AsyncWrite + Unpin,
    {
        self.waits_for_writer = true;
        while self.has_pending() {
            let out = self.out.get(self.written..).unwrap_or_default();
            let direct = self.input.as_ref().map_or(&[][..], Buffer::filled);
            let direct = direct.get(..self.direct).unwrap_or_default();
            let writing = match (out.is_empty(), direct.is_empty()) {
                (_, true) => Pin::new(&mut *writer).poll_write(cx, out),
                (true, false) => Pin::new(&mut *writer).poll_write(cx, direct),
                (false, false) => {
                    let slices = [io::IoSlice::new(out), io::IoSlice::new(direct)];
                    Pin::new(&mut *writer).poll_write_vectored(cx, &slices)
                }
            };
            let bytes = ready!(writing).map_err(Broken::Receiver)?;
            if bytes == 0 {
                return Poll::Ready(Err(Broken::Receiver(io::ErrorKind::WriteZero.into())));
            }
            (self.sent, self.unflushed) = (true, true);
            self.wrote += bytes as u64;
            let of_out = bytes.min(self.out.len() - self.written);
            self.written += of_out;
            let of_direct = (bytes - of_out).min(self.direct);
            self.direct -= of_direct;
            if let Some(input) = &mut self.input {
                input.consume(of_direct);
            }
        }
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(cx)).map_err(Broken::Receiver)?;
            self.unflushed = false;
        }
        self.waits_for_writer = false;
        Poll::Ready(Ok(()))
    }

    fn has_pending(&self) -> bool {
        self.written < self.out.len() || self.direct > 0
    }

    fn poll_read<R>(
        &mut self,
        reader: &mut R,
        stock: &Stock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
    {
        let large = self.gushing || matches!(self.source, Source::Length(left) if left > USUAL as u64);
        if let Some(input) = self.input.take_if(|input| large && input.capacity() <= USUAL) {
            stock.give(input);
        }
        let read = ready!(stock.poll_fill(&mut self.input, large, reader, cx));
        let read = read.map_err(|error| Broken::Sender(error.to_string()))?;
        self.gushing = self.input.as_ref().is_some_and(|input| !input.has_room());
        if read == 0 {
            if !matches!(self.source, Source::Close) {
                return Poll::Ready(Err(Broken::Sender("the body ended early".to_owned())));
            }
            self.restart();
            if self.chunked {
                self.out.extend_from_slice(b"0\r\n\r\n");
            }
            self.source = Source::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes what is in `input` ready to be written. Called with nothing pending, or at the
    /// beginning, where the body goes behind the head.
    fn compose(&mut self) -> Result<(), Broken> {
        if self.input.as_ref().is_none_or(Buffer::is_empty) {
            return Ok(());
        }
        if self.written > 0 {
            self.restart();
        }
        let Some(input) = &mut self.input else { return Ok(()) };
        self.begun = true;
        let available = input.len();
        match &mut self.source {
            Source::Done => {}
            Source::Length(left) => {
                let here = usize::try_from(*left).map_or(available, |left| left.min(available));
                *left -= here as u64;
                self.moved += here as u64;
                if *left == 0 {
                    self.source = Source::Done;
                }
                self.pass(here);
            }
            Source::Close if self.chunked => {
                write_chunk(&mut self.out, input.filled());
                input.consume(available);
                self.moved += available as u64;
            }
            Source::Close => {
                self.moved += available as u64;
                self.pass(available);
            }
            Source::Chunked(_) => self.rechunk()?,
        }
        Ok(())
    }

    /// Lets bytes at the front of `input` out as they are.
    fn pass(&mut self, bytes: usize) {
        let Some(input) = &mut self.input else { return };
        if bytes <= COPIED && !self.out.is_empty() {
            self.out.extend_from_slice(input.filled().get(..bytes).unwrap_or_default());
            input.consume(bytes);
        } else {
            self.direct = bytes;
        }
    }

    fn rechunk(&mut self) -> Result<(), Broken> {
        let (Source::Chunked(decoder), Some(input)) = (&mut self.source, &mut self.input) else {
            return Ok(());
        };
        while !input.is_empty() && !decoder.is_done() {
            let step = match decoder.step(input.filled()) {
                Ok(step) => step,
                Err(error) if self.sent => {
                    self.broken = Some(error.0);
                    return Ok(());
                }
                Err(error) => return Err(Broken::Malformed(error.0)),
            };
            let data = input.filled().get(step.skip..step.skip + step.data).unwrap_or_default();
            if data.is_empty() {
            } else if self.chunked {
                write_chunk(&mut self.out, data);
            } else {
                self.out.extend_from_slice(data);
            }
            self.moved += step.data as u64;
            if self.moved > self.limit {
                return Err(Broken::TooLong);
            }
            input.consume(step.skip + step.data);
        }
        if decoder.is_done() {
            if self.chunked {
                decoder.write_end(&mut self.out, &self.trailers);
            }
            self.source = Source::Done;
        }
        Ok(())
    }

    fn restart(&mut self) {
        self.out.clear();
        self.written = 0;
    }
}

impl From<Broken> for String {
    fn from(broken: Broken) -> String {
        match broken {
            Broken::Sender(text) => text,
            Broken::Malformed(text) => text.to_owned(),
            Broken::TooLong => "the body is longer than allowed".to_owned(),
            Broken::Receiver(error) => error.to_string(),
        }
    }
}
