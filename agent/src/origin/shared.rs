//! The parts that all walks of this origin share.

use std::rc::Rc;
use std::sync::Arc;

use packetfs::export::Hidden;
use worknode::id::NodeId;

use super::near::Near;
use super::pipes::Pipes;
use crate::budget::Budget;
use crate::cluster::Cluster;
use crate::commits::Commits;
use crate::exporter::ExporterHandle;
use crate::links::Links;
use crate::look::Looks;
use crate::served::Served;
use crate::sessions::Sessions;
use crate::sys::rights::Rights;
use crate::sys::view::View;

/// The parts that all walks of this origin share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) hostname: Vec<u8>,
    /// The view of the file system that this agent exports.
    pub(crate) view: View,
    /// The privileges of processes that have dropped none.
    pub(crate) rights: Rights,
    /// The rules for hiding files from runners and walks.
    pub(crate) hidden: Arc<Hidden>,
    pub(crate) looks: Rc<Looks>,
    pub(crate) served: Served,
    /// The memory budget for changes that runners have sent back.
    pub(crate) returned: Rc<Budget>,
    pub(crate) exporter: ExporterHandle,
    pub(crate) commits: Commits,
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) links: Rc<Links>,
    pub(crate) sessions: Rc<Sessions>,
    /// Knows which nodes have the bytes of walks below the volume.
    pub(crate) near: Near,
    /// Knows which walks others wait for.
    pub(crate) pipes: Rc<Pipes>,
}
