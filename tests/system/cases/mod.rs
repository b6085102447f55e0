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
    .map(|case| match GAPS.iter().find(|(name, _)| *name == case.name) {
        Some((_, gap)) => case.gap(gap),
        None => case,
    })
    .collect()
}
