// SPDX-License-Identifier: Apache-2.0
//! Every test that a text names as the proof of something must exist: a promise held by a
//! test that was renamed or dropped is held by nothing.

use std::collections::BTreeSet;
use std::path::Path;

/// The texts, and from which heading on tests are named there.
const TEXTS: &[(&str, &str)] = &[
    ("docs/reliability.md", "# "),
    ("docs/compatibility.md", "## The weaknesses of appendix A"),
    ("SECURITY.md", "# "),
    ("docs/traffic.md", "# "),
];
/// A name with fewer parts may be anything.
const PARTS: usize = 4;

/// Every test named in the texts that no source has.
pub fn check(root: &Path, sources: &[(String, String)]) -> Vec<String> {
    let there: BTreeSet<&str> = sources.iter().flat_map(|(_, source)| functions(source)).collect();
    let mut missing = Vec::new();
    for (name, heading) in TEXTS {
        let text = match std::fs::read_to_string(root.join(name)) {
            Ok(text) => text,
            Err(error) => {
                missing.push(format!("{name}: {error}"));
                continue;
            }
        };
        let Some((_, text)) = text.split_once(heading) else {
            missing.push(format!("{name}: it has no heading {heading:?}"));
            continue;
        };
        let absent = named(text).filter(|test| !there.contains(test));
        missing.extend(absent.map(|test| format!("{name}: there is no test {test}")));
    }
    missing
}

/// The sentences that stand as one word in back quotes, alone, behind their module or at the end
/// of a command.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    let names = quoted.map(|word| word.rsplit("::").next().unwrap_or(word));
    names.filter(|word| {
        word.split('_').count() >= PARTS
            && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

/// The names of all functions.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    let words = source.split("fn ").skip(1);
    words.filter_map(|rest| rest.split(['(', '<']).next())
}

#[cfg(test)]
mod tests {
    use super::{functions, named};

    #[test]
    fn tests_are_told_from_other_words() {
        let text = "store `a_test_that_holds`, `a_setting`, `limits::a_test_of_a_module`; `cargo test -p x one_more_of_them`, `docs/a_b_c_d.md`";
        assert_eq!(
            named(text).collect::<Vec<_>>(),
            ["a_test_that_holds", "a_test_of_a_module", "one_more_of_them"]
        );
        let source = "#[test]\nfn a_test_that_holds() {}\nasync fn generic<T>(of: T) {}";
        assert_eq!(functions(source).collect::<Vec<_>>(), ["a_test_that_holds", "generic"]);
    }
}
