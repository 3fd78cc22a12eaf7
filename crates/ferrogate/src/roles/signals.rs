// SPDX-License-Identifier: Apache-2.0
//! SIGTERM and SIGINT: the first asks for a drain, the second ends it at once. SIGHUP opens
//! the access log's file anew, where there is one.

use std::future::Future;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for both signals from the moment it is made, so that none is lost between start
/// and drain.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts listening.
    pub fn listen() -> anyhow::Result<Self> {
        let open = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: open(SignalKind::terminate())?, interrupt: open(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            // Both arms only wait for a signal; the other one stays pending in its stream.
            _received = self.terminate.recv() => {}
            _received = self.interrupt.recv() => {}
        }
    }

    /// Runs a drain to its end, or until another signal comes: then `None`.
    pub async fn or_forced<T>(&mut self, drain: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            // Dropping the drain is what a second signal asks for.
            () = self.next() => None,
            done = drain => Some(done),
        }
    }
}

/// SIGHUP, from now on. Where nobody listens for it, it ends the process, as usual.
pub fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("cannot listen for SIGHUP")
}

/// Waits for one signal.
pub async fn terminated() -> anyhow::Result<()> {
    Signals::listen()?.next().await;
    Ok(())
}
