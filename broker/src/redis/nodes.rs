//! Parses the list of nodes. Malformed lines are skipped.

use std::time::Duration;

use super::wire::Value;
use crate::limits::{NODES_MAX, SLOTS_MAX};
use crate::model::{NodeInfo, NodeState, PastNode, Takes, Trouble};

/// Parses the lines of current nodes and of nodes that have gone.
pub(crate) fn read(lines: &[Value]) -> (Vec<NodeState>, Vec<PastNode>) {
    let past: Vec<_> = lines.iter().filter_map(past_node).take(NODES_MAX).collect();
    let nodes: Vec<_> = lines.iter().filter(|line| past_node(line).is_none()).collect();
    let states: Vec<_> = nodes.iter().take(NODES_MAX).filter_map(|line| node_state(line)).collect();
    if states.len() < nodes.len() {
        let left_out = nodes.len() - states.len();
        tracing::warn!(
            left_out,
            "ignored nodes in the broker's list: they are malformed, or too many"
        );
    }
    (states, past)
}

fn node_state(line: &Value) -> Option<NodeState> {
    let Value::List(fields) = line else { return None };
    let text = |index: usize| word(fields.get(index)?);
    Some(NodeState {
        info: NodeInfo {
            node: text(0)?.parse().ok()?,
            address: text(1)?.parse().ok()?,
            version: text(2)?.into(),
            slots: number(fields.get(3)?)?.min(SLOTS_MAX),
            cpu: text(4)?.into(),
            trouble: Trouble::parse(text(7)?),
            takes: Takes::parse(text(10)?),
        },
        running: number(fields.get(5)?)?,
        alive: number(fields.get(6)?)? == 1,
        incarnation: text(8)?.into(),
        heard_ago: age(fields.get(9)),
        load_percent: fields.get(11).and_then(number).unwrap_or(0),
    })
}

fn past_node(line: &Value) -> Option<PastNode> {
    let Value::List(fields) = line else { return None };
    let [node, how, ago] = &fields[..] else { return None };
    let left = match word(how)? {
        "left" => true,
        "lost" => false,
        _ => return None,
    };
    Some(PastNode { node: word(node)?.parse().ok()?, left, heard_ago: age(Some(ago)) })
}

/// Parses an age in milliseconds; 0 if it is malformed.
fn age(value: Option<&Value>) -> Duration {
    Duration::from_millis(value.and_then(number).unwrap_or(0).into())
}

fn word(value: &Value) -> Option<&str> {
    match value {
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Int(number) => u32::try_from(*number).ok(),
        Value::Bytes(_) => word(value)?.parse().ok(),
        _ => None,
    }
}
