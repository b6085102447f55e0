//! The report of a session: what walked, where to, at what cost, and what stayed and why.

use serde::{Deserialize, Serialize};

/// The report, as `oswalk exec --report` writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When the session began, in milliseconds since 1970. All other times count from there, and are
    /// those of a clock that is never set.
    #[serde(default)]
    pub began_unix_ms: u64,
    /// Why nothing walked, if something should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// There is nothing to report, and this is why: there was no session, or its agent is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// The walks, in the order of their ends.
    pub walks: Vec<WalkLine>,
    /// Walks that are not in the list, because it is long; the totals have them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub walks_left_out: u64,
    /// The stays, counted.
    pub stays: Vec<StayLine>,
    /// Sums over all of them.
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
    /// All of `argv`, or its first 64 words, of which as many as fit into 4 KiB.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Words of `argv` that are missing or cut.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub argv_left_out: u64,
    /// Some of `argv` is no UTF-8, and U+FFFD stands for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argv_lossy: bool,
    /// The output file of a compile step, as its command line has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The working directory.
    pub cwd: String,
    /// The node that executed it.
    pub runner: String,
    /// The attempt that was committed.
    pub attempt: u32,
    /// When the stub's hello came, from the session's beginning on.
    #[serde(default)]
    pub start_ms: f64,
    /// When its changes were there, and its process could leave.
    #[serde(default)]
    pub end_ms: f64,
    /// From the stub's hello to the grant.
    pub wait_ms: f64,
    /// From the grant to the end on the runner.
    pub run_ms: f64,
    /// CPU time of the stub. The agent serves all walks at once: its own is in the totals.
    pub origin_cpu_ms: f64,
    /// CPU time of the process and its children on the runner.
    pub runner_cpu_ms: f64,
    /// Bytes sent to the runner for this walk.
    pub bytes_out: u64,
    /// Bytes that came back: output and changed files.
    pub bytes_back: u64,
    /// Exit status as a shell gives it: the code, or 128 and the signal.
    pub status: i32,
    /// Files that somebody else had changed meanwhile and that it overwrote, since it could not be
    /// repeated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overwrote: Vec<String>,
    /// It read a file while somebody else changed that, and could not be repeated.
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
    /// The variable that is withheld and that the program may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// How often.
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
