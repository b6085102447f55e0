use std::path::Path;

use super::*;
use crate::membership::tests::{founded, now};

fn who() -> Principal {
    Principal { node: "n1".parse().expect("a name"), uid: 1000, gid: 1000, groups: Vec::new() }
}

fn pass(membership: &Membership, shown: Option<&Token>) -> anyhow::Result<Pass> {
    membership.pass(&who(), Rights::SESSION, (SessionId(7), None), shown)
}

fn shown(membership: &Membership) -> Token {
    membership.token_for(&who(), Rights::SESSION, None).expect("minted")
}

fn again(state: &Path) -> Membership {
    Membership::open(state).expect("readable").expect("a member")
}

#[test]
fn a_revocation_is_on_disk_and_else_in_memory() {
    let state = tempfile::tempdir().expect("a directory");
    let membership = founded(state.path());
    let [saved, unsaved] = [(); 2].map(|()| shown(&membership));
    let revoke = |token| now(membership.revoke(&who(), Rights::SESSION, token));
    revoke(&saved).expect("saved");
    assert!(again(state.path()).verify(&saved).is_err(), "after a restart as well");
    let list = state.path().join("cluster/revoked");
    std::fs::remove_file(&list).expect("it is there");
    std::fs::create_dir_all(list.join("full")).expect("writable");
    let said = revoke(&unsaved).expect_err("not saved").to_string();
    assert!(said.contains("is revoked, but only until this agent ends"), "{said}");
    for token in [&saved, &unsaved] {
        let said = membership.verify(token).expect_err("revoked").to_string();
        assert!(said.contains("was revoked"), "{said}");
    }
}

#[test]
fn a_new_key_mints_the_tokens_of_sessions_anew() {
    let state = tempfile::tempdir().expect("a directory");
    let membership = founded(state.path());
    let token = shown(&membership);
    let [own, narrowed] = [None, Some(&token)].map(|it| pass(&membership, it).expect("valid"));
    now(membership.revoke_id(TokenId([9; 16]))).expect("saved");
    now(membership.rotate()).expect("the owner's node may");
    assert!(!membership.is_valid(&own) && !membership.is_valid(&narrowed));
    assert!(membership.verify(&token).is_err());
    assert!(pass(&membership, Some(&token)).is_err());
    let renewed = membership.renewed(&own).expect("minted");
    assert!(membership.is_valid(&renewed));
    assert_eq!(renewed.capability.bounds, own.capability.bounds);
    assert!(membership.verify_of(&membership.key(), &renewed.token).is_ok());
    // Its user has shown a token that is invalid now.
    assert_eq!(membership.revoked_pass(&own), None);
    let renewed = membership.renewed(&narrowed).expect("minted");
    assert_eq!(membership.revoked_pass(&renewed), Some(token.peek().expect("sound").id()));
    assert_eq!(again(state.path()).digest(), membership.digest());
}
