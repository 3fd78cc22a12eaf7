// SPDX-License-Identifier: Apache-2.0
//! Makes sure that PostgreSQL's programs are there before the tests and the demo start
//! servers of their own. Nothing is started here, and a running server of the machine
//! is never touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::programs::install;

/// The oldest PostgreSQL the store supports.
const OLDEST: u32 = 14;
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// Finds the programs, installs them when root may, or says what to install.
pub fn ensure() -> anyhow::Result<()> {
    if let Some((dir, version)) = find() {
        eprintln!("    PostgreSQL {version} in {}", dir.display());
        return Ok(());
    }
    install(&["postgresql"]).with_context(|| format!("PostgreSQL {OLDEST} or newer is needed"))?;
    let (dir, version) = find().context("apt-get installed no PostgreSQL that is new enough")?;
    eprintln!("    PostgreSQL {version} in {}", dir.display());
    Ok(())
}

/// The newest PostgreSQL whose server programs are there.
fn find() -> Option<(PathBuf, u32)> {
    let debian = std::fs::read_dir(DEBIAN_ROOT).into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin")).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    places
        .into_iter()
        .filter(|dir| dir.join("initdb").is_file())
        .filter_map(|dir| version(&dir).map(|version| (dir, version)))
        .filter(|(_, version)| *version >= OLDEST)
        .max_by_key(|(_, version)| *version)
}

fn version(dir: &Path) -> Option<u32> {
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.13 (Debian 15.13-0)` is 15.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL)")?.1.trim_start();
    number.split(|symbol: char| !symbol.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("something else"), None);
    }
}
