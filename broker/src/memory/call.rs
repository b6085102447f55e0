//! One call: its state, caller and time, and the events that it causes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use worknode::id::{NodeId, SessionId, WalkId};

use super::nodes::Nodes;
use super::queue::Queue;
use super::walk::Walk;
use crate::model::{Event, Grant};

/// The state of a cell.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) nodes: Nodes,
    pub(crate) walks: BTreeMap<WalkId, Walk>,
    pub(crate) queue: Queue,
    /// Sessions whose walks must be cancelled.
    pub(crate) gone: BTreeSet<SessionId>,
    /// Nodes that have gone.
    pub(crate) past: BTreeMap<NodeId, Past>,
    /// How often the list of nodes has changed.
    pub(crate) list: u64,
    /// When nodes with expired leases were last searched for.
    pub(crate) reaped: Option<Duration>,
    /// No node is buried before this time.
    pub(crate) grace: Duration,
}

/// How a node left.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) left: bool,
    pub(crate) heard: Duration,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) caller: &'a NodeId,
    /// Since time began.
    pub(crate) now: Duration,
    mail: Vec<(NodeId, Event)>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(state: &'a mut State, caller: &'a NodeId, now: Duration) -> Self {
        Self { state, caller, now, mail: Vec::new() }
    }

    pub(crate) fn into_mail(self) -> Vec<(NodeId, Event)> {
        self.mail
    }

    pub(crate) fn tell(&mut self, node: &NodeId, event: Event) {
        self.mail.push((node.clone(), event));
    }

    /// Removes the last event if it is a grant for the caller and `before` others precede it.
    pub(crate) fn take_grant(&mut self, before: usize) -> Option<Grant> {
        let is_own = |(node, event): &mut (NodeId, Event)| {
            node == self.caller && matches!(event, Event::Granted(_))
        };
        if self.mail.len() <= before {
            return None;
        }
        match self.mail.pop_if(is_own)?.1 {
            Event::Granted(grant) => Some(grant),
            _ => None,
        }
    }

    pub(crate) fn mail_count(&self) -> usize {
        self.mail.len()
    }
}
