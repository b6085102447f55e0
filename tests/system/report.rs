//! Reads the parts of a report that tests need.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Reasons given by rules. All others mean that something prevented a walk.
const BY_RULE: [&str; 13] = [
    "unlisted",
    "driver",
    "shell",
    "wrapper",
    "link",
    "preprocess",
    "probe",
    "native-cpu",
    "stdin",
    "rule",
    "response-file",
    "needs-origin",
    "foreign-preload",
];

/// Reasons that are right in any case: the other end of a channel is at the origin, each machine has the place of its own, or
/// other tests hold all slots for longer than a process that reads a pipe waits for one.
const RIGHTLY: [&str; 3] = ["descriptor", "place", "no-slot"];

/// A report of `oswalk exec`.
pub(crate) struct Report {
    /// Base name, runner and status of each walk.
    pub(crate) walks: Vec<(String, String, i64)>,
    /// Base name and reason of each stay.
    pub(crate) stays: Vec<(String, String)>,
    /// Number of walks that took more than one attempt.
    pub(crate) repeated: usize,
    /// The count of each of `stays`.
    counts: Vec<usize>,
}

impl Report {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read(path).map_err(|error| format!("no report {}: {error}", path.display()))?;
        let json: Value =
            serde_json::from_slice(&text).map_err(|error| format!("bad report: {error}"))?;
        let lines =
            |name: &str| json[name].as_array().cloned().ok_or(format!("no {name} in the report"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let base = |value: &Value| text(value).rsplit('/').next().unwrap_or_default().to_owned();
        let walk = |line: &Value| {
            (base(&line["argv0"]), text(&line["runner"]), line["status"].as_i64().unwrap_or(-1))
        };
        let is_repeated = |line: &&Value| line["attempt"].as_u64() != Some(1);
        Ok(Self {
            repeated: lines("walks")?.iter().filter(is_repeated).count(),
            walks: lines("walks")?.iter().map(walk).collect(),
            stays: lines("stays")?
                .iter()
                .map(|line| (base(&line["argv0"]), text(&line["reason"])))
                .collect(),
            counts: lines("stays")?
                .iter()
                .map(|line| line["count"].as_u64().map_or(0, |count| count.try_into().unwrap_or(0)))
                .collect(),
        })
    }

    /// Returns the number of walks and stays of each base name.
    pub(crate) fn counted(&self) -> BTreeMap<String, usize> {
        let walks = self.walks.iter().map(|(argv0, ..)| (argv0, 1));
        let stays = self.stays.iter().map(|(argv0, _)| argv0).zip(self.counts.iter().copied());
        let mut counted = BTreeMap::new();
        for (argv0, count) in walks.chain(stays) {
            *counted.entry(argv0.clone()).or_default() += count;
        }
        counted
    }

    pub(crate) fn walked(&self, name: &str) -> bool {
        self.walks.iter().any(|(argv0, ..)| argv0 == name)
    }

    /// Tells whether the program stayed because only the origin can execute it correctly.
    pub(crate) fn stayed_rightly(&self, name: &str) -> bool {
        RIGHTLY.iter().any(|reason| self.stayed(name, reason))
    }

    /// Tells whether a line of [`Self::fallbacks`] is such a stay.
    pub(crate) fn is_right(stay: &str) -> bool {
        RIGHTLY.iter().any(|reason| stay.ends_with(&format!(" ({reason})")))
    }

    pub(crate) fn stayed(&self, name: &str, reason: &str) -> bool {
        self.stays.iter().any(|(argv0, why)| argv0 == name && why == reason)
    }

    /// Returns the stays that no rule asked for.
    pub(crate) fn fallbacks(&self) -> Vec<String> {
        let fallback = |(_, reason): &&(String, String)| !BY_RULE.contains(&reason.as_str());
        self.stays
            .iter()
            .filter(fallback)
            .map(|(argv0, reason)| format!("{argv0} ({reason})"))
            .collect()
    }

    pub(crate) fn runners(&self) -> Vec<&str> {
        let mut runners: Vec<_> = self.walks.iter().map(|(_, runner, _)| runner.as_str()).collect();
        runners.sort_unstable();
        runners.dedup();
        runners
    }
}
