//! The first messages on a link.

use oswalk_agent::wire::greeting::{Hello, Proof, Purpose, Secret, Side, decode};
use oswalk_agent::wire::message::encode;

use crate::file::Golden;

pub(crate) fn check(golden: &mut Golden) {
    let (caller, callee) = (hello("laptop", Purpose::Link), hello("tower", Purpose::Link));
    golden.check("hello", "Hello of a side that wants a link", &caller, &encode(&caller), decode);
    let asks = hello("laptop", Purpose::Greet);
    golden.check(
        "hello-greet",
        "Hello of a side that asks whether it could have one",
        &asks,
        &encode(&asks),
        decode,
    );
    let secret = Secret::new(b" the text of the secret file\n");
    for (name, side) in [("proof-caller", Side::Caller), ("proof-callee", Side::Callee)] {
        let proof: Proof = secret.prove(side, &caller, &callee);
        golden.check(
            name,
            "Proof after the hellos of laptop and tower",
            &proof,
            &encode(&proof),
            decode,
        );
    }
}

fn hello(node: &str, purpose: Purpose) -> Hello {
    Hello {
        // Not the present one, which the name of the directory says.
        protocol: 1000,
        version: "0.1.0".into(),
        node: node.parse().expect("a node's name"),
        incarnation: 0x0123_4567_89ab_cdef,
        purpose,
        clock_s: 1_800_000_000,
        nonce: std::array::from_fn(|at| u8::try_from(at + node.len()).expect("they are few")),
    }
}
