//! What all walks of this origin share.

use std::rc::Rc;
use std::sync::Arc;

use packetfs::export::Hidden;
use worknode::id::NodeId;

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

/// What all walks of this origin share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) hostname: Vec<u8>,
    /// The files that this agent sees, and shows to runners.
    pub(crate) view: View,
    /// The rights of processes that have given none up.
    pub(crate) rights: Rights,
    /// What no runner is shown, and no walk may touch.
    pub(crate) hidden: Arc<Hidden>,
    pub(crate) looks: Looks,
    pub(crate) served: Served,
    /// Memory for what runners have sent back, of all walks.
    pub(crate) returned: Rc<Budget>,
    pub(crate) exporter: ExporterHandle,
    pub(crate) commits: Commits,
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) links: Rc<Links>,
    pub(crate) sessions: Rc<Sessions>,
}
