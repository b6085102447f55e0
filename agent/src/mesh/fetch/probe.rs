//! Asks all linked nodes at once which packets they have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use packetfs::packet::PacketRef;
use worknode::id::NodeId;

use super::{Fetcher, Open};
use crate::wire::feed::{Probe, Probed};
use crate::wire::frame::{Frame, Kind};
use crate::wire::limits::{FETCHES_AT_ONCE, PROBED_MAX};
use crate::wire::message::encode;

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Whether it has each packet.
    Has(Vec<bool>),
    /// It has no volume.
    NoVolume,
    /// It has not answered in time, or not to the question.
    Silent,
}

impl Fetcher {
    /// Asks all linked nodes, except some, which of at most [`PROBED_MAX`] packets they have.
    pub(in crate::mesh) fn probe(
        &self,
        packets: &[PacketRef],
        except: &BTreeSet<NodeId>,
        patience: Duration,
    ) -> BTreeMap<NodeId, Answer> {
        let packets = &packets[..packets.len().min(PROBED_MAX)];
        let payload: Bytes = encode(&Probe { packets: packets.to_vec() }).into();
        let until = Instant::now() + patience;
        // The question to each link; none until it has room for one.
        let mut asked: HashMap<u32, (NodeId, Option<u32>)> = HashMap::new();
        let mut answers = BTreeMap::new();
        let mut state = self.lock();
        for (&link, holder) in state.links.iter().filter(|(_, it)| !except.contains(&it.node)) {
            asked.insert(link, (holder.node.clone(), None));
            answers.insert(holder.node.clone(), Answer::Silent);
        }
        while !asked.is_empty() {
            for (&link, (_, number)) in asked.iter_mut().filter(|(_, (_, it))| it.is_none()) {
                state.last = state.last.wrapping_add(1);
                let stream = state.last;
                let holder = state.links.get_mut(&link);
                let Some(holder) = holder.filter(|it| it.open < FETCHES_AT_ONCE) else { continue };
                holder.open += 1;
                let frame = Frame { kind: Kind::Probe, stream, payload: payload.clone() };
                // If the link has ended, so does the question.
                let _ = holder.out_tx.send(frame);
                state.open.insert(stream, Open { link, answer: None });
                *number = Some(stream);
            }
            let links = &state.links;
            asked.retain(|link, (_, number)| number.is_some() || links.contains_key(link));
            let open = &mut state.open;
            asked.retain(|_, (node, number)| {
                let Some(number) = number else { return true };
                let is_answered = open.get(number).is_none_or(|it| it.answer.is_some());
                if is_answered {
                    let answer = open.remove(number).and_then(|it| it.answer).unwrap_or_default();
                    answers.insert(node.clone(), decode(&answer, packets.len()));
                }
                !is_answered
            });
            let left = until.saturating_duration_since(Instant::now());
            if asked.is_empty() || left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        for (link, (_, number)) in asked {
            let Some(number) = number else { continue };
            state.open.remove(&number);
            // Its answer, which may still come, makes room for others.
            if let Some(late) = state.links.get_mut(&link) {
                late.is_late = true;
                late.given_up.insert(number);
            }
        }
        answers
    }
}

fn decode(payload: &[u8], count: usize) -> Answer {
    match Probed::decode(payload) {
        Some(Probed { has: None }) => Answer::NoVolume,
        Some(Probed { has: Some(has) }) if has.len() == count => Answer::Has(has),
        _ => Answer::Silent,
    }
}

#[cfg(test)]
mod tests {
    use packetfs::packet::reference;
    use tokio::sync::mpsc::unbounded_channel;

    use super::super::ANSWER_MAX;
    use super::*;

    #[test]
    fn late_answers_make_room_again() {
        let (liar_tx, _liar_rx) = unbounded_channel();
        let fetcher = Fetcher::new(liar_tx);
        let (out_tx, mut out_rx) = unbounded_channel();
        fetcher.begin(1, "n1".parse().expect("a sound name"), out_tx);
        let packets = [reference(b"one")];
        for _ in 0..2 * FETCHES_AT_ONCE {
            let answers = fetcher.probe(&packets, &BTreeSet::new(), Duration::ZERO);
            assert!(answers.values().all(|it| *it == Answer::Silent));
            let asked = out_rx.try_recv().expect("there is room");
            let late = encode(&Probed { has: Some(vec![true]) }).into();
            fetcher.take(1, asked.stream, late);
        }
    }

    #[test]
    fn every_node_is_asked_at_once_and_the_end_of_a_link_is_an_answer() {
        let (liar_tx, _liar_rx) = unbounded_channel();
        let fetcher = std::sync::Arc::new(Fetcher::new(liar_tx));
        let node = |number: u32| format!("n{number}").parse::<NodeId>().expect("a sound name");
        let packets = [reference(b"one"), reference(b"two")];
        let mut threads = Vec::new();
        for number in 1..=4 {
            let (out_tx, mut out_rx) = unbounded_channel();
            fetcher.begin(number, node(number), out_tx);
            let fetcher = std::sync::Arc::clone(&fetcher);
            threads.push(std::thread::spawn(move || {
                let Some(frame) = out_rx.blocking_recv() else { return };
                let probe: Probe = Probe::decode(&frame.payload).expect("a sound question");
                assert_eq!(probe.packets, packets);
                let has = match number {
                    1 => Some(vec![true, false]),
                    2 => None,
                    _ => return fetcher.end(number),
                };
                fetcher.take(number, frame.stream, encode(&Probed { has }).into());
            }));
        }
        let answers = fetcher.probe(&packets, &[node(4)].into(), ANSWER_MAX);
        let expected = [
            (node(1), Answer::Has(vec![true, false])),
            (node(2), Answer::NoVolume),
            (node(3), Answer::Silent),
        ];
        assert_eq!(answers, expected.into());
        assert!(fetcher.lock().open.is_empty());
        fetcher.end(4);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}
