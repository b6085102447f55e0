use super::*;
use crate::key::SecretKey;

fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn founded() -> (Roll, SecretKey) {
    let owner = secret(0);
    let record = Record::found("lab".parse().expect("a name"), [0; 16], 1, &owner);
    (Roll::found(record).expect("sound"), owner)
}

fn admit(roll: &Roll, number: u8, may_invite: bool, at_s: u64, by: &SecretKey) -> Record {
    let node = format!("n{number}").parse().expect("a name");
    let statement = Statement::Admitted { node, key: secret(number).key(), may_invite };
    Record::sign(roll.cluster(), statement, at_s, by)
}

fn remove(roll: &Roll, number: u8, by: &SecretKey) -> Record {
    Record::sign(roll.cluster(), Statement::Removed { key: secret(number).key() }, 9, by)
}

fn names(roll: &Roll) -> Vec<String> {
    let mut names: Vec<_> = roll.members().map(|(_, member)| member.node.to_string()).collect();
    names.sort();
    names
}

#[test]
fn who_may_invite_admits() {
    let (mut roll, owner) = founded();
    assert_eq!(roll.take(admit(&roll, 1, true, 2, &owner)), Ok(true));
    assert_eq!(roll.take(admit(&roll, 1, true, 2, &owner)), Ok(false), "once is enough");
    assert_eq!(roll.take(admit(&roll, 2, false, 3, &secret(1))), Ok(true));
    assert_eq!(names(&roll), ["n1", "n2"]);
    assert_eq!(roll.key_of(&"n2".parse().expect("a name")), Some(secret(2).key()));
    let refused = Err(RecordError::NoRight { by: secret(2).key() });
    assert_eq!(roll.take(admit(&roll, 3, false, 4, &secret(2))), refused, "may not invite");
    let refused = Err(RecordError::NoRight { by: secret(7).key() });
    assert_eq!(roll.take(admit(&roll, 3, false, 4, &secret(7))), refused, "a stranger");
}

#[test]
fn the_owner_removes() {
    let (mut roll, owner) = founded();
    roll.merge(vec![admit(&roll, 1, true, 2, &owner), admit(&roll, 2, false, 3, &secret(1))]);
    let refused = Err(RecordError::NoRight { by: secret(1).key() });
    assert_eq!(roll.take(remove(&roll, 2, &secret(1))), refused);
    assert_eq!(roll.take(remove(&roll, 1, &owner)), Ok(true));
    assert!(names(&roll).is_empty(), "whom it had admitted is out as well");
    roll.take(admit(&roll, 2, false, 10, &owner)).expect("the owner may");
    roll.take(admit(&roll, 1, true, 11, &owner)).expect("the owner may");
    assert_eq!(names(&roll), ["n2"], "a key that was removed never comes back");
}

#[test]
fn other_clusters_and_forgers_are_refused() {
    let (mut roll, owner) = founded();
    let elsewhere = Record::found("lab".parse().expect("a name"), [1; 16], 1, &owner);
    assert_eq!(roll.take(elsewhere.clone()), Err(RecordError::OtherCluster));
    let other = Roll::found(elsewhere).expect("sound");
    assert_eq!(roll.take(admit(&other, 1, true, 2, &owner)), Err(RecordError::OtherCluster));
    let good = admit(&roll, 1, true, 2, &owner);
    let forged = Record { at_s: 3, ..good.clone() };
    assert_eq!(roll.take(forged), Err(RecordError::Forged(Forged)));
    let forged = Record { by: secret(1).key(), ..good };
    assert_eq!(roll.take(forged.clone()), Err(RecordError::NoRight { by: secret(1).key() }));
    assert!(roll.merge(vec![forged]).is_empty());
    assert!(names(&roll).is_empty());
}

/// Whatever the order in which records come, and however they are grouped, the same nodes are members.
#[test]
fn order_does_not_matter() {
    let (roll, owner) = founded();
    let signer = |number: u8| if number == 0 { owner.clone() } else { secret(number) };
    let mut state = 20_261_127_u64;
    let mut below = |bound: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for case in 0..60 {
        let mut records: Vec<_> = (0..12)
            .map(|at| {
                let mut small = |bound| u8::try_from(below(bound)).expect("small");
                let (number, by) = (small(6) + 1, signer(small(4)));
                match below(5) {
                    0 => remove(&roll, number, &owner),
                    may => admit(&roll, number, may > 2, at + below(3), &by),
                }
            })
            .collect();
        let mut whole = roll.clone();
        whole.merge(records.clone());
        let mut parts = roll.clone();
        for at in (1..records.len()).rev() {
            records.swap(at, usize::try_from(below(at as u64 + 1)).expect("small"));
        }
        // A record may come before that which gives its signer the right: it comes again later.
        for _ in 0..records.len() {
            for record in &records {
                let _ = parts.take(record.clone());
            }
        }
        assert_eq!(whole.digest(), parts.digest(), "case {case}");
        assert_eq!(whole.members, parts.members, "case {case}");
        let again = Roll::of(roll.cluster(), whole.records().cloned().collect()).expect("whole");
        assert_eq!(again.members, whole.members, "case {case}");
    }
}

/// Two that admit each other take no right from each other.
#[test]
fn a_right_is_not_taken_by_admitting_again() {
    let (mut roll, owner) = founded();
    roll.merge(vec![
        admit(&roll, 1, true, 1, &owner),
        admit(&roll, 2, true, 2, &secret(1)),
        admit(&roll, 1, false, 5, &secret(2)),
        admit(&roll, 3, false, 6, &secret(1)),
    ]);
    assert_eq!(names(&roll), ["n1", "n2", "n3"]);
}

#[test]
fn a_name_is_the_owners_to_give() {
    let (mut roll, owner) = founded();
    roll.take(admit(&roll, 1, true, 5, &owner)).expect("sound");
    let (node, key) = ("n1".parse().expect("a name"), secret(4).key());
    let early = Statement::Admitted { node, key, may_invite: false };
    roll.take(Record::sign(roll.cluster(), early, 0, &secret(1))).expect("sound");
    assert_eq!(roll.key_of(&"n1".parse().expect("a name")), Some(secret(1).key()));
}

#[test]
fn a_roll_is_bounded() {
    let (mut roll, owner) = founded();
    let records: Vec<_> = (0..300)
        .map(|at| admit(&roll, u8::try_from(at % 250).expect("small"), false, at, &owner))
        .collect();
    assert_eq!(roll.merge(records).len(), 300);
    assert!(roll.records().count() < RECORDS_MAX);
}
