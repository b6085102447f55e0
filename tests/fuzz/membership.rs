//! Who belongs to a cluster: records, rolls, join lines, and the messages that carry them.

use oswalk_agent::wire::greeting::{self, Hello, Purpose, Spoken};
use oswalk_agent::wire::joining::{
    BrokerPlace, JoinRefusal, JoinReply, JoinRequest, Proof, Welcome,
};
use oswalk_agent::wire::message::encode;
use proptest::collection::vec;
use proptest::prelude::*;
use worknode::key::{Key, SecretKey};
use worknode::membership::{ClusterId, JoinLine, Record, Roll, Statement, Succession};

use crate::bytes::{damage, damaged, noise, survives, survives_postcard};
use crate::memory::bounded;
use crate::trial::{holds, holds_for};
use crate::walks::nodes;

/// Hostile records and join lines of each kind, none of which may be accepted.
const FORGED: u32 = 100_000;

fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

/// Returns a cluster of the owner 0, the inviting node 1, the node 2, and the removed node 3.
fn cluster() -> Roll {
    let founding = Record::found("lab".parse().expect("a name"), [7; 16], 1, &secret(0));
    let mut roll = Roll::found(founding).expect("sound");
    for number in 1..4 {
        roll.take(admitted(&roll, number, number == 1, &secret(0))).expect("the owner may");
    }
    let removed = Statement::Removed { key: secret(3).key() };
    roll.take(Record::sign(roll.cluster(), removed, 3, &secret(0))).expect("the owner may");
    roll
}

fn admitted(roll: &Roll, number: u8, may_invite: bool, by: &SecretKey) -> Record {
    let node = format!("n{number}").parse().expect("a name");
    let statement = Statement::Admitted { node, key: secret(number).key(), may_invite };
    Record::sign(roll.cluster(), statement, 2, by)
}

fn statements() -> impl Strategy<Value = Statement> {
    let key = || (0..8_u8).prop_map(|number| secret(number).key());
    let founded = any::<[u8; 16]>()
        .prop_map(|nonce| Statement::Founded { name: "lab".parse().expect("a name"), nonce });
    let admitted = (nodes(), key(), any::<bool>())
        .prop_map(|(node, key, may_invite)| Statement::Admitted { node, key, may_invite });
    prop_oneof![founded, admitted, key().prop_map(|key| Statement::Removed { key })]
}

fn records() -> impl Strategy<Value = Record> {
    (any::<[u8; 32]>(), statements(), any::<u64>(), 0..8_u8)
        .prop_map(|(id, what, at_s, by)| Record::sign(ClusterId(id), what, at_s, &secret(by)))
}

/// A change of a sound record that its signature does not cover.
#[derive(Debug, Clone)]
enum Forgery {
    Says(Statement),
    By(u8),
    At(u64),
    Of([u8; 32]),
}

fn forgeries() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        statements().prop_map(Forgery::Says),
        (0..8_u8).prop_map(Forgery::By),
        any::<u64>().prop_map(Forgery::At),
        any::<[u8; 32]>().prop_map(Forgery::Of),
    ]
}

/// Returns a record that says something else under the same signature.
fn forged(mut record: Record, forgery: Forgery) -> Record {
    match forgery {
        Forgery::Says(statement) => record.statement = statement,
        Forgery::By(number) => record.by = secret(number).key(),
        Forgery::At(at_s) => record.at_s = at_s,
        Forgery::Of(cluster) => record.cluster = ClusterId(cluster),
    }
    record
}

/// No record is accepted that nobody with the right to it has signed.
#[test]
fn forged_records() {
    let roll = cluster();
    let known: Vec<Record> = roll.records().cloned().collect();
    let index = any::<proptest::sample::Index>();
    // Signed properly, but by nodes without a right to it.
    let unentitled = (statements(), 2..8_u8);
    holds_for(FORGED / 2, &(index, forgeries(), unentitled), |(at, forgery, (statement, by))| {
        let forged = forged(known[at.index(known.len())].clone(), forgery);
        let unentitled = Record::sign(roll.cluster(), statement, 5, &secret(by));
        for record in [forged, unentitled] {
            let mut target = roll.clone();
            // A change may yield the record that it was made of.
            if known.contains(&record) {
                continue;
            }
            assert!(target.take(record.clone()).is_err(), "{record:?}");
            assert_eq!(target.digest(), roll.digest());
        }
    });
}

/// Damaged encodings of a roll make nobody a member.
#[test]
fn damaged_records() {
    let roll = cluster();
    let bytes = encode(&roll.records().collect::<Vec<_>>());
    let names = |roll: &Roll| roll.members().map(|(key, _)| *key).collect::<Vec<Key>>();
    holds(&(damage(), noise()), |(damages, noise)| {
        for hostile in [damaged(bytes.clone(), &damages), noise] {
            let Some(records) = bounded(&hostile, greeting::records) else { continue };
            let Ok(read) = Roll::of(roll.cluster(), records) else { continue };
            let all = names(&roll);
            // A record that is missing may be that of the removal.
            let may = |key: &Key| all.contains(key) || *key == secret(3).key();
            assert!(names(&read).iter().all(may), "{read:?}");
            assert_eq!(read.owner(), roll.owner());
        }
    });
}

fn lines() -> impl Strategy<Value = JoinLine> {
    let ids = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 16]>());
    ("[a-z0-9.:\\[\\]-]{1,40}", ids).prop_map(|(address, (cluster, host, word))| JoinLine {
        address,
        cluster: ClusterId(cluster),
        host: Key(host),
        word,
    })
}

/// A line that was changed anywhere is no line.
#[test]
fn join_lines() {
    holds_for(FORGED, &(lines(), damage(), noise()), |(line, damages, noise)| {
        let text = line.to_string();
        let read = |bytes: &[u8]| {
            bounded(bytes, |bytes| std::str::from_utf8(bytes).ok()?.parse::<JoinLine>().ok())
        };
        assert_eq!(read(text.as_bytes()), Some(line.clone()));
        for hostile in [damaged(text.clone().into_bytes(), &damages), noise] {
            // White space around it is pasted with it.
            let same = std::str::from_utf8(&hostile).is_ok_and(|hostile| hostile.trim() == text);
            assert_eq!(read(&hostile).is_some(), same, "{}", String::from_utf8_lossy(&hostile));
        }
    });
}

#[test]
fn greetings() {
    let hellos = (
        (any::<u32>(), "[ -~]{0,20}", nodes(), any::<(u64, u64, bool)>()),
        (any::<[u8; 32]>(), vec(records(), 0..4)),
    );
    let hellos = hellos.prop_map(
        |((newest, version, node, (incarnation, clock_s, link)), (roll, admission))| Hello {
            spoken: Spoken { newest, oldest: 1 },
            version: version.into(),
            node,
            incarnation,
            purpose: if link { Purpose::Link } else { Purpose::Greet },
            clock_s,
            roll,
            admission,
            address: ([10, 0, 0, 1], 7700).into(),
            broker: link.then_some((Key(roll), ([10, 0, 0, 2], 7700).into())),
        },
    );
    survives(hellos, encode, greeting::hello);
}

#[test]
fn messages_of_rolls() {
    survives(vec(records(), 0..20), encode, greeting::records);
    survives_postcard(records());
}

#[test]
fn messages_of_joining() {
    let proofs = (any::<[u8; 16]>(), any::<Option<u8>>()).prop_map(|(word, old)| match old {
        None => Proof::Word(word),
        Some(old) => {
            let new = secret(word[0]).key();
            Proof::Successor(Succession::sign(ClusterId([old; 32]), new, &secret(old)))
        }
    });
    let requests = (proofs, nodes(), "[ -~]{0,20}").prop_map(|(proof, node, version)| {
        JoinRequest { proof, node, version: version.into(), spoken: Spoken::OURS }
    });
    survives_postcard(requests);
    let brokers = prop_oneof![
        (".{0,20}", any::<[u8; 32]>())
            .prop_map(|(address, key)| BrokerPlace::Node { address, key: Key(key) }),
        ".{0,20}".prop_map(BrokerPlace::Url),
    ];
    let refusals = prop_oneof![
        Just(JoinRefusal::Unknown),
        nodes().prop_map(JoinRefusal::NameTaken),
        "[ -~]{0,20}".prop_map(|why| JoinRefusal::NotSaved(why.into())),
    ];
    let replies = prop_oneof![
        (vec(records(), 0..4), brokers)
            .prop_map(|(records, broker)| JoinReply::Welcome(Welcome { records, broker })),
        refusals.prop_map(JoinReply::Refused),
    ];
    survives_postcard(replies);
}

/// Keys are read from text.
#[test]
fn keys() {
    holds(&(any::<[u8; 32]>(), damage(), noise()), |(bytes, damages, noise)| {
        let key = Key(bytes);
        assert_eq!(key.to_string().parse(), Ok(key));
        for hostile in [damaged(key.to_string().into_bytes(), &damages), noise] {
            let Ok(text) = std::str::from_utf8(&hostile) else { continue };
            if let Ok(other) = bounded(&hostile, |_| text.parse::<Key>()) {
                assert_eq!(other.to_string(), text.to_ascii_lowercase());
            }
        }
    });
}
