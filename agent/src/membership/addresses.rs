//! Where the members were last seen. An address is a hint: whoever answers there has to prove the member's key, so a wrong
//! one costs a call.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use worknode::key::Key;

/// Addresses kept of one member: that where it is, and a few where it was or may be.
const ADDRESSES_MAX: usize = 4;

/// The addresses of all members, of each the most certain first.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Addresses(BTreeMap<Key, Vec<SocketAddr>>);

impl Addresses {
    /// Returns a member's addresses, the most certain first.
    pub(super) fn of(&self, key: &Key) -> Vec<SocketAddr> {
        self.0.get(key).cloned().unwrap_or_default()
    }

    /// Notes an address that the member itself has named. Returns whether that is a change.
    pub(super) fn note(&mut self, key: Key, address: SocketAddr) -> bool {
        let known = self.0.entry(key).or_default();
        if known.first() == Some(&address) {
            return false;
        }
        known.retain(|it| *it != address);
        known.insert(0, address);
        known.truncate(ADDRESSES_MAX);
        true
    }

    /// Notes an address that others have named: it is tried after those that the member named. Returns whether that is a
    /// change.
    pub(super) fn hear(&mut self, key: Key, address: SocketAddr) -> bool {
        let known = self.0.entry(key).or_default();
        if known.contains(&address) {
            return false;
        }
        known.truncate(ADDRESSES_MAX - 1);
        known.push(address);
        true
    }

    /// Forgets all keys but those of members.
    pub(super) fn keep(&mut self, is_member: impl Fn(&Key) -> bool) {
        self.0.retain(|key, _| is_member(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_says_of_itself_comes_first() {
        let (key, at) = (Key([1; 32]), |last| SocketAddr::from(([10, 0, 0, last], 7700)));
        let mut addresses = Addresses::default();
        assert!(addresses.hear(key, at(1)) && !addresses.hear(key, at(1)));
        assert!(addresses.note(key, at(2)) && !addresses.note(key, at(2)));
        assert_eq!(addresses.of(&key), [at(2), at(1)]);
        assert!(addresses.note(key, at(1)), "it is back at the first");
        assert_eq!(addresses.of(&key), [at(1), at(2)]);
        for last in 10..20 {
            addresses.hear(key, at(last));
        }
        assert_eq!(addresses.of(&key), [at(1), at(2), at(10), at(19)], "hearsay displaces hearsay");
        addresses.keep(|_| false);
        assert_eq!(addresses, Addresses::default());
    }
}
