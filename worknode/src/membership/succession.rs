//! How a node takes a new key: it proves the new one to the node that admits, and signs it with the old one.

use serde::{Deserialize, Serialize};

use super::record::ClusterId;
use crate::key::{Forged, Key, SecretKey, Signature};

/// Distinguishes these signatures from those made for other purposes.
const DOMAIN: &[u8] = b"oswalk 2026 new key of a member\0";

/// A member's wish to be known by another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// The key that it has.
    pub of: Key,
    signature: Signature,
}

impl Succession {
    /// Signs a new key with the old one.
    #[must_use]
    pub fn sign(cluster: ClusterId, new: Key, old: &SecretKey) -> Self {
        Self { of: old.key(), signature: old.sign(&message(cluster, new)) }
    }

    /// Checks that the old key has signed the new one.
    ///
    /// # Errors
    /// It has not.
    pub fn verify(&self, cluster: ClusterId, new: Key) -> Result<(), Forged> {
        self.of.verify(&message(cluster, new), &self.signature)
    }
}

fn message(cluster: ClusterId, new: Key) -> Vec<u8> {
    [DOMAIN, &cluster.0, &new.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_successor_in_one_cluster() {
        let [old, new, other] = [1, 2, 3].map(|seed| SecretKey::from_seed(&[seed; 32]));
        let cluster = ClusterId([4; 32]);
        let succession = Succession::sign(cluster, new.key(), &old);
        assert_eq!(succession.verify(cluster, new.key()), Ok(()));
        assert_eq!(succession.verify(cluster, other.key()), Err(Forged));
        assert_eq!(succession.verify(ClusterId([5; 32]), new.key()), Err(Forged));
        let stolen = Succession { of: other.key(), ..succession };
        assert_eq!(stolen.verify(cluster, new.key()), Err(Forged));
    }
}
