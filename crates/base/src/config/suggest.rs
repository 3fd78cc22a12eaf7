// SPDX-License-Identifier: Apache-2.0
//! The nearest known name to a mistyped one, for the line that reports it.

/// Beyond this many edits two names are not the same name mistyped.
const MAX_EDITS: usize = 3;

/// The known name nearest to `wrong`, if any is near enough.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (edits(wrong, name), name))
        .filter(|(count, name)| *count <= MAX_EDITS.min(name.len() / 2))
        .min()
        .map(|(_, name)| name)
}

fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut current = index + 1;
        let mut next = vec![current];
        for (above, to) in row.iter().skip(1).zip(&right) {
            let substituted = diagonal + usize::from(from != *to);
            current = substituted.min(above + 1).min(current + 1);
            diagonal = *above;
            next.push(current);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{edits, nearest};

    #[test]
    fn edits_are_counted() {
        for (left, right, count) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("port", "prot", 2)]
        {
            assert_eq!(edits(left, right), count, "{left} {right}");
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let known = ["router.listener_port", "router.https_port"];
        assert_eq!(nearest("router.listner_port", known.into_iter()), Some("router.listener_port"));
        assert_eq!(nearest("router.nothing_like_it", known.into_iter()), None);
    }
}
