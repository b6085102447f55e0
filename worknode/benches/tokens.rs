//! What tokens cost: `cargo bench -p worknode`. A session's token has four blocks if its user has shown one.
#![expect(clippy::print_stdout, reason = "a measuring program prints its results")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use worknode::capability::{Bounds, Holder, Program, Rights, Runner, Token};
use worknode::id::{NodeId, SessionId};
use worknode::key::SecretKey;

fn main() {
    let (secret, node): (_, NodeId) = (SecretKey::from_seed(&[1; 32]), name("n1"));
    let holder = Holder {
        node: name("laptop"),
        uid: 1000,
        user: Some("alice".to_owned()),
        minted_s: 1,
        rights: Rights::SESSION,
    };
    let bounds = Bounds {
        rights: Some(Rights::SESSION),
        nodes: Some([node.clone(), name("n2")].into()),
        until_s: Some(100),
        sessions: Some([SessionId(7)].into()),
        ..Bounds::default()
    };
    let mint = || Token::mint(&holder, &secret, &[2; 32]).expect("sound");
    let narrow = |token: &Token| token.narrow(&bounds, &[3; 32]).expect("sound");
    let two = narrow(&mint());
    let four = narrow(&narrow(&two));
    let capability = four.verify(&secret.key()).expect("sound");
    let program = Program { uid: 1000, session: SessionId(7), compiles: true };
    let runner = Runner { node: &node, is_offline: false };
    let root = secret.key();
    say("mint and narrow", 1000, || drop(black_box(narrow(&mint()))));
    say("verify, 2 blocks", 1000, || drop(black_box(two.verify(&root))));
    say("verify, 4 blocks", 1000, || drop(black_box(four.verify(&root))));
    say("decide on a walk", 1_000_000, || {
        black_box(capability.allows(black_box(&program), &runner, 0, 1)).expect("allowed");
    });
}

fn name(text: &str) -> NodeId {
    text.parse().expect("a name")
}

/// Prints the mean time of a step.
fn say(what: &str, times: u32, step: impl Fn()) {
    let began = Instant::now();
    (0..times).for_each(|_| step());
    let mean: Duration = began.elapsed() / times;
    println!("{what:18} {mean:?}");
}
