// SPDX-License-Identifier: Apache-2.0
//! What one request shares with the bodies that travel on their own: how much has come and
//! gone, whether the request is complete, who is waited for, and why the rest of a body is
//! not wanted. Bodies write it, deadlines and the request's record read it; it decides nothing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use crate::error::Reason;

/// What a request shares with the bodies that travel on their own.
pub struct Traffic {
    /// Body bytes received from the client.
    pub received: Cell<u64>,
    /// Body bytes sent to the client.
    pub sent: Cell<u64>,
    /// The request's body has been read to its end.
    pub request_complete: Completion,
    /// The client broke off its body.
    pub request_broken: Cell<bool>,
    /// The client is the one waited for: its body has more to come and it sends nothing.
    pub client_silent: Cell<bool>,
    /// Body bytes that may be received.
    pub receivable: Cell<u64>,
    /// Why the rest of the client's body is not wanted.
    pub refused: Cell<Option<Reason>>,
    /// When a byte last moved, in either direction.
    pub last_moved: Cell<tokio::time::Instant>,
    /// When the request got a connection to its upstream.
    pub asked: Cell<Option<tokio::time::Instant>>,
    /// The deadline that ended the exchange while its client took nothing of the response.
    pub overdue: Cell<Option<Reason>>,
}

/// Whether a request's body has come whole, and since when, where somebody wants to know.
#[derive(Default)]
pub struct Completion {
    pub(super) done: Cell<bool>,
    pub(super) timed: Cell<bool>,
    pub(super) at: Cell<Option<Instant>>,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            received: Cell::default(),
            sent: Cell::default(),
            request_complete: Completion::default(),
            request_broken: Cell::default(),
            client_silent: Cell::default(),
            receivable: Cell::new(u64::MAX),
            refused: Cell::default(),
            last_moved: Cell::new(tokio::time::Instant::now()),
            asked: Cell::default(),
            overdue: Cell::default(),
        }
    }
}

impl Completion {
    /// It is over, or begins anew.
    pub fn set(&self, done: bool) {
        if done && self.timed.get() && !self.done.get() {
            self.at.set(Some(Instant::now()));
        }
        self.done.set(done);
    }

    /// It was over at this time, as far as somebody looked.
    pub fn since(&self, at: Option<Instant>) {
        self.done.set(true);
        self.at.set(at);
    }

    /// Whether somebody wants to know when it is over.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.timed.get()
    }

    /// Whether it is over.
    #[must_use]
    pub fn get(&self) -> bool {
        self.done.get()
    }
}

impl Traffic {
    /// Ready for another request of the same connection.
    pub fn restart(&self) {
        self.received.set(0);
        self.sent.set(0);
        self.request_complete.set(false);
        self.request_complete.at.set(None);
        self.request_broken.set(false);
        self.client_silent.set(false);
        self.refused.set(None);
        self.asked.set(None);
        self.overdue.set(None);
    }

    /// Counts body bytes from the client; false when they are more than wanted.
    pub fn receive(&self, bytes: u64) -> bool {
        self.received.set(self.received.get().saturating_add(bytes));
        let wanted = self.received.get() <= self.receivable.get();
        if !wanted {
            self.refused.set(Some(Reason::RequestBodyTooLarge));
        }
        wanted
    }

    /// For a body that is complete only later than its bytes have come; it has the same limit.
    #[must_use]
    pub fn apart(&self) -> Rc<Traffic> {
        let apart = Traffic::default();
        apart.receivable.set(self.receivable.get());
        Rc::new(apart)
    }

    /// Since when the upstream has the whole request and a connection to answer on; `None` while it
    /// has not.
    #[must_use]
    pub fn asked_since(&self) -> Option<tokio::time::Instant> {
        let asked = self.asked.get().filter(|_| self.request_complete.get())?;
        Some(asked.max(self.last_moved.get()))
    }

    /// A byte moved.
    pub fn moved(&self) {
        self.last_moved.set(tokio::time::Instant::now());
    }
}
