//! Which tokens are good no more. Each node signs one list of the tokens of its own that were revoked, and the cluster's
//! owner one of any tokens; a newer list replaces the older one. Lists are merged in any order, as a roll is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::number::TokenId;
use crate::bounded::at_most;
use crate::key::{Forged, Key, SecretKey, Signature};
use crate::membership::ClusterId;

/// Most tokens of one list. A token is listed until it would have expired. Lists of a thousand nodes fit into one message.
pub const REVOKED_MAX: usize = 32;
/// Most lists: those of as many nodes as a roll can have, and the owner's.
const LISTS_MAX: usize = 1000;

/// Distinguishes signatures of lists from those made for other purposes.
const DOMAIN: &[u8] = b"oswalk 2026 revocation list\0";

/// A revoked token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revoked {
    /// The number of the token, or of one from which others were narrowed.
    pub id: TokenId,
    /// When it would have expired, in seconds since 1970.
    pub until_s: u64,
}

/// All tokens that somebody has revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    /// The tokens.
    #[serde(deserialize_with = "at_most::<_, _, REVOKED_MAX>")]
    pub revoked: Vec<Revoked>,
    /// Counts the lists of this signer.
    pub number: u64,
    /// Who has signed it.
    pub by: Key,
    signature: Signature,
}

/// The lists of all signers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations(BTreeMap<Key, RevocationList>);

/// A list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{REVOKED_MAX} tokens are revoked already: try again when one of them has expired")]
pub struct Full;

impl RevocationList {
    /// Checks the signature.
    ///
    /// # Errors
    /// It is not that of the key.
    pub fn verify(&self, cluster: ClusterId) -> Result<(), Forged> {
        let message = message(cluster, &self.revoked, self.number, self.by);
        self.by.verify(&message, &self.signature)
    }
}

impl Revocations {
    /// Adds a token to the list of a signer, without those that have expired.
    ///
    /// # Errors
    /// The list is full.
    pub fn revoke(
        &mut self,
        token: Revoked,
        cluster: ClusterId,
        by: &SecretKey,
        now_s: u64,
    ) -> Result<(), Full> {
        let known = self.0.get(&by.key());
        let mut revoked: BTreeSet<_> =
            known.iter().flat_map(|list| &list.revoked).copied().collect();
        revoked.retain(|token| token.until_s >= now_s);
        revoked.insert(token);
        if revoked.len() > REVOKED_MAX {
            return Err(Full);
        }
        let number = known.map_or(0, |list| list.number) + 1;
        let (revoked, key) = (revoked.into_iter().collect::<Vec<_>>(), by.key());
        let signature = by.sign(&message(cluster, &revoked, number, key));
        self.0.insert(key, RevocationList { revoked, number, by: key, signature });
        Ok(())
    }

    /// Takes in all valid lists that are newer, of signers who may sign one. Returns whether there were any.
    pub fn merge(
        &mut self,
        lists: Vec<RevocationList>,
        cluster: ClusterId,
        may_sign: impl Fn(&Key) -> bool,
    ) -> bool {
        let mut is_any = false;
        for list in lists {
            let known = self.0.get(&list.by);
            let has_room = known.is_some() || self.0.len() < LISTS_MAX;
            let is_newer = known.is_none_or(|known| order(known) < order(&list));
            if has_room && is_newer && may_sign(&list.by) && list.verify(cluster).is_ok() {
                self.0.insert(list.by, list);
                is_any = true;
            }
        }
        is_any
    }

    /// Drops the lists of those who may no longer sign one. No token that they could revoke is valid any more.
    pub fn retain(&mut self, may_sign: impl Fn(&Key) -> bool) {
        self.0.retain(|key, _| may_sign(key));
    }

    /// Returns the first of these blocks of a token of `root` that its node or the owner has revoked.
    #[must_use]
    pub fn of(&self, ids: &[TokenId], root: Key, owner: Key) -> Option<TokenId> {
        let listed = [root, owner].into_iter().filter_map(|by| self.0.get(&by));
        let revoked: BTreeSet<_> =
            listed.flat_map(|list| &list.revoked).map(|token| token.id).collect();
        ids.iter().find(|id| revoked.contains(id)).copied()
    }

    /// Returns all lists.
    pub fn lists(&self) -> impl Iterator<Item = &RevocationList> {
        self.0.values()
    }

    /// Mixes the lists into the digest of a roll. Without lists it stays the same.
    #[must_use]
    pub fn digest(&self, roll: [u8; 32]) -> [u8; 32] {
        if self.0.is_empty() {
            return roll;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&roll);
        for (key, list) in &self.0 {
            hasher.update(&key.0).update(&list.number.to_le_bytes()).update(&content(list));
        }
        *hasher.finalize().as_bytes()
    }
}

/// Orders the lists of one signer. An honest signer makes one with each number; of two all nodes keep the same one.
fn order(list: &RevocationList) -> (u64, [u8; 32]) {
    (list.number, content(list))
}

fn content(list: &RevocationList) -> [u8; 32] {
    let said = postcard::to_allocvec(&list.revoked).expect("a vector takes any length");
    *blake3::hash(&said).as_bytes()
}

fn message(cluster: ClusterId, revoked: &[Revoked], number: u64, by: Key) -> Vec<u8> {
    let said = postcard::to_allocvec(&(cluster, revoked, number, by));
    [DOMAIN, &said.expect("a vector takes any length")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([1; 32]);

    fn secret(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    fn token(number: u8, until_s: u64) -> Revoked {
        Revoked { id: TokenId([number; 16]), until_s }
    }

    #[test]
    fn a_token_is_revoked_by_its_node_or_the_owner() {
        let (owner, node, other) = (secret(0), secret(1), secret(2));
        let mut all = Revocations::default();
        all.revoke(token(1, 100), CLUSTER, &node, 1).expect("room");
        all.revoke(token(2, 100), CLUSTER, &owner, 1).expect("room");
        let of = |id, root: &SecretKey| all.of(&[TokenId([id; 16])], root.key(), owner.key());
        assert!(of(1, &node).is_some() && of(1, &other).is_none());
        assert!(of(2, &node).is_some() && of(2, &other).is_some());
        assert!(of(3, &node).is_none());
    }

    #[test]
    fn lists_are_merged_in_any_order() {
        let mut steps = vec![Revocations::default()];
        for number in 1..4 {
            let mut next = steps.last().expect("one").clone();
            next.revoke(token(number, 100), CLUSTER, &secret(1), 1).expect("room");
            steps.push(next);
        }
        let lists = |at: usize| steps[at].lists().cloned().collect::<Vec<_>>();
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let mut merged = Revocations::default();
            for at in order {
                merged.merge(lists(at), CLUSTER, |_| true);
            }
            assert_eq!(merged, steps[3]);
            assert_eq!(merged.digest([0; 32]), steps[3].digest([0; 32]));
            assert!(!merged.merge(lists(3), CLUSTER, |_| true), "nothing is new");
        }
        assert!(!Revocations::default().merge(lists(3), CLUSTER, |_| false), "a stranger's");
        assert!(!Revocations::default().merge(lists(3), ClusterId([2; 32]), |_| true), "another's");
        let mut forged = lists(3);
        forged[0].revoked.pop();
        assert!(!Revocations::default().merge(forged, CLUSTER, |_| true));
        assert_eq!(Revocations::default().digest([7; 32]), [7; 32]);
    }

    #[test]
    fn a_list_is_bounded_and_forgets_what_has_expired() {
        let mut all = Revocations::default();
        for number in 0..32 {
            let revoked = token(number, 10 + u64::from(number));
            all.revoke(revoked, CLUSTER, &secret(1), 1).expect("room");
        }
        assert_eq!(all.revoke(token(99, 100), CLUSTER, &secret(1), 1), Err(Full));
        all.revoke(token(99, 100), CLUSTER, &secret(1), 11).expect("one has expired");
        assert_eq!(all.lists().next().expect("one").revoked.len(), REVOKED_MAX);
    }
}
