//! What docs/protocol.md says in tables, and what the sources say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A row of the table of versions.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) value: String,
    pub(crate) constant: String,
    pub(crate) file: String,
}

/// Returns the versions that the document names: of constants, with the file of each.
pub(crate) fn versions(document: &str) -> Vec<Version> {
    let rows = rows(section(document, "## Versions"));
    let version = |row: &Vec<String>| {
        let [_, value, place, ..] = row.as_slice() else { return None };
        let (constant, file) = place.split_once(" in ")?;
        let constant = constant.trim_matches('`').to_owned();
        let is_constant =
            constant.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
        let value = value.trim_matches('`').to_owned();
        is_constant.then(|| Version { value, constant, file: file.to_owned() })
    };
    rows.iter().filter_map(version).collect()
}

/// Returns the value that a constant has in a source, without the signs of its type.
pub(crate) fn constant(source: &str, name: &str) -> Option<String> {
    let line = source.lines().find(|line| line.contains(&format!("const {name}: ")))?;
    let value = line.split_once(" = ")?.1.trim_end_matches(';');
    Some(value.trim_start_matches(['*', 'b']).trim_matches('"').to_owned())
}

/// Returns the kinds of frames in a section's table, by number. A cell may name several.
pub(crate) fn documented_kinds(document: &str, heading: &str) -> BTreeMap<u8, String> {
    let cells =
        rows(section(document, heading)).into_iter().filter_map(|row| row.into_iter().next());
    let kinds = cells.flat_map(|cell| cell.split(", ").map(str::to_owned).collect::<Vec<_>>());
    kinds
        .filter_map(|kind| {
            let (number, name) = kind.split_once(' ')?;
            Some((number.parse().ok()?, name.to_owned()))
        })
        .collect()
}

/// Returns the variants of `enum Kind` in a source, by number.
pub(crate) fn kinds(source: &str) -> BTreeMap<u8, String> {
    let start = source.find("enum Kind {").expect("the source has frames");
    let body = source[start..].split("\n}").next().unwrap_or_default();
    let variants =
        body.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(" = "));
    variants.filter_map(|(name, number)| Some((number.parse().ok()?, name.to_owned()))).collect()
}

pub(crate) fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns what is below a heading, up to the next of its rank.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document.find(&format!("\n{heading}\n")).expect("the document has this heading");
    let rest = &document[start + 1 + heading.len()..];
    let end = ["\n## ", "\n### "].iter().filter_map(|next| rest.find(next)).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// Returns the rows of all tables in a text.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}
