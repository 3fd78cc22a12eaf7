// SPDX-License-Identifier: Apache-2.0
//! Programs of others that a task needs: found, or installed from Debian's packages when root may.
//! A task asks before it begins, so that what is missing is said first and at once.

use std::process::Command;

use anyhow::{Context, bail};

/// A program, an argument that makes it answer, and the Debian package that has it.
pub type Program = (&'static str, &'static str, &'static str);

/// The clients that the end-to-end tests drive.
pub const CLIENTS: &[Program] = &[
    ("curl", "--version", "curl"),
    ("nghttp", "--version", "nghttp2-client"),
    ("h2load", "--version", "nghttp2-client"),
    ("openssl", "version", "openssl"),
];

/// Installs those that are missing, or says what to install.
pub fn ensure(programs: &[Program]) -> anyhow::Result<()> {
    // Some answer with another exit code than 0: what matters is that they start.
    let there = |name: &str, flag: &str| Command::new(name).arg(flag).output().is_ok();
    let mut missing: Vec<&str> = programs
        .iter()
        .filter(|(name, flag, _)| !there(name, flag))
        .map(|(_, _, package)| *package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Installs Debian packages when root may, or says how to.
pub fn install(packages: &[&str]) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    if !root || !crate::stage::answers("apt-get", &["--version"]) {
        bail!("something is missing: install it with `sudo apt-get install {}`", packages.join(" "));
    }
    eprintln!("    installing {} with apt-get", packages.join(" "));
    apt(&["update", "-qq"])?;
    let arguments = [&["install", "-y", "-qq", "--no-install-recommends"], packages].concat();
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("apt-get cannot be started")?;
    if !status.success() {
        bail!("`apt-get {}` failed: {status}", arguments.join(" "));
    }
    Ok(())
}
