//! The roll: all records that a node knows of its cluster, and who is a member by them.
//!
//! A key is a member if the owner has admitted it, or a member that may invite, and if it was not removed.
//! Whom a removed node had admitted is no member either: its key may have been stolen before. The owner
//! admits those anew who stay.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{ClusterId, ClusterName, Record, Statement};
use crate::id::NodeId;
use crate::key::{Forged, Key};

/// Records of one cluster: those of a thousand nodes that come and go for years. All of them fit into one message.
pub const RECORDS_MAX: usize = 4000;

/// Records of one [`Roll::admission`]: a node, who has invited it, and who has invited that one.
const ADMISSION_MAX: usize = 3;

/// Why a record is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The signature is wrong.
    #[error("a membership record is forged: {0}")]
    Forged(#[from] Forged),
    /// It is about another cluster, or founds one.
    #[error("a membership record is about another cluster")]
    OtherCluster,
    /// The signer had no right to say this.
    #[error("a membership record is signed by {by:?}, who has no right to it")]
    NoRight {
        /// The signer.
        by: Key,
    },
    /// There are too many.
    #[error("the cluster has {RECORDS_MAX} membership records already")]
    TooMany,
}

/// A node that belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// It may admit others.
    pub may_invite: bool,
    by_owner: bool,
    /// When it was admitted, in seconds since 1970 on the clock of who did it.
    since_s: u64,
}

/// All records that are known of a cluster.
#[derive(Debug, Clone)]
pub struct Roll {
    cluster: ClusterId,
    name: ClusterName,
    owner: Key,
    records: BTreeMap<[u8; 32], Record>,
    members: BTreeMap<Key, Member>,
}

impl Roll {
    /// Makes the roll of the cluster that a record founds.
    ///
    /// # Errors
    /// It founds none, or is forged.
    pub fn found(record: Record) -> Result<Self, RecordError> {
        record.verify()?;
        let Statement::Founded { name, .. } = &record.statement else {
            return Err(RecordError::OtherCluster);
        };
        let (digest, name, owner) = (record.digest(), name.clone(), record.by);
        let cluster = ClusterId(digest);
        let records = BTreeMap::from([(digest, record)]);
        Ok(Self { cluster, name, owner, records, members: BTreeMap::new() })
    }

    /// Makes the roll of a cluster from records in any order.
    ///
    /// # Errors
    /// None of them founds that cluster. Invalid ones are left out.
    pub fn of(cluster: ClusterId, records: Vec<Record>) -> Result<Self, RecordError> {
        let founding = records.iter().find(|record| record.digest() == cluster.0).cloned();
        let mut roll = Self::found(founding.ok_or(RecordError::OtherCluster)?)?;
        roll.merge(records);
        Ok(roll)
    }

    /// Adds a record. Returns whether it was new.
    ///
    /// # Errors
    /// It is forged, about another cluster, or signed by somebody without the right to it.
    pub fn take(&mut self, record: Record) -> Result<bool, RecordError> {
        let digest = record.digest();
        if self.records.contains_key(&digest) {
            return Ok(false);
        }
        self.check(&record, &self.signers())?;
        record.verify()?;
        self.records.insert(digest, record);
        self.count();
        Ok(true)
    }

    /// Adds all valid records, in any order. Returns the new ones.
    pub fn merge(&mut self, records: Vec<Record>) -> Vec<Record> {
        let is_new = |record: &Record| !self.records.contains_key(&record.digest());
        let mut rest: Vec<_> = records.into_iter().filter(is_new).collect();
        let mut taken = Vec::new();
        loop {
            let (before, signers) = (taken.len(), self.signers());
            let (good, others): (Vec<_>, _) =
                rest.into_iter().partition(|record| self.check(record, &signers).is_ok());
            let room = RECORDS_MAX.saturating_sub(self.records.len());
            for record in good.into_iter().filter(|it| it.verify().is_ok()).take(room) {
                if self.records.insert(record.digest(), record.clone()).is_none() {
                    taken.push(record);
                }
            }
            rest = others;
            if taken.len() == before {
                break;
            }
        }
        self.count();
        taken
    }

    /// Tells whether any of these records is new, and its signer has the right to it if the signature is valid.
    #[must_use]
    pub fn has_news(&self, records: &[Record]) -> bool {
        let signers = self.signers();
        let is_news = |record: &Record| !self.records.contains_key(&record.digest());
        records.iter().any(|record| is_news(record) && self.check(record, &signers).is_ok())
    }

    /// Tells whether a record may be kept. Removals do not count here, so that the order of records does
    /// not: they count in [`Self::count`].
    fn check(&self, record: &Record, signers: &BTreeSet<Key>) -> Result<(), RecordError> {
        if record.cluster != self.cluster {
            return Err(RecordError::OtherCluster);
        }
        if self.records.len() >= RECORDS_MAX {
            return Err(RecordError::TooMany);
        }
        let has_right = match record.statement {
            Statement::Founded { .. } => return Err(RecordError::OtherCluster),
            Statement::Admitted { .. } => signers.contains(&record.by),
            Statement::Removed { .. } => record.by == self.owner,
        };
        if has_right { Ok(()) } else { Err(RecordError::NoRight { by: record.by }) }
    }

    /// Returns all who may invite, or might before they were removed.
    fn signers(&self) -> BTreeSet<Key> {
        let inviters = self.records.values().filter_map(|record| match record.statement {
            Statement::Admitted { key, may_invite: true, .. } => Some(key),
            _ => None,
        });
        inviters.chain([self.owner]).collect()
    }

    /// Recomputes the members.
    fn count(&mut self) {
        let removed: BTreeSet<Key> = self.records.values().filter_map(removed).collect();
        let mut members: BTreeMap<Key, Member> = BTreeMap::new();
        // Each round finds the same members or more, so that it ends.
        loop {
            let may_admit = |by: &Key| {
                *by == self.owner || members.get(by).is_some_and(|member| member.may_invite)
            };
            let admitted = self.records.values().filter(|record| may_admit(&record.by));
            let mut next = BTreeMap::new();
            for (key, member) in admitted.filter_map(|record| self.admitted_by(record)) {
                if !removed.contains(&key) {
                    next.entry(key)
                        .and_modify(|known: &mut Member| known.join(&member))
                        .or_insert(member);
                }
            }
            if next == members {
                break;
            }
            members = next;
        }
        self.members = members;
    }

    fn admitted_by(&self, record: &Record) -> Option<(Key, Member)> {
        match &record.statement {
            Statement::Admitted { node, key, may_invite } => {
                let (node, may_invite) = (node.clone(), *may_invite);
                let (by_owner, since_s) = (record.by == self.owner, record.at_s);
                Some((*key, Member { node, may_invite, by_owner, since_s }))
            }
            _ => None,
        }
    }

    /// Returns the cluster's number.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Returns the cluster's name.
    #[must_use]
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// Returns the owner's key.
    #[must_use]
    pub fn owner(&self) -> Key {
        self.owner
    }

    /// Returns a member.
    #[must_use]
    pub fn member(&self, key: &Key) -> Option<&Member> {
        self.members.get(key)
    }

    /// Returns all members, by their keys.
    pub fn members(&self) -> impl Iterator<Item = (&Key, &Member)> {
        self.members.iter()
    }

    /// Returns the key of the member with a name: of several that which the owner has admitted, or the first.
    #[must_use]
    pub fn key_of(&self, node: &NodeId) -> Option<Key> {
        let named = self.members.iter().filter(|(_, member)| member.node == *node);
        named
            .min_by_key(|(key, member)| (!member.by_owner, member.since_s, **key))
            .map(|(key, _)| *key)
    }

    /// Returns the key of the member that has now the name under which the owner once admitted a key.
    #[must_use]
    pub fn successor_of(&self, key: &Key) -> Option<Key> {
        let admitted = self.records.values().find_map(|record| match &record.statement {
            Statement::Admitted { node, key: of, .. } if of == key && record.by == self.owner => {
                Some(node)
            }
            _ => None,
        });
        self.key_of(admitted?)
    }

    /// Returns the records that make a key a member: its own, that of who has admitted it, and so on. Empty if it
    /// is none, or if there are too many.
    #[must_use]
    pub fn admission(&self, key: &Key) -> Vec<Record> {
        let mut chain: Vec<Record> = Vec::new();
        if !self.members.contains_key(key) {
            return chain;
        }
        let mut next = *key;
        while chain.len() < ADMISSION_MAX {
            let records = self.records.values().filter(|record| {
                let signer = record.by == self.owner || self.members.contains_key(&record.by);
                signer && matches!(record.statement, Statement::Admitted { key, .. } if key == next)
            });
            let Some(record) = records.min_by_key(|record| record.by != self.owner) else { break };
            chain.push(record.clone());
            if record.by == self.owner {
                return chain;
            }
            next = record.by;
        }
        Vec::new()
    }

    /// Returns the record that removes a key, if there is one.
    #[must_use]
    pub fn removal(&self, key: &Key) -> Option<&Record> {
        self.records.values().find(|record| removed(record) == Some(*key))
    }

    /// Returns all records, that which founds the cluster first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let founding = self.records.get(&self.cluster.0);
        let others = self.records.iter().filter(|(digest, _)| **digest != self.cluster.0);
        founding.into_iter().chain(others.map(|(_, record)| record))
    }

    /// Returns the digest of all records: two rolls with the same one are the same.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for digest in self.records.keys() {
            hasher.update(digest);
        }
        *hasher.finalize().as_bytes()
    }
}

impl Member {
    /// Tells whether it may order other nodes to drain: the owner has given it the right to admit.
    #[must_use]
    pub fn may_manage(&self) -> bool {
        self.may_invite && self.by_owner
    }

    /// Joins what two records say of one key. A right is never taken away by another record, only by removal.
    fn join(&mut self, other: &Self) {
        self.may_invite |= other.may_invite;
        let order = |it: &Self| (!it.by_owner, it.since_s);
        if (order(other), &other.node) < (order(self), &self.node) {
            let may_invite = self.may_invite;
            *self = Self { may_invite, ..other.clone() };
        }
    }
}

fn removed(record: &Record) -> Option<Key> {
    match record.statement {
        Statement::Removed { key } => Some(key),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
