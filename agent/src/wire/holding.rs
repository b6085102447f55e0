//! Packets of an origin that one runner gives to another, with a ticket of the origin.

use packetfs::packet::PacketRef;
use serde::{Deserialize, Serialize};
use worknode::id::NodeId;

use super::limits::{HELD_MAX, PACKETS_PER_CLAIM, SHORT_BYTES_MAX};

/// Bytes of a key for tickets, and of a ticket.
pub const TICKET_BYTES: usize = 32;

/// The key that an origin shares with one runner: it makes the tickets for what that runner holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey(pub [u8; TICKET_BYTES]);

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey")
    }
}

impl TicketKey {
    /// Returns the ticket by which a node may claim these packets, in this order.
    #[must_use]
    pub fn ticket(&self, taker: &NodeId, packets: &[PacketRef]) -> Ticket {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let name = taker.as_str().as_bytes();
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
        for packet in packets {
            hasher.update(&packet.digest.0).update(&packet.bytes.to_le_bytes());
        }
        Ticket(*hasher.finalize().as_bytes())
    }

    /// Tells whether a node may claim these packets by a ticket.
    #[must_use]
    pub fn admits(&self, taker: &NodeId, packets: &[PacketRef], ticket: &Ticket) -> bool {
        // Digests of BLAKE3 are compared in constant time.
        blake3::Hash::from_bytes(self.ticket(taker, packets).0)
            == blake3::Hash::from_bytes(ticket.0)
    }

    /// Decodes it. Returns `None` if it is damaged.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        (payload.len() == TICKET_BYTES).then(|| postcard::from_bytes(payload).ok()).flatten()
    }
}

/// Shows a holder that the origin lets a node have some packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket(pub [u8; TICKET_BYTES]);

/// Packets that the origin does not send, because another runner has them or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// That runner.
    pub holder: NodeId,
    /// By which it gives them.
    pub ticket: Ticket,
    /// The packets.
    pub packets: Vec<PacketRef>,
}

impl Held {
    /// Decodes a list of these. Returns `None` if it is damaged or too long.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Vec<Self>> {
        let all: Vec<Self> = short(payload)?;
        let fits =
            all.len() <= HELD_MAX && all.iter().all(|held| held.packets.len() <= PACKETS_PER_CLAIM);
        fits.then_some(all)
    }
}

/// Asks a runner for packets of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The origin.
    pub origin: NodeId,
    /// Its ticket.
    pub ticket: Ticket,
    /// All packets for which the ticket was made.
    pub packets: Vec<PacketRef>,
}

impl Claim {
    /// Decodes it. Returns `None` if it is damaged, or asks for too many.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let claim: Self = short(payload)?;
        (claim.packets.len() <= PACKETS_PER_CLAIM).then_some(claim)
    }
}

fn short<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
    let fits = payload.len() <= SHORT_BYTES_MAX;
    fits.then(|| postcard::from_bytes(payload).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use packetfs::packet::reference;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a sound name")
    }

    #[test]
    fn a_ticket_is_for_one_node_and_these_packets() {
        let [one, two] = [b"one", b"two"].map(|content| reference(content));
        let key = TicketKey([7; TICKET_BYTES]);
        let ticket = key.ticket(&node("n1"), &[one, two]);
        assert!(key.admits(&node("n1"), &[one, two], &ticket));
        assert!(!key.admits(&node("n2"), &[one, two], &ticket));
        assert!(!key.admits(&node("n1"), &[one], &ticket));
        assert!(!key.admits(&node("n1"), &[two, one], &ticket));
        let longer = PacketRef { bytes: two.bytes + 1, ..two };
        assert!(!key.admits(&node("n1"), &[one, longer], &ticket));
        assert!(!TicketKey([8; TICKET_BYTES]).admits(&node("n1"), &[one, two], &ticket));
    }

    #[test]
    fn lists_are_bounded() {
        let packets = |count| vec![reference(b"content"); count];
        let ticket = Ticket([1; TICKET_BYTES]);
        let held = |count| Held { holder: node("n1"), ticket, packets: packets(count) };
        let encoded = |all: &Vec<Held>| Held::decode(&super::super::message::encode(all));
        assert!(encoded(&vec![held(PACKETS_PER_CLAIM)]).is_some());
        assert!(encoded(&vec![held(PACKETS_PER_CLAIM + 1)]).is_none());
        assert!(encoded(&vec![held(1); HELD_MAX]).is_some());
        assert!(encoded(&vec![held(1); HELD_MAX + 1]).is_none());
        let claim = |count| Claim { origin: node("o"), ticket, packets: packets(count) };
        let encoded = |claim: &Claim| Claim::decode(&super::super::message::encode(claim));
        assert!(encoded(&claim(PACKETS_PER_CLAIM)).is_some());
        assert!(encoded(&claim(PACKETS_PER_CLAIM + 1)).is_none());
    }
}
