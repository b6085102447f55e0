//! The token of a session: introduces the session to runners, and says what it may do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use tokio::sync::watch;
use worknode::capability::{Lack, Program, TokenId};
use worknode::id::{NodeId, SessionId};
use worknode::spec::WalkSpec;

use crate::admission::{Act, Refusal, admit};
use crate::clock::now_s;
use crate::exporter::reach::Reach;
use crate::link::Link;
use crate::membership::tokens::Pass;
use crate::wire::frame::Kind;
use crate::wire::message::{Introduction, encode};

/// A session's token, and the runners that know it.
#[derive(Debug)]
pub(crate) struct Granted {
    session: SessionId,
    /// Absent if this node belongs to no cluster. Then nothing walks.
    pass: RefCell<Option<Rc<Pass>>>,
    /// What it lets be read.
    pub(crate) reach: Reach,
    /// By the numbers of the links. They are told when the session ends.
    introduced: RefCell<HashMap<u32, Weak<Link>>>,
    /// By which number the token was revoked.
    revoked_tx: watch::Sender<Option<TokenId>>,
}

impl Granted {
    pub(crate) fn new(session: SessionId, pass: Option<Pass>) -> Self {
        let (introduced, revoked_tx) = (RefCell::default(), watch::Sender::new(None));
        let reach = pass.as_ref().map(|pass| Reach::of(&pass.capability.bounds));
        let pass = RefCell::new(pass.map(Rc::new));
        Self { session, pass, reach: reach.unwrap_or_default(), introduced, revoked_tx }
    }

    pub(crate) fn pass(&self) -> Option<Rc<Pass>> {
        self.pass.borrow().clone()
    }

    /// Uses a token that allows the same and that no runner knows yet.
    pub(crate) fn renew(&self, pass: Pass) {
        self.pass.replace(Some(Rc::new(pass)));
        self.introduced.take();
    }

    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// Decides whether a program may be executed elsewhere.
    ///
    /// # Errors
    /// What the token lacks.
    pub(crate) fn allows(&self, spec: &WalkSpec) -> Result<(), Refusal> {
        let pass = self.pass().ok_or(Refusal::NoCluster)?;
        let capability = &pass.capability;
        let (uid, session, compiles) = (spec.principal.uid, self.session, spec.compiles);
        let program = &Program { uid, session, compiles };
        if let Some(id) = *self.revoked_tx.borrow() {
            return Err(Lack::Revoked(id).into());
        }
        admit(&spec.principal, Act::Leave { capability, program, now_s: now_s() })
    }

    /// Tells whether the token allows a node.
    pub(crate) fn allows_node(&self, node: &NodeId) -> bool {
        self.pass().is_some_and(|pass| pass.capability.allows_node(node))
    }

    /// Tells whether the token allows some nodes only.
    pub(crate) fn names_nodes(&self) -> bool {
        self.pass().is_some_and(|pass| pass.capability.bounds.nodes.is_some())
    }

    /// Tells whether the token takes the network away.
    pub(crate) fn is_offline(&self) -> bool {
        self.pass().is_some_and(|pass| pass.capability.bounds.no_network)
    }

    /// Shows the token to a runner, unless it knows it.
    pub(crate) fn introduce(&self, link: &Rc<Link>) {
        let mut introduced = self.introduced.borrow_mut();
        if let Some(pass) = self.pass()
            && !introduced.contains_key(&link.number)
        {
            introduced.insert(link.number, Rc::downgrade(link));
            self.tell(link, Some(&pass));
        }
    }

    /// Ends the session's walks, because its token was revoked.
    pub(crate) fn revoke(&self, id: TokenId) {
        self.revoked_tx.send_replace(Some(id));
    }

    /// Waits until the token is revoked.
    pub(crate) async fn revoked(&self) -> Refusal {
        let mut revoked = self.revoked_tx.subscribe();
        let id = revoked.wait_for(Option::is_some).await.ok().and_then(|id| *id);
        match id {
            Some(id) => Lack::Revoked(id).into(),
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }

    fn tell(&self, link: &Link, pass: Option<&Pass>) {
        let token = pass.map(|pass| pass.token.clone());
        let introduction = Introduction { session: self.session, token };
        link.send(Kind::Session, 0, encode(&introduction));
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        for link in self.introduced.take().into_values().filter_map(|link| link.upgrade()) {
            self.tell(&link, None);
        }
    }
}
