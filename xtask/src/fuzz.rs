// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, guided by coverage. It
//! needs a C++ compiler and nothing that stable Rust lacks: coverage is a pass of the
//! code generator, sanitizers are left out because this tree has no unsafe code. Not part
//! of continuous integration, which replays and mutates the kept corpora instead.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::test;

/// What makes the compiler write down which branches ran and what was compared.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// An input that takes longer than this many seconds is a finding.
const TOO_LONG_SECONDS: u32 = 10;
const MAX_MEGABYTES: u32 = 2048;
/// The last lines of a run that failed, for its reader.
const SHOWN_LINES: usize = 30;

/// Builds and runs the targets, all when none is named, each for so many seconds.
pub fn run(root: &Path, targets: &[String], seconds: u32) -> anyhow::Result<()> {
    let package = root.join("fuzz/guided");
    let output = test::target_directory(root)?.join("fuzz");
    let host = host()?;
    // The same versions as the workspace's, without a second lock to keep.
    fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).context("no Cargo.lock")?;
    build(&package, &output, &host)?;
    let known = corpora(root)?;
    let mut table =
        String::from("| target | executions | a second | inputs kept | findings |\n|---|---|---|---|---|\n");
    let mut failed = Vec::new();
    for name in known.iter().filter(|name| targets.is_empty() || targets.contains(name)) {
        let binary = output.join(&host).join("release").join(name);
        let done = fuzz(root, &output, name, &binary, seconds)?;
        writeln!(
            table,
            "| {name} | {} | {} | {} | {} |",
            done.executions, done.rate, done.kept, done.findings
        )?;
        if done.findings > 0 {
            failed.push(name.as_str());
        }
    }
    println!("{table}");
    if !failed.is_empty() {
        bail!("there are findings in {}: {}", output.join("artifacts").display(), failed.join(", "));
    }
    Ok(())
}

/// What one target's run came to.
struct Done {
    executions: u64,
    rate: u64,
    kept: usize,
    findings: usize,
}

/// The compiler's own platform: named, so that the flags do not reach build scripts.
fn host() -> anyhow::Result<String> {
    let told = Command::new("rustc").arg("-vV").output().context("rustc cannot be started")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

fn build(package: &Path, output: &Path, host: &str) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--target", host])
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_TARGET_DIR", output)
        .current_dir(package)
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("the targets could not be built: {status}");
    }
    Ok(())
}

/// Each target has a corpus under its name.
fn corpora(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("fuzz/corpus")).context("no fuzz/corpus")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn fuzz(root: &Path, output: &Path, name: &str, binary: &Path, seconds: u32) -> anyhow::Result<Done> {
    let grown = folder(output.join("corpus").join(name))?;
    let artifacts = folder(output.join("artifacts").join(name))?;
    let kept = root.join("fuzz/corpus").join(name);
    eprintln!("==> {name}: {seconds} s");
    let run = Command::new(binary)
        .args([&grown, &kept])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={TOO_LONG_SECONDS}"))
        .arg(format!("-rss_limit_mb={MAX_MEGABYTES}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .stdout(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be started", binary.display()))?;
    let told = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        let lines: Vec<&str> = told.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)).for_each(|line| eprintln!("    {line}"));
    }
    let stat = |wanted: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(wanted));
        line.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
    };
    Ok(Done {
        executions: stat("number_of_executed_units"),
        rate: stat("average_exec_per_sec"),
        kept: fs::read_dir(&grown)?.count(),
        findings: usize::from(!run.status.success()),
    })
}

fn folder(path: PathBuf) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}
