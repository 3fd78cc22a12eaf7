// SPDX-License-Identifier: Apache-2.0
//! The difference of two texts, line by line, by their longest common subsequence.

/// Two texts whose product of line counts is larger are shown as replaced whole: the table
/// takes four bytes per pair of lines.
const MAX_PAIRS: usize = 16_000_000;

/// One line of the difference.
#[derive(Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    /// In both.
    Same(&'a str),
    /// In the first only.
    Removed(&'a str),
    /// In the second only.
    Added(&'a str),
}

/// Every line of both texts, in order.
pub fn compare<'a>(old: &'a str, new: &'a str) -> Vec<Edit<'a>> {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    let width = new.len() + 1;
    let mut edits = Vec::new();
    if old.len().saturating_mul(width) > MAX_PAIRS {
        edits.extend(old.into_iter().map(Edit::Removed));
        edits.extend(new.into_iter().map(Edit::Added));
        return edits;
    }
    // common[i * width + j] is how many lines the tails from i and j have in common.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let longest = if left == right {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(slot) = common.get_mut(i * width + j) {
                *slot = longest;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(left), Some(right)) if left == right => {
                edits.push(Edit::Same(left));
                i += 1;
                j += 1;
            }
            (Some(left), right) if right.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                edits.push(Edit::Removed(left));
                i += 1;
            }
            (_, Some(right)) => {
                edits.push(Edit::Added(right));
                j += 1;
            }
            (_, None) => return edits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Edit, compare};

    fn check(old: &str, new: &str, expected: &str) {
        let shown: Vec<String> = compare(old, new)
            .iter()
            .map(|edit| match edit {
                Edit::Same(line) => format!(" {line}"),
                Edit::Removed(line) => format!("-{line}"),
                Edit::Added(line) => format!("+{line}"),
            })
            .collect();
        assert_eq!(shown.join(","), expected);
    }

    #[test]
    fn lines_are_matched() {
        check("", "", "");
        check("a\nb", "a\nb", " a, b");
        check("a\nb\nc", "a\nx\nc", " a,-b,+x, c");
        check("", "a\nb", "+a,+b");
        check("a\nb", "", "-a,-b");
        check("a\nb\nc\nd", "b\nd\ne", "-a, b,-c, d,+e");
    }
}
