//! This node's place in its cluster: its key, the cluster's roll, and where the broker is. All of it lies in the
//! directory `cluster` of the state directory; an agent without that directory belongs to no cluster.
//!
//! `files` reads and writes the directory. `admit` lets nodes in and removes them, with the join lines of `invites`; `join`
//! is the conversation. `rotate` takes a new key. `tokens` mints, verifies and revokes tokens. `whereabouts`, `contacts` and
//! `addresses` say where members are.
//!
//! Records are verified and saved on other threads, in order, and believed once they are on disk.

mod addresses;
mod admit;
pub(crate) mod command;
mod contacts;
mod files;
mod invites;
pub(crate) mod join;
mod rotate;
pub(crate) mod tokens;
mod whereabouts;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;
use worknode::capability::{RevocationList, Revocations};
use worknode::id::NodeId;
use worknode::key::{Key, SecretKey};
use worknode::membership::{ClusterName, Member, Record, Roll, Statement};
use worknode::request::MemberStatus;

use crate::clock::now_s;
use crate::random;
use crate::tls::Identity;
pub(crate) use contacts::Contacts;
use files::Files;
pub(crate) use files::Place;
use invites::Invites;

/// Membership of a cluster.
#[derive(Debug)]
pub(crate) struct Membership {
    files: Files,
    secret: RefCell<SecretKey>,
    /// On the node that founded the cluster.
    owner: Option<SecretKey>,
    place: Place,
    pub(crate) contacts: Contacts,
    /// The address at which others reach this node.
    address: Cell<SocketAddr>,
    roll: RefCell<Arc<Roll>>,
    invites: RefCell<Invites>,
    revocations: RefCell<Revocations>,
    /// How many tokens each ordinary user has revoked.
    revoked_by_user: RefCell<BTreeMap<u32, usize>>,
    /// Notified when tokens may have become invalid.
    revoked_tx: watch::Sender<()>,
    /// Held while roll, invitations or revoked tokens change: what is on disk changes in the same order.
    changing: tokio::sync::Mutex<()>,
}

impl Membership {
    /// Founds a cluster with this node as its first member.
    ///
    /// # Errors
    /// The node belongs to a cluster already, or the files cannot be written.
    pub(crate) fn found(state: &Path, name: ClusterName, place: &Place) -> anyhow::Result<()> {
        let files = Files::of(state);
        files.check_absent()?;
        let [owner, node] = [random::secret_key(), random::secret_key()];
        let mut nonce = [0; 16];
        random::fill(&mut nonce);
        let mut roll = Roll::found(Record::found(name, nonce, now_s(), &owner))?;
        let statement =
            Statement::Admitted { node: place.node.clone(), key: node.key(), may_invite: true };
        roll.take(Record::sign(roll.cluster(), statement, now_s(), &owner))?;
        files.create(&node, Some(&owner), &roll, place)
    }

    /// Reads the membership of the agent with this state directory; nothing if it belongs to no cluster.
    ///
    /// # Errors
    /// The files cannot be read, or are damaged.
    pub(crate) fn open(state: &Path) -> anyhow::Result<Option<Self>> {
        let files = Files::of(state);
        if !files.exist() {
            return Ok(None);
        }
        let (owner, place, roll) = (files.owner()?, files.place()?, files.roll()?);
        files.complete_rotation(&roll)?;
        let secret = files.key()?;
        let identity = Identity::new(&secret)?;
        let invites = RefCell::new(files.invites()?);
        let mut revocations = Revocations::default();
        take_in(&mut revocations, files.revocations()?, &roll);
        let contacts = Contacts::new(identity, files.addresses(), place.broker_key());
        let opened = Self {
            files,
            secret: RefCell::new(secret),
            owner,
            address: Cell::new(place.listen),
            place,
            contacts,
            roll: RefCell::new(Arc::new(roll)),
            invites,
            revocations: RefCell::new(revocations),
            revoked_by_user: RefCell::default(),
            revoked_tx: watch::Sender::new(()),
            changing: tokio::sync::Mutex::default(),
        };
        opened.follow_broker();
        Ok(Some(opened))
    }

    /// Returns the seeds of this node's secret keys, which are hidden from walks.
    pub(crate) fn secrets(&self) -> Vec<Vec<u8>> {
        let secret = self.secret.borrow();
        let secrets = [Some(&*secret), self.owner.as_ref()];
        secrets.into_iter().flatten().map(|secret| secret.seed().to_vec()).collect()
    }

    /// Returns this node's key.
    pub(crate) fn key(&self) -> Key {
        self.secret.borrow().key()
    }

    /// Returns what was chosen when the node joined.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the cluster's name.
    pub(crate) fn cluster(&self) -> ClusterName {
        self.roll.borrow().name().clone()
    }

    /// Returns the name of the member with a key.
    pub(crate) fn node(&self, key: &Key) -> Option<NodeId> {
        self.roll.borrow().member(key).map(|member| member.node.clone())
    }

    /// Returns the key of the member with a name.
    pub(crate) fn key_of(&self, node: &NodeId) -> Option<Key> {
        self.roll.borrow().key_of(node)
    }

    /// Returns all members, by name.
    pub(crate) fn members(&self) -> Vec<MemberStatus> {
        let roll = self.roll.borrow();
        let mut members: Vec<_> = roll
            .members()
            .map(|(key, member)| MemberStatus {
                node: member.node.clone(),
                key: key.to_string(),
                may_invite: member.may_invite,
                state: None,
            })
            .collect();
        members.sort_by(|a, b| a.node.cmp(&b.node));
        members
    }

    /// Returns the records that make this node a member.
    pub(crate) fn admission(&self) -> Vec<Record> {
        self.roll.borrow().admission(&self.key())
    }

    /// Returns the record that removes a key, if there is one.
    pub(crate) fn removal(&self, key: &Key) -> Option<Record> {
        self.roll.borrow().removal(key).cloned()
    }

    /// Returns a notice if this node was removed from its cluster: by whom, and what helps.
    pub(crate) fn removed(&self) -> Option<String> {
        self.removal(&self.key())?;
        let by = self.founder().map_or_else(String::new, |node| format!(" by {node}"));
        Some(format!(
            "this node was removed from cluster {}{by}: run 'oswalk cluster leave' here, and join again with a new line",
            self.cluster()
        ))
    }

    /// Returns all records.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.roll.borrow().records().cloned().collect()
    }

    /// Returns the nodes by the keys that they have or had, and whether they are members.
    pub(crate) fn nodes_ever(&self) -> HashMap<Key, (NodeId, bool)> {
        let roll = self.roll.borrow();
        let is_member = |key: &Key| roll.member(key).is_some();
        let admitted = roll.records().filter_map(|record| match &record.statement {
            Statement::Admitted { node, key, .. } => {
                let is_member =
                    is_member(key) || roll.successor_of(key).is_some_and(|it| is_member(&it));
                Some((*key, (node.clone(), is_member)))
            }
            Statement::Founded { .. } | Statement::Removed { .. } => None,
        });
        admitted.collect()
    }

    /// Returns the cluster's id. Two clusters of one name have different ones.
    pub(crate) fn cluster_id(&self) -> Vec<u8> {
        self.roll.borrow().cluster().0.to_vec()
    }

    /// Returns this node's secret key, by which it states whose the events of its volume are.
    pub(crate) fn secret(&self) -> SecretKey {
        self.secret.borrow().clone()
    }

    /// Returns the digest of all records and of all lists of revoked tokens.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.revocations.borrow().digest(self.roll.borrow().digest())
    }

    /// Takes in records of others. Returns whether any was new.
    pub(crate) async fn merge(&self, records: Vec<Record>) -> bool {
        let _changing = self.changing.lock().await;
        let (files, mut roll) = (self.files.clone(), self.roll());
        let merged = off_the_loop(move || {
            if !roll.has_news(&records) {
                return Ok(None);
            }
            let taken = Arc::make_mut(&mut roll).merge(records);
            let saved = if taken.is_empty() { Ok(()) } else { files.save_roll(&roll) };
            Ok((!taken.is_empty()).then_some((roll, saved)))
        });
        let Ok(Some((roll, saved))) = merged.await else { return false };
        if let Err(error) = saved {
            // A removal holds nevertheless. After a restart, others tell of these records again.
            tracing::error!("failed to save the cluster's members: {error:#}");
        }
        self.believe(roll);
        true
    }

    /// Uses a changed roll from now on. Lists and tokens of keys that were removed are not valid any more.
    fn believe(&self, roll: Arc<Roll>) {
        self.revocations.borrow_mut().retain(|key| may_sign(&roll, key));
        self.roll.replace(roll);
        self.follow_broker();
        self.revoked_tx.send_replace(());
    }

    fn roll(&self) -> Arc<Roll> {
        Arc::clone(&self.roll.borrow())
    }

    /// Tells whether this node is to get no walks of others.
    pub(crate) fn is_draining(&self) -> bool {
        self.files.is_draining()
    }

    /// Writes whether it is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) async fn set_draining(&self, draining: bool) -> anyhow::Result<()> {
        let files = self.files.clone();
        off_the_loop(move || files.set_draining(draining)).await
    }

    /// Succeeds if users of this node may change other nodes.
    ///
    /// # Errors
    /// The owner's key is on another node.
    pub(crate) fn check_owner(&self) -> anyhow::Result<&SecretKey> {
        self.owner.as_ref().with_context(|| {
            let founder = self.founder().map_or_else(|| "it".to_owned(), |node| node.to_string());
            format!(
                "only the node that made the cluster can change other nodes: run this on {founder}"
            )
        })
    }

    /// Tells whether the holder of a key may order this node to drain.
    pub(crate) fn may_manage(&self, key: &Key) -> bool {
        self.roll.borrow().member(key).is_some_and(Member::may_manage)
    }

    /// Writes a changed roll, then believes it.
    async fn save_roll(&self, roll: Roll) -> anyhow::Result<()> {
        let files = self.files.clone();
        let saved = off_the_loop(move || files.save_roll(&roll).map(|()| roll)).await?;
        self.believe(Arc::new(saved));
        Ok(())
    }

    /// Returns the node that founded the cluster: the first that may invite.
    fn founder(&self) -> Option<NodeId> {
        let roll = self.roll.borrow();
        roll.members().find(|(_, member)| member.may_invite).map(|(_, member)| member.node.clone())
    }
}

/// Takes in the lists of revoked tokens that members and the owner have signed. Returns whether any was new.
fn take_in(revocations: &mut Revocations, lists: Vec<RevocationList>, roll: &Roll) -> bool {
    revocations.merge(lists, roll.cluster(), |key| may_sign(roll, key))
}

/// Tells whether the lists of revoked tokens that a key has signed count.
fn may_sign(roll: &Roll, key: &Key) -> bool {
    *key == roll.owner() || roll.member(key).is_some()
}

/// Does what waits for a disk or computes for long on another thread.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread failed")?
}

#[cfg(test)]
pub(crate) mod tests;
