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
