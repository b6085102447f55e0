//! Checks the sources against the documents: files do not import each other in circles, docs/architecture.md names
//! every file, docs/protocol.md has the versions, frames and limits of the sources, and the tests that documents name exist.

mod imports;
mod limits;
mod protocol;
mod references;

use std::fs;
use std::path::{Path, PathBuf};

use imports::Crate;
use limits::Limit;

/// The source directories of the crates.
const CRATES: [&str; 7] = [
    "worknode/src",
    "packetfs/src",
    "broker/src",
    "agent/src",
    "preload/src",
    "shims/src",
    "shims/stub/src",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the workspace").to_owned()
}

/// Files that import each other in a circle can only be understood together.
#[test]
fn no_files_import_each_other_in_a_circle() {
    for name in CRATES {
        let circles = Crate::read(&root().join(name)).circles();
        assert!(circles.is_empty(), "{name}: files import each other in a circle: {circles:#?}");
    }
}

/// What two agents say can be read, tested and compared between versions without the rest of the agent.
#[test]
fn the_wire_uses_no_other_room() {
    let agent = Crate::read(&root().join("agent/src"));
    assert!(agent.modules().any(|module| module == "wire/frame"), "the room has moved");
    assert_eq!(agent.leaving("wire"), [].into());
}

#[test]
fn the_map_names_every_room() {
    let map = fs::read_to_string(root().join("docs/architecture.md")).expect("there is a map");
    let mut unnamed = Vec::new();
    for name in CRATES {
        for module in Crate::read(&root().join(name)).modules() {
            let last = module.rsplit('/').next().expect("a module has a name");
            let names = [format!("`{last}`"), format!("/{last}`"), format!("`{last}.rs`")];
            if last != "tests" && !names.iter().any(|name| map.contains(name)) {
                unnamed.push(format!("{name}/{module}.rs"));
            }
        }
    }
    assert!(unnamed.is_empty(), "docs/architecture.md does not name {unnamed:#?}");
}

/// A promise without its test is no promise.
#[test]
fn tests_named_in_documents_exist() {
    let packages = ["worknode", "packetfs", "broker", "agent", "preload", "shims", "tests"];
    for name in ["docs/semantics.md", "docs/specification.md", "docs/architecture.md"] {
        let references = references::references(&protocol::read(&root(), name), &packages);
        let missing: Vec<_> =
            references.iter().filter(|reference| !reference.exists(&root())).collect();
        assert!(missing.is_empty(), "{name} names what does not exist: {missing:#?}");
    }
}

#[test]
fn versions_are_as_documented() {
    let document = protocol::read(&root(), "docs/protocol.md");
    let versions = protocol::versions(&document);
    assert!(versions.len() >= 5, "the table of versions was not found: {versions:?}");
    for version in versions {
        let source = protocol::read(&root(), &version.file);
        let value = protocol::constant(&source, &version.constant);
        assert_eq!(value.as_deref(), Some(version.value.as_str()), "{version:?}");
    }
}

/// The rooms that hold limits and nothing else. The document names each constant there.
const LIMITS: [&str; 3] =
    ["worknode/src/door/limits.rs", "agent/src/wire/limits.rs", "broker/src/limits.rs"];

#[test]
fn limits_are_as_documented() {
    let document = protocol::read(&root(), "docs/protocol.md");
    let documented = limits::documented(&document);
    assert!(documented.len() >= 50, "the tables of limits were not found: {documented:#?}");
    for limit in &documented {
        let value = limits::constant(&root(), &limit.file, &limit.constant);
        assert_eq!(value, Some(limit.value), "docs/protocol.md says otherwise: {limit:?}");
    }
    for file in LIMITS {
        for name in limits::constants(&protocol::read(&root(), file)) {
            let is_documented = |limit: &Limit| limit.file == file && limit.constant == name;
            let is_version = name == "VERSION";
            assert!(
                is_version || documented.iter().any(is_documented),
                "docs/protocol.md has no limit `{name}` in {file}"
            );
        }
    }
}

#[test]
fn frames_are_as_documented() {
    let document = protocol::read(&root(), "docs/protocol.md");
    for (heading, file) in
        [("## Door", "worknode/src/door.rs"), ("### Frames", "agent/src/wire/frame.rs")]
    {
        let kinds = protocol::kinds(&protocol::read(&root(), file));
        assert!(kinds.len() >= 20, "{file}: {kinds:?}");
        assert_eq!(protocol::documented_kinds(&document, heading), kinds, "{heading}, {file}");
    }
}
