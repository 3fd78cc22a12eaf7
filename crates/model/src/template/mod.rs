// SPDX-License-Identifier: Apache-2.0
//! Templates in documents (contract 3.6): `{{ … }}` in the text values below `spec`,
//! a small subset of Go's text/template with a fixed list of functions. Rendering is
//! pure: what a template may look up is handed in. The controller renders before it
//! validates; sources keep their templates, payloads never have any.

mod eval;
mod lexer;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;

use serde_json::Value;

/// The longest text that one document's templates may add up to.
pub const MAX_RENDERED_BYTES: usize = 4 * 1024 * 1024;
/// The most templates in one document.
pub const MAX_ACTIONS: usize = 10_000;
/// The deepest nesting of parentheses.
pub const MAX_NESTING: usize = 32;
/// The most faults told at once; after these the author has enough to do.
const MAX_FAULTS: usize = 20;

/// What templates may look up.
pub trait Lookup {
    /// An environment variable of the controller.
    fn env(&self, name: &str) -> Option<String>;

    /// A secret, decrypted.
    fn secret(&self, handle: &str) -> Option<String>;
}

/// A document after its templates, and what of it must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The document.
    pub value: Value,
    /// Every secret and redacted text in it, sorted, none empty: logs and dumps replace them.
    pub secrets: Vec<String>,
    /// The handles of the secrets it names.
    pub references: BTreeSet<String>,
}

/// Every template of a document that cannot be rendered, in the document's order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateErrors(pub Vec<TemplateError>);

/// A template that cannot be rendered. Its text names no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A secret does not exist.
    #[error("failed to resolve secret \"{handle}\": secret not found (in {field})")]
    MissingSecret {
        /// The field whose text names it.
        field: String,
        /// Which.
        handle: String,
    },
    /// It is no template, or calls what is no function.
    #[error("{message} (in {field})")]
    Syntax {
        /// The field whose text it is.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A well-formed template found something wrong.
    #[error("Failed to render configuration: {message} (in {field})")]
    Render {
        /// The field whose text it is.
        field: String,
        /// What is wrong.
        message: String,
    },
}

/// Renders the templates of a document's `spec`; everything else is left as it is.
///
/// # Errors
/// With every template that cannot be rendered; at a limit with those before it.
pub fn render(document: &Value, lookup: &dyn Lookup) -> Result<Rendered, TemplateErrors> {
    let mut value = document.clone();
    let mut state = State { lookup, secrets: Vec::new(), references: BTreeSet::new(), actions: 0, bytes: 0 };
    let mut faults = Vec::new();
    if let Some(spec) = value.get_mut("spec") {
        // Where it ended early the faults say why.
        let _ended = render_value(spec, "spec", &mut state, &mut faults);
    }
    if !faults.is_empty() {
        return Err(TemplateErrors(faults));
    }
    let mut secrets = state.secrets;
    secrets.retain(|secret| !secret.is_empty());
    secrets.sort();
    secrets.dedup();
    Ok(Rendered { value, secrets, references: state.references })
}

/// What one rendering has used and found so far.
struct State<'l> {
    lookup: &'l dyn Lookup,
    secrets: Vec<String>,
    references: BTreeSet<String>,
    actions: usize,
    bytes: usize,
}

/// A fault inside one text, before the field is known.
enum Fault {
    MissingSecret(String),
    Syntax(String),
    Render(String),
    /// As `Render`, and every further template would say the same.
    Limit(String),
}

/// Documents are at most `document::MAX_DEPTH` deep, so recursion is bounded.
fn render_value(
    value: &mut Value,
    path: &str,
    state: &mut State<'_>,
    faults: &mut Vec<TemplateError>,
) -> ControlFlow<()> {
    match value {
        Value::String(text) if text.contains("{{") => match render_text(text, state) {
            Ok(rendered) => *text = rendered,
            Err(fault) => {
                let limit = matches!(fault, Fault::Limit(_));
                faults.push(fault.at(path));
                if limit || faults.len() >= MAX_FAULTS {
                    return ControlFlow::Break(());
                }
            }
        },
        Value::Array(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                render_value(element, &format!("{path}[{index}]"), state, faults)?;
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut() {
                render_value(field, &format!("{path}.{key}"), state, faults)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    ControlFlow::Continue(())
}

fn render_text(text: &str, state: &mut State<'_>) -> Result<String, Fault> {
    let mut rendered = String::with_capacity(text.len());
    for part in lexer::parts(text)? {
        match part {
            lexer::Part::Text(text) => rendered.push_str(text),
            lexer::Part::Action(tokens) => {
                state.actions += 1;
                if state.actions > MAX_ACTIONS {
                    return Err(Fault::Limit(format!("more than {MAX_ACTIONS} templates in one document")));
                }
                rendered.push_str(&eval::action(&tokens, state)?);
            }
        }
        if state.bytes + rendered.len() > MAX_RENDERED_BYTES {
            return Err(Fault::Limit(format!("the result is longer than {MAX_RENDERED_BYTES} bytes")));
        }
    }
    state.bytes += rendered.len();
    Ok(rendered)
}

impl TemplateErrors {
    /// Whether one of them is a secret that is not there; perhaps not yet.
    #[must_use]
    pub fn miss_a_secret(&self) -> bool {
        self.0.iter().any(|one| matches!(one, TemplateError::MissingSecret { .. }))
    }
}

impl fmt::Display for TemplateErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TemplateErrors {}

impl Fault {
    fn at(self, path: &str) -> TemplateError {
        let field = path.to_owned();
        match self {
            Fault::MissingSecret(handle) => TemplateError::MissingSecret { field, handle },
            Fault::Syntax(message) => TemplateError::Syntax { field, message },
            Fault::Render(message) | Fault::Limit(message) => TemplateError::Render { field, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use serde_json::{Value, json};

    use super::{Lookup, render};

    struct World;

    impl Lookup for World {
        fn env(&self, name: &str) -> Option<String> {
            match name {
                "HOST" => Some("books.internal".to_owned()),
                "SPACED" => Some("  x  ".to_owned()),
                "BRACES" => Some("{{ secret \"db\" }}".to_owned()),
                _ => None,
            }
        }

        fn secret(&self, handle: &str) -> Option<String> {
            (handle == "db").then(|| "s3cret".to_owned())
        }
    }

    fn check(text: &str, want: Result<&str, &str>) {
        let rendered = render(&json!({"spec": {"a": [text]}}), &World);
        match (rendered, want) {
            (Ok(rendered), Ok(want)) => assert_eq!(rendered.value, json!({"spec": {"a": [want]}}), "{text}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{text}: {error} should contain {part}");
            }
            (Ok(rendered), Err(part)) => panic!("{text} gave {:?}, want error {part}", rendered.value),
            (Err(error), Ok(_)) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn the_functions_of_contract_3_6() {
        check(r#"http://{{ env "HOST" }}:80"#, Ok("http://books.internal:80"));
        check(r#"{{env "NONE"}}|"#, Ok("|"));
        check(r#"{{ env "NONE" | default "y" }}"#, Ok("y"));
        check(r#"{{ env "HOST" | default "y" }}"#, Ok("books.internal"));
        check(r#"{{ default "y" (env "NONE") }}"#, Ok("y"));
        check(r#"{{ secret "db" }}"#, Ok("s3cret"));
        check(r#"{{ "aBc" | upper }}{{ lower "aBc" }}{{ env "SPACED" | trim }}"#, Ok("ABCabcx"));
        check(r#"{{ replace "." "-" (env "HOST") | upper }}"#, Ok("BOOKS-INTERNAL"));
        check(r#"{{ "a" | redact }}"#, Ok("a"));
        check(r#"{{ required "m" "x" }}{{ "\u0041\n\"" }}{{ `r\n` }}"#, Ok("xA\n\"r\\n"));
        check(r#"{{ "a" | replace "a" "b" | (upper) }}"#, Err("unexpected"));
        check("plain } text {", Ok("plain } text {"));
    }

    #[test]
    fn spaces_comments_and_results_are_handled_as_in_go() {
        check("a  {{- \"b\" -}}  c", Ok("abc"));
        check("a {{/* note */}} b", Ok("a  b"));
        check("a {{- /* note */ -}} b", Ok("ab"));
        check(r#"{{ env "BRACES" }}"#, Ok(r#"{{ secret "db" }}"#));
        check("{{ \"}}\" }}", Ok("}}"));
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_field() {
        check(r#"{{ secret "none" }}"#, Err(r#"failed to resolve secret "none": "#));
        check(r#"{{ nope "x" }}"#, Err(r#"function "nope" not defined"#));
        check(r#"{{ required "no host" (env "NONE") }}"#, Err("required value missing: no host"));
        check(r#"{{ required "no host" (env "NONE") }}"#, Err("Failed to render configuration: "));
        check(r#"{{ env "A" "#, Err("unclosed action"));
        check(r#"{{ env "A }}"#, Err("unterminated"));
        check("{{ env \"A\n\" }}", Err("unterminated"));
        check("{{ }}", Err("missing value"));
        check("{{ env }}", Err("wrong number of args for env: want 1 got 0"));
        check(r#"{{ upper "a" "b" }}"#, Err("wrong number of args for upper: want 1 got 2"));
        check(r#"{{ "a" "b" }}"#, Err("unexpected"));
        check(r#"{{ "a" | "b" }}"#, Err("unexpected"));
        check(r#"{{ "a" | }}"#, Err("missing value"));
        check(r#"{{ (env "A" }}"#, Err("unclosed left paren"));
        check(r#"{{ env "A") }}"#, Err("unexpected right paren"));
        check("{{ .Values }}", Err("unexpected"));
        check("{{ if true }}", Err("not defined"));
        check(r#"{{ "\q" }}"#, Err("escape"));
        check(r#"{{ nope }}"#, Err("spec.a[0]"));
        check(&format!("{{{{ {}\"a\"{} }}}}", "(".repeat(99), ")".repeat(99)), Err("nested"));
        check(
            r#"{{ replace "" "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            | replace "x" "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
            | replace "y" "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
            | replace "z" "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz" }}"#,
            Err("longer than"),
        );
    }

    #[test]
    fn the_faults_of_all_templates_are_told_with_their_fields() {
        let document = json!({"spec": {
            "a": "{{ secret \"none\" }}",
            "b": [{"c": "{{ secret \"db\" }}"}, "{{ required \"no host\" (env \"NONE\") }}"],
            "d": "{{ printf \"x\" }}",
        }});
        let Err(errors) = render(&document, &World) else { panic!("three faults") };
        assert!(errors.miss_a_secret());
        assert_eq!(
            errors.to_string(),
            "failed to resolve secret \"none\": secret not found (in spec.a); \
             Failed to render configuration: required value missing: no host (in spec.b[1]); \
             function \"printf\" not defined (in spec.d)"
        );
        let Err(errors) = render(&json!({"spec": vec!["{{ nope }}"; 1000]}), &World) else {
            panic!("faults")
        };
        assert_eq!(errors.0.len(), super::MAX_FAULTS);
    }

    #[test]
    fn only_text_below_spec_is_rendered_and_secrets_are_told() {
        let document = json!({
            "kind": "{{ secret \"db\" }}",
            "metadata": {"name": "{{ nope }}"},
            "spec": {"{{ nope }}": 1, "list": ["{{ secret \"db\" }}-{{ secret \"db\" | upper }}", {"x": "{{ redact \"r\" }}"}]},
        });
        let rendered = render(&document, &World).expect("all templates are sound");
        assert_eq!(rendered.value["metadata"], document["metadata"]);
        assert_eq!(rendered.value["kind"], document["kind"]);
        assert_eq!(rendered.value["spec"]["list"], json!(["s3cret-S3CRET", {"x": "r"}]));
        assert_eq!(rendered.secrets, ["S3CRET", "r", "s3cret"]);
        assert_eq!(rendered.references.iter().collect::<Vec<_>>(), ["db"]);
        let untouched = render(&Value::Null, &World).expect("no spec, no template");
        assert!(untouched.value.is_null() && untouched.secrets.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), inner in "[a-z\"\\\\`|() .{}\\-/*é]{0,24}") {
            for text in [text, inner.clone(), format!("a {{{{{inner}}}}} b"), format!("{{{{- {inner} -}}}}")] {
                let rendered = render(&json!({"spec": text}), &World);
                assert!(text.contains("{{") || rendered.is_ok_and(|rendered| rendered.value["spec"] == text));
            }
        }
    }
}
