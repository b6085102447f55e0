//! Why nothing walks, as a user is told: pure, from what an agent knows of its cluster.

use crate::id::NodeId;
use crate::request::{NodeCondition, NodeStatus};

/// Nodes that are named; a person reads no longer list.
const NAMED_MAX: usize = 3;

/// Returns why no node takes walks, or why the one that was asked for does not; nothing if there is
/// somebody. The broker's URL is given if it does not answer.
#[must_use]
pub fn why_nothing_walks(
    nodes: &[NodeStatus],
    own: &NodeId,
    on: Option<&NodeId>,
    silent_broker: Option<&str>,
) -> Option<String> {
    if let Some(url) = silent_broker {
        return Some(format!("the broker {url} does not answer: check that Redis runs there"));
    }
    let takes_walks = |node: &&NodeStatus| node.state == NodeCondition::Alive && node.slots > 0;
    if let Some(on) = on {
        return match nodes.iter().find(|node| node.node == *on) {
            Some(node) if takes_walks(&node) => None,
            Some(node) => Some(said_of(node)),
            None => Some(format!("there is no node {on}: 'oswalk status' lists the cluster")),
        };
    }
    let others: Vec<_> = nodes.iter().filter(|node| node.node != *own).collect();
    if others.iter().any(takes_walks) {
        return None;
    }
    if others.is_empty() {
        return Some("the cluster has no other node: 'oswalk status' lists it".to_owned());
    }
    let mut said: Vec<_> = others.iter().take(NAMED_MAX).map(|node| said_of(node)).collect();
    if others.len() > NAMED_MAX {
        said.push(format!("{} more", others.len() - NAMED_MAX));
    }
    Some(format!("no other node takes walks ({})", said.join("; ")))
}

/// Returns what is wrong with a node, and the remedy.
fn said_of(node: &NodeStatus) -> String {
    let NodeStatus { node: name, state, why, remedy, slots, .. } = node;
    if *state == NodeCondition::Alive && *slots == 0 {
        return format!("{name} has no slots");
    }
    let parts = [why, remedy].into_iter().flatten().map(|part| format!(", {part}"));
    format!("{name} is {}{}", state.name(), parts.collect::<String>())
}

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
        }
    }

    #[test]
    fn who_does_not_take_walks_is_named() {
        use NodeCondition::{Alive, Gone, Refused, Unreachable};
        let me = id("me");
        let own = node("me", 2, Alive, None);
        let why = |others: &[NodeStatus], on: Option<&str>| {
            let nodes = [std::slice::from_ref(&own), others].concat();
            why_nothing_walks(&nodes, &me, on.map(id).as_ref(), None).unwrap_or_default()
        };
        assert_eq!(why(&[node("n1", 1, Alive, None)], None), "");
        assert_eq!(why(&[], None), "the cluster has no other node: 'oswalk status' lists it");
        let others = [
            node("n1", 1, Refused, Some("it does not hold the secret")),
            node("n2", 0, Alive, None),
            node("n3", 1, Gone, None),
            node("n4", 1, Gone, None),
            node("n5", 1, Unreachable, None),
        ];
        assert_eq!(
            why(&others, None),
            "no other node takes walks (n1 is refused, it does not hold the secret; n2 has no slots; \
             n3 is gone; 2 more)"
        );
        assert_eq!(why(&others, Some("n5")), "n5 is unreachable");
        assert_eq!(
            why(&others, Some("n9")),
            "there is no node n9: 'oswalk status' lists the cluster"
        );
        assert_eq!(
            why_nothing_walks(&[], &me, None, Some("redis://hub/")),
            Some("the broker redis://hub/ does not answer: check that Redis runs there".to_owned())
        );
    }
}
