//! The sessions that the peer has introduced, each with what its token allows. A token is verified once, when it arrives;
//! for each walk it is looked up here.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::watch;
use worknode::capability::{Capability, Lack, Program, Runner, TokenId};
use worknode::id::SessionId;
use worknode::principal::Principal;

use crate::admission::{Act, Refusal, admit};
use crate::wire::limits::SESSIONS_MAX;

/// The sessions of a link.
#[derive(Debug, Default)]
pub(crate) struct Introduced(RefCell<HashMap<SessionId, Rc<Session>>>);

/// A session with its token.
#[derive(Debug)]
struct Session {
    capability: Capability,
    /// Walks of it that are under way here.
    walks: Cell<u32>,
    /// By which number its token was revoked.
    revoked_tx: watch::Sender<Option<TokenId>>,
}

/// A walk that its session's token allows. It is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Allowed(Rc<Session>);

impl Introduced {
    /// Adds a session with a verified token.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn add(&self, id: SessionId, capability: Capability) -> Result<(), Refusal> {
        let mut sessions = self.0.borrow_mut();
        if sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::TooManySessions);
        }
        let (walks, revoked_tx) = (Cell::new(0), watch::Sender::new(None));
        sessions.insert(id, Rc::new(Session { capability, walks, revoked_tx }));
        Ok(())
    }

    /// Forgets a session that has ended.
    pub(crate) fn remove(&self, id: SessionId) {
        self.0.borrow_mut().remove(&id);
    }

    /// Decides whether a walk of a session may be executed here.
    ///
    /// # Errors
    /// What its token lacks.
    pub(crate) fn admit(
        &self,
        who: &Principal,
        (program, runner): (&Program, &Runner<'_>),
        now_s: u64,
    ) -> Result<Allowed, Refusal> {
        let session = self.0.borrow().get(&program.session).cloned();
        let others = session.as_ref().map_or(0, |session| session.walks.get());
        let pass = session.as_ref().map(|session| &session.capability);
        admit(who, Act::Run { pass, program, runner, others, now_s })?;
        let session = session.ok_or(Refusal::NoToken)?;
        if let Some(id) = *session.revoked_tx.borrow() {
            return Err(Lack::Revoked(id).into());
        }
        session.walks.set(others + 1);
        Ok(Allowed(session))
    }

    /// Ends the walks of sessions whose token is revoked now.
    pub(crate) fn revoke(&self, revoked: impl Fn(&Capability) -> Option<TokenId>) {
        for session in self.0.borrow().values() {
            if let Some(id) = revoked(&session.capability) {
                session.revoked_tx.send_replace(Some(id));
            }
        }
    }
}

impl Allowed {
    /// Returns what the token allows.
    pub(crate) fn capability(&self) -> &Capability {
        &self.0.capability
    }

    /// Waits until the token is revoked.
    pub(crate) async fn revoked(&self) -> Refusal {
        let mut revoked = self.0.revoked_tx.subscribe();
        let id = revoked.wait_for(Option::is_some).await.map(|id| *id);
        match id {
            Ok(Some(id)) => Lack::Revoked(id).into(),
            // The sender lives as long as the session, which `self` holds.
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        self.0.walks.set(self.0.walks.get() - 1);
    }
}
