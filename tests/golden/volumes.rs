//! Examples of what volumes of two nodes say to each other.

use oswalk_agent::wire::feed::{Events, Fetch, Has, Probe, Want};
use packetfs::locks::{Answer, Ask, Envelope, Held, Mode, Owner, Refusal, Space, Word};
use packetfs::log::Feed;
use packetfs::volume::{Batch, Statement};
use worknode::history::{Author, Dot, Event, Hlc, Op, Summary};
use worknode::key::SecretKey;

use crate::messages;

const AUTHOR: Author = Author([1; 16]);

pub(crate) fn has() -> [Has; 2] {
    let all = Summary([(AUTHOR, 7), (Author([2; 16]), 300)].into());
    let answer = Summary([(AUTHOR, 9)].into());
    [
        Has { author: Some(AUTHOR), summary: all, is_all: true },
        Has { author: Some(AUTHOR), summary: answer, is_all: false },
    ]
}

/// The signatures are of other messages: codecs do not look at them.
pub(crate) fn events() -> Events {
    let [events, node] = [3, 4].map(|seed| SecretKey::from_seed(&[seed; 32]));
    let op = Op::Unlink { dir: Dot::default(), name: b"name".to_vec() };
    let dot = Dot { author: AUTHOR, seq: 8 };
    let event = Event { dot, hlc: Hlc::at_ms(1000), time: 5, parents: vec![dot], op };
    let event = postcard::to_allocvec(&event).expect("a vector takes any length");
    let feed = Feed {
        after: 7,
        before: [9; 32],
        events: vec![event.into()],
        signature: events.sign(b"events up to 8"),
    };
    let batch = Batch { statement: Statement::sign(events.key(), &node), feed };
    Events { batch, packets: messages::packets().packets }
}

/// One message about locks of each kind, by name.
pub(crate) fn locks() -> Vec<(&'static str, Envelope)> {
    let owner = Owner { node: AUTHOR, id: 5 };
    let lock =
        Held { owner, space: Space::Range, mode: Mode::Exclusive, start: 0, end: 9, pid: 100 };
    let (id, file, linked) = (6, Dot { author: AUTHOR, seq: 8 }, vec![AUTHOR]);
    let locks = vec![(file, lock)];
    let claim = Ask::Claim { is_first: true, is_last: false, locks, linked: linked.clone() };
    let refused = |refusal| Answer::Refused { id, refusal };
    let asks = [
        ("-claim", claim),
        ("-leave", Ask::Leave { linked }),
        ("-lock", Ask::Lock { id, file, lock, waits: true }),
        ("-test", Ask::Test { id, file, lock }),
        ("-unlock", Ask::Unlock { id, file, lock }),
        ("-cancel", Ask::Cancel { id, file }),
        ("-hello", Ask::Hello),
    ];
    let answers = [
        ("-granted", Answer::Granted { id }),
        ("-free", Answer::Free { id }),
        ("-held", refused(Refusal::Held(lock))),
        ("-deadlock", refused(Refusal::Deadlock)),
        ("-full", refused(Refusal::Full)),
        ("-cancelled", refused(Refusal::Cancelled)),
        ("-unlocked", Answer::Unlocked { id }),
        ("-lost", Answer::Lost { file, lock }),
    ];
    let asks = asks.into_iter().map(|(name, ask)| (name, Word::Ask(ask)));
    let answers = answers.into_iter().map(|(name, answer)| (name, Word::Answer(answer)));
    let envelope = |word| Envelope { seen: vec![(AUTHOR, 9)], round: 2, word };
    asks.chain(answers).map(|(name, word)| (name, envelope(word))).collect()
}

pub(crate) fn want() -> Want {
    Want { author: AUTHOR, after: 7 }
}

pub(crate) fn fetch() -> Fetch {
    Fetch { packets: messages::packets().packets.iter().map(|(packet, _)| *packet).collect() }
}

pub(crate) fn probe() -> Probe {
    Probe { packets: fetch().packets }
}
