// SPDX-License-Identifier: Apache-2.0
//! The templates in a document's texts. What is rendered keeps the limit; a secret that
//! was put into a text is told to whoever must hide it; an error names no value.

use ferrogate_model::template::{MAX_RENDERED_BYTES, render};
use serde_json::json;

use crate::Target;
use crate::documents::{SECRET, World};

/// The target.
pub const TARGET: Target = Target {
    name: "template",
    run,
    rounds: 12000,
    words: &[
        "{{",
        "}}",
        "{{- ",
        " -}}",
        "{{/*",
        "*/}}",
        "env ",
        "secret ",
        "default ",
        "required ",
        "redact ",
        "upper",
        "lower",
        "trim",
        "replace ",
        " | ",
        "(",
        ")",
        "\"a\"",
        "\"\"",
        "`raw`",
        "\\\"",
        "\\u00e9",
        "\\x41",
        ".Values",
        "$x",
        "{{ secret \"db\" }}",
        "{{ env \"NONE\" | default (secret \"x\") }}",
    ],
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // An author who knows the secret may write it wherever he likes, in whatever case.
    if text.to_lowercase().contains(SECRET) {
        return;
    }
    let document = json!({"metadata": {"name": text}, "spec": {"a": text, "b": [text]}});
    match render(&document, &World) {
        Ok(rendered) => {
            assert_eq!(rendered.value["metadata"], document["metadata"], "only below spec");
            let shown = rendered.value["spec"]["a"].as_str().unwrap_or_default();
            assert!(shown.len() <= MAX_RENDERED_BYTES);
            let hidden = rendered.secrets.iter().any(|secret| secret == SECRET);
            assert!(hidden || !shown.contains(SECRET), "a secret nobody was told of");
            assert!(rendered.secrets.iter().all(|secret| !secret.is_empty()));
            if !text.contains("{{") {
                assert_eq!(shown, text);
            }
        }
        Err(error) => assert!(!error.to_string().contains(SECRET), "an error shows a secret"),
    }
}
