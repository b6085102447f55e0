//! Which runners have which packets of this machine's files, and who gives them to others. Pure.
//!
//! A packet is sent once. Whoever asks for it afterwards is told who holds it, each holder to a few others, which then hold it,
//! too. Who asks for it again gets it from here, for whatever reason it did not come.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use packetfs::packet::{Digest, PacketRef};
use packetfs::watch::ReaderId;
use worknode::id::NodeId;

use crate::wire::holding::{Held, TicketKey};
use crate::wire::limits::PACKETS_PER_CLAIM;

/// Smallest content that is not sent twice: nearly all headers are smaller. Nobody has to wait for those.
const HELD_BYTES_MIN: u32 = 16 * 1024;
/// Most packets of which holders are known, for some twenty megabytes. Beyond this, all are forgotten, and sent again.
const PACKETS_MAX: usize = 100_000;
/// Most holders of a packet that are remembered.
const HOLDERS_MAX: usize = 16;
/// To how many others a holder of a packet is named before the next one is. It may not have the packet yet itself.
const FANOUT: u32 = 3;
/// Round trip from which on a runner counts as far: in another building.
const FAR_MIN: Duration = Duration::from_millis(5);
/// Packets for which a runner was told of a holder in vain within `FAILED_WITHIN`, after which it gets all from here for
/// `REST`: it may not reach the others.
const FAILED_MAX: u32 = 256;
const FAILED_WITHIN: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(30);

/// What is known of all runners.
#[derive(Debug, Default)]
pub(super) struct Holders {
    runners: HashMap<ReaderId, Runner>,
    packets: HashMap<Digest, Vec<Holder>>,
    /// Bytes of all contents for which a holder was named.
    named_bytes: u64,
    /// What the reader that is being answered is told of next.
    named: BTreeMap<ReaderId, Vec<PacketRef>>,
}

/// The node at the other end of a link.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    /// The shortest round trip to it, if known.
    pub(crate) round_trip: Option<Duration>,
    /// It takes packets from its own volume when it is told that they are there.
    pub(crate) knows_own_held: bool,
}

impl Peer {
    fn is_far(&self) -> bool {
        self.round_trip.is_some_and(|it| it >= FAR_MIN)
    }
}

/// A runner that gives packets to others and takes them.
#[derive(Debug)]
struct Runner {
    peer: Peer,
    key: TicketKey,
    /// Packets of which it was told who holds them.
    told: HashSet<Digest>,
    /// How many of them it asked for again, since when.
    failed: (u32, Instant),
    rests_until: Option<Instant>,
}

/// A runner that has a packet, or is about to.
#[derive(Debug)]
struct Holder {
    reader: ReaderId,
    /// How many others were told of it.
    told: u32,
}

impl Holders {
    /// Adds a runner, whose tickets are made with this key.
    pub(super) fn meet(&mut self, reader: ReaderId, peer: Peer, key: TicketKey, now: Instant) {
        let (told, failed, rests_until) = (HashSet::new(), (0, now), None);
        self.runners.insert(reader, Runner { peer, key, told, failed, rests_until });
    }

    /// Removes a runner whose link has ended.
    pub(super) fn forget(&mut self, reader: ReaderId) {
        self.runners.remove(&reader);
    }

    /// Notes that a packet is being sent to a reader.
    pub(super) fn note_sent(&mut self, reader: ReaderId, packet: PacketRef) {
        if packet.bytes < HELD_BYTES_MIN || !self.runners.contains_key(&reader) {
            return;
        }
        if self.packets.len() >= PACKETS_MAX {
            self.packets.clear();
        }
        let holders = self.packets.entry(packet.digest).or_default();
        if holders.len() >= HOLDERS_MAX {
            holders.retain(|it| self.runners.contains_key(&it.reader));
        }
        if holders.len() < HOLDERS_MAX && !holders.iter().any(|it| it.reader == reader) {
            holders.push(Holder { reader, told: 0 });
        }
    }

    /// Tells whether another runner holds any of the packets.
    pub(super) fn hold_any<'a>(
        &self,
        reader: ReaderId,
        mut packets: impl Iterator<Item = &'a PacketRef>,
    ) -> bool {
        let is_held = |packet: &PacketRef| {
            self.packets
                .get(&packet.digest)
                .is_some_and(|all| all.iter().any(|it| it.reader != reader))
        };
        self.runners.contains_key(&reader) && packets.any(is_held)
    }

    /// Names a holder to a reader that may have the packet. Returns false if there is none, or the reader was told before.
    pub(super) fn name(&mut self, reader: ReaderId, packet: PacketRef, now: Instant) -> bool {
        let Some(runner) = self.runners.get_mut(&reader) else { return false };
        if !runner.may_be_told(packet, now) {
            return false;
        }
        let is_far = runner.peer.is_far();
        let Some(holders) = self.packets.get_mut(&packet.digest) else { return false };
        let may_give = |holder: ReaderId| {
            let of_holder = self.runners.get(&holder);
            holder != reader && of_holder.is_some_and(|it| is_far || !it.peer.is_far())
        };
        let linked = holders.iter_mut().filter(|it| may_give(it.reader));
        // The first of those that were named least.
        let Some(holder) = linked.min_by_key(|it| it.told / FANOUT) else { return false };
        holder.told += 1;
        let named = holder.reader;
        if let Some(runner) = self.runners.get_mut(&reader) {
            runner.note_told(packet);
        }
        self.named_bytes += u64::from(packet.bytes);
        self.named.entry(named).or_default().push(packet);
        self.note_sent(reader, packet);
        true
    }

    /// Names to a reader, whose volume has or fetches the packet, itself. Returns false if it cannot be told, or was before.
    pub(super) fn name_itself(
        &mut self,
        reader: ReaderId,
        packet: PacketRef,
        now: Instant,
    ) -> bool {
        let Some(runner) = self.runners.get_mut(&reader) else { return false };
        if !runner.may_be_told(packet, now) || !runner.peer.knows_own_held {
            return false;
        }
        runner.note_told(packet);
        self.named_bytes += u64::from(packet.bytes);
        self.named.entry(reader).or_default().push(packet);
        true
    }

    /// Returns the bytes of all contents for which a holder was named so far.
    pub(super) fn named_bytes(&self) -> u64 {
        self.named_bytes
    }

    /// Returns the holders that were named to a reader since the last call.
    pub(super) fn take_named(&mut self, reader: ReaderId) -> Vec<Held> {
        let named = std::mem::take(&mut self.named);
        let Some(taker) = self.runners.get(&reader).map(|it| &it.peer.node) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for (holder, packets) in named {
            let Some(Runner { peer, key, .. }) = self.runners.get(&holder) else { continue };
            all.extend(packets.chunks(PACKETS_PER_CLAIM).map(|packets| Held {
                holder: peer.node.clone(),
                ticket: key.ticket(taker, packets),
                packets: packets.to_vec(),
            }));
        }
        all
    }
}

impl Runner {
    /// Tells whether it may be told who holds a packet. One that asks again did not get it.
    fn may_be_told(&mut self, packet: PacketRef, now: Instant) -> bool {
        if self.told.contains(&packet.digest) {
            self.fail(now);
            return false;
        }
        self.rests_until.is_none_or(|until| until <= now)
    }

    fn note_told(&mut self, packet: PacketRef) {
        if self.told.len() >= PACKETS_MAX {
            self.told.clear();
        }
        self.told.insert(packet.digest);
    }

    /// Counts a packet that it asked for although it was told of a holder.
    fn fail(&mut self, now: Instant) {
        let (count, since) = &mut self.failed;
        if now.saturating_duration_since(*since) > FAILED_WITHIN {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count >= FAILED_MAX {
            *count = 0;
            self.rests_until = Some(now + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use packetfs::packet::reference;

    use super::*;
    use crate::wire::holding::TICKET_BYTES;

    fn node(reader: ReaderId) -> NodeId {
        format!("n{reader}").parse().expect("a sound name")
    }

    fn key(reader: ReaderId) -> TicketKey {
        TicketKey([u8::try_from(reader).expect("a small number"); TICKET_BYTES])
    }

    fn holders(readers: u32) -> (Holders, Instant) {
        let (mut holders, now) = (Holders::default(), Instant::now());
        let peer =
            |it| Peer { node: node(it), round_trip: Some(FAR_MIN / 2), knows_own_held: it != 3 };
        (1..=readers).for_each(|it| holders.meet(it, peer(it), key(it), now));
        (holders, now)
    }

    fn packet(number: u32) -> PacketRef {
        reference(&number.to_le_bytes().repeat(5000))
    }

    /// Answers a reader that asks for a packet. Returns whom it is sent to instead.
    fn ask(
        holders: &mut Holders,
        reader: ReaderId,
        packet: PacketRef,
        now: Instant,
    ) -> Option<String> {
        if !holders.name(reader, packet, now) {
            holders.note_sent(reader, packet);
            assert_eq!(holders.take_named(reader), []);
            return None;
        }
        let [held] = holders.take_named(reader).try_into().expect("one holder");
        assert_eq!(held.packets, [packet]);
        let number = held.holder.as_str()[1..].parse().expect("a number");
        assert!(key(number).admits(&node(reader), &held.packets, &held.ticket));
        Some(held.holder.to_string())
    }

    #[test]
    fn a_packet_is_sent_once_and_each_holder_named_to_a_few() {
        let (mut holders, now) = holders(9);
        let asked: Vec<_> = (1..=9).map(|it| ask(&mut holders, it, packet(1), now)).collect();
        let named = ["n1", "n1", "n1", "n2", "n2", "n2", "n3", "n3"].map(|it| Some(it.to_owned()));
        assert_eq!(asked[0], None);
        assert_eq!(asked[1..], named);
    }

    #[test]
    fn a_runner_with_a_volume_is_named_itself_once() {
        let (mut holders, now) = holders(3);
        for (reader, knows) in [(1, true), (2, true), (3, false)] {
            assert_eq!(holders.name_itself(reader, packet(1), now), knows);
            let named = holders.take_named(reader);
            assert_eq!(named.len(), usize::from(knows));
            assert!(named.iter().all(|held| held.holder == node(reader)));
            assert!(!holders.name_itself(reader, packet(1), now), "it asks again");
        }
    }

    #[test]
    fn who_asks_again_is_sent_the_packet() {
        let (mut holders, now) = holders(2);
        assert_eq!(ask(&mut holders, 1, packet(1), now), None);
        assert!(ask(&mut holders, 2, packet(1), now).is_some());
        assert_eq!(ask(&mut holders, 2, packet(1), now), None);
        assert_eq!(ask(&mut holders, 1, packet(1), now).as_deref(), Some("n2"), "it lost its own");
    }

    #[test]
    fn whom_others_fail_gets_all_from_here_for_a_while() {
        let (mut holders, now) = holders(2);
        for number in 0..=FAILED_MAX {
            ask(&mut holders, 1, packet(number), now);
        }
        for number in 0..FAILED_MAX {
            assert!(ask(&mut holders, 2, packet(number), now).is_some());
            assert_eq!(ask(&mut holders, 2, packet(number), now), None);
        }
        assert_eq!(ask(&mut holders, 2, packet(FAILED_MAX), now), None);
        ask(&mut holders, 1, packet(FAILED_MAX + 1), now);
        assert!(ask(&mut holders, 2, packet(FAILED_MAX + 1), now + REST).is_some());
    }

    #[test]
    fn small_packets_and_other_versions_are_always_sent() {
        let (mut holders, now) = holders(2);
        let small = reference(b"small");
        assert_eq!(ask(&mut holders, 1, small, now), None);
        assert_eq!(ask(&mut holders, 2, small, now), None);
        assert_eq!(ask(&mut holders, 1, packet(1), now), None);
        assert!(!holders.name(7, packet(1), now), "it was never met");
        holders.note_sent(7, packet(2));
        assert_eq!(ask(&mut holders, 1, packet(2), now), None);
    }

    #[test]
    fn who_has_gone_holds_nothing() {
        let (mut holders, now) = holders(3);
        ask(&mut holders, 1, packet(1), now);
        assert!(holders.hold_any(2, [packet(1)].iter()));
        assert!(!holders.hold_any(1, [packet(1)].iter()));
        holders.forget(1);
        assert_eq!(ask(&mut holders, 2, packet(1), now), None);
        assert_eq!(ask(&mut holders, 3, packet(1), now).as_deref(), Some("n2"));
    }

    #[test]
    fn a_far_holder_is_named_to_far_runners_alone() {
        let (mut holders, now) = holders(2);
        for far in [3, 4] {
            holders.meet(
                far,
                Peer { node: node(far), round_trip: Some(FAR_MIN), knows_own_held: true },
                key(far),
                now,
            );
        }
        assert_eq!(ask(&mut holders, 3, packet(1), now), None);
        assert_eq!(ask(&mut holders, 1, packet(1), now), None);
        assert_eq!(ask(&mut holders, 2, packet(1), now).as_deref(), Some("n1"));
        assert_eq!(ask(&mut holders, 4, packet(1), now).as_deref(), Some("n3"));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let count = u32::try_from(HOLDERS_MAX).expect("a small number") + 5;
        let (mut holders, now) = holders(count);
        for reader in 1..=count {
            ask(&mut holders, reader, packet(1), now);
        }
        assert_eq!(holders.packets[&packet(1).digest].len(), HOLDERS_MAX);
        let large =
            |number: u32| PacketRef { digest: Digest::of(&number.to_le_bytes()), bytes: 65_536 };
        for number in 0..=u32::try_from(PACKETS_MAX).expect("a small number") {
            holders.note_sent(1, large(number));
        }
        assert!(holders.packets.len() <= PACKETS_MAX);
    }
}
