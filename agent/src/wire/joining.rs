//! What a new node and a member say to each other, one message each, over TLS.

use serde::{Deserialize, Serialize};
use worknode::id::NodeId;
use worknode::key::Key;
use worknode::membership::{Record, Succession};
use worknode::said::Said;

use super::greeting::Spoken;

/// A request to be admitted under the key that TLS has proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Why it should be.
    pub proof: Proof,
    /// How the node is to be called.
    pub node: NodeId,
    /// Its version of OS Walk.
    pub version: Said,
    /// The versions of the link's protocol that it speaks.
    pub spoken: Spoken,
}

/// Why a key should be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// It knows the word of a join line.
    Word([u8; 16]),
    /// It is the new key of a member, which its old one has signed.
    Successor(Succession),
}

/// The member's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// The node is a member now.
    Welcome(Welcome),
    /// It is not.
    Refused(JoinRefusal),
}

/// What a new member has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// All of the cluster's records.
    pub records: Vec<Record>,
    /// Where the broker is.
    pub broker: BrokerPlace,
}

/// Where a cluster's broker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrokerPlace {
    /// A node runs it, and passes on what other members send.
    Node {
        /// Host and port of its agent.
        address: String,
        /// Its key.
        key: Key,
    },
    /// It is a server of its own.
    Url(String),
}

/// Why a node is not admitted. Each sentence ends with a remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// Nobody has made such a line, or it was withdrawn.
    #[error(
        "the join line is not known there, or was withdrawn: make a new one with 'oswalk cluster invite' on a node of the cluster"
    )]
    Unknown,
    /// The line is too old.
    #[error(
        "the join line has expired: make a new one with 'oswalk cluster invite' on a node of the cluster"
    )]
    Expired,
    /// As many nodes as it was made for have joined with it.
    #[error(
        "the join line is used up: make a new one with 'oswalk cluster invite' on a node of the cluster"
    )]
    UsedUp,
    /// Another node has this name.
    #[error(
        "the cluster has a node '{0}' already: choose another name with --node NAME, or remove that one first with \
         'oswalk cluster remove {0}'"
    )]
    NameTaken(NodeId),
    /// The node was removed under this key.
    #[error("this node's key was removed from the cluster: join again, which makes a new key")]
    Removed,
    /// Another version.
    #[error("the cluster runs OS Walk {theirs}, this node {ours}: install that version here")]
    Version {
        /// The cluster's.
        theirs: Said,
        /// The new node's.
        ours: Said,
    },
    /// The member cannot admit anybody.
    #[error("that node may not admit others: use a join line from the node that made the cluster")]
    MayNotInvite,
    /// It could not note the admission.
    #[error("the node of the cluster could not save the admission: {0}")]
    NotSaved(Said),
}
