// SPDX-License-Identifier: Apache-2.0
//! The rules about single source files: licence line, length of files and functions, no
//! glob imports, no ignored tests, and documentation demanded where it is promised.

use std::path::Path;

use anyhow::Context;
use walkdir::WalkDir;

use super::text;

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
const SPDX: &str = "// SPDX-License-Identifier: Apache-2.0";
/// Functions that may be longer, as `file:name`, each with the reason in its own comment.
const LONG_FUNCTIONS: &[&str] = &[];
/// Crates whose every public item is documented.
const DOCUMENTED: &[&str] = &["base", "model", "policy", "store", "xds"];
const PLACES: &[&str] = &["bench", "crates", "fuzz", "xtask"];

/// Every Rust file of the tree: its path from the root, and its text.
pub fn read(root: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut sources = Vec::new();
    for place in PLACES.iter().map(|place| root.join(place)).filter(|place| place.is_dir()) {
        for entry in WalkDir::new(place).sort_by_file_name() {
            let entry = entry.context("cannot walk the tree")?;
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "rs") || is_generated(path) {
                continue;
            }
            let source = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            sources.push((name, source));
        }
    }
    Ok(sources)
}

/// Every violation in these files.
pub fn check(root: &Path, sources: &[(String, String)]) -> anyhow::Result<Vec<String>> {
    let mut found: Vec<String> = sources.iter().flat_map(|(name, source)| violations(name, source)).collect();
    for name in DOCUMENTED {
        let path = root.join("crates").join(name).join("src/lib.rs");
        let source = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if !source.contains("(missing_docs)]") {
            found.push(format!("crates/{name}: lib.rs must warn about missing_docs"));
        }
    }
    Ok(found)
}

/// Build output inside a folder of the tree.
fn is_generated(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "target")
}

/// Whether a whole file is test code: it is a `tests` module or lies below one.
fn is_test(name: &str) -> bool {
    name.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches" | "examples"))
}

fn violations(name: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    if source.lines().next() != Some(SPDX) {
        found.push(format!("{name}: the first line must be `{SPDX}`"));
    }
    let blanked = text::blanked(source);
    if blanked.contains("#[ignore") {
        found.push(format!("{name}: a test that does not run proves nothing: no #[ignore]"));
    }
    if is_test(name) {
        return found;
    }
    let tests = text::test_modules(&blanked);
    let in_test = |at: usize| tests.iter().any(|range| range.contains(&at));
    let test_lines: usize = tests.iter().map(|range| text::lines(source, range)).sum();
    let lines = source.lines().count() - test_lines.min(source.lines().count());
    if lines > MAX_FILE_LINES {
        found.push(format!("{name}: {lines} production lines, at most {MAX_FILE_LINES}"));
    }
    for function in text::functions(&blanked) {
        let lines = text::lines(source, &function.range);
        let listed = LONG_FUNCTIONS.contains(&format!("{name}:{}", function.name).as_str());
        if lines > MAX_FUNCTION_LINES && !listed && !in_test(function.range.start) {
            found.push(format!("{name}: {} has {lines} lines, at most {MAX_FUNCTION_LINES}", function.name));
        }
    }
    for (at, glob) in blanked.match_indices("::*;") {
        let line = blanked.get(..at).and_then(|before| before.lines().next_back()).unwrap_or_default();
        let import = line.trim_start().trim_start_matches("pub ").starts_with("use ");
        if import && !in_test(at) {
            found.push(format!("{name}: `{}{glob}`: name what is imported", line.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{MAX_FUNCTION_LINES, SPDX, violations};

    fn check(name: &str, body: &str, expected: &[&str]) {
        let found = violations(name, &format!("{SPDX}\n{body}"));
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, part) in found.iter().zip(expected) {
            assert!(found.contains(part), "{found} does not contain {part}");
        }
    }

    #[test]
    fn each_rule_is_checked() {
        let long = format!("fn long() {{\n{}}}\n", "x();\n".repeat(MAX_FUNCTION_LINES));
        check("a.rs", "fn short() {}\n", &[]);
        check("a.rs", &long, &["long has 72 lines"]);
        check("a.rs", &format!("#[cfg(test)]\nmod tests {{\nuse super::*;\n{long}}}\n"), &[]);
        check("a/tests.rs", &long, &[]);
        check("a.rs", &"x();\n".repeat(600), &["601 production lines"]);
        check("a.rs", "use super::*;\n", &["name what is imported"]);
        check("a.rs", "#[ignore = \"slow\"]\nfn t() {}\n", &["no #[ignore]"]);
        check("a.rs", "// about #[ignore]\n", &[]);
    }

    #[test]
    fn the_licence_line_comes_first() {
        assert!(violations("a.rs", "//! Doc.\n").iter().any(|found| found.contains("first line")));
    }
}
