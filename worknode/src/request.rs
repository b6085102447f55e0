//! Requests from `oswalk` to the agent of its machine: one [`Request`] as JSON in a
//! [`crate::door::Kind::Request`] frame, answered by one [`Reply`] in a frame of the same kind, or by
//! [`crate::door::Kind::Failed`] with a message for the user.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::capability::{Token, TokenId};
use crate::id::{NodeId, SessionId};
use crate::report::Report;
use crate::said::Said;

mod spread;
mod volume;

pub use spread::{
    VolumeConflict, VolumeConflictVersion, VolumeCopies, VolumeHolder, VolumePrefetched,
    VolumeReplicas, VolumeWhere,
};
pub use volume::{
    RETENTION_S_MIN, Retention, RetentionError, ShareRequest, VolumeChecked, VolumeExported,
    VolumeGarbage, VolumeMountStatus, VolumePlace, VolumeRecord, VolumeReply, VolumeRequest,
    VolumeRestored, VolumeShare, VolumeStatus, WorkProgress,
};

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Open a session. It ends with this connection, or with the process that asked.
    OpenSession(Box<SessionOptions>),
    /// Return the report of the session that was opened on this connection.
    CloseSession,
    /// Return the state of the agent and its cluster.
    Status,
    /// Make a join line.
    Invite {
        /// How many nodes may join with it.
        nodes: u32,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// Return the join lines that still admit somebody.
    Invites,
    /// Withdraw the join line with this id.
    Withdraw(String),
    /// Have a node finish its walks and take no others, or take walks again.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it is to drain.
        drains: bool,
    },
    /// Let a quarantined node take walks of this node again.
    Trust(NodeId),
    /// Give this node a new key, and a new URL of the broker if one is given.
    Rotate {
        /// The broker's new URL.
        broker: Option<String>,
    },
    /// Return the members of the cluster.
    Members,
    /// Remove a node from the cluster.
    Remove(NodeId),
    /// Return a token with which a session may do all that the user may do at this agent.
    Token,
    /// Revoke a token, and all that were narrowed from it.
    Revoke(Token),
    /// Revoke the tokens with a number.
    RevokeId(TokenId),
    /// Mount the volume of this node.
    Mount {
        /// The absolute path of an empty directory, which is made if its parent exists.
        point: Vec<u8>,
        /// Whether nothing may be changed there.
        read_only: bool,
        /// The moment that is shown, in milliseconds since 1970; the present if there is none.
        at_ms: Option<u64>,
    },
    /// Unmount it.
    Unmount {
        /// Where.
        point: Vec<u8>,
    },
    /// Look at the volume, or take care of it.
    Volume(VolumeRequest),
    /// End the agent.
    Shutdown,
    /// Say what a walk of this command would be given, in the session that was opened on this connection.
    Explain(Box<CommandLine>),
}

/// A command with its circumstances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// Absolute path of the program.
    pub path: Vec<u8>,
    /// Its arguments, the first included, each with a NUL behind it.
    pub argv: Vec<u8>,
    /// Its variables in the same form.
    pub env: Vec<u8>,
    /// Absolute paths that its arguments name.
    pub named: Vec<Vec<u8>>,
}

/// What a walk would be given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Each variable with what happens to it.
    pub variables: Vec<(String, VariableFate)>,
    /// Paths that were named, but that no runner is shown.
    pub hidden: Vec<String>,
}

/// What happens to a variable of a command that walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VariableFate {
    /// It travels.
    Travels,
    /// It travels because the user has said so.
    Passed,
    /// It is OS Walk's own.
    Own,
    /// It is withheld because the user has said so.
    Without,
    /// It is withheld because compilers do not read it.
    NotForCompilers,
    /// It is withheld because it names a service of this machine.
    Local,
    /// It looks like a secret, so a program that may read it stays.
    Secret,
}

impl VariableFate {
    /// Tells whether the variable leaves this machine.
    #[must_use]
    pub fn travels(self) -> bool {
        matches!(self, Self::Travels | Self::Passed)
    }
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
    /// A token that narrows what the session may do.
    #[serde(default)]
    pub token: Option<Token>,
    /// A program that should walk but cannot fails instead of running at the origin.
    pub no_fallback: bool,
    /// A compile step walks even if nothing else of the session is running.
    #[serde(default)]
    pub lone_walks: bool,
    /// The process that asks becomes the session's command. If the agent can see the process, the
    /// session ends with it and not with the connection, and nobody asks for the report.
    #[serde(default)]
    pub becomes: bool,
    /// A shell above the process that asks, for whose programs the session is. If the agent can see it there, the session
    /// ends with it, as with a process that `becomes` its command.
    #[serde(default)]
    pub shell: Option<u32>,
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
    /// Walks have no network of their node.
    #[serde(default)]
    pub offline: bool,
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
    /// A join line.
    JoinLine(String),
    /// The join lines that still admit somebody.
    Invites(Vec<InviteStatus>),
    /// The members of the cluster.
    Members(Vec<MemberStatus>),
    /// A token.
    Token(Token),
    /// A token was revoked, by this number.
    Revoked(TokenId),
    /// The request succeeded, and has no other answer.
    Done,
    /// What a walk would be given.
    Explained(Explanation),
    /// The answer to a request about the volume.
    Volume(VolumeReply),
    /// The work goes on; the answer follows.
    Progress(WorkProgress),
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub node: NodeId,
    /// Its key, as text.
    pub key: String,
    /// Whether it may invite others.
    pub may_invite: bool,
    /// Whether it takes walks, if the broker has it in its list.
    #[serde(default)]
    pub state: Option<NodeCondition>,
}

/// A join line that still admits somebody. It is named by an id, since the line is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteStatus {
    /// What names it.
    pub id: String,
    /// How many nodes may still join with it.
    pub nodes_left: u32,
    /// When it was made, in seconds since 1970.
    pub made_s: u64,
    /// When it expires, in seconds since 1970.
    pub expires_s: u64,
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
    /// The address on which the agent accepts calls of others; none if it belongs to no cluster.
    #[serde(default)]
    pub listen: Option<String>,
    /// The broker's URL, without the password.
    pub broker: String,
    /// Whether the broker answers.
    pub broker_up: bool,
    /// If this node was removed from its cluster: by whom, and what helps.
    #[serde(default)]
    pub removed: Option<String>,
    /// Settings of the agent.
    #[serde(default)]
    pub settings: Settings,
    /// How busy this machine is.
    #[serde(default)]
    pub machine: MachineStatus,
    /// Sessions whose origin is this node.
    pub sessions: u32,
    /// Requests to the trees of origins that are mounted here.
    pub fuse: FuseCounts,
    /// The process that asks sees other mounts than the agent, so programs that it starts stay.
    #[serde(default)]
    pub other_mounts: bool,
    /// Paths of the volume at which versions of several nodes are in conflict.
    #[serde(default)]
    pub conflicts: u64,
    /// The directory of the volume, if its disk is full or nearly so.
    #[serde(default)]
    pub full_volume: Option<String>,
    /// All nodes of the cluster, this one included.
    pub nodes: Vec<NodeStatus>,
}

/// How busy a machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its processors.
    pub processors: u32,
    /// Processes that ran or waited for a processor, as a mean over the last minute.
    pub load: f64,
    /// Bytes of packets that it keeps on disk.
    pub store_bytes: u64,
}

/// Settings of an agent, besides its name, its broker and the address that it listens on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The address at which other agents reach this one.
    pub advertise: String,
    /// Walks that it executes at once.
    pub slots: u32,
    /// The name of the cluster that it belongs to.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Most bytes of packets kept on disk.
    pub store_bytes: u64,
    /// How long the past of the volume is kept.
    #[serde(default)]
    pub keep: Retention,
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
    /// It answers, but does not prove its key, or is another node.
    Refused,
    /// It has no room for packets or changed files.
    Full,
    /// It finishes its walks and takes no others, as somebody has asked.
    Draining,
    /// It sent data that does not match its digest.
    Quarantined,
    /// It failed walks that other nodes have completed.
    Failing,
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
            Self::Draining => "draining",
            Self::Quarantined => "quarantined",
            Self::Failing => "failing",
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
    /// Which walks it takes.
    #[serde(default)]
    pub takes: NodeTakes,
    /// The mean number of processes that ran or waited for a processor there in the last minute, in hundredths.
    #[serde(default)]
    pub load_percent: u32,
}

/// Which walks a node takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeTakes {
    /// All.
    #[default]
    All,
    /// Compile steps: its agent runs without root.
    CompileSteps,
}

impl NodeTakes {
    /// Returns the words that users read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::CompileSteps => "compile steps",
        }
    }
}
