// SPDX-License-Identifier: Apache-2.0
//! What a process costs, from the kernel's own books: processor time of all its threads,
//! those that ended included, and memory. Both are read from outside, so that measuring
//! costs the process nothing.

use std::time::Duration;

use anyhow::Context as _;

use crate::process::Process;

/// What Linux counts processor time in wherever it shows it to users.
const TICK: Duration = Duration::from_millis(10);

/// A look at one process.
pub struct Meter {
    id: u32,
}

impl Meter {
    /// Of this process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(process: &Process) -> anyhow::Result<Meter> {
        Ok(Meter { id: process.id().context("the process has ended")? })
    }

    /// Processor time since its start.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        // The name in parentheses may contain anything; user and system time are the
        // twelfth and thirteenth fields after it (proc(5)).
        let fields: Vec<&str> =
            stat.rsplit(')').next().map(|rest| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let ticks = ticks(11).zip(ticks(12)).context("no processor time in /proc")?;
        Ok(TICK * u32::try_from(ticks.0 + ticks.1)?)
    }

    /// Memory, shared pages counted by share, in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        number.context("no proportional set size in /proc")
    }
}
