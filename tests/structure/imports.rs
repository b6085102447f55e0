//! Finds which files of a crate import from which. Every path in the source counts, in a `use` or elsewhere, except in
//! tests. The crate's root is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path in the crate, such as `runner/streams`.
type Module = String;

/// The modules of a crate that have their own files, and the modules that each imports from.
pub(crate) struct Crate {
    imports: BTreeMap<Module, BTreeSet<Module>>,
}

impl Crate {
    /// Reads all sources below a directory.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut sources = BTreeMap::new();
        collect(dir, "", &mut sources);
        sources.retain(|module, _| !["lib", "main"].contains(&module.as_str()));
        let modules: BTreeSet<Module> = sources.keys().cloned().collect();
        let imports = sources
            .iter()
            .map(|(module, text)| (module.clone(), imports(module, text, &modules)))
            .collect();
        Self { imports }
    }

    pub(crate) fn modules(&self) -> impl Iterator<Item = &str> {
        self.imports.keys().map(String::as_str)
    }

    /// Returns the modules that modules below a directory, or the one of its name, import from outside of it.
    pub(crate) fn leaving(&self, dir: &str) -> BTreeSet<&str> {
        let is_inside = |module: &str| module == dir || module.starts_with(&format!("{dir}/"));
        let inside = self.imports.iter().filter(|(module, _)| is_inside(module));
        let all = inside.flat_map(|(_, imports)| imports.iter().map(String::as_str));
        all.filter(|module| !is_inside(module)).collect()
    }

    /// Returns each set of modules that import from each other in circles, as the imports within the set.
    pub(crate) fn circles(&self) -> Vec<Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for module in self.imports.keys() {
            if seen.contains(module) {
                continue;
            }
            let there = self.reached_from(module);
            let circle: BTreeSet<_> = there
                .iter()
                .filter(|other| self.reached_from(other).contains(module))
                .cloned()
                .collect();
            let leads = |from: &Module| {
                let to: Vec<_> = self.imports[from].intersection(&circle).cloned().collect();
                format!("{from} -> {}", to.join(", "))
            };
            if !circle.is_empty() {
                circles.push(circle.iter().map(leads).collect());
            }
            seen.extend(circle);
        }
        circles
    }

    /// Returns the modules that a module imports from, directly or indirectly.
    fn reached_from(&self, module: &str) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut queue = vec![module.to_owned()];
        while let Some(next) = queue.pop() {
            for import in &self.imports[&next] {
                if reached.insert(import.clone()) {
                    queue.push(import.clone());
                }
            }
        }
        reached
    }
}

fn collect(dir: &Path, prefix: &str, sources: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("a readable directory").path();
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let module = format!("{prefix}{stem}");
        if path.is_dir() {
            // Further programs are not part of the crate.
            if stem != "bin" {
                collect(&path, &format!("{module}/"), sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.insert(module, code(&fs::read_to_string(&path).expect("UTF-8")));
        }
    }
}

/// Returns the text without comments, strings and tests.
fn code(text: &str) -> String {
    let tests = text
        .find("#[cfg(test)]\nmod tests {")
        .or_else(|| text.find("#[cfg(test)]\npub(super) mod "));
    let text = &text[..tests.unwrap_or(text.len())];
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(line));
    let mut code = String::new();
    for line in lines {
        // Every second piece between quotes is a string.
        code.extend(line.split('"').step_by(2));
        code.push('\n');
    }
    // A path in a visibility is not an import.
    while let Some(start) = code.find("pub(in ") {
        let end = code[start..].find(')').map_or(code.len(), |end| start + end + 1);
        code.replace_range(start..end, "pub");
    }
    code
}

fn imports(module: &str, code: &str, modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        match statement.rsplit_once("use ") {
            Some((before, tree)) if !before.ends_with(|last: char| last.is_alphanumeric()) => {
                expand("", tree, &mut paths);
            }
            _ => inline(statement, &mut paths),
        }
    }
    let found = paths.iter().filter_map(|path| resolve(module, path, modules));
    found.filter(|found| found != module).collect()
}

/// Expands `a::{b, c::{d, e}}` into its paths.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree).trim();
        return paths.push(format!("{prefix}{path}"));
    };
    let (prefix, mut depth, mut part) = (format!("{prefix}{}", head.trim()), 0, String::new());
    for letter in rest.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &std::mem::take(&mut part), paths);
                continue;
            }
            _ => {}
        }
        part.push(letter);
    }
    expand(&prefix, &part, paths);
}

/// Collects the paths in code.
fn inline(code: &str, paths: &mut Vec<String>) {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let words = code.split(|letter| !is_part(letter));
    paths.extend(words.filter(|word| word.contains("::")).map(str::to_owned));
}

/// Returns the module that a path leads to, if it has its own file.
fn resolve(module: &str, path: &str, modules: &BTreeSet<Module>) -> Option<Module> {
    let mut base: Vec<&str> = module.split('/').collect();
    let mut rest = path.split("::").map(str::trim).peekable();
    match rest.peek().copied() {
        Some("crate") => {
            rest.next();
            base.clear();
        }
        _ => {
            while let Some(step @ ("super" | "self")) = rest.peek().copied() {
                rest.next();
                if step == "super" {
                    base.pop();
                }
            }
        }
    }
    base.extend(rest);
    (1..=base.len())
        .rev()
        .map(|length| base[..length].join("/"))
        .find(|name| modules.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_and_resolved() {
        let modules = ["a", "a/b", "c"].map(str::to_owned).into();
        let text =
            "use crate::{c, a::b::{X, Y as Z}};\nfn f() { super::c::g(); }\n// crate::none::x\n";
        let found = imports("a/b", &code(text), &modules);
        assert_eq!(found, ["a", "c"].map(str::to_owned).into());
        let found = imports("a", &code("use b::X;\nlet x = crate::c::y;"), &modules);
        assert_eq!(found, ["a/b", "c"].map(str::to_owned).into());
    }

    #[test]
    fn imports_that_leave_a_room_are_named() {
        let imports = [("a", vec!["a/b"]), ("a/b", vec!["c"]), ("ab", vec!["d"])];
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let imports = imports.map(|(from, to)| (from.to_owned(), owned(to)));
        assert_eq!(Crate { imports: imports.into() }.leaving("a"), ["c"].into());
    }

    #[test]
    fn circles_are_named() {
        let imports = |pairs: &[(&str, &[&str])]| Crate {
            imports: pairs
                .iter()
                .map(|(from, to)| (from.to_string(), to.iter().map(|&to| to.to_owned()).collect()))
                .collect(),
        };
        let open = imports(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]);
        assert!(open.circles().is_empty());
        let closed = imports(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("d", &["a"])]);
        assert_eq!(closed.circles(), [["a -> b", "b -> c", "c -> a"]]);
    }
}
