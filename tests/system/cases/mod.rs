//! The cases, by theme. A case is a line or two of shell.

mod environment;
mod exits;
mod files;
mod hooks;
mod places;
pub(crate) mod programs;
mod rules;
mod streams;
mod tools;

use crate::case::Case;

/// Known differences (see docs/semantics.md), by case.
const GAPS: [(&str, &str); 1] =
    [("the size of a new directory, each command", "a new directory has the size of the runner's")];

/// Returns all cases, each with its theme.
pub(crate) fn all() -> Vec<(&'static str, Case)> {
    let themes = [
        ("hooks", hooks::cases()),
        ("exits", exits::cases()),
        ("streams", streams::cases()),
        ("environment", environment::cases()),
        ("files", files::cases()),
        ("tools", tools::cases()),
        ("programs", programs::cases()),
        ("rules", rules::cases()),
        ("places", places::cases()),
    ];
    themes
        .into_iter()
        .flat_map(|(theme, cases)| cases.into_iter().map(move |case| (theme, case)))
        .map(|(theme, case)| match GAPS.iter().find(|(name, _)| *name == case.name) {
            Some((_, gap)) => (theme, case.gap(gap)),
            None => (theme, case),
        })
        .collect()
}
