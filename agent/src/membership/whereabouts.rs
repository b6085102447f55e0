//! Where members are: what this node knows, what it tells, and what it is told.

use std::net::SocketAddr;

use worknode::id::NodeId;
use worknode::key::Key;

use super::{Membership, off_the_loop};
use crate::wire::joining::BrokerPlace;

impl Membership {
    /// Returns the address at which others reach this node.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.get()
    }

    /// Records that address.
    pub(crate) fn set_address(&self, address: SocketAddr) {
        self.address.set(address);
    }

    /// Returns where the node that runs the broker was last seen, and its key.
    pub(crate) fn broker_at(&self) -> Option<(Key, SocketAddr)> {
        match &self.place.broker {
            Some(BrokerPlace::Url(_)) => None,
            Some(BrokerPlace::Node { .. }) => {
                let key = self.contacts.broker()?;
                Some((key, self.contacts.addresses(&key).first().copied()?))
            }
            None => Some((self.key(), self.address())),
        }
    }

    /// Notes what a member has said: where it is, and where the broker is.
    pub(crate) fn note_addresses(
        &self,
        key: Key,
        address: SocketAddr,
        broker: Option<(Key, SocketAddr)>,
    ) {
        if self.contacts.note(key, address) {
            tracing::debug!(key = key.short(), %address, "a member has a new address");
        }
        if let Some((key, address)) = broker
            && key != self.key()
            && self.node(&key).is_some()
        {
            self.contacts.hear(key, address);
        }
    }

    /// Notes the address that the broker's list has for a node.
    pub(crate) fn hear_address(&self, node: &NodeId, address: SocketAddr) {
        if let Some(key) = self.key_of(node) {
            self.contacts.hear(key, address);
        }
    }

    /// Returns all other members, and where they may be, the most certain address first.
    pub(crate) fn others(&self) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let (roll, own) = (self.roll(), self.key());
        let others = roll
            .members()
            .filter(|(key, member)| **key != own && roll.key_of(&member.node) == Some(**key));
        others.map(|(key, member)| (member.node.clone(), self.contacts.addresses(key))).collect()
    }

    /// Saves the addresses if they have changed.
    pub(crate) async fn save_addresses(&self) {
        let roll = self.roll();
        let unsaved = self.contacts.take_unsaved(|key| roll.member(key).is_some());
        let Some(addresses) = unsaved else { return };
        let files = self.files.clone();
        if let Err(error) = off_the_loop(move || files.save_addresses(&addresses)).await {
            tracing::warn!("failed to save the members' addresses: {error:#}");
        }
    }

    /// Returns what a new member is told of the broker.
    pub(crate) fn broker_for_others(&self, own_address: &str) -> BrokerPlace {
        match &self.place.broker {
            Some(place) => place.clone(),
            None => BrokerPlace::Node { address: own_address.to_owned(), key: self.key() },
        }
    }
}
