// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask cost`: the instructions that a request costs the release build, counted under
//! callgrind and compared with what is recorded in the tree. Unlike a time the number is
//! the same on a busy machine, so that a change that makes requests dearer fails here. No stage of
//! `cargo xtask test`, which makes no release build.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::stage::answers;
use crate::{programs, test};

/// What is recorded: a name and a number on each line.
const RECORD: &str = "bench/instructions.txt";

/// More than this above the record fails, in percent; the count itself varies by a tenth of one.
const TOLERANCE: u64 = 5;

/// Counts, and compares or records.
pub fn run(root: &Path, record: bool) -> anyhow::Result<()> {
    if !answers("valgrind", &["--version"]) {
        programs::install(&["valgrind"]).context("valgrind counts the instructions")?;
    }
    test::build_release(root)?;
    let release = test::target_directory(root)?.join("release");
    let output = Command::new(release.join("ferrogate-bench"))
        .args(["count", "--ferrogate"])
        .arg(release.join("ferrogate"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("ferrogate-bench cannot be started")?;
    ensure!(output.status.success(), "counting failed: {}", output.status);
    let counted = read(&String::from_utf8(output.stdout)?)?;
    let file = root.join(RECORD);
    if record {
        let lines: String = counted.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        print!("{lines}");
        return std::fs::write(&file, lines).with_context(|| RECORD.to_owned());
    }
    let recorded = read(&std::fs::read_to_string(&file).with_context(|| RECORD.to_owned())?)?;
    let mut dearer = Vec::new();
    for (name, count) in &counted {
        let before = *recorded.get(name).with_context(|| format!("{RECORD} does not know {name}"))?;
        println!("{name}: {count} instructions a request, recorded {before}");
        if is_dearer(*count, before) {
            dearer.push(name.as_str());
        }
    }
    if !dearer.is_empty() {
        bail!(
            "a request costs more than {TOLERANCE} % over the record: {}; if that is worth it, say why and \
             `cargo xtask cost --record`",
            dearer.join(", ")
        );
    }
    Ok(())
}

fn is_dearer(count: u64, before: u64) -> bool {
    count.saturating_mul(100) > before.saturating_mul(100 + TOLERANCE)
}

fn read(text: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let line = |line: &str| {
        let (name, count) = line.split_once(' ').with_context(|| format!("no count: {line}"))?;
        Ok((name.to_owned(), count.trim().parse().with_context(|| line.to_owned())?))
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{is_dearer, read};

    #[test]
    fn five_percent_more_is_too_much() {
        let counts = read("heavy 2000\nplain 1000\n").expect("two counts");
        assert_eq!((counts["plain"], counts["heavy"]), (1000, 2000));
        assert!(read("plain many\n").is_err());
        assert!(!is_dearer(1050, 1000) && !is_dearer(10, 1000));
        assert!(is_dearer(1051, 1000));
    }
}
