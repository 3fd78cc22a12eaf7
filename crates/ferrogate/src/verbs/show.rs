// SPDX-License-Identifier: Apache-2.0
//! How answers look: JSON and YAML for programs, aligned columns for people. Colour is
//! used only on a terminal, and not when `NO_COLOR` asks for none.

use std::io::IsTerminal;

use anyhow::Context;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use crate::cli::Output;
use crate::output;

/// Prints a whole answer.
pub fn document(value: &Value, format: Output) -> anyhow::Result<()> {
    match format {
        Output::Json | Output::Table => output::line(&serde_json::to_string_pretty(value)?)?,
        Output::Yaml => output::text(&yaml(value)?)?,
    }
    Ok(())
}

/// Prints the answers about as many things as were named: one as it is, several as one list.
pub fn several(answers: Vec<Value>, named: usize, format: Output) -> anyhow::Result<()> {
    if named > 1 {
        return document(&Value::Array(answers), format);
    }
    answers.iter().try_for_each(|answer| document(answer, format))
}

/// A value as YAML, ending in a newline.
pub fn yaml(value: &Value) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value).context("the answer cannot be shown as YAML")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Rows below a header, columns aligned.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec()).add_rows(rows);
    table.trim_fmt()
}

/// A list inside an answer; empty when it is not there.
pub fn items<'a>(body: &'a Value, name: &str) -> &'a [Value] {
    body.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A field as text; empty when it is not there.
pub fn field(value: &Value, name: &str) -> String {
    text(value.get(name))
}

/// A scalar as text; empty when it is not there.
pub fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Whether standard output takes colour.
pub fn colour() -> bool {
    // An empty NO_COLOR counts as unset, by its own convention.
    let refused = std::env::vars_os().any(|(name, value)| name == "NO_COLOR" && !value.is_empty());
    std::io::stdout().is_terminal() && !refused
}

#[cfg(test)]
mod tests {
    use super::{table, yaml};
    use serde_json::json;

    #[test]
    fn tables_are_aligned() {
        let shown = table(
            &["NAME", "N"],
            [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "22".to_owned()]],
        );
        let lines: Vec<_> = shown.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 3, "{shown}");
        let column = lines.first().and_then(|line| line.find(" N")).unwrap() + 1;
        assert!(lines.iter().all(|line| line.len() > column && line.as_bytes()[column] != b' '), "{shown}");
    }

    #[test]
    fn yaml_ends_in_one_newline() {
        assert_eq!(yaml(&json!({ "a": 1 })).unwrap(), "a: 1\n");
    }
}
