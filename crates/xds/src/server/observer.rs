// SPDX-License-Identifier: Apache-2.0
//! What the serving end tells its owner about each runtime. Called on the streams' own
//! tasks, so an implementation must not block; the calls of one runtime are in order.

use ferrogate_model::{Position, Reject};

use crate::node::RuntimeInfo;

/// Hears about runtimes. A runtime that reconnects replaces its earlier stream: it is
/// `connected` again, and `disconnected` only when its latest stream ends.
pub trait StreamObserver: Send + Sync + 'static {
    /// A runtime introduced itself.
    fn connected(&self, runtime: RuntimeInfo);

    /// An update was sent to it in full.
    fn sent(&self, runtime_id: &str, sent: Sent);

    /// It acknowledged everything up to this position, but for these resources: those it
    /// refused and those withheld from it, the earlier ones of this stream included. From
    /// here on it is served live.
    fn applied(&self, runtime_id: &str, position: Position, rejects: &[Reject]);

    /// Its stream ended.
    fn disconnected(&self, runtime_id: &str);
}

/// One update, as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sent {
    /// The position after it.
    pub position: Position,
    /// It was the whole set.
    pub full: bool,
    /// Resources new or changed; with no removals either, it was a mere confirmation.
    pub upserts: usize,
    /// Resources gone.
    pub removes: usize,
    /// The responses it took.
    pub responses: usize,
    /// The payload bytes of its resources.
    pub bytes: usize,
}

/// An observer that looks away.
impl StreamObserver for () {
    fn connected(&self, _runtime: RuntimeInfo) {}
    fn sent(&self, _runtime_id: &str, _sent: Sent) {}
    fn applied(&self, _runtime_id: &str, _position: Position, _rejects: &[Reject]) {}
    fn disconnected(&self, _runtime_id: &str) {}
}
