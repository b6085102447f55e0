//! A link to another node's volume, and whose volume it is.

use std::collections::HashMap;

use packetfs::volume::Volume;
use worknode::history::Author;
use worknode::id::NodeId;
use worknode::key::Key;

use super::peer::Peer;
use crate::link::queued::Outbox;
use crate::wire::frame::Kind;

/// A link to another node.
pub(super) struct Linked {
    pub(super) node: NodeId,
    pub(super) out: Outbox,
    pub(super) peer: Peer,
    /// The other side knows of locks on files.
    knows_locks: bool,
    /// Whose volume it leads to, unless another node has stated that it is that node's. With that one this volume agrees about
    /// locks.
    pub(super) met: Option<Author>,
    /// The node has stated so. Before that it is only its word, which keeps nobody from asking others for that author's events.
    is_stated: bool,
    /// It was told that the node is not believed.
    is_told: bool,
}

/// What was found out about whose volume a link leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Same,
    /// It is this one's, as far as is known.
    Met(Author),
    /// It is not this one's, as was believed.
    Exposed(Author),
}

impl Linked {
    pub(super) fn new(node: NodeId, out: Outbox, knows_locks: bool) -> Self {
        let peer = Peer::default();
        Self { node, out, peer, knows_locks, met: None, is_stated: false, is_told: false }
    }

    /// Returns whose volume it leads to, if the node has stated so.
    pub(super) fn stated(&self) -> Option<Author> {
        self.met.filter(|_| self.is_stated)
    }

    /// Tells whether a statement about an author would change what is believed of this link.
    pub(super) fn depends_on(&self, author: Author) -> bool {
        !self.is_stated && self.met.or(self.peer.author) == Some(author)
    }

    /// Looks whose volume the link leads to: the one that the other side names, unless the key of another node has stated that it
    /// is that node's. A volume without events is nobody's so far. To be called again when there are new statements.
    pub(super) fn judge(&mut self, members: &HashMap<Key, NodeId>, volume: &Volume) -> Judged {
        let Some(author) = self.met.or(self.peer.author).filter(|_| !self.is_stated) else {
            return Judged::Same;
        };
        let authors = volume.authors();
        let stated = authors.iter().find(|(it, _)| *it == author);
        let is_own = stated.map(|(_, key)| members.get(key) == Some(&self.node));
        if is_own == Some(false) {
            if !std::mem::replace(&mut self.is_told, true) {
                tracing::warn!(peer = %self.node, ?author, "a node says that another node's volume is its own");
            }
            return self.met.take().map_or(Judged::Same, Judged::Exposed);
        }
        self.is_stated = is_own == Some(true);
        if self.met.replace(author).is_some() { Judged::Same } else { Judged::Met(author) }
    }

    /// Agrees about locks with the volume that the link leads to, if the other side knows of them.
    pub(super) fn begin_locks(&self, volume: &Volume) {
        let Some(author) = self.met.filter(|_| self.knows_locks) else { return };
        let out = self.out.clone();
        let wire = move |message: Vec<u8>| out.send(Kind::Locks, message.into());
        volume.begin_locks(author, Box::new(wire));
    }
}
