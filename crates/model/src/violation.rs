// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a document, all of it at once: each violation names the field
//! in the author's own terms (`spec.operations[2].path`) and says what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One fault at one field of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field path as the author wrote it, for example `spec.context`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Every fault found in one document, in document order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// Records a fault at a field.
    pub fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation { field: field.into(), message: message.into() });
    }

    /// `Ok(value)` when no fault was found, else all of them.
    ///
    /// # Errors
    /// When at least one violation was recorded.
    pub fn into_result<T>(self, value: T) -> Result<T, Violations> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
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
