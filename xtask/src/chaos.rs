// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask chaos`: the gateway as real processes behind HAProxy, beaten with every
//! fault of a seeded schedule. Makes sure that what it takes is there and builds; the work
//! is the test kit's.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::stage::{answers, program};
use crate::{postgres, programs, test};

/// How long the stage of `cargo xtask test` lasts. It deals the whole deck of faults about once.
pub const STAGE_MINUTES: f64 = 5.0;
/// The seed of that stage, so that a failure of it is a change of ours.
pub const STAGE_SEED: u64 = 1;
const FAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// What to do.
#[derive(Args)]
pub struct Flags {
    /// No fault begins after this many minutes
    #[arg(long, default_value_t = STAGE_MINUTES)]
    minutes: f64,
    /// Which schedule of faults; the same seed deals the same faults
    #[arg(long, default_value_t = STAGE_SEED)]
    seed: u64,
    /// Where the verdict, the timeline and the history go; emptied first [default: chaos in the target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Beat the release build
    #[arg(long)]
    release: bool,
    /// Requests per second through the load balancer; half as many go straight to the runtimes
    #[arg(long, default_value_t = 200)]
    reads: u32,
    /// Writes per second
    #[arg(long, default_value_t = 15)]
    writes: u32,
}

/// As the stage of `cargo xtask test`.
pub fn stage(root: &Path) -> anyhow::Result<()> {
    let (minutes, seed) = (STAGE_MINUTES, STAGE_SEED);
    run_built(root, &Flags { minutes, seed, out: None, release: false, reads: 200, writes: 15 })
}

/// Builds and runs.
pub fn run(root: &Path, flags: &Flags) -> anyhow::Result<()> {
    test::build(root)?;
    if flags.release {
        test::build_release(root)?;
    }
    run_built(root, flags)
}

fn run_built(root: &Path, flags: &Flags) -> anyhow::Result<()> {
    postgres::ensure()?;
    if !answers("haproxy", &["-v"]) {
        programs::install(&["haproxy"])?;
    }
    if !FAKETIME.iter().any(|library| Path::new(library).exists()) {
        programs::install(&["faketime"])?;
    }
    let target = test::target_directory(root)?;
    let out = flags.out.clone().unwrap_or_else(|| target.join("chaos"));
    let binary = target.join(if flags.release { "release/ferrogate" } else { "debug/ferrogate" });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes of a run")]
    let seconds = (flags.minutes * 60.0) as u64;
    let arguments = [
        target.join("debug/chaos").display().to_string(),
        binary.display().to_string(),
        out.display().to_string(),
        seconds.to_string(),
        flags.seed.to_string(),
        flags.reads.to_string(),
        flags.writes.to_string(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The small disks that are filled are mounted where nobody else sees them, and are gone
    // with the processes.
    let apart = ["--mount", "--propagation", "private"];
    if answers("unshare", &[&apart[..], &["true"]].concat()) {
        return program(root, "unshare", &[&apart[..], &arguments].concat());
    }
    program(root, arguments[0], &arguments[1..])
}
