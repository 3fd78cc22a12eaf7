// SPDX-License-Identifier: Apache-2.0
//! What the documents of every kind have in common: `kind` and `metadata` (contract 3.1).
//! Message texts that the contract quotes are kept to the letter.

use std::collections::BTreeMap;

use crate::fields::{Fields, Findings};
use crate::{Handle, Kind, NameError};

/// The most labels, and the most annotations, of one artifact.
pub const MAX_MAP_ENTRIES: usize = 256;
/// The annotation that pins an artifact's internal id (contract 2.2).
pub const ARTIFACT_ID: &str = "gateway.api-platform.wso2.com/artifact-id";

/// `metadata` of a document; the handle is `None` when a violation says why.
pub(crate) struct Metadata {
    pub(crate) handle: Option<Handle>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Fields<'_> {
    /// Checks `kind` of the document whose root this is.
    pub(crate) fn kind(&self, kind: Kind, found: &mut Findings) {
        let name = kind.document_name();
        if self.text("kind", found).as_deref() != Some(name) {
            found.violations.push("kind", format!("Unsupported kind (must be '{name}')"));
        }
    }

    /// Reads `metadata` of the document whose root this is.
    pub(crate) fn metadata(&self, found: &mut Findings) -> Metadata {
        let fields = self.fields("metadata", found);
        fields.only(&["name", "labels", "annotations"], found);
        let handle = match Handle::try_new(&fields.text("name", found).unwrap_or_default()) {
            Ok(handle) => Some(handle),
            Err(error) => {
                found.violations.push(fields.path("name"), name_message(&error));
                None
            }
        };
        let labels = fields.texts("labels", MAX_MAP_ENTRIES, found);
        for key in labels.keys().filter(|key| key.contains(char::is_whitespace)) {
            let message = format!(
                "Label key '{key}' contains whitespace characters. Label keys must not contain any whitespace."
            );
            found.violations.push(fields.path("labels"), message);
        }
        let annotations = fields.texts("annotations", MAX_MAP_ENTRIES, found);
        if annotations.get(ARTIFACT_ID).is_some_and(|id| uuid::Uuid::parse_str(id).is_err()) {
            let message = format!("Annotation '{ARTIFACT_ID}' must be a UUID");
            found.violations.push(fields.path("annotations"), message);
        }
        Metadata { handle, labels, annotations }
    }
}

fn name_message(error: &NameError) -> String {
    match error {
        NameError::Empty => "Metadata name is required".to_owned(),
        NameError::BadCharacter => {
            "metadata.name must not contain whitespace, '/', '}', or control characters".to_owned()
        }
        NameError::TooLong | NameError::Dots | NameError::UnknownKind(_) | NameError::NoSlash(_) => {
            error.to_string()
        }
    }
}
