// SPDX-License-Identifier: Apache-2.0
//! Why an address cannot be listened on, in the same words for every role. It binds
//! nothing itself; the roles do, and say which setting names the address.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// An address that could not be listened on.
#[derive(Debug, Error)]
#[error("{key}: cannot listen on {address} ({purpose}): {reason}")]
pub struct BindError {
    /// The setting that names the address.
    pub key: &'static str,
    /// What the listener is for.
    pub purpose: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// In words: the usual causes have clearer ones than the system's.
    pub reason: String,
}

/// A listener, before it listens: the setting that names its address, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The setting.
    pub key: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

impl Listener {
    /// That it cannot listen.
    pub fn failed(self, address: SocketAddr, error: &io::Error) -> BindError {
        BindError { key: self.key, purpose: self.purpose, address, reason: explain(error) }
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is already taken".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => "not permitted (ports below 1024 need a privilege)".to_owned(),
        _ => error.to_string(),
    }
}
