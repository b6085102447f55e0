//! One record: a statement about a cluster's members, and who has signed it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, NodeIdError};
use crate::key::{Forged, Key, SecretKey, Signature};

/// The version of records: of how they are encoded and what is signed.
pub const RECORD_VERSION: u8 = 1;

/// Distinguishes signatures of records from those made for other purposes.
const DOMAIN: &[u8] = b"oswalk 2026 membership record\0";

/// Identifies a cluster: the digest of its founding record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 32]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// A cluster's name, which its owner chose: written as a node's is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterName(NodeId);

/// The text is not a cluster's name.
#[derive(Debug, thiserror::Error)]
#[error("a cluster's name is written as a node's is: {0}")]
pub struct ClusterNameError(#[from] NodeIdError);

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(name: &str) -> Result<Self, ClusterNameError> {
        Ok(Self(name.parse()?))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a record says. The numbers of the variants are on the wire: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    /// The cluster begins. Signed by its owner.
    Founded {
        /// Its name, for people.
        name: ClusterName,
        /// Random, so that two clusters of one owner differ.
        nonce: [u8; 16],
    },
    /// A node belongs to the cluster. Signed by the owner, or by a node that may invite.
    Admitted {
        /// The node's name.
        node: NodeId,
        /// The node's key.
        key: Key,
        /// It may admit others.
        may_invite: bool,
    },
    /// A node does not belong to the cluster any more, and never will under this key. Signed by the owner.
    Removed {
        /// The node's key.
        key: Key,
    },
}

/// A signed statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster; of the founding record all zeros.
    pub cluster: ClusterId,
    /// What it says.
    pub statement: Statement,
    /// When it was signed, on the signer's clock, in seconds since 1970.
    pub at_s: u64,
    /// Who has signed it.
    pub by: Key,
    pub(super) signature: Signature,
}

impl Record {
    /// Signs a statement about a cluster.
    #[must_use]
    pub fn sign(cluster: ClusterId, statement: Statement, at_s: u64, by: &SecretKey) -> Self {
        let message = message(cluster, &statement, at_s, by.key());
        Self { cluster, statement, at_s, by: by.key(), signature: by.sign(&message) }
    }

    /// Founds a cluster: returns its first record.
    #[must_use]
    pub fn found(name: ClusterName, nonce: [u8; 16], at_s: u64, owner: &SecretKey) -> Self {
        Self::sign(ClusterId([0; 32]), Statement::Founded { name, nonce }, at_s, owner)
    }

    /// Checks the signature. It says nothing of whether the signer had the right to say this.
    ///
    /// # Errors
    /// The signature is not that of the key.
    pub fn verify(&self) -> Result<(), Forged> {
        let message = message(self.cluster, &self.statement, self.at_s, self.by);
        self.by.verify(&message, &self.signature)
    }

    /// Returns the digest of what is signed: two records that say the same are the same.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&message(self.cluster, &self.statement, self.at_s, self.by)).as_bytes()
    }
}

fn message(cluster: ClusterId, statement: &Statement, at_s: u64, by: Key) -> Vec<u8> {
    let said = postcard::to_allocvec(&(cluster, statement, at_s, by));
    [DOMAIN, &said.expect("a vector takes any length")].concat()
}
