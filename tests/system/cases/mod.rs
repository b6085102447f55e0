//! The cases, by theme. A case is a line or two of shell.

mod environment;
mod exits;
mod files;
mod hooks;
mod rules;
mod streams;
mod tools;

use crate::case::Case;

/// What is not yet as it is natively (docs/semantics.md says more), by case.
const GAPS: [(&str, &str); 9] = [
    (
        "rename a directory, as a whole",
        "a renamed directory cannot be renamed into its own successor",
    ),
    ("sparse file, each command", "holes come back filled"),
    ("sparse file, as a whole", "holes come back filled"),
    ("extended attributes, each command", "runners do not see extended attributes"),
    ("extended attributes that are there, each command", "runners do not see extended attributes"),
    ("extended attributes that are there, as a whole", "runners do not see extended attributes"),
    ("du, find and stat agree, each command", "names of one file have several inode numbers"),
    ("du, find and stat agree, as a whole", "names of one file have several inode numbers"),
    ("tar, each command", "names of one file have several inode numbers"),
];

/// Walks that change a file with several names are repeated at the origin unless their output was
/// shown, which is so after 100 ms: on a slow machine these would meet that known difference. Each
/// of their commands walks in a case of its own.
const TIMED: [&str; 7] = [
    "truncate, as a whole",
    "append, as a whole",
    "write in place, as a whole",
    "overwrite as the shell does, as a whole",
    "replace through a temporary file, as a whole",
    "delete and create again, as a whole",
    "sed -i, as a whole",
];

pub(crate) fn all() -> Vec<Case> {
    [
        hooks::cases(),
        exits::cases(),
        streams::cases(),
        environment::cases(),
        files::cases(),
        tools::cases(),
        rules::cases(),
    ]
    .into_iter()
    .flatten()
    .filter(|case| !TIMED.contains(&case.name.as_str()))
    .map(|case| match GAPS.iter().find(|(name, _)| *name == case.name) {
        Some((_, gap)) => case.gap(gap),
        None => case,
    })
    .collect()
}
