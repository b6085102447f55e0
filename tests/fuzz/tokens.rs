//! Tokens that are forged, damaged, widened, expired or used elsewhere, and lists of revoked tokens.

use biscuit_auth::format::schema;
use oswalk_agent::wire::greeting;
use oswalk_agent::wire::message::{Introduction, encode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use worknode::capability::{
    BLOCKS_MAX, Bounds, Capability, Holder, Lack, Program, Revocations, Revoked, Right, Rights,
    Runner, Token, TokenId,
};
use worknode::id::{NodeId, SessionId};
use worknode::key::{Key, SecretKey};
use worknode::membership::ClusterId;

use crate::bytes::{damage, damaged, noise, survives, survives_postcard};
use crate::memory::bounded;
use crate::trial::holds_for;

/// Hostile tokens of each kind, of which there are four.
const TOKENS: u32 = 25_000;
/// The time of the tests.
const NOW_S: u64 = 1_000_000;

fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn root() -> Key {
    secret(1).key()
}

fn name(text: &str) -> NodeId {
    text.parse().expect("a name")
}

fn holder() -> Holder {
    let user = Some("alice".to_owned());
    Holder { node: name("laptop"), uid: 1000, user, minted_s: 1, rights: Rights::SESSION }
}

/// Returns a token, and what was narrowed from it: to rights, then to a node, then to a session.
fn chain() -> Vec<Token> {
    let rights = Some([Right::Exec, Right::Read].into_iter().collect());
    let blocks = [
        Bounds { rights, ..Bounds::default() },
        Bounds { nodes: Some([name("n1")].into()), ..Bounds::default() },
        Bounds { sessions: Some([SessionId(7)].into()), ..Bounds::default() },
    ];
    let mut tokens = vec![Token::mint(&holder(), &secret(1), &[10; 32]).expect("sound")];
    for (bounds, seed) in blocks.iter().zip(11_u8..) {
        let last = tokens.last().expect("one");
        tokens.push(last.narrow(bounds, &[seed; 32]).expect("sound"));
    }
    tokens
}

/// Verifies a token as an agent does. Returns what it allows.
fn accepted(bytes: &[u8], root: &Key) -> Option<Capability> {
    Token::try_from(bytes.to_vec()).ok()?.verify(root).ok()
}

/// Damaged and random bytes are no token, or still the same.
#[test]
fn damaged_tokens() {
    let last = chain().pop().expect("one");
    let sound = last.verify(&root()).expect("sound");
    holds_for(TOKENS, &(damage(), noise()), |(damages, noise)| {
        for hostile in [damaged(last.bytes().to_vec(), &damages), noise] {
            let read = bounded(&hostile, |bytes| accepted(bytes, &root()));
            assert!(read.is_none_or(|read| read == sound));
        }
    });
}

/// What is done to the blocks of a token by somebody who does not have the secrets of its earlier blocks.
#[derive(Debug, Clone)]
enum Widening {
    /// A block is left out.
    Drop(Index),
    /// Two blocks change places.
    Swap(Index, Index),
    /// A block is replaced by that of a token of another holder.
    Graft(Index),
    /// Its content is replaced.
    Say(Index, Vec<u8>),
    /// The key of the next block is replaced by one's own, with its secret as proof.
    Own(Index, u8),
    /// A signature of one's own.
    Sign(Index, u8),
}

fn widenings() -> impl Strategy<Value = Widening> {
    let index = any::<Index>;
    prop_oneof![
        index().prop_map(Widening::Drop),
        (index(), index()).prop_map(|(a, b)| Widening::Swap(a, b)),
        index().prop_map(Widening::Graft),
        (index(), vec(any::<u8>(), 0..40)).prop_map(|(at, says)| Widening::Say(at, says)),
        (index(), any::<u8>()).prop_map(|(at, seed)| Widening::Own(at, seed)),
        (index(), any::<u8>()).prop_map(|(at, seed)| Widening::Sign(at, seed)),
    ]
}

fn blocks(token: &Token) -> (schema::Biscuit, Vec<schema::SignedBlock>) {
    let token = schema::Biscuit::decode(token.bytes()).expect("sound");
    let blocks = [token.authority.clone()].into_iter().chain(token.blocks.clone()).collect();
    (token, blocks)
}

fn widened(token: &Token, other: &Token, widening: &Widening) -> Vec<u8> {
    let ((mut token, mut all), (_, others)) = (blocks(token), blocks(other));
    let at = |index: &Index| index.index(others.len());
    match widening {
        Widening::Drop(index) => drop(all.remove(at(index))),
        Widening::Swap(a, b) => all.swap(at(a), at(b)),
        Widening::Graft(index) => all[at(index)] = others[at(index)].clone(),
        Widening::Say(index, says) => all[at(index)].block = says.clone(),
        Widening::Own(index, seed) => {
            all[at(index)].next_key.key = secret(*seed).key().0.to_vec();
            let secret = schema::proof::Content::NextSecret(vec![*seed; 32]);
            token.proof.content = Some(secret);
        }
        Widening::Sign(index, seed) => {
            let signature = secret(*seed).sign(&all[at(index)].block);
            // Its length precedes it.
            all[at(index)].signature = encode(&signature).split_off(1);
        }
    }
    token.authority = all.remove(0);
    token.blocks = all;
    token.encode_to_vec()
}

/// No change of a token's blocks makes another token.
#[test]
fn widened_tokens() {
    let last = chain().pop().expect("one");
    let (sound, before) = (last.verify(&root()).expect("sound"), last.bytes().to_vec());
    let other = Token::mint(&Holder { uid: 0, ..holder() }, &secret(2), &[30; 32]).expect("sound");
    let other = (0..3_u8).fold(other, |other, seed| {
        let bounds = Bounds { slots: Some(9), ..Bounds::default() };
        other.narrow(&bounds, &[31 + seed; 32]).expect("sound")
    });
    holds_for(TOKENS, &vec(widenings(), 1..3), |widenings| {
        let hostile = widenings.iter().fold(last.clone(), |token, widening| {
            let is_whole = blocks(&token).1.len() == BLOCKS_OF_CHAIN;
            let bytes =
                if is_whole { widened(&token, &other, widening) } else { token.bytes().to_vec() };
            Token::try_from(bytes).expect("short")
        });
        if hostile.bytes() != before {
            let read = bounded(hostile.bytes(), |bytes| accepted(bytes, &root()));
            assert!(read.is_none_or(|read| read == sound), "{widenings:?}");
        }
    });
}

const BLOCKS_OF_CHAIN: usize = 4;

/// Whoever appends blocks to a token gets no more than it allowed.
#[test]
fn narrowed_tokens() {
    let chain = chain();
    let rights = vec((0..6_usize).prop_map(|at| Right::ALL[at]), 1..6);
    let nodes = vec("[a-c]|n1", 1..4);
    let more = (rights, nodes, any::<u64>(), any::<[u8; 32]>());
    let more = more.prop_map(|(rights, nodes, session, seed)| {
        let bounds = Bounds {
            rights: Some(rights.into_iter().collect()),
            nodes: Some(nodes.iter().map(|node| name(node)).collect()),
            sessions: Some([SessionId(session), SessionId(7)].into()),
            ..Bounds::default()
        };
        (bounds, seed)
    });
    let all = vec(more, 1..BLOCKS_MAX - BLOCKS_OF_CHAIN);
    let known: Vec<_> = chain.iter().map(|token| token.verify(&root()).expect("sound")).collect();
    holds_for(TOKENS / 4, &(0..chain.len(), all), |(at, all)| {
        let mut token = chain[at].clone();
        for (bounds, seed) in &all {
            token = token.narrow(bounds, seed).expect("sound");
        }
        let read = token.verify(&root()).expect("sound");
        assert!(read.ids.starts_with(&known[at].ids) && read.holder == holder());
        assert_eq!(known[at].bounds.and(&read.bounds), read.bounds, "{all:?}");
    });
}

/// A token is good for its root, user, node, session and time alone.
#[test]
fn tokens_elsewhere() {
    let until = Bounds { until_s: Some(NOW_S), ..Bounds::default() };
    let token = chain().pop().expect("one").narrow(&until, &[20; 32]).expect("sound");
    let values = (0..9_u8, 998..1002_u32, "n[12]", 5..9_u64, NOW_S - 2..NOW_S + 3);
    let rest = (any::<bool>(), 0..4_u32);
    holds_for(TOKENS, &(values, rest), |((key, uid, node, session, now_s), (compiles, others))| {
        let verified = token.verify(&secret(key).key());
        assert_eq!(verified.is_ok(), key == 1);
        let Ok(capability) = verified else { return };
        let program = Program { uid, session: SessionId(session), compiles };
        let node = name(&node);
        let runner = Runner { node: &node, is_offline: false };
        let allowed = capability.allows(&program, &runner, others, now_s);
        let is_right = uid == 1000 && session == 7 && node.as_str() == "n1" && now_s <= NOW_S;
        assert_eq!(allowed.is_ok(), is_right, "{allowed:?}");
        assert_eq!(capability.gives(Right::Write, NOW_S), Err(Lack::Right(Right::Write)));
    });
}

/// A forged or damaged list revokes nothing.
#[test]
fn lists_of_revoked_tokens() {
    let (cluster, owner) = (ClusterId([7; 32]), secret(0));
    let mut sound = Revocations::default();
    for number in 0..5 {
        let token = Revoked { id: TokenId([number; 16]), until_s: NOW_S };
        sound.revoke(token, cluster, &secret(number % 2), 1).expect("there is room");
    }
    let bytes = encode(&sound.lists().collect::<Vec<_>>());
    let signers = [owner.key(), root()];
    holds_for(TOKENS, &(damage(), noise()), |(damages, noise)| {
        for hostile in [damaged(bytes.clone(), &damages), noise] {
            let Some(lists) = bounded(&hostile, greeting::revoked) else { continue };
            let mut read = Revocations::default();
            read.merge(lists, cluster, |key| signers.contains(key));
            assert!(read.lists().all(|list| sound.lists().any(|known| known == list)));
        }
    });
}

#[test]
fn introductions() {
    let token = vec(any::<u8>(), 0..64).prop_map(|bytes| Token::try_from(bytes).expect("short"));
    let introductions = (any::<u64>(), proptest::option::of(token))
        .prop_map(|(session, token)| Introduction { session: SessionId(session), token });
    survives(introductions, encode, Introduction::decode);
    survives_postcard(any::<[u8; 16]>().prop_map(TokenId));
}
