// SPDX-License-Identifier: Apache-2.0
//! Ports for listeners that must be bound again and again. A port that the system chose
//! (port 0) lies in the range from which it also takes the ports of outgoing connections,
//! so a process that is restarted on it may find it taken by somebody's connection. These
//! lie below that range. Handed out once per process; another process may still be faster.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context as _;

const FIRST: u16 = 15_000;
/// Linux hands out ports from 32768 on unless told otherwise.
const END: u16 = 32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on loopback that is free now and no other call gets.
///
/// # Errors
/// When the range is exhausted.
pub fn fixed() -> anyhow::Result<u16> {
    // Test processes that run side by side begin at different places.
    let spread = u16::try_from(std::process::id() % u32::from(END - FIRST)).unwrap_or_default();
    for _ in FIRST..END {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(spread) % (END - FIRST);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, FIRST + offset)).is_ok() {
            return Ok(FIRST + offset);
        }
    }
    None.context("no free port between 15000 and 32000")
}
