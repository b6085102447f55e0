//! Who asks: for a session, for a walk, for the agent's end. It travels from the door in the spec to the runner, which
//! executes the program as this user.

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::id::NodeId;

/// Supplementary groups: the kernel's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65_536;

/// A user of the cluster, as the kernel of a node knows the process that asks (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The node at whose door the user came in. A runner believes it of the node that its link leads to.
    pub node: NodeId,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    #[serde(deserialize_with = "at_most::<_, _, GROUPS_MAX>")]
    pub groups: Vec<u32>,
}
