// SPDX-License-Identifier: Apache-2.0
//! A stream some bytes of which were read already: they come again, then the stream goes on.
//! `conn` gives it to hyper when the hot path hands a connection over, with the head spelt as
//! hyper reads it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was read, as hyper can read it, whose parser of request lines is narrower than ours: `<`,
/// `>` and `"` are escaped in the query, and a minor version that is not known yet is the last one
/// known.
#[must_use]
pub fn respelt(read: &[u8]) -> Bytes {
    let start = read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let end = memchr::memchr(b'\r', read.get(start..).unwrap_or_default()).map_or(start, |at| start + at);
    let (line, rest) = read.split_at_checked(end).unwrap_or((read, b""));
    let line = line.get(start..).unwrap_or_default();
    let later = matches!(line, [.., b'/', b'1', b'.', b'2'..=b'9']);
    let path_end = memchr::memchr(b'?', line).unwrap_or(line.len());
    let (path, query) = line.split_at_checked(path_end).unwrap_or((line, b""));
    if !later && memchr::memchr3(b'<', b'>', b'"', query).is_none() {
        return Bytes::copy_from_slice(read);
    }
    let mut spelt = Vec::with_capacity(read.len() + 64);
    spelt.extend_from_slice(read.get(..start).unwrap_or_default());
    spelt.extend_from_slice(path);
    for byte in query {
        match byte {
            b'<' => spelt.extend_from_slice(b"%3C"),
            b'>' => spelt.extend_from_slice(b"%3E"),
            b'"' => spelt.extend_from_slice(b"%22"),
            other => spelt.push(*other),
        }
    }
    if later {
        spelt.pop();
        spelt.push(b'1');
    }
    spelt.extend_from_slice(rest);
    spelt.into()
}

/// The stream.
pub struct Rewound<S> {
    read: Bytes,
    inner: S,
}

impl<S> Rewound<S> {
    /// `read` comes before what `inner` still has.
    pub fn new(read: Bytes, inner: S) -> Rewound<S> {
        Rewound { read, inner }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let bytes = self.read.len().min(buffer.remaining());
        buffer.put_slice(self.read.get(..bytes).unwrap_or_default());
        self.read.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::respelt;

    #[test]
    fn hyper_is_given_what_it_can_read() {
        for (read, spelt) in [
            ("GET /a?<b> HTTP/1.1\r\nx: <\r\n\r\n<>", "GET /a?%3Cb%3E HTTP/1.1\r\nx: <\r\n\r\n<>"),
            ("\r\nGET /a HTTP/1.3\r\n\r\n", "\r\nGET /a HTTP/1.1\r\n\r\n"),
            ("GET /a HTTP/1.0\r\nx: 1\r\n\r\n", "GET /a HTTP/1.0\r\nx: 1\r\n\r\n"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ("GET /\"?\" HTTP/1.1\r\n\r\n", "GET /\"?%22 HTTP/1.1\r\n\r\n"),
            ("PRI * HTTP/2", "PRI * HTTP/2"),
            ("", ""),
        ] {
            assert_eq!(respelt(read.as_bytes()), spelt.as_bytes(), "{read:?}");
        }
    }
}
