//! What is needed to call other members: this node's identity, and where they were last seen. It is shared with the
//! broker's connections, which other threads make.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worknode::key::Key;

use super::addresses::Addresses;
use crate::tls::Identity;

/// Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Contacts(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    identity: Identity,
    addresses: Addresses,
    /// Whether the addresses have changed since they were last saved.
    is_unsaved: bool,
    /// The key of the node that runs the broker, unless this one does or it is a server of its own.
    broker: Option<Key>,
}

impl Contacts {
    pub(super) fn new(identity: Identity, addresses: Addresses, broker: Option<Key>) -> Self {
        let state = State { identity, addresses, is_unsaved: false, broker };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns this node's identity.
    pub(crate) fn identity(&self) -> Identity {
        self.state().identity.clone()
    }

    /// Returns the key of the node that runs the broker, if that is another one.
    pub(crate) fn broker(&self) -> Option<Key> {
        self.state().broker
    }

    pub(super) fn set_identity(&self, identity: Identity) {
        self.state().identity = identity;
    }

    pub(super) fn set_broker(&self, key: Key) {
        self.state().broker = Some(key);
    }

    /// Returns a member's addresses, the most certain first.
    pub(crate) fn addresses(&self, key: &Key) -> Vec<SocketAddr> {
        self.state().addresses.of(key)
    }

    /// Notes an address that the member itself has named. Returns whether that is a change.
    pub(crate) fn note(&self, key: Key, address: SocketAddr) -> bool {
        let mut state = self.state();
        let is_news = state.addresses.note(key, address);
        state.is_unsaved |= is_news;
        is_news
    }

    /// Notes an address that others have named.
    pub(crate) fn hear(&self, key: Key, address: SocketAddr) {
        let mut state = self.state();
        let is_news = state.addresses.hear(key, address);
        state.is_unsaved |= is_news;
    }

    /// Returns the addresses if they have changed since this was last called.
    pub(super) fn take_unsaved(&self, is_member: impl Fn(&Key) -> bool) -> Option<Addresses> {
        let mut state = self.state();
        if !std::mem::take(&mut state.is_unsaved) {
            return None;
        }
        state.addresses.keep(is_member);
        Some(state.addresses.clone())
    }
}
