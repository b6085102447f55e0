//! The report of a session: what walked, where and at what cost, and what stayed and why.

use serde::{Deserialize, Serialize};

/// The report, as `oswalk exec --report` writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When the session began, in milliseconds since 1970. All other times are relative to this, by the
    /// monotonic clock.
    #[serde(default)]
    pub began_unix_ms: u64,
    /// Why nothing walked, if something should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Why there is nothing to report: there was no session, or its agent is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// The walks, in the order in which they ended.
    pub walks: Vec<WalkLine>,
    /// Walks left out because the list is too long; the totals include them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub walks_left_out: u64,
    /// The stays, counted.
    pub stays: Vec<StayLine>,
    /// Sums over all walks and stays.
    pub totals: Totals,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One walk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WalkLine {
    /// `argv[0]`.
    pub argv0: String,
    /// The first words of `argv`: at most 64 words and 4 KiB.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Words of `argv` that were left out or cut.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub argv_left_out: u64,
    /// Some of `argv` is not UTF-8, and was replaced by U+FFFD.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argv_lossy: bool,
    /// The output file of a compile step, as in its command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The working directory.
    pub cwd: String,
    /// The node that executed it.
    pub runner: String,
    /// The attempt that was committed.
    pub attempt: u32,
    /// When the stub's hello arrived.
    #[serde(default)]
    pub start_ms: f64,
    /// When the changes were committed, and the stub could exit.
    #[serde(default)]
    pub end_ms: f64,
    /// From the stub's hello to the grant.
    pub wait_ms: f64,
    /// From the grant to the end on the runner.
    pub run_ms: f64,
    /// CPU time of the stub. That of the agent, which serves all walks at once, is in the totals.
    pub origin_cpu_ms: f64,
    /// CPU time of the process and its children on the runner.
    pub runner_cpu_ms: f64,
    /// Bytes sent to the runner for this walk.
    pub bytes_out: u64,
    /// Bytes that came back: output and changed files.
    pub bytes_back: u64,
    /// Exit status as in a shell: the code, or 128 plus the signal.
    pub status: i32,
    /// Files that others changed during the walk and that it overwrote, because it could not be repeated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overwrote: Vec<String>,
    /// The walk read a file while others changed it, and could not be repeated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
}

/// One program that stayed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StayLine {
    /// The program's base name.
    pub argv0: String,
    /// The name of the reason.
    pub reason: String,
    /// The withheld variable that the program may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Number of stays.
    pub count: u64,
}

/// The sums of a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Number of walks.
    pub walks: u64,
    /// Number of stays.
    pub stays: u64,
    /// Wall time of the session.
    pub wall_ms: f64,
    /// CPU time at the origin: stubs, and the agent while the session ran.
    pub origin_cpu_ms: f64,
    /// CPU time of walked processes on the runners.
    pub runner_cpu_ms: f64,
    /// Bytes sent to runners while the session ran.
    pub bytes_out: u64,
    /// Bytes received from runners while the session ran.
    pub bytes_back: u64,
}
