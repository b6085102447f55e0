//! The cases, by theme. A case is a line or two of shell.

mod environment;
mod exits;
mod files;
mod hooks;
mod rules;
mod streams;
mod tools;

use crate::case::Case;

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
    .collect()
}
