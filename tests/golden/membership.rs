//! Membership records and join lines.

use worknode::key::{Key, SecretKey};
use worknode::membership::{
    ClusterId, JOIN_LINE_VERSION, JoinLine, RECORD_VERSION, Record, Roll, Statement,
};

use crate::file::{Golden, variant};

/// Returns a record of each kind, by the same owner: a cluster of laptop and tower, from which laptop was removed.
pub(crate) fn records() -> Vec<Record> {
    let owner = SecretKey::from_seed(&[1; 32]);
    let [laptop, tower] = [2, 3].map(|it| SecretKey::from_seed(&[it; 32]).key());
    let founding = Record::found("lab".parse().expect("a name"), [7; 16], 1_800_000_000, &owner);
    let cluster = ClusterId(founding.digest());
    let admitted = |node: &str, key, may_invite| {
        let node = node.parse().expect("a name");
        Record::sign(cluster, Statement::Admitted { node, key, may_invite }, 1_800_000_001, &owner)
    };
    let removed = Statement::Removed { key: laptop };
    vec![
        founding,
        admitted("laptop", laptop, false),
        admitted("tower", tower, true),
        Record::sign(cluster, removed, 1_800_000_002, &owner),
    ]
}

#[test]
fn the_records() {
    let mut golden = Golden::of("record", u32::from(RECORD_VERSION));
    for (at, record) in records().into_iter().enumerate() {
        let bytes = postcard::to_allocvec(&record).expect("encodes");
        let name = format!("{at}-{}", variant(&record.statement));
        golden.check(&name, "Record", &record, &bytes, |bytes| postcard::from_bytes(bytes).ok());
    }
    golden.finish();
    // What is signed is part of the version, too.
    let cluster = ClusterId(records()[0].digest());
    let roll = Roll::of(cluster, records()).expect("they are one cluster's");
    assert_eq!((roll.records().count(), roll.members().count()), (4, 1));
}

#[test]
fn the_join_line() {
    let mut golden = Golden::of("join-line", u32::from(JOIN_LINE_VERSION));
    let line = JoinLine {
        address: "hub:7700".to_owned(),
        cluster: ClusterId([1; 32]),
        host: Key([2; 32]),
        word: [3; 16],
    };
    let text = line.to_string();
    golden.check("line", "Join line, with its word 03…03", &line, text.as_bytes(), |bytes| {
        std::str::from_utf8(bytes).ok()?.parse().ok()
    });
    golden.finish();
}
