//! Requests from `oswalk` to the agent of its machine: one [`Request`] as JSON in a
//! [`crate::door::Kind::Request`] frame, answered by one [`Reply`] in a frame of the same kind, or by
//! [`crate::door::Kind::Failed`] with a message for the user.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, SessionId};
use crate::report::Report;
use crate::said::Said;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Open a session. It ends with this connection, or with the process that asked.
    OpenSession(Box<SessionOptions>),
    /// Return the report of the session that was opened on this connection.
    CloseSession,
    /// Return the state of the agent and its cluster.
    Status,
    /// End the agent.
    Shutdown,
}

/// The options of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// Version of `oswalk`; the agent refuses any other than its own.
    pub version: String,
    /// Rules that take precedence over the built-in table, the most important first.
    pub rules: Vec<UserRule>,
    /// Programs that no rule names walk too.
    pub walk_all: bool,
    /// Walk to this node only.
    pub on: Option<NodeId>,
    /// A program that should walk but cannot fails instead of running at the origin.
    pub no_fallback: bool,
    /// A compile step walks even if nothing else of the session is running.
    #[serde(default)]
    pub lone_walks: bool,
    /// The process that asks becomes the session's command. If the agent can see the process, the
    /// session ends with it and not with the connection, and nobody asks for the report.
    #[serde(default)]
    pub becomes: bool,
    /// Shell patterns of absolute paths that are hidden from all runners from now on, in any session.
    #[serde(default)]
    pub hide: Vec<String>,
    /// The command's identity, by which the agent remembers whether it started other programs.
    #[serde(default)]
    pub command: Option<CommandFile>,
    /// Shell patterns of variables that are sent although they look like secrets.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Shell patterns of variables that are withheld; programs walk without them.
    #[serde(default)]
    pub without_env: Vec<String>,
    /// Absolute path of the preload library.
    pub preload: Vec<u8>,
    /// Absolute path of the stub.
    pub stub: Vec<u8>,
}

/// The identity of a command: its file, or the script that it interprets. It changes with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandFile {
    /// The file's device.
    pub dev: u64,
    /// The file's inode.
    pub ino: u64,
    /// The file's mtime, in nanoseconds.
    pub changed_ns: i64,
    /// A hash of the arguments, on which a program's behaviour may depend.
    pub arguments: u64,
}

/// A rule of the user, from an option or the policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRule {
    /// A shell pattern (see [`crate::policy`]).
    pub pattern: String,
    /// What happens to programs that match.
    pub action: Action,
}

/// The action of a user's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Walk.
    Walk,
    /// Stay.
    Stay,
    /// Walk if the arguments are those of a compile step of a C-family compiler.
    Compiler,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The session is open.
    Session {
        /// Its number.
        session: SessionId,
        /// Path of its policy page.
        page: Vec<u8>,
        /// Whether the session ends with the process that asked for it.
        becomes: bool,
        /// Why nothing walks at present: no node takes walks, or the named node does not. A message for
        /// the user, with the remedy.
        notice: Option<String>,
    },
    /// The session's report.
    Report(Report),
    /// The state of the agent and its cluster.
    Status(Status),
    /// The request succeeded, and has no other answer.
    Done,
}

/// The state of an agent and of the cluster it sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// The address on which the agent accepts links from other agents.
    pub listen: String,
    /// The broker's URL, without the password.
    pub broker: String,
    /// Whether the broker answers.
    pub broker_up: bool,
    /// Settings of the agent.
    #[serde(default)]
    pub settings: Settings,
    /// Sessions whose origin is this node.
    pub sessions: u32,
    /// Requests to the trees of origins that are mounted here.
    pub fuse: FuseCounts,
    /// The process that asks sees other mounts than the agent, so programs that it starts stay.
    #[serde(default)]
    pub other_mounts: bool,
    /// All nodes of the cluster, this one included.
    pub nodes: Vec<NodeStatus>,
}

/// Settings of an agent, besides its name, its broker and the address that it listens on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The address at which other agents reach this one.
    pub advertise: String,
    /// Walks that it executes at once.
    pub slots: u32,
    /// The file with the cluster's secret.
    pub secret: PathBuf,
    /// Most bytes of packets kept on disk.
    pub store_bytes: u64,
    /// Most memory for the changed files of one walk on this runner, and for those of all walks of this origin until they
    /// are applied.
    pub upper_bytes: u64,
}

/// Most patterns of [`SessionOptions::hide`] that the agent accepts.
pub const HIDE_MAX: usize = 256;
/// Most bytes of each of those patterns.
pub const HIDE_BYTES_MAX: usize = 1024;

/// Least value of [`Settings::store_bytes`]: the size of one pack.
pub const STORE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Least value of [`Settings::upper_bytes`]: room for the object file of a small source.
pub const UPPER_BYTES_MIN: u64 = 1024 * 1024;

/// Counts of FUSE requests for the files of origins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuseCounts {
    /// All requests.
    pub requests: u64,
    /// Requests for which the origin had to be asked.
    pub fetches: u64,
}

/// Whether a node takes walks of this origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeCondition {
    /// Its lease is valid, and it and this agent have shaken hands.
    Alive,
    /// Nothing answers at its address.
    Unreachable,
    /// It answers, but does not hold the secret, or is another node.
    Refused,
    /// It has no room for packets or changed files.
    Full,
    /// It left the cluster, or its lease has expired.
    Gone,
    /// It runs another version of OS Walk, or its clock is far off.
    Incompatible,
    /// The broker does not answer, or this agent has not shaken hands with the node yet.
    Unknown,
}

impl NodeCondition {
    /// Returns the word that users read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::Gone => "gone",
            Self::Incompatible => "incompatible",
            Self::Unknown => "unknown",
        }
    }
}

/// The state of a node, as this agent and the broker know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeId,
    /// The address of its agent.
    pub address: SocketAddr,
    /// Version of its agent.
    pub version: Said,
    /// Walks that it executes at once.
    pub slots: u32,
    /// Walks that it is executing.
    pub running: u32,
    /// Whether it takes walks of this origin.
    pub state: NodeCondition,
    /// Why it does not.
    pub why: Option<String>,
    /// The remedy.
    pub remedy: Option<String>,
    /// Seconds since the broker last heard it; 0 if its lease is valid.
    pub last_seen: u64,
    /// Whether it is gone because its agent was shut down.
    #[serde(default)]
    pub left: bool,
}
