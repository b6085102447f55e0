//! Packets of an origin's files that runners give to each other, so that the origin sends each packet about once however many
//! runners need it.
//!
//! The origin decides: its exporter answers some questions by naming a runner that holds the packets, with a ticket
//! (exporter/holders.rs). `claims` asks that runner, and `giver` gives. What does not come in time is asked of the origin
//! again, which then sends it.
//!
//! Of a file in its volume the origin names the runner itself, if that has a volume, too: the runner takes the packets from there.

mod claims;
mod giver;

use std::rc::Rc;
use std::sync::Arc;

use packetfs::packet::PacketRef;
use packetfs::store::Store;
use tokio::sync::mpsc::UnboundedReceiver;
use worknode::id::NodeId;

pub(crate) use claims::{Claims, Wish};

use crate::link::Link;
use crate::mesh::Mesh;
use crate::wire::frame::{Frame, Kind};
use giver::Giver;

/// Both sides of a runner: what it asks of others, and what it gives.
pub(crate) struct Holders {
    pub(crate) claims: Rc<Claims>,
    giver: Giver,
}

impl Holders {
    /// Starts the thread that gives packets of a store. Returns also the receiver of what the links are to do.
    pub(crate) fn start(
        store: &Arc<Store>,
        node: &NodeId,
        mesh: Mesh,
    ) -> std::io::Result<(Self, UnboundedReceiver<Wish>)> {
        let own = Arc::new(move |packets: &[PacketRef]| mesh.obtain(packets));
        let (claims, wishes_rx) = Claims::new(store, node, own);
        Ok((Self { claims: Rc::new(claims), giver: Giver::start(store)? }, wishes_rx))
    }

    /// Handles a new link.
    pub(crate) fn begin(&self, link: &Rc<Link>) {
        if link.knows_holders() {
            self.claims.begin(link);
        }
    }

    /// Handles the end of a link.
    pub(crate) fn end(&self, link: &Link) {
        self.claims.end(link);
        self.giver.end(link.number);
    }

    /// Handles a frame between runners, or an origin's key. Never blocks.
    pub(crate) fn take(&self, link: &Link, frame: Frame) {
        match frame.kind {
            Kind::TicketKey => self.giver.take_key(link.number, &link.peer, &frame.payload),
            Kind::Given => self.claims.take_given(link.number, frame.stream, frame.payload),
            _ => {
                if !link.note_claim() {
                    tracing::error!(peer = %link.peer, "dropping the link: it has too many open claims of packets");
                    return link.close();
                }
                self.giver.take(&link.peer, link.sender(), frame);
            }
        }
    }
}
