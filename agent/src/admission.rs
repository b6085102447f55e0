//! Who may do what at this agent: the one place that decides it, without I/O. Whoever comes to the door is known by
//! what the kernel says of the process, whoever comes over a link by the name that the link's greeting has proved.
//!
//! That a process stays at its origin is no refusal; see [`worknode::reason`].

use worknode::capability::{Capability, Lack, Program, Rights, Runner, TokenError};
use worknode::id::NodeId;
use worknode::notice;
use worknode::principal::Principal;

use crate::wire::limits::SESSIONS_MAX;

/// The user in whose name everything may be done.
const ROOT: u32 = 0;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act<'a> {
    /// To come in at the door, where so many connections of the same user are open.
    Enter { connections: usize, max: usize },
    /// To come in at the door, where all ordinary users have so many connections.
    EnterBeside { connections: usize, max: usize },
    /// To open a session, with an `oswalk` of a version, on a connection that may have one.
    OpenSession { version: &'a str, has_one: bool },
    /// To open a session beside others of the same user.
    OpenAnother { sessions: usize, max: usize },
    /// To open a session beside those of all ordinary users.
    OpenBeside { sessions: usize, max: usize },
    /// To hide files by so many patterns, from all nodes and for all users.
    Hide { patterns: usize, agent: u32 },
    /// To open a session that ends with a process of a user.
    EndWith { owner: Option<u32> },
    /// To have processes walk on one node alone.
    WalkOnlyTo { node: &'a NodeId, is_known: bool },
    /// To walk in the session of a user, if there is such a session.
    Walk { owner: Option<u32> },
    /// To have a program of a session executed elsewhere, with the session's token.
    Leave { capability: &'a Capability, program: &'a Program, now_s: u64 },
    /// To end an agent that runs as a user, or to change its cluster.
    Manage { agent: u32 },
    /// To have a walk executed here that came over a link of a node, which the broker lists or not.
    Execute { peer: &'a NodeId, is_listed: bool },
    /// To have a program of a session executed here, with the token that its origin has shown, besides so many others.
    Run {
        pass: Option<&'a Capability>,
        program: &'a Program,
        runner: &'a Runner<'a>,
        others: u32,
        now_s: u64,
    },
}

/// Why somebody may not do it: a sentence each, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "user {uid} has {max} connections to the agent: wait until some of these processes have ended"
    )]
    TooManyConnections { uid: u32, max: usize },
    #[error(
        "all users together have {max} connections to the agent: wait until some of these processes have ended, or raise its limit of descriptors"
    )]
    TooManyConnectionsOfAll { max: usize },
    #[error("oswalk {theirs} cannot use agent {ours}: install one version of both", ours = VERSION)]
    OtherVersion { theirs: String },
    #[error("this connection has a session already: open another connection")]
    SecondSession,
    #[error("user {uid} has {max} sessions: wait until one of these commands has ended")]
    TooManySessionsOfUser { uid: u32, max: usize },
    #[error(
        "all users together have {max} sessions: wait until one of their commands has ended, or raise the agent's limit of descriptors"
    )]
    TooManySessionsOfAll { max: usize },
    #[error(
        "only user {agent} and root may hide files, since that holds for all users: remove 'hide' from policy.toml, and --hide"
    )]
    OthersFiles { agent: u32 },
    #[error("a session can only end with a process of user {uid}: name another shell")]
    OthersProcess { uid: u32 },
    #[error("{}", notice::no_node(.0))]
    NoNode(NodeId),
    #[error("the session is not open: start the command with 'oswalk exec' again")]
    NoSession,
    #[error("the session is user {owner}'s and not user {uid}'s: open one with 'oswalk exec'")]
    OthersSession { uid: u32, owner: u32 },
    #[error("only the agent's own user may do this: become user {agent} or root")]
    OthersAgent { agent: u32 },
    #[error(
        "the token is user {uid}'s of node {node}: revoke it as that user there, or as one who has the right admin"
    )]
    OthersToken { node: NodeId, uid: u32 },
    #[error("the session has no valid token: start the command with 'oswalk exec' again")]
    NoToken,
    #[error(
        "this machine is in no cluster: make one with 'oswalk cluster init', or join one with 'oswalk cluster join'"
    )]
    NoCluster,
    #[error("the node has {SESSIONS_MAX} sessions at this runner: wait until one has ended")]
    TooManySessions,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Lacks(#[from] Lack),
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
        Act::EnterBeside { connections, max } if connections >= max && !is_root => {
            Refusal::TooManyConnectionsOfAll { max }
        }
        Act::OpenSession { has_one: true, .. } => Refusal::SecondSession,
        Act::OpenSession { version, .. } if version != VERSION => {
            Refusal::OtherVersion { theirs: version.to_owned() }
        }
        Act::OpenAnother { sessions, max } if sessions >= max => {
            Refusal::TooManySessionsOfUser { uid, max }
        }
        Act::OpenBeside { sessions, max } if sessions >= max && !is_root => {
            Refusal::TooManySessionsOfAll { max }
        }
        Act::Hide { patterns, agent } if patterns > 0 && !is_root && uid != agent => {
            Refusal::OthersFiles { agent }
        }
        Act::EndWith { owner } if !is_root && owner != Some(uid) => Refusal::OthersProcess { uid },
        Act::WalkOnlyTo { node, is_known: false } => Refusal::NoNode(node.clone()),
        Act::Walk { owner: None } => Refusal::NoSession,
        Act::Walk { owner: Some(owner) } if !is_root && owner != uid => {
            Refusal::OthersSession { uid, owner }
        }
        Act::Leave { capability, program, now_s } => {
            return Ok(capability.allows_program(program, now_s)?);
        }
        Act::Run { pass: None, .. } => Refusal::NoToken,
        Act::Run { pass: Some(pass), program, runner, others, now_s } => {
            return Ok(pass.allows(program, runner, others, now_s)?);
        }
        Act::Manage { agent } if !is_root && agent != uid => Refusal::OthersAgent { agent },
        Act::Execute { peer, is_listed: false } => Refusal::Unlisted(peer.clone()),
        Act::Execute { peer, .. } if who.node != *peer => {
            Refusal::OthersName { peer: peer.clone(), said: who.node.clone() }
        }
        _ => return Ok(()),
    };
    Err(refusal)
}

/// Returns what an agent's node grants a user: to its own user and to root everything, to others what a session needs.
pub(crate) fn rights_of(who: &Principal, agent: u32) -> Rights {
    if who.uid == ROOT || who.uid == agent { Rights::ALL } else { Rights::SESSION }
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
    use worknode::capability::{Bounds, Holder};
    use worknode::id::SessionId;

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
            (1000, Act::OpenAnother { sessions: 1, max: 2 }, None),
            (1000, Act::OpenAnother { sessions: 2, max: 2 }, Some(Refusal::TooManySessionsOfUser { uid: 1000, max: 2 })),
            (1000, Act::EnterBeside { connections: 1, max: 1 }, Some(Refusal::TooManyConnectionsOfAll { max: 1 })),
            (0, Act::EnterBeside { connections: 1, max: 1 }, None),
            (1000, Act::OpenBeside { sessions: 1, max: 2 }, None),
            (1000, Act::OpenBeside { sessions: 2, max: 2 }, Some(Refusal::TooManySessionsOfAll { max: 2 })),
            (0, Act::OpenBeside { sessions: 2, max: 2 }, None),
            (1000, Act::Hide { patterns: 0, agent: 0 }, None),
            (1000, Act::Hide { patterns: 1, agent: 0 }, Some(Refusal::OthersFiles { agent: 0 })),
            (1000, Act::Hide { patterns: 1, agent: 1000 }, None),
            (0, Act::Hide { patterns: 1, agent: 1000 }, None),
            (1000, Act::EndWith { owner: Some(1000) }, None),
            (1000, Act::EndWith { owner: Some(0) }, Some(Refusal::OthersProcess { uid: 1000 })),
            (1000, Act::EndWith { owner: None }, Some(Refusal::OthersProcess { uid: 1000 })),
            (1000, Act::WalkOnlyTo { node: desk, is_known: true }, None),
            (1000, Act::WalkOnlyTo { node: desk, is_known: false }, Some(Refusal::NoNode(desk.clone()))),
            (1000, Act::Walk { owner: Some(1000) }, None),
            (1000, Act::Walk { owner: Some(1001) }, Some(others_session)),
            (1000, Act::Walk { owner: None }, Some(Refusal::NoSession)),
            (0, Act::Walk { owner: Some(1001) }, None),
            (0, Act::Walk { owner: None }, Some(Refusal::NoSession)),
            (1000, Act::Manage { agent: 1000 }, None),
            (1000, Act::Manage { agent: 0 }, Some(Refusal::OthersAgent { agent: 0 })),
            (0, Act::Manage { agent: 1000 }, None),
            (0, Act::Execute { peer: laptop, is_listed: true }, None),
            (1000, Act::Execute { peer: laptop, is_listed: true }, None),
            (0, Act::Execute { peer: laptop, is_listed: false }, Some(Refusal::Unlisted(laptop.clone()))),
            (0, Act::Execute { peer: desk, is_listed: true }, Some(others_name)),
        ];
        for (uid, act, refusal) in table {
            assert_eq!(admit(&user(uid), act).err(), refusal, "user {uid}: {act:?}");
        }
    }

    /// Returns the token of user 1000 of the laptop for node `desk` and session 7, which expires at 100.
    fn pass(no_network: bool) -> Capability {
        let holder = Holder {
            node: node("laptop"),
            uid: 1000,
            user: None,
            minted_s: 1,
            rights: Rights::SESSION,
        };
        let bounds = Bounds {
            rights: Some(Rights::SESSION),
            nodes: Some([node("desk")].into()),
            until_s: Some(100),
            sessions: Some([SessionId(7)].into()),
            no_network,
            ..Bounds::default()
        };
        Capability { holder, bounds, ids: Vec::new() }
    }

    /// Decides at node `desk` by a token.
    fn run(
        pass: Option<&Capability>,
        (uid, session): (u32, u64),
        is_offline: bool,
        now_s: u64,
    ) -> Result<(), Refusal> {
        let (desk, session) = (node("desk"), SessionId(session));
        let program = &Program { uid, session, compiles: false };
        let runner = &Runner { node: &desk, is_offline };
        admit(&user(uid), Act::Run { pass, program, runner, others: 0, now_s })
    }

    #[test]
    fn a_program_runs_as_its_token_allows() {
        let user = Lack::User { holder: 1000, uid: 0 };
        #[rustfmt::skip]
        let table = [
            (false, 1000, 7, 100, false, Ok(())),
            (false, 1000, 7, 100, true, Ok(())),
            (true, 1000, 7, 100, true, Ok(())),
            (true, 1000, 7, 100, false, Err(Refusal::Lacks(Lack::Network))),
            (false, 1000, 7, 101, true, Err(Refusal::Lacks(Lack::Expired))),
            (false, 1000, 8, 100, true, Err(Refusal::Lacks(Lack::Session))),
            (false, 0, 7, 100, true, Err(Refusal::Lacks(user))),
        ];
        for (no_network, uid, session, now_s, is_offline, expected) in table {
            let who = (uid, session);
            assert_eq!(run(Some(&pass(no_network)), who, is_offline, now_s), expected);
            assert_eq!(run(None, who, is_offline, now_s), Err(Refusal::NoToken));
        }
    }

    #[test]
    fn who_has_which_rights() {
        for (uid, agent, rights) in [
            (0, 0, Rights::ALL),
            (0, 1000, Rights::ALL),
            (1000, 1000, Rights::ALL),
            (1000, 0, Rights::SESSION),
        ] {
            assert_eq!(rights_of(&user(uid), agent), rights, "user {uid}, agent of {agent}");
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
            Refusal::TooManyConnectionsOfAll { max: 2 },
            Refusal::TooManySessionsOfUser { uid: 1, max: 2 },
            Refusal::TooManySessionsOfAll { max: 2 },
            Refusal::OthersFiles { agent: 0 },
            Refusal::OthersProcess { uid: 1 },
            Refusal::NoNode(node("desk")),
            Refusal::NoSession,
            Refusal::OthersSession { uid: 1, owner: 2 },
            Refusal::OthersAgent { agent: 1 },
            Refusal::OthersToken { node: node("desk"), uid: 1 },
            Refusal::NoToken,
            Refusal::TooManySessions,
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
