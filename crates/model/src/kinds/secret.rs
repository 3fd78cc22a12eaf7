// SPDX-License-Identifier: Apache-2.0
//! The Secret artifact (contract 2.7): a value that the templates of other artifacts
//! name. Its document is told to its readers without the value; the value is in the
//! payload alone, which the controller seals, and never leaves the controllers except
//! as what a template made of it. Templates in a secret itself are plain text.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fields::{Fields, Findings, Refusal};
use crate::{Handle, Kind, Violations};

/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 10_240;
const MAX_DISPLAY_NAME_CHARS: usize = 253;
const MAX_DESCRIPTION_CHARS: usize = 1_024;

/// A secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// `metadata.name`.
    pub handle: Handle,
    /// `spec.displayName`.
    pub display_name: String,
    /// `spec.description`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `spec.value`.
    pub value: String,
}

/// A secret, and what in its document has no effect.
#[derive(Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The secret.
    pub secret: Secret,
    /// Unknown fields, each with its path.
    pub warnings: Violations,
}

/// The value is left out: what is printed may be kept.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Secret {
    /// Reads a document's value.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`] when a field has the wrong type, [`Refusal::Invalid`] with every
    /// violation when the document breaks rules. Neither quotes the value.
    pub fn parse(document: &Value) -> Result<Parsed, Refusal> {
        let mut found = Findings::default();
        let root = Fields::of(document, String::new(), &mut found);
        root.only(&["apiVersion", "kind", "metadata", "spec", "status"], &mut found);
        root.text("apiVersion", &mut found);
        root.kind(Kind::Secret, &mut found);
        let spec = root.fields("spec", &mut found);
        spec.only(&["displayName", "description", "value"], &mut found);
        let display_name = display_name(&spec, &mut found);
        let description = spec.text("description", &mut found);
        if description.as_ref().is_some_and(|text| text.chars().count() > MAX_DESCRIPTION_CHARS) {
            let message = format!("Description must be at most {MAX_DESCRIPTION_CHARS} characters");
            found.violations.push(spec.path("description"), message);
        }
        let value = spec.text("value", &mut found).unwrap_or_default();
        if value.is_empty() {
            found.violations.push(spec.path("value"), "Secret value is required");
        } else if value.len() > MAX_VALUE_BYTES {
            let message = format!("Secret value must be 1-{MAX_VALUE_BYTES} bytes");
            found.violations.push(spec.path("value"), message);
        }
        let metadata = root.metadata(&mut found);
        let warnings = found.finish()?;
        let handle = metadata.handle.expect("a name that is no handle is a violation");
        Ok(Parsed { secret: Secret { handle, display_name, description, value }, warnings })
    }

    /// The document without its value: what is kept in the clear and told to readers.
    #[must_use]
    pub fn concealed(mut document: Value) -> Value {
        if let Some(Value::Object(spec)) = document.get_mut("spec") {
            spec.remove("value");
        }
        document
    }

    /// The document with the value in its place again.
    #[must_use]
    pub fn revealed(&self, mut document: Value) -> Value {
        if let Some(Value::Object(spec)) = document.get_mut("spec") {
            spec.insert("value".to_owned(), Value::String(self.value.clone()));
        }
        document
    }
}

fn display_name(spec: &Fields<'_>, found: &mut Findings) -> String {
    let name = spec.text("displayName", found).unwrap_or_default();
    let path = spec.path("displayName");
    if name.is_empty() {
        found.violations.push(path, "Secret display name is required");
        return name;
    }
    if name.chars().count() > MAX_DISPLAY_NAME_CHARS {
        let message = format!("Secret display name must be 1-{MAX_DISPLAY_NAME_CHARS} characters");
        found.violations.push(path.clone(), message);
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ')) {
        found.violations.push(
            path,
            "Secret display name must be URL-friendly \
             (only letters, numbers, spaces, hyphens, underscores, and dots allowed)",
        );
    }
    name
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{MAX_VALUE_BYTES, Secret};
    use crate::Refusal;
    use crate::kinds::Artifact;

    fn sound() -> Value {
        json!({
            "apiVersion": "gateway.api-platform.wso2.com/v1",
            "kind": "Secret",
            "metadata": {"name": "db-password"},
            "spec": {"displayName": "DB password", "description": "of the books", "value": "s3cret {{ x }}"},
        })
    }

    fn fields(document: &Value) -> Vec<String> {
        match Secret::parse(document) {
            Err(Refusal::Invalid(violations)) => {
                assert!(!violations.to_string().contains("s3cret"), "{violations}");
                violations.0.into_iter().map(|one| one.field).collect()
            }
            Err(Refusal::Unreadable(error)) => vec![error.to_string()],
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn a_secret_is_read_whole_and_shown_without_its_value() {
        let secret = Secret::parse(&sound()).expect("a sound document").secret;
        assert_eq!((secret.handle.as_str(), secret.value.as_str()), ("db-password", "s3cret {{ x }}"));
        let concealed = Secret::concealed(sound());
        assert!(!concealed.to_string().contains("s3cret") && !format!("{secret:?}").contains("s3cret"));
        assert_eq!(secret.revealed(concealed), sound());
        let artifact = Artifact::Secret(secret);
        let back = Artifact::from_payload(artifact.kind(), artifact.to_payload().as_bytes());
        assert_eq!(back.expect("its own payload"), artifact);
    }

    #[test]
    fn every_fault_is_told_at_its_field() {
        let mut empty = sound();
        empty["spec"] = json!({});
        empty["metadata"] = json!({"name": "a b"});
        empty["kind"] = json!("RestApi");
        assert_eq!(fields(&empty), ["kind", "spec.displayName", "spec.value", "metadata.name"]);
        let mut long = sound();
        long["spec"]["value"] = json!("s3cret".repeat(MAX_VALUE_BYTES));
        long["spec"]["displayName"] = json!("a/b".repeat(100));
        long["spec"]["description"] = json!("é".repeat(1_025));
        assert_eq!(fields(&long), ["spec.displayName", "spec.displayName", "spec.description", "spec.value"]);
        long["spec"]["value"] = json!({"s3cret": 1});
        assert!(fields(&long).concat().contains("spec.value: expected text"), "{:?}", fields(&long));
    }
}
