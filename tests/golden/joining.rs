//! What a new node and a member say to each other.

use std::fmt::Debug;

use oswalk_agent::wire::greeting::Spoken;
use oswalk_agent::wire::joining::{
    BrokerPlace, JoinRefusal, JoinReply, JoinRequest, Proof, Welcome,
};
use oswalk_agent::wire::message::encode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use worknode::key::{Key, SecretKey};
use worknode::membership::{ClusterId, Succession};

use crate::file::{Golden, variant};
use crate::{each, membership};

pub(crate) fn check(golden: &mut Golden) {
    let old = SecretKey::from_seed(&[0x5e; 32]);
    let successor = Succession::sign(ClusterId([0xc1; 32]), Key([0x4e; 32]), &old);
    for (name, proof) in
        [("word", Proof::Word([0x5e; 16])), ("successor", Proof::Successor(successor))]
    {
        let node = "laptop".parse().expect("a name");
        let request = JoinRequest {
            proof,
            node,
            version: "0.1.0".into(),
            spoken: Spoken { newest: 1000, oldest: 999 },
        };
        message(golden, &format!("join-request-{name}"), &request);
    }
    let node = BrokerPlace::Node { address: "10.0.0.1:7700".to_owned(), key: Key([0x4e; 32]) };
    for (name, broker) in
        [("node", node), ("url", BrokerPlace::Url("redis://hub:6379/".to_owned()))]
    {
        let welcome = JoinReply::Welcome(Welcome { records: membership::records(), broker });
        message(golden, &format!("join-welcome-{name}"), &welcome);
    }
    for refusal in each(refusal_after) {
        let name = format!("join-refused-{}", variant(&refusal));
        message(golden, &name, &JoinReply::Refused(refusal));
    }
}

fn refusal_after(before: Option<&JoinRefusal>) -> Option<JoinRefusal> {
    Some(match before {
        None => JoinRefusal::Unknown,
        Some(JoinRefusal::Unknown) => JoinRefusal::Expired,
        Some(JoinRefusal::Expired) => JoinRefusal::UsedUp,
        Some(JoinRefusal::UsedUp) => JoinRefusal::NameTaken("laptop".parse().expect("a name")),
        Some(JoinRefusal::NameTaken(_)) => JoinRefusal::Removed,
        Some(JoinRefusal::Removed) => {
            JoinRefusal::Version { theirs: "0.1.0".into(), ours: "0.2.0".into() }
        }
        Some(JoinRefusal::Version { .. }) => JoinRefusal::MayNotInvite,
        Some(JoinRefusal::MayNotInvite) => JoinRefusal::NotSaved("the disk is full".into()),
        Some(JoinRefusal::NotSaved(_)) => return None,
    })
}

/// Checks a message without the length before it.
fn message<T>(golden: &mut Golden, name: &str, message: &T)
where
    T: Debug + PartialEq + Serialize + DeserializeOwned,
{
    golden.check(name, name, message, &encode(message), |bytes| postcard::from_bytes(bytes).ok());
}
