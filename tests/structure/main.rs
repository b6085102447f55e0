//! Checks the sources against docs/architecture.md: files do not import each other in circles, and the map names
//! every file.

mod imports;
mod protocol;

use std::fs;
use std::path::{Path, PathBuf};

use imports::Crate;

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
