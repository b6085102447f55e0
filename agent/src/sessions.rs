//! The open sessions of this agent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use broker::Matchmaker;
use worknode::id::SessionId;
use worknode::page;
use worknode::request::CommandFile;

use crate::cluster::Cluster;
use crate::leaves::Leaves;
use crate::session::Session;

/// All open sessions.
pub(crate) struct Sessions {
    cluster: Rc<Cluster>,
    open: RefCell<HashMap<SessionId, Rc<Session>>>,
    /// Commands that started no others when they ran before.
    leaves: Leaves,
}

impl Sessions {
    pub(crate) fn new(cluster: Rc<Cluster>) -> Self {
        Self { cluster, open: RefCell::default(), leaves: Leaves::default() }
    }

    /// Returns a session, if it is open.
    pub(crate) fn get(&self, id: SessionId) -> Option<Rc<Session>> {
        self.open.borrow().get(&id).cloned()
    }

    /// Returns the number of open sessions.
    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Adds a session.
    pub(crate) fn add(&self, session: Session) -> Rc<Session> {
        let session = Rc::new(session);
        self.open.borrow_mut().insert(session.id, Rc::clone(&session));
        session
    }

    /// Ends a session, and removes its waiting walks from the queue.
    pub(crate) fn end(&self, id: SessionId) {
        let ended = self.open.borrow_mut().remove(&id);
        self.cluster.slots.drop_session(id);
        let Some(session) = ended else { return };
        if let Some(command) = session.leaf() {
            self.leaves.add(session.uid, command);
        }
        // In the background: nothing depends on it.
        let cluster = Rc::clone(&self.cluster);
        tokio::task::spawn_local(async move {
            if let Err(error) = cluster.broker.cancel_session(id).await {
                tracing::debug!(%error, "failed to cancel a session");
            }
        });
    }

    /// Tells whether a user's command started no others when it ran before.
    pub(crate) fn is_leaf(&self, uid: u32, command: CommandFile) -> bool {
        self.leaves.contains(uid, command)
    }

    /// Updates the gates of all sessions. A gate is open while there is a node to walk to.
    pub(crate) fn set_gates(&self) {
        for session in self.open.borrow().values().filter(|session| !session.no_fallback) {
            let open = self.cluster.broker.is_up()
                && self.cluster.has_runner_for(session.on.as_ref(), &[]);
            session.set_gate(if open { page::GATE_OPEN } else { page::GATE_SHUT });
        }
    }
}
