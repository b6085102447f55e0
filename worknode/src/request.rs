//! What `oswalk` asks of the agent on its own machine: one [`Request`] as JSON in a
//! [`crate::door::Kind::Request`] frame, answered by one [`Reply`] in a frame of the same kind, or by
//! [`crate::door::Kind::Failed`] with a sentence for the user.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, SessionId};
use crate::report::Report;
use crate::said::Said;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Open a session. It ends with the connection it was asked for on, or with the process that asked.
    OpenSession(Box<SessionOptions>),
    /// Return the report of the connection's session, which ends with the connection.
    CloseSession,
    /// Tell about the agent and its cluster.
    Status,
    /// End the agent.
    Shutdown,
}

/// How a session is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// Version of the program that asks; the agent refuses another one.
    pub version: String,
    /// Rules that count more than the built-in table, the most important first.
    pub rules: Vec<UserRule>,
    /// Programs that no rule names walk too.
    pub walk_all: bool,
    /// Walk to this node only.
    pub on: Option<NodeId>,
    /// A walk that cannot be had fails instead of running at the origin.
    pub no_fallback: bool,
    /// A compile step walks even if nothing else of the session is under way.
    #[serde(default)]
    pub lone_walks: bool,
    /// The process that asks becomes the session's command: the session ends with it, if the agent can
    /// see it, and not with the connection. There is nobody to ask for the report then.
    #[serde(default)]
    pub becomes: bool,
    /// Shell patterns of absolute paths that no runner is shown from now on, whoever's walks it executes.
    #[serde(default)]
    pub hide: Vec<String>,
    /// The file that the command is, or the script that its interpreter is given.
    #[serde(default)]
    pub command: Option<CommandFile>,
    /// Variables that travel though they look like secrets; shell patterns.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Variables that are withheld, and without which programs walk; shell patterns.
    #[serde(default)]
    pub without_env: Vec<String>,
    /// Absolute path of the preload library.
    pub preload: Vec<u8>,
    /// Absolute path of the stub.
    pub stub: Vec<u8>,
}

/// A command as it is at the moment: a changed one is not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandFile {
    /// The device that it lies on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// When it was changed, in nanoseconds.
    pub changed_ns: i64,
    /// A hash of what it is given: with other arguments a program may do something else.
    pub arguments: u64,
}

/// A rule of the user: of an option or of the policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRule {
    /// A shell pattern (see [`crate::policy`]).
    pub pattern: String,
    /// Whether the programs it names walk.
    pub action: Action,
}

/// What a user's rule asks for.
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
        /// It ends with the process that asked for it.
        becomes: bool,
        /// Why nothing walks as things stand: nobody takes walks, or the node that was asked for does
        /// not. A sentence or two for the user, with the remedy.
        notice: Option<String>,
    },
    /// The session's report.
    Report(Report),
    /// The state of agent and cluster.
    Status(Status),
    /// Done; nothing to tell.
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
    /// Where links from other agents arrive.
    pub listen: String,
    /// Where the broker is, without its password, and whether it answers.
    pub broker: String,
    /// The broker answers.
    pub broker_up: bool,
    /// What the agent was started with.
    #[serde(default)]
    pub settings: Settings,
    /// Sessions whose origin is this node.
    pub sessions: u32,
    /// What the trees of origins mounted here were asked so far.
    pub fuse: FuseCounts,
    /// Whoever asks sees other mounts than the agent: what it starts stays.
    #[serde(default)]
    pub other_mounts: bool,
    /// All nodes of the cluster, this one included.
    pub nodes: Vec<NodeStatus>,
}

/// What an agent was started with, besides its name, its broker and where it listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What other agents are told to call.
    pub advertise: String,
    /// Walks it takes at once.
    pub slots: u32,
    /// The file with the cluster's secret.
    pub secret: PathBuf,
    /// Most bytes of packets that it keeps.
    pub store_bytes: u64,
    /// Most memory for the changed files of one walk.
    pub upper_bytes: u64,
}

/// Most of [`SessionOptions::hide`], and the bytes of each: the agent takes no more.
pub const HIDE_MAX: usize = 256;
/// See [`HIDE_MAX`].
pub const HIDE_BYTES_MAX: usize = 1024;

/// Least of [`Settings::store_bytes`]: one pack is as large.
pub const STORE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Least of [`Settings::upper_bytes`]: the object of a small source.
pub const UPPER_BYTES_MIN: u64 = 1024 * 1024;

/// Requests of the kernel for the files of origins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuseCounts {
    /// All of them.
    pub requests: u64,
    /// Those for which the origin had to be asked.
    pub fetches: u64,
}

/// Whether a node takes walks of this origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeCondition {
    /// Its lease holds, and this agent and it could greet each other.
    Alive,
    /// Nobody answers at its address.
    Unreachable,
    /// It was reached, but does not hold the secret, or is another node.
    Refused,
    /// It has no room for packets or changed files.
    Full,
    /// It was there, and left or is silent.
    Gone,
    /// It has another version of OS Walk, or a clock that is far off.
    Incompatible,
    /// The broker is away, or this agent has not greeted it yet.
    Unknown,
}

impl NodeCondition {
    /// Returns the word that is shown.
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

/// A node, as this agent and the broker know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeId,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// Version of its agent.
    pub version: Said,
    /// Walks it takes at once.
    pub slots: u32,
    /// Walks it executes now.
    pub running: u32,
    /// Whether it takes walks of this origin.
    pub state: NodeCondition,
    /// Why it does not.
    pub why: Option<String>,
    /// What somebody can do about it.
    pub remedy: Option<String>,
    /// Seconds since the broker heard it last; 0 for one that is there.
    pub last_seen: u64,
    /// It is gone because its agent was ended.
    #[serde(default)]
    pub left: bool,
}
