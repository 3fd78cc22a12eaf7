// SPDX-License-Identifier: Apache-2.0
//! The documents a user names on the command line: files, folders, standard input. Each
//! keeps where it came from, so that a fault is reported with its file.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ferrogate_model::document::{Format, parse_many};
use serde_json::Value;

/// What is sent in one request is bounded by the controller; this keeps a mistyped path
/// from being read into memory first.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
const MAX_FOLDER_DEPTH: usize = 32;

/// A document and where it was found.
#[derive(Debug)]
pub struct Document {
    /// The file, with the document's place in it when it holds several.
    pub origin: String,
    /// Its content.
    pub value: Value,
}

/// Reads every document of every place, in order.
pub fn read(places: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut found = Vec::new();
    for place in places {
        if place.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .take(MAX_FILE_BYTES)
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            found.extend(parse("standard input", &text, Format::Either)?);
            continue;
        }
        let mut files = Vec::new();
        collect(place, 0, &mut files)?;
        if files.is_empty() {
            bail!("{}: no *.yaml, *.yml or *.json in it", place.display());
        }
        for file in files {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
            let json = file.extension().is_some_and(|extension| extension == "json");
            found.extend(parse(&name, &text, if json { Format::Json } else { Format::Yaml })?);
        }
    }
    if found.is_empty() {
        bail!("there is no document to work with");
    }
    Ok(found)
}

/// The files of a place in path order; a file named directly may have any name.
fn collect(place: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read {}", place.display());
    let metadata = std::fs::metadata(place).with_context(unreadable)?;
    if !metadata.is_dir() {
        if metadata.len() > MAX_FILE_BYTES {
            bail!("{} is longer than {MAX_FILE_BYTES} bytes", place.display());
        }
        files.push(place.to_owned());
        return Ok(());
    }
    if depth >= MAX_FOLDER_DEPTH {
        bail!("{}: folders are nested too deeply", place.display());
    }
    let entries: Result<Vec<_>, _> = std::fs::read_dir(place).with_context(unreadable)?.collect();
    let mut entries: Vec<PathBuf> =
        entries.with_context(unreadable)?.iter().map(std::fs::DirEntry::path).collect();
    entries.sort();
    for entry in entries {
        let known = entry.extension().is_some_and(|name| name == "yaml" || name == "yml" || name == "json");
        if known || entry.is_dir() {
            collect(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

fn parse(name: &str, text: &str, format: Format) -> anyhow::Result<Vec<Document>> {
    let values = parse_many(text, format).with_context(|| name.to_owned())?;
    let several = values.len() > 1;
    let named = |(index, value)| Document {
        origin: if several { format!("{name}, document {}", index + 1) } else { name.to_owned() },
        value,
    };
    Ok(values.into_iter().enumerate().map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn folders_are_read_in_path_order_and_faults_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.yaml"), "name: two\n---\nname: three\n").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "{{{").unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/one.json"), r#"{"name":"one"}"#).unwrap();
        let found = read(&[dir.path().to_owned()]).unwrap();
        let names: Vec<_> = found.iter().map(|document| document.value["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["one", "two", "three"]);
        assert!(found[2].origin.ends_with("b.yaml, document 2"), "{}", found[2].origin);

        std::fs::write(dir.path().join("c.yaml"), "a: [").unwrap();
        let error = format!("{:#}", read(&[dir.path().to_owned()]).unwrap_err());
        assert!(error.contains("c.yaml"), "{error}");
        let error = format!("{:#}", read(&["/no/such/place".into()]).unwrap_err());
        assert!(error.contains("cannot read /no/such/place"), "{error}");
    }
}
