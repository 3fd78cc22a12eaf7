// SPDX-License-Identifier: Apache-2.0
//! A text that must not be shown. It has neither `Debug` nor `Display` nor
//! serialisation, so the compiler keeps it out of logs, dumps and errors; whoever
//! needs the text says so with [`Secret::expose`].

use subtle::ConstantTimeEq;

/// A password, token or key.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every call is a place where it could leak.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it equals a presented text, in a time that does not depend on where the
    /// two differ. It does depend on the length of the presented text.
    pub fn matches(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn only_the_same_text_matches() {
        let secret = Secret::new("s3cret");
        assert!(secret.matches("s3cret"));
        for other in ["", "s3cre", "s3creT", "s3cret "] {
            assert!(!secret.matches(other), "{other:?}");
        }
    }
}
