//! Examples of what lets a runner give packets of an origin to another.

use oswalk_agent::wire::holding::{Claim, Held, TICKET_BYTES, TicketKey};
use packetfs::packet::PacketRef;
use worknode::id::NodeId;

use crate::messages;

pub(crate) const KEY: TicketKey = TicketKey([5; TICKET_BYTES]);

fn node(name: &str) -> NodeId {
    name.parse().expect("a node's name")
}

fn packets() -> Vec<PacketRef> {
    messages::packets().packets.iter().map(|(packet, _)| *packet).collect()
}

pub(crate) fn held() -> Vec<Held> {
    let packets = packets();
    let ticket = KEY.ticket(&node("n2"), &packets);
    vec![Held { holder: node("n1"), ticket, packets }]
}

pub(crate) fn claim() -> Claim {
    let packets = packets();
    let ticket = KEY.ticket(&node("n2"), &packets);
    Claim { origin: node("laptop"), ticket, packets }
}
