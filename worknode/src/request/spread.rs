//! What requests about several nodes' volumes are answered: conflicts between them, and which of them have a content.

use serde::{Deserialize, Serialize};

/// A path at which versions of several nodes are in conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConflict {
    /// The path, below where the volume is mounted.
    pub path: String,
    /// What lost, the oldest first; then what is there.
    pub versions: Vec<VolumeConflictVersion>,
}

/// A version of a file in conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConflictVersion {
    /// Its name among the file's versions.
    pub version: String,
    /// The node that wrote it; the first letters of its volume's id if the node is not known.
    pub node: String,
    /// When it was written, as RFC 3339 in UTC.
    pub time: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it is the present content; else it lost.
    pub present: bool,
}

/// Which nodes have the bytes of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeWhere {
    /// Files.
    pub files: u64,
    /// Bytes of their contents, without holes.
    pub bytes: u64,
    /// The nodes, this one first.
    pub nodes: Vec<VolumeHolder>,
}

/// A node that may have bytes of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeHolder {
    /// Its name.
    pub node: String,
    /// Whether it is this node.
    pub this: bool,
    /// Bytes that it has.
    pub bytes: u64,
    /// Why it is not known what it has.
    pub trouble: Option<String>,
}

/// What was fetched from other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePrefetched {
    /// Files.
    pub files: u64,
    /// Bytes of their contents, without holes, as far as they are known.
    pub bytes: u64,
    /// Bytes that were not here, and are now.
    pub fetched: u64,
    /// Files of which nobody who is linked has all.
    pub lacking: u64,
    /// The paths of the first of them, below where the volume is mounted.
    pub named: Vec<String>,
}

/// How many nodes keep what is in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReplicas {
    /// How many.
    pub count: u32,
    /// The directory that says so, below where the volume is mounted; none if none does.
    pub by: Option<String>,
}

/// Contents that several nodes are to keep, and which of them lack copies on nodes that are reachable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCopies {
    /// Contents.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those with fewer copies than asked for.
    pub under_replicated: u64,
    /// Their bytes.
    pub under_replicated_bytes: u64,
    /// Those of which no reachable node has all.
    pub missing: u64,
    /// Their bytes.
    pub missing_bytes: u64,
}
