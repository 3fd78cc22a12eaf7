// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask scale`: what the number of APIs costs, measured on the release build by
//! the test kit. A run at other sizes than all of them is printed and replaces nothing.

use std::path::Path;

use crate::stage::program;
use crate::{postgres, test};

/// Where the document is whose tables are replaced.
const DOCUMENT: &str = "docs/performance.md";

/// Builds, and measures.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    postgres::ensure()?;
    test::build_release(root)?;
    let target = test::target_directory(root)?;
    let path = |name: &str| target.join("release").join(name).display().to_string();
    let (gateway, document) = (path("ferrogate"), root.join(DOCUMENT).display().to_string());
    let mut all = vec!["--ferrogate".to_owned(), gateway];
    if arguments.is_empty() {
        all.extend(["--document".to_owned(), document]);
    }
    all.extend(arguments.iter().cloned());
    program(root, &path("scale"), &all.iter().map(String::as_str).collect::<Vec<_>>())
}
