//! Who may do what at this agent: the one place that decides it, without I/O. Whoever comes to the door is known by
//! what the kernel says of the process, whoever comes over a link by the name that the link's greeting has proved.
//!
//! That a process stays at its origin is no refusal; see [`worknode::reason`].

use worknode::id::NodeId;
use worknode::notice;
use worknode::principal::Principal;

/// The user in whose name everything may be done.
const ROOT: u32 = 0;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act<'a> {
    /// To come in at the door, where so many connections of the same user are open.
    Enter { connections: usize, max: usize },
    /// To open a session, with an `oswalk` of a version, on a connection that may have one.
    OpenSession { version: &'a str, has_one: bool },
    /// To have processes walk on one node alone.
    WalkOnlyTo { node: &'a NodeId, is_known: bool },
    /// To walk in the session of a user, if there is such a session.
    Walk { owner: Option<u32> },
    /// To end an agent that runs as a user.
    EndAgent { agent: u32 },
    /// To have a walk executed here that came over a link of a node, which the broker lists or not.
    Execute { peer: &'a NodeId, is_listed: bool },
}

/// Why somebody may not do it: a sentence each, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "user {uid} has {max} connections to the agent: wait until some of these processes have ended"
    )]
    TooManyConnections { uid: u32, max: usize },
    #[error("oswalk {theirs} cannot use agent {ours}: install one version of both", ours = VERSION)]
    OtherVersion { theirs: String },
    #[error("this connection has a session already: open another connection")]
    SecondSession,
    #[error("{}", notice::no_node(.0))]
    NoNode(NodeId),
    #[error("the session is not open: start the command with 'oswalk exec' again")]
    NoSession,
    #[error("the session is user {owner}'s and not user {uid}'s: open one with 'oswalk exec'")]
    OthersSession { uid: u32, owner: u32 },
    #[error("only the agent's own user may end it: become user {agent} or root")]
    OthersAgent { agent: u32 },
    #[error("this runner has {max} walks under way: raise --slots, or wait until one has ended")]
    NoRoom { max: usize },
    #[error("the broker lists no node {0}: look at 'oswalk status' there")]
    Unlisted(NodeId),
    #[error("{peer} has sent a walk in the name of {said}: look for a node that lies")]
    OthersName { peer: NodeId, said: NodeId },
}

/// The version of `oswalk` that this agent serves.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Decides whether somebody may do something.
///
/// # Errors
/// Why not.
pub(crate) fn admit(who: &Principal, act: Act<'_>) -> Result<(), Refusal> {
    let (uid, is_root) = (who.uid, who.uid == ROOT);
    let refusal = match act {
        Act::Enter { connections, max } if connections >= max => {
            Refusal::TooManyConnections { uid, max }
        }
        Act::OpenSession { has_one: true, .. } => Refusal::SecondSession,
        Act::OpenSession { version, .. } if version != VERSION => {
            Refusal::OtherVersion { theirs: version.to_owned() }
        }
        Act::WalkOnlyTo { node, is_known: false } => Refusal::NoNode(node.clone()),
        Act::Walk { owner: None } => Refusal::NoSession,
        Act::Walk { owner: Some(owner) } if !is_root && owner != uid => {
            Refusal::OthersSession { uid, owner }
        }
        Act::EndAgent { agent } if !is_root && agent != uid => Refusal::OthersAgent { agent },
        Act::Execute { peer, is_listed: false } => Refusal::Unlisted(peer.clone()),
        Act::Execute { peer, .. } if who.node != *peer => {
            Refusal::OthersName { peer: peer.clone(), said: who.node.clone() }
        }
        _ => return Ok(()),
    };
    Err(refusal)
}

/// Decides whether a runner with so many walks takes in another one. Who asks is read only afterwards: before there is
/// room nothing of a walk is unpacked.
///
/// # Errors
/// There is no room.
pub(crate) fn make_room(under_way: usize, max: usize) -> Result<(), Refusal> {
    if under_way < max { Ok(()) } else { Err(Refusal::NoRoom { max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a sound name")
    }

    fn user(uid: u32) -> Principal {
        Principal { node: node("laptop"), uid, gid: uid, groups: Vec::new() }
    }

    #[test]
    fn who_may_do_what() {
        let (laptop, desk) = (&node("laptop"), &node("desk"));
        let ours = VERSION;
        let other_version = Refusal::OtherVersion { theirs: "0.0.9".to_owned() };
        let others_name = Refusal::OthersName { peer: desk.clone(), said: laptop.clone() };
        let others_session = Refusal::OthersSession { uid: 1000, owner: 1001 };
        #[rustfmt::skip]
        let table = [
            (1000, Act::Enter { connections: 0, max: 1 }, None),
            (1000, Act::Enter { connections: 1, max: 1 }, Some(Refusal::TooManyConnections { uid: 1000, max: 1 })),
            (0, Act::Enter { connections: 1, max: 1 }, Some(Refusal::TooManyConnections { uid: 0, max: 1 })),
            (1000, Act::OpenSession { version: ours, has_one: false }, None),
            (1000, Act::OpenSession { version: ours, has_one: true }, Some(Refusal::SecondSession)),
            (0, Act::OpenSession { version: "0.0.9", has_one: false }, Some(other_version)),
            (1000, Act::WalkOnlyTo { node: desk, is_known: true }, None),
            (1000, Act::WalkOnlyTo { node: desk, is_known: false }, Some(Refusal::NoNode(desk.clone()))),
            (1000, Act::Walk { owner: Some(1000) }, None),
            (1000, Act::Walk { owner: Some(1001) }, Some(others_session)),
            (1000, Act::Walk { owner: None }, Some(Refusal::NoSession)),
            (0, Act::Walk { owner: Some(1001) }, None),
            (0, Act::Walk { owner: None }, Some(Refusal::NoSession)),
            (1000, Act::EndAgent { agent: 1000 }, None),
            (1000, Act::EndAgent { agent: 0 }, Some(Refusal::OthersAgent { agent: 0 })),
            (0, Act::EndAgent { agent: 1000 }, None),
            (0, Act::Execute { peer: laptop, is_listed: true }, None),
            (1000, Act::Execute { peer: laptop, is_listed: true }, None),
            (0, Act::Execute { peer: laptop, is_listed: false }, Some(Refusal::Unlisted(laptop.clone()))),
            (0, Act::Execute { peer: desk, is_listed: true }, Some(others_name)),
        ];
        for (uid, act, refusal) in table {
            assert_eq!(admit(&user(uid), act).err(), refusal, "user {uid}: {act:?}");
        }
    }

    #[test]
    fn a_runner_takes_in_as_many_walks_as_it_has_room_for() {
        assert_eq!(make_room(3, 4), Ok(()));
        assert_eq!(make_room(4, 4), Err(Refusal::NoRoom { max: 4 }));
        assert_eq!(make_room(0, 0), Err(Refusal::NoRoom { max: 0 }));
    }

    #[test]
    fn a_refusal_is_a_sentence_with_a_remedy() {
        for refusal in [
            Refusal::TooManyConnections { uid: 1, max: 2 },
            Refusal::OtherVersion { theirs: "0".to_owned() },
            Refusal::SecondSession,
            Refusal::NoNode(node("desk")),
            Refusal::NoSession,
            Refusal::OthersSession { uid: 1, owner: 2 },
            Refusal::OthersAgent { agent: 1 },
            Refusal::NoRoom { max: 1 },
            Refusal::Unlisted(node("desk")),
            Refusal::OthersName { peer: node("desk"), said: node("laptop") },
        ] {
            let said = refusal.to_string();
            assert!(said.split_once(": ").is_some_and(|(_, remedy)| !remedy.is_empty()), "{said}");
            assert!(!said.ends_with('.') && !said.contains('\n'), "{said}");
        }
    }
}
