//! Notices for the user: why nothing walks or walked, and the remedy.

use crate::id::NodeId;
use crate::reason::Reason;
use crate::report::StayLine;
use crate::request::{NodeCondition, NodeStatus};

/// Most nodes that a notice lists.
const NAMED_MAX: usize = 3;

/// Returns what to do about a broker that does not answer. Other nodes reach that of the first node through its agent.
#[must_use]
pub fn remedy_of_broker(url: &str) -> &'static str {
    if url.starts_with("oswalk://") {
        "check that the agent of the node that made the cluster runs, that no firewall blocks its port, and that \
         'oswalk cluster nodes' there lists this node"
    } else {
        "check that Redis runs there and that no firewall blocks its port"
    }
}

/// What helps if the disk of the volume is full. Nothing is lost then: programs get ENOSPC.
pub const REMEDY_OF_FULL_VOLUME: &str = "free space on it; with some MiB free, 'oswalk fs gc --keep 1h,0h,0d' gives up all of the past \
     but the last hour, except what is pinned, and 'oswalk up --keep' sets that for good";

/// Returns why no node takes walks, or why `on` does not if it is given. Returns `None` if walks are
/// possible. `silent_broker` is the broker's URL if the broker does not answer.
#[must_use]
pub fn why_nothing_walks(
    nodes: &[NodeStatus],
    own: &NodeId,
    on: Option<&NodeId>,
    silent_broker: Option<&str>,
) -> Option<String> {
    if let Some(url) = silent_broker {
        return Some(format!("the broker {url} does not answer: {}", remedy_of_broker(url)));
    }
    let takes_walks = |node: &&NodeStatus| node.state == NodeCondition::Alive && node.slots > 0;
    if let Some(on) = on {
        return match nodes.iter().find(|node| node.node == *on) {
            Some(node) if takes_walks(&node) => None,
            Some(node) => Some(said_of(node)),
            None => Some(no_node(on)),
        };
    }
    let others: Vec<_> = nodes.iter().filter(|node| node.node != *own).collect();
    if others.iter().any(takes_walks) {
        return None;
    }
    if others.is_empty() {
        return Some(
            "there is no other node: 'oswalk cluster init' makes a cluster, 'oswalk cluster invite' lets a machine join it"
                .to_owned(),
        );
    }
    let mut said: Vec<_> = others.iter().take(NAMED_MAX).map(|node| said_of(node)).collect();
    if others.len() > NAMED_MAX {
        said.push(format!("{} more", others.len() - NAMED_MAX));
    }
    Some(format!("no other node takes walks ({})", said.join("; ")))
}

/// Returns the notice that a node is unknown.
#[must_use]
pub fn no_node(on: &NodeId) -> String {
    format!("there is no node '{on}': 'oswalk status' lists the cluster")
}

/// Returns why a node takes no walks, and the remedy.
fn said_of(node: &NodeStatus) -> String {
    let NodeStatus { node: name, state, why, remedy, slots, .. } = node;
    if *state == NodeCondition::Alive && *slots == 0 {
        return format!("{name} has no slots: start its agent with --slots");
    }
    let why = why.as_ref().map_or_else(String::new, |why| format!(", {why}"));
    let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!(": {remedy}"));
    format!("{name} is {}{why}{remedy}", state.name())
}

/// Returns the notice that `who` has other mounts than the agent, whose pid is `agent`.
#[must_use]
pub fn other_mounts(who: &str, agent: u32) -> String {
    format!(
        "{who} has other mounts than the agent (pid {agent}): start both in one mount namespace"
    )
}

/// Tells whether a stay's reason means that a program should have walked but could not, because no node
/// took it or something keeps the whole session at the origin.
#[must_use]
pub fn is_in_vain(reason: &str) -> bool {
    use Reason::{
        CommitFault, ForeignPreload, GrantedHome, Ipc, NoAgent, NoBroker, NoCluster, NoSlot,
        NotAllowed, NotExecutable, NotExported, OtherMounts, RunnerFault, RunnerLost,
        SecretVariable, ShimLimit,
    };
    let reason = Reason::named(reason);
    reason.is_some_and(|reason| {
        matches!(
            reason,
            NoCluster
                | NoAgent
                | NoBroker
                | NoSlot
                | GrantedHome
                | RunnerLost
                | RunnerFault
                | NotExported
                | CommitFault
                | NotAllowed
                | NotExecutable
                | OtherMounts
                | SecretVariable
                | ForeignPreload
                | Ipc
                | ShimLimit
        )
    })
}

/// Returns why nothing in a session walked: the most frequent reason of its stays, with the remedy if the
/// cause is on this machine. Returns `None` if nothing should have walked. `agent` is the agent's pid.
#[must_use]
pub fn why_nothing_walked(stays: &[StayLine], agent: u32) -> Option<String> {
    let vain: Vec<_> = stays.iter().filter(|stay| is_in_vain(&stay.reason)).collect();
    let count = |reason: &str| -> u64 {
        vain.iter().filter(|stay| stay.reason == reason).map(|stay| stay.count).sum()
    };
    let most = vain.iter().max_by_key(|stay| count(&stay.reason))?;
    let local = Reason::named(&most.reason)
        .and_then(|reason| local_cause(reason, most.variable.as_deref(), agent));
    if local.is_some() {
        return local;
    }
    let mut reasons: Vec<_> = vain.iter().map(|stay| stay.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    Some(format!("no walk succeeded ({}): see the agent's log", reasons.join(", ")))
}

/// Returns the cause and the remedy if a reason has its cause on this machine.
#[must_use]
pub fn local_cause(reason: Reason, variable: Option<&str>, agent: u32) -> Option<String> {
    Some(match reason {
        Reason::OtherMounts => other_mounts("the program", agent),
        Reason::SecretVariable => secret_variable(variable.unwrap_or("NAME")),
        Reason::ForeignPreload => FOREIGN_PRELOAD.to_owned(),
        Reason::Ipc => IPC.to_owned(),
        Reason::ShimLimit => SHIM_LIMIT.to_owned(),
        Reason::NotExecutable => NOT_EXECUTABLE.to_owned(),
        Reason::Descriptor => DESCRIPTOR.to_owned(),
        Reason::Directory => DIRECTORY.to_owned(),
        Reason::Place => PLACE.to_owned(),
        Reason::NotExported => NOT_EXPORTED.to_owned(),
        Reason::NotAllowed => NOT_ALLOWED.to_owned(),
        _ => return None,
    })
}

fn secret_variable(name: &str) -> String {
    format!(
        "the program may read the variable {name}, which looks like a secret and is withheld: \
         send it with --pass-env {name}, or let programs walk without it with --without-env {name}"
    )
}

const FOREIGN_PRELOAD: &str = "LD_PRELOAD names a library that talks to a process of this machine: \
     start the command without that library";
const IPC: &str = "fakeroot talks to a process of this machine: start the command without fakeroot";
const SHIM_LIMIT: &str = "the program has more arguments, variables or descriptors than a walk can \
     carry: start it with fewer";
const NOT_EXECUTABLE: &str =
    "no node can execute the program: check that it runs here, and see the agent's log";
const DESCRIPTOR: &str = "the program has an open descriptor that a walk cannot carry, or names a \
     fifo or a socket: start it without those";
const DIRECTORY: &str = "the working directory was deleted, or a file system that the program names \
     did not answer: look at its server";
const PLACE: &str = "the program reads or writes below /dev, /run, /proc or /sys, which every machine \
     has of its own: use other directories";
const NOT_ALLOWED: &str = "the session's token does not allow it, or was revoked: 'oswalk token show FILE' says what it allows";
const NOT_EXPORTED: &str = "the program needs a file that no runner is shown: see 'Whom you trust' in \
     the README, and the agent's log";

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        name.parse().expect("a sound name")
    }

    fn node(name: &str, slots: u32, state: NodeCondition, why: Option<&str>) -> NodeStatus {
        NodeStatus {
            node: id(name),
            address: "10.0.0.1:7700".parse().expect("an address"),
            version: "0.1.0".into(),
            slots,
            running: 0,
            state,
            why: why.map(Into::into),
            remedy: None,
            last_seen: 0,
            left: false,
            takes: crate::request::NodeTakes::All,
            load_percent: 0,
        }
    }

    #[test]
    fn nodes_that_take_no_walks_are_named() {
        use NodeCondition::{Alive, Gone, Refused, Unreachable};
        let me = id("me");
        let own = node("me", 2, Alive, None);
        let why = |others: &[NodeStatus], on: Option<&str>| {
            let nodes = [std::slice::from_ref(&own), others].concat();
            why_nothing_walks(&nodes, &me, on.map(id).as_ref(), None).unwrap_or_default()
        };
        assert_eq!(why(&[node("n1", 1, Alive, None)], None), "");
        assert_eq!(
            why(&[], None),
            "there is no other node: 'oswalk cluster init' makes a cluster, 'oswalk cluster invite' lets a machine join it"
        );
        let others = [
            node("n1", 1, Refused, Some("it does not prove its key")),
            node("n2", 0, Alive, None),
            node("n3", 1, Gone, None),
            node("n4", 1, Gone, None),
            node("n5", 1, Unreachable, None),
        ];
        assert_eq!(
            why(&others, None),
            "no other node takes walks (n1 is refused, it does not prove its key; n2 has no slots: \
             start its agent with --slots; n3 is gone; 2 more)"
        );
        assert_eq!(why(&others, Some("n5")), "n5 is unreachable");
        assert_eq!(
            why(&others, Some("n9")),
            "there is no node 'n9': 'oswalk status' lists the cluster"
        );
        assert_eq!(
            why_nothing_walks(&[], &me, None, Some("redis://hub/")),
            Some("the broker redis://hub/ does not answer: check that Redis runs there and that no firewall blocks its port".to_owned())
        );
    }

    #[test]
    fn the_most_frequent_reason_is_reported() {
        let stay = |reason: Reason, count| StayLine {
            argv0: "gcc".to_owned(),
            reason: reason.name().to_owned(),
            variable: (reason == Reason::SecretVariable).then(|| "MY_TOKEN".to_owned()),
            count,
        };
        let why = |stays: &[StayLine]| why_nothing_walked(stays, 7).unwrap_or_default();
        assert_eq!(
            why(&[stay(Reason::Link, 3), stay(Reason::Driver, 1), stay(Reason::Alone, 2)]),
            ""
        );
        let mounts = "the program has other mounts than the agent (pid 7): start both in one mount namespace";
        assert_eq!(why(&[stay(Reason::Link, 30), stay(Reason::OtherMounts, 2)]), mounts);
        let secret = why(&[stay(Reason::SecretVariable, 2), stay(Reason::OtherMounts, 1)]);
        assert!(secret.contains("--pass-env MY_TOKEN"), "{secret}");
        assert_eq!(
            why(&[
                stay(Reason::RunnerLost, 2),
                stay(Reason::NoSlot, 2),
                stay(Reason::OtherMounts, 1)
            ]),
            "no walk succeeded (no-slot, other-mounts, runner-lost): see the agent's log"
        );
    }

    #[test]
    fn a_colon_separates_cause_and_remedy() {
        let mut gone = node("n1", 1, NodeCondition::Gone, Some("it has not been heard for 7 s"));
        gone.remedy = Some("see whether its agent runs".to_owned());
        assert_eq!(
            said_of(&gone),
            "n1 is gone, it has not been heard for 7 s: see whether its agent runs"
        );
    }
}
