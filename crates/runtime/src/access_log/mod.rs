// SPDX-License-Identifier: Apache-2.0
//! One line per request, whatever became of it: [`Record`] is a drop guard that travels
//! with the request and then with its response body, so that an aborted request is logged
//! as surely as a finished one. Lines are gathered per worker and handed to one writer
//! thread through a bounded queue; when the writer is behind they are dropped and counted,
//! because traffic never waits for a log. `format` says what a line consists of, `fields`
//! fills it in, `writer` puts it where it belongs.

mod fields;
pub mod format;
mod record;
mod traffic;
mod writer;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::metrics::WorkerMetrics;

pub use format::Format;
pub use record::{Asked, Opening, Record};
pub use traffic::Traffic;
pub use writer::{Blocks, OpenError, Reopen, Writer, open};

/// What a line says of an exchange that a deadline ended while its client was the one to act.
pub const STALLED: &str = "the client took nothing of the response";

/// A block is handed to the writer when it has this many bytes, or at the next tick.
const BLOCK_BYTES: usize = 16 * 1024;

/// How long a line may wait in its worker before it is handed over.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// One worker's log: where its records go when they end.
pub struct WorkerLog {
    blocks: Blocks,
    pending: RefCell<(String, u64)>,
    metrics: Arc<WorkerMetrics>,
}

impl WorkerLog {
    /// The log of one worker.
    #[must_use]
    pub fn new(blocks: Blocks, metrics: Arc<WorkerMetrics>) -> WorkerLog {
        WorkerLog { blocks, pending: RefCell::default(), metrics }
    }

    /// The worker's counts.
    #[must_use]
    pub fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    /// The headers of a request that its line will show; none when there is no log.
    pub fn asked<'a>(&self, header: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Asked<'a> {
        if !self.blocks.is_open() {
            return Asked::new();
        }
        self.blocks.format().request_headers.iter().map(header).collect()
    }

    /// Hands the gathered lines to the writer.
    pub fn flush(&self) {
        let (block, lines) = self.pending.take();
        if !block.is_empty() && !self.blocks.hand_over(block.into_bytes()) {
            self.metrics.access_log_dropped_lines.add(lines);
        }
    }

    fn append(&self, record: &Record, took: Duration) {
        let full = {
            let (block, lines) = &mut *self.pending.borrow_mut();
            if block.capacity() == 0 {
                block.reserve(BLOCK_BYTES + 1024);
            }
            fields::write(self.blocks.format(), record, took, block);
            *lines += 1;
            block.len() >= BLOCK_BYTES
        };
        if full {
            self.flush();
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
