// SPDX-License-Identifier: Apache-2.0
//! Documents that a policy needs from elsewhere, such as key sets: got beside requests, by
//! whoever runs the policies. A policy says what it wants and is called back; when to ask
//! again is its own business, so that this knows no schedule and no format.

use std::time::Duration;

use bytes::Bytes;

/// Gets documents.
pub trait Fetch: Send + Sync + 'static {
    /// Begins to get a document and returns at once. `done` is called once, on another thread
    /// perhaps, at the latest when delay and timeout have passed.
    fn start(&self, order: Order, done: Done);
}

/// Called with the document, or with why there is none.
pub type Done = Box<dyn FnOnce(Result<Bytes, String>) + Send>;

/// What to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Where it is.
    pub source: Source,
    /// Not before this has passed.
    pub delay: Duration,
    /// How long it may take then.
    pub timeout: Duration,
    /// A larger document is refused.
    pub max_bytes: usize,
}

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of this machine.
    File(String),
    /// An address.
    Http {
        /// `http` or `https`.
        uri: String,
        /// A PEM file of certificates to trust besides the system's.
        ca_file: Option<String>,
        /// Check nobody's certificate.
        skip_tls_verify: bool,
    },
}
