//! The first messages on a link.

use oswalk_agent::wire::greeting::{self, Hello, Ordered, Purpose, Spoken};
use oswalk_agent::wire::message::encode;
use worknode::capability::{Revocations, Revoked, TokenId};
use worknode::key::SecretKey;
use worknode::membership::ClusterId;

use worknode::key::Key;

use crate::file::Golden;
use crate::membership;

pub(crate) fn check(golden: &mut Golden) {
    let link = hello("laptop", Purpose::Link);
    golden.check(
        "hello",
        "Hello of a side that wants a link",
        &link,
        &encode(&link),
        greeting::hello,
    );
    let asks = hello("laptop", Purpose::Greet);
    golden.check(
        "hello-greet",
        "Hello of a side that asks whether it could have one",
        &asks,
        &encode(&asks),
        greeting::hello,
    );
    for (name, purpose) in [("drain", Purpose::Drain), ("resume", Purpose::Resume)] {
        let order = hello("laptop", purpose);
        let what = "Hello of a side that gives an order";
        golden.check(&format!("hello-{name}"), what, &order, &encode(&order), greeting::hello);
    }
    for (name, answer) in
        [("done", Ordered::Done), ("refused", Ordered::Refused("it may not".into()))]
    {
        let (name, what) = (format!("ordered-{name}"), "Answer to an order");
        golden.check(&name, what, &answer, &encode(&answer), greeting::ordered);
    }
    let records = membership::records();
    golden.check(
        "records",
        "Records of a roll, after the hellos",
        &records,
        &encode(&records),
        greeting::records,
    );
    let mut revoked = Revocations::default();
    let token = Revoked { id: TokenId([0xab; 16]), until_s: 1_800_000_000 };
    let by = SecretKey::from_seed(&[1; 32]);
    revoked.revoke(token, ClusterId([7; 32]), &by, 1).expect("there is room");
    let lists: Vec<_> = revoked.lists().cloned().collect();
    golden.check(
        "revoked",
        "Lists of revoked tokens, after the records",
        &lists,
        &encode(&lists),
        greeting::revoked,
    );
}

fn hello(node: &str, purpose: Purpose) -> Hello {
    Hello {
        // Not the present one, which the name of the directory says.
        spoken: Spoken { newest: 1000, oldest: 999 },
        version: "0.1.0".into(),
        node: node.parse().expect("a node's name"),
        incarnation: 0x0123_4567_89ab_cdef,
        purpose,
        clock_s: 1_800_000_000,
        roll: [0xd1; 32],
        admission: membership::records().split_off(1),
        address: "10.0.0.7:7700".parse().expect("an address"),
        broker: Some((Key([0x4e; 32]), "10.0.0.1:7700".parse().expect("an address"))),
    }
}
