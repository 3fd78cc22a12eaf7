// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a document, all of it at once: each violation names the field
//! in the author's own terms (`spec.operations[2].path`) and says what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a warning about something without effect ends with; whoever refuses it leaves that off.
pub const IGNORED: &str = ", ignored";

/// One fault at one field of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field path as the author wrote it, for example `spec.context`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Every fault found in one document, in the contract's order (3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// Records a fault at a field.
    pub fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation { field: field.into(), message: message.into() });
    }

    /// Puts them in the order in which the contract tells them, and those of policies in the
    /// order of the policies: they are not all found in one pass.
    pub fn arrange(&mut self) {
        self.0.sort_by_cached_key(|violation| place(&violation.field));
    }

    /// `Ok(value)` when no fault was found, else all of them.
    ///
    /// # Errors
    /// When at least one violation was recorded.
    pub fn into_result<T>(self, value: T) -> Result<T, Violations> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

/// The parts of a document in the contract's order, and where what it does not name stands;
/// `spec` is what is left of it.
const PARTS: [&str; 16] = [
    "apiVersion",
    "kind",
    "spec.displayName",
    "spec.version",
    "spec.context",
    "spec.upstreamDefinitions",
    "spec.upstream.main",
    "spec.upstream.sandbox",
    "spec.upstream",
    "spec.vhosts",
    "spec.resilience",
    "spec.operations",
    "spec.policies",
    OWN_POLICIES,
    "spec",
    "metadata",
];
/// The policies of operations, which come behind those of the API.
const OWN_POLICIES: &str = "operations' policies";

/// Where a field stands: its part of the document and, below policies, the indices on the way.
/// Within any other part the order in which faults were found is the document's.
fn place(field: &str) -> (usize, Vec<usize>) {
    let mut indices = Vec::new();
    let mut part = field;
    if let Some((operation, policy)) = field.split_once("].policies") {
        part = OWN_POLICIES;
        indices.extend(index(operation));
        indices.extend(index(policy));
    } else if field.starts_with("spec.policies[") {
        indices.extend(index(field));
    }
    let is_below = |outer: &str| {
        part.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    (PARTS.iter().position(|outer| is_below(outer)).unwrap_or(PARTS.len()), indices)
}

/// The first index in a path.
fn index(path: &str) -> Option<usize> {
    let (_, rest) = path.split_once('[')?;
    rest.split(']').next()?.parse().ok()
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}: {}", violation.field, violation.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

#[cfg(test)]
mod tests {
    use super::Violations;

    #[test]
    fn violations_stand_in_the_contract_s_order() {
        let wanted = [
            "kind",
            "spec.displayName",
            "spec.version",
            "spec.context",
            "spec.upstreamDefinitions[0].name",
            "spec.upstream.main.url",
            "spec.upstream.sandbox",
            "spec.resilience.timeout",
            "spec.operations[10].path",
            // As they were found: an operation's own faults are not sorted.
            "spec.operations[2].path",
            "spec.policies",
            "spec.policies[2].params.a",
            "spec.policies[10].name",
            "spec.operations[2].policies[0].version",
            "spec.operations[10].policies[1].version",
            "spec.operations[10].policies[2].params.x[3].policies[0]",
            "spec.subscriptionPlans[0]",
            "metadata.name",
        ];
        let mut violations = Violations::default();
        // The two operations keep their order, whatever else is moved around them.
        let (operations, others): (Vec<&str>, Vec<&str>) =
            wanted.iter().partition(|field| field.ends_with("].path"));
        for field in operations.into_iter().chain(others.into_iter().rev()) {
            violations.push(field, "");
        }
        violations.arrange();
        let got: Vec<&str> = violations.0.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(got, wanted);
    }
}
