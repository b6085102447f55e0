//! The files and tests that a document names, as the head of docs/semantics.md says how they are named.

use std::path::{Path, PathBuf};

/// Directories of tests that a document names by module only.
const SUITES: [&str; 2] = ["tests/system", "tests/fuzz"];

/// A file or a function that a document names.
#[derive(Debug, PartialEq)]
pub(crate) struct Reference {
    /// A path in the repository, perhaps without `src`, or a module of a suite.
    file: String,
    function: Option<String>,
}

impl Reference {
    /// Tells whether the file is there and has the function.
    pub(crate) fn exists(&self, root: &Path) -> bool {
        self.candidates().iter().any(|file| {
            let Ok(source) = std::fs::read_to_string(root.join(file)) else { return false };
            // Cases of the system tests have their names in a table.
            self.function.as_ref().is_none_or(|name| {
                source.contains(&format!("fn {name}(")) || source.contains(&format!("::{name}\""))
            })
        })
    }

    fn candidates(&self) -> Vec<PathBuf> {
        let Some((package, rest)) = self.file.split_once('/') else {
            return SUITES.map(|suite| Path::new(suite).join(&self.file)).into();
        };
        vec![PathBuf::from(&self.file), Path::new(package).join("src").join(rest)]
    }
}

/// Returns the references in a document: paths of our crates, functions listed after `path.rs:`, and `module::function`.
pub(crate) fn references(document: &str, packages: &[&str]) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut current = None;
    for word in document.split([' ', '\n', '(']).filter(|word| !word.is_empty()) {
        let ends_list = !word.ends_with([',', ':']);
        let name = word.trim_matches(|letter| "*`“”,;:.)".contains(letter));
        let is_file = name.ends_with(".rs")
            && name.split_once('/').is_some_and(|(package, _)| packages.contains(&package));
        let of_suite = name.split_once("::").filter(|(_, function)| is_function(function));
        if is_file && !name.contains(['{', '…']) {
            found.push(Reference { file: name.to_owned(), function: None });
            current = word.ends_with(':').then(|| name.to_owned());
        } else if let Some((module, function)) = of_suite {
            let (file, function) = (format!("{module}.rs"), Some(function.to_owned()));
            found.push(Reference { file, function });
        } else if let Some(file) = current.take().filter(|_| is_function(name)) {
            found.push(Reference { file: file.clone(), function: Some(name.to_owned()) });
            current = (!ends_list).then_some(file);
        }
    }
    found
}

/// Tells whether a word is spelled like a function rather than like a constant or a type.
fn is_function(name: &str) -> bool {
    let is_part =
        |letter: char| letter == '_' || letter.is_ascii_lowercase() || letter.is_ascii_digit();
    name.contains('_') && name.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found() {
        let text = "a/b.rs: one_test, another_test (in part); *c::a_third*\n x.rs; a/d.rs, all; a/e.rs: LIMIT";
        let named = |file: &str, function: Option<&str>| Reference {
            file: file.to_owned(),
            function: function.map(str::to_owned),
        };
        let expected = [
            named("a/b.rs", None),
            named("a/b.rs", Some("one_test")),
            named("a/b.rs", Some("another_test")),
            named("c.rs", Some("a_third")),
            named("a/d.rs", None),
            named("a/e.rs", None),
        ];
        assert_eq!(references(text, &["a"]), expected);
    }
}
