//! Frames and messages between agents.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::bytes::{damage, damaged, noise, survives, survives_postcard};
use crate::changes::change_sets;
use crate::files::{contents, listings, packed, packets, tree_paths};
use crate::memory::bounded;
use crate::trial::holds;
use crate::walks::{nodes, outcomes};
use bytes::Bytes;
use oswalk_agent::wire::frame::{Assembler, Frame, HEAD_BYTES, Kind};
use oswalk_agent::wire::holding::{Claim, Held, TICKET_BYTES, Ticket};
use oswalk_agent::wire::limits::PAYLOAD_BYTES_MAX;
use oswalk_agent::wire::message::{Answer, Ask, Doubt, Exit, Open, Packets, Told, encode};
use oswalk_agent::wire::squeeze::{Squeezer, Unsqueezer};
use packetfs::change::ChangeSet;
use worknode::id::Attempt;

fn frames() -> impl Strategy<Value = Frame> {
    let long = (PAYLOAD_BYTES_MAX - 2..2 * PAYLOAD_BYTES_MAX + 3).prop_map(|size| vec![7; size]);
    let payloads = prop_oneof![9 => noise(), 1 => long];
    (proptest::sample::select(&Kind::ALL[..]), any::<u32>(), payloads)
        .prop_map(|(kind, stream, payload)| Frame { kind, stream, payload: payload.into() })
}

/// Frames survive any division into messages. Damaged ones yield errors or other frames, but never more
/// bytes than were received.
#[test]
fn frames_of_links() {
    let values = (vec(frames(), 0..5), any::<bool>(), damage(), noise());
    holds(&values, |(frames, apart, damages, noise)| {
        let messages: Vec<Vec<u8>> = if apart {
            frames.iter().flat_map(pieces).collect()
        } else {
            let mut message = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut message));
            vec![message]
        };
        let mut assembler = Assembler::default();
        let read = |assembler: &mut Assembler, message: &[u8]| {
            bounded(message, |message| assembler.frames(Bytes::copy_from_slice(message)))
        };
        let whole: Vec<_> = messages
            .iter()
            .flat_map(|message| read(&mut assembler, message).expect("just encoded"))
            .collect();
        assert_eq!(whole, frames);
        for hostile in [damaged(messages.concat(), &damages), noise] {
            if let Ok(frames) = read(&mut assembler, &hostile) {
                let bytes: usize = frames.iter().map(|frame| frame.payload.len()).sum();
                assert!(bytes <= hostile.len());
            }
            assembler = Assembler::default();
        }
    });
}

/// Returns the pieces of a frame, each as a message.
fn pieces(frame: &Frame) -> Vec<Vec<u8>> {
    let mut message = Vec::new();
    frame.encode(&mut message);
    let mut pieces = Vec::new();
    while message.len() > HEAD_BYTES + PAYLOAD_BYTES_MAX {
        let rest = message.split_off(HEAD_BYTES + PAYLOAD_BYTES_MAX);
        pieces.push(std::mem::replace(&mut message, rest));
    }
    pieces.push(message);
    pieces
}

#[test]
fn messages_of_walks() {
    let open = (any::<u32>(), noise()).prop_map(|(attempt, spec)| Open {
        attempt: Attempt(attempt),
        spec: Squeezer::default().squeeze(&spec),
    });
    let exit = (outcomes(), change_sets(), vec(any::<(u32, u64)>(), 0..4), any::<Option<bool>>());
    let exit = exit.prop_map(|(outcome, changes, offsets, doubt)| Exit {
        outcome,
        changes,
        offsets,
        doubt: doubt.map(|torn| if torn { Doubt::Torn } else { Doubt::ShownLess }),
    });
    let packets = vec((packets(), packed()), 0..3).prop_map(|packets| Packets { packets });
    survives_postcard((open, exit, packets));
}

#[test]
fn what_runners_hold() {
    let tickets = || any::<[u8; TICKET_BYTES]>().prop_map(Ticket);
    let named = || (nodes(), tickets(), vec(packets(), 0..5));
    let held = named().prop_map(|(holder, ticket, packets)| Held { holder, ticket, packets });
    survives(vec(held, 0..4), encode, Held::decode);
    let claim = named().prop_map(|(origin, ticket, packets)| Claim { origin, ticket, packets });
    survives(claim, encode, Claim::decode);
}

/// Messages survive squeezing. Damaged ones are refused or yield other messages.
#[test]
fn squeezed_messages() {
    let alike = (noise(), 0..2000_usize, any::<u8>())
        .prop_map(|(noise, size, byte)| [noise, vec![byte; size]].concat());
    holds(&(vec(alike, 1..20), damage()), |(messages, damages)| {
        let (mut squeezer, mut unsqueezer) = (Squeezer::default(), Unsqueezer::default());
        for message in messages {
            let squeezed = squeezer.squeeze(&message);
            let hostile = damaged(encode(&squeezed), &damages);
            assert_eq!(unsqueezer.unsqueeze(squeezed, 1 << 20), Some(message));
            if let Ok(hostile) = postcard::from_bytes(&hostile) {
                let _ = Unsqueezer::default().unsqueeze(hostile, 1 << 20);
            }
        }
    });
}

#[test]
fn questions_and_answers() {
    let asks = prop_oneof![
        tree_paths().prop_map(Ask::Listing),
        tree_paths().prop_map(Ask::Content),
        (tree_paths(), vec((any::<u64>(), packets()), 0..4))
            .prop_map(|(path, packets)| Ask::Packets(path, packets)),
    ];
    let answers = prop_oneof![
        listings().prop_map(Answer::Listing),
        (contents(), proptest::option::of(packed()))
            .prop_map(|(content, packed)| Answer::Content(content, packed)),
        vec((packets(), packed()), 0..3).prop_map(Answer::Packets),
        any::<i32>().prop_map(Answer::Failed),
    ];
    survives_postcard((asks, answers).prop_map(|(ask, answer)| {
        let told = Told { ask, answer };
        assert!(told.bytes() < 1 << 24, "what is to be sent is not much");
        vec![told]
    }));
}

/// A path has one spelling: decoders refuse any other.
#[test]
fn other_spellings_are_refused() {
    let parts = proptest::sample::select(vec!["", ".", "..", "a", "etc", "...", "b\0", "shadow"]);
    holds(&(any::<bool>(), vec(parts, 0..5)), |(absolute, parts)| {
        let text = format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"));
        let is_name = |part: &str| !matches!(part, "" | "." | ".." | "b\0");
        let names = text.strip_prefix('/');
        let is_sound = names.is_some_and(|names| names.is_empty() || names.split('/').all(is_name));
        // Encoded like `Ask` and `ChangeSet`, with bytes in the place of paths.
        let (ask, none) = (encode(&(0_u8, &text)), Vec::<u8>::new());
        let remove = encode(&(vec![(1_u8, &text)], &none, &none, &none));
        assert_eq!(postcard::from_bytes::<Ask>(&ask).is_ok(), is_sound, "{text:?}");
        assert_eq!(postcard::from_bytes::<ChangeSet>(&remove).is_ok(), is_sound, "{text:?}");
    });
}

#[test]
fn encoding_is_postcard() {
    let ask = Ask::Listing("/usr".parse().expect("a sound path"));
    assert_eq!(postcard::from_bytes::<Ask>(&encode(&ask)), Ok(ask));
}
