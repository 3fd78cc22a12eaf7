// SPDX-License-Identifier: Apache-2.0
//! Buffers and lists, and a worker's stock of them. A connection that waits for its client holds none:
//! it borrows one when bytes are there and gives it back when they are used up, so that ten
//! thousand idle connections cost their sockets and nothing else. A buffer is filled by one
//! read after the other and never moves what is in it while somebody looks at it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::fields::Lists;

/// The usual size: a head and a small body in one read; what is longer gets a large one. No power
/// of two, or the heads of all requests in flight would compete for the same few sets of the
/// processor's cache.
pub const USUAL: usize = 5 * 1024;

/// Room for a head and a small body behind it, in a vector to write from; likewise.
const OUT: usize = 5 * 512;

/// The size for long bodies: fewer system calls per byte.
pub const LARGE: usize = 128 * 1024;

/// How many buffers of each size a worker keeps for the next request; more are freed.
const KEPT_USUAL: usize = 2048;
const KEPT_LARGE: usize = 16;

/// Bytes that were read and not yet used.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

/// A worker's buffers that nobody uses.
#[derive(Default)]
pub struct Stock {
    usual: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
    outs: RefCell<Vec<Vec<u8>>>,
    lists: RefCell<Vec<Lists>>,
}

impl Buffer {
    /// What is in it.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    /// How many bytes are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it has room for another read without moving or growing.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.end < self.data.len()
    }

    /// Its size.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Uses up bytes from the front.
    pub fn consume(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Appends bytes, growing as needed.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        if let Some(room) = self.data.get_mut(self.end..end) {
            room.copy_from_slice(bytes);
            self.end = end;
        }
    }

    /// Makes room for another read: moves what is in it to the front, or else doubles it up to
    /// `most` bytes. False when it is full at that size.
    pub fn make_room(&mut self, most: usize) -> bool {
        if self.has_room() {
            return true;
        }
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        } else if self.data.len() < most {
            self.data.resize(most.min((self.data.len() * 2).max(USUAL)), 0);
        }
        self.has_room()
    }

    /// One read into what room there is; 0 is the end of the stream.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_fill<R>(&mut self, reader: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        let Some(room) = self.data.get_mut(self.end..) else { return Poll::Ready(Ok(0)) };
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(reader).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }
}

impl Stock {
    /// An empty buffer of the usual size.
    #[must_use]
    pub fn take(&self) -> Buffer {
        let data = self.usual.borrow_mut().pop().unwrap_or_else(|| vec![0; USUAL]);
        Buffer { data, start: 0, end: 0 }
    }

    /// An empty buffer for a long body.
    #[must_use]
    pub fn take_large(&self) -> Buffer {
        let data = self.large.borrow_mut().pop().unwrap_or_else(|| vec![0; LARGE]);
        Buffer { data, start: 0, end: 0 }
    }

    /// Gives a buffer back, if there is one; what is in it is gone.
    pub fn give(&self, buffer: impl Into<Option<Buffer>>) {
        let Some(buffer) = buffer.into() else { return };
        let (shelf, most) = match buffer.data.len() {
            USUAL => (&self.usual, KEPT_USUAL),
            LARGE => (&self.large, KEPT_LARGE),
            // A head made it grow, or it was never filled.
            _ => return,
        };
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < most {
            shelf.push(buffer.data);
        }
    }

    /// An empty vector to write into.
    #[must_use]
    pub fn take_out(&self) -> Vec<u8> {
        self.outs.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(OUT))
    }

    /// Gives a vector back.
    pub fn give_out(&self, mut out: Vec<u8>) {
        let mut outs = self.outs.borrow_mut();
        if out.capacity() <= 4 * USUAL && outs.len() < KEPT_USUAL {
            out.clear();
            outs.push(out);
        }
    }

    /// Empty lists for a head.
    #[must_use]
    pub fn take_lists(&self) -> Lists {
        self.lists.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives lists back.
    pub fn give_lists(&self, mut held: Lists) {
        held.added.clear();
        let mut lists = self.lists.borrow_mut();
        if lists.len() < KEPT_USUAL {
            lists.push(held);
        }
    }

    /// One read into a buffer that may not exist yet: it is borrowed for the try and given
    /// back when nothing was there. `large` asks for one for long bodies.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_fill<R>(
        &self,
        buffer: &mut Option<Buffer>,
        large: bool,
        reader: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        let held = buffer.take();
        let mut held = held.unwrap_or_else(|| if large { self.take_large() } else { self.take() });
        let filled = held.poll_fill(reader, cx);
        if held.is_empty() {
            self.give(held);
        } else {
            *buffer = Some(held);
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::{Stock, USUAL};

    #[test]
    fn a_full_buffer_moves_before_it_grows_and_grows_to_its_limit() {
        let stock = Stock::default();
        let mut buffer = stock.take();
        buffer.extend(&vec![1; USUAL]);
        assert!(!buffer.has_room());
        buffer.consume(10);
        assert!(buffer.make_room(USUAL), "what was used up made room");
        assert_eq!((buffer.len(), buffer.capacity()), (USUAL - 10, USUAL));
        buffer.extend(&[2; 10]);
        assert!(!buffer.make_room(USUAL));
        assert!(buffer.make_room(USUAL + 5));
        assert_eq!((buffer.capacity(), buffer.filled().last()), (USUAL + 5, Some(&2)));
        buffer.consume(usize::MAX);
        assert!(buffer.is_empty());
        // It is of no size that is kept.
        stock.give(buffer);
        assert_eq!(stock.usual.borrow().len(), 0);
        stock.give(stock.take());
        assert_eq!(stock.usual.borrow().len(), 1);
    }
}
