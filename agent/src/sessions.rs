//! The open sessions of this agent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use broker::Matchmaker;
use worknode::capability::TokenId;
use worknode::id::SessionId;
use worknode::page;
use worknode::request::CommandFile;

use crate::cluster::Cluster;
use crate::leaves::Leaves;
use crate::membership::tokens::Pass;
use crate::pages::Left;
use crate::session::Session;

/// All open sessions.
pub(crate) struct Sessions {
    cluster: Rc<Cluster>,
    open: RefCell<HashMap<SessionId, Rc<Session>>>,
    /// The pages of those that have ended.
    left: RefCell<Left>,
    /// Commands that started no others when they ran before.
    leaves: Leaves,
}

impl Sessions {
    pub(crate) fn new(cluster: Rc<Cluster>) -> Self {
        Self {
            cluster,
            open: RefCell::default(),
            left: RefCell::default(),
            leaves: Leaves::default(),
        }
    }

    /// Returns a session, if it is open.
    pub(crate) fn get(&self, id: SessionId) -> Option<Rc<Session>> {
        self.open.borrow().get(&id).cloned()
    }

    /// Returns the number of open sessions.
    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Returns the number of a user's sessions that are open, or whose pages are.
    pub(crate) fn count_of(&self, uid: u32) -> usize {
        let open = self.open.borrow().values().filter(|session| session.uid == uid).count();
        open + self.left.borrow().count_of(uid)
    }

    /// Returns the number of sessions of all users but root and one other.
    pub(crate) fn count_of_others(&self, uid: u32) -> usize {
        self.open.borrow().values().filter(|session| ![0, uid].contains(&session.uid)).count()
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
        self.left.borrow_mut().add(session.uid, session.page());
        session.close();
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

    /// Keeps pages as short as they were made, and ends the sessions of users who have extended theirs.
    pub(crate) fn keep_pages(&self) {
        self.left.borrow_mut().keep_short();
        let open = self.open.borrow();
        let longer = open.values().filter(|session| session.page().shorten());
        let longer: Vec<_> = longer.map(|session| (session.id, session.uid)).collect();
        drop(open);
        for (session, uid) in longer {
            tracing::warn!(%session, uid, "a session ends: its user has extended its page");
            self.end(session);
        }
    }

    /// Gives all sessions new tokens, because this node has a new key. One for which there is none walks no more.
    pub(crate) fn renew(&self, renewed: impl Fn(&Pass) -> anyhow::Result<Pass>) {
        for session in self.open.borrow().values() {
            match session.granted.pass().map(|pass| renewed(&pass)) {
                Some(Ok(pass)) => session.granted.renew(pass),
                Some(Err(error)) => {
                    tracing::error!(session = %session.id, "failed to renew a session's token: {error:#}");
                }
                None => {}
            }
        }
    }

    /// Ends all sessions whose token is revoked now, with their walks.
    pub(crate) fn end_revoked(&self, revoked: impl Fn(&Pass) -> Option<TokenId>) {
        let of = |session: &Session| Some((session.id, revoked(&*session.granted.pass()?)?));
        let ended: Vec<_> = self.open.borrow().values().filter_map(|it| of(it)).collect();
        for (session, id) in ended {
            tracing::info!(%session, token = %id, "a session ends: its token was revoked");
            if let Some(session) = self.get(session) {
                session.granted.revoke(id);
            }
            self.end(session);
        }
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
