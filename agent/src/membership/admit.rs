//! Lets nodes in, by join lines, and removes them.

use anyhow::Context;
use worknode::id::NodeId;
use worknode::key::Key;
use worknode::membership::{JoinLine, Record, Roll, Statement};
use worknode::request::InviteStatus;
use worknode::said::Said;

use super::invites::Invites;
use super::{Membership, now_s, off_the_loop};
use crate::random;
use crate::wire::joining::JoinRefusal;

impl Membership {
    /// Makes a join line for so many nodes, which expires after so many seconds. New nodes call this address.
    ///
    /// # Errors
    /// This node may not invite, or the file cannot be written.
    pub(crate) async fn invite(
        &self,
        nodes: u32,
        seconds: u64,
        address: &str,
    ) -> anyhow::Result<JoinLine> {
        let _changing = self.changing.lock().await;
        anyhow::ensure!(self.may_invite(), "{}", JoinRefusal::MayNotInvite);
        let mut word = [0; 16];
        random::fill(&mut word);
        let mut invites = self.invites.borrow().clone();
        invites.add(&word, nodes, now_s(), now_s() + seconds);
        self.save_invites(invites).await.context("failed to save the join line")?;
        let (cluster, host) = (self.roll.borrow().cluster(), self.key());
        Ok(JoinLine { address: address.to_owned(), cluster, host, word })
    }

    /// Returns the join lines that still admit somebody.
    pub(crate) fn invites(&self) -> Vec<InviteStatus> {
        self.invites.borrow().open(now_s())
    }

    /// Withdraws a join line: it admits nobody any more.
    ///
    /// # Errors
    /// There is no such line, or the file cannot be written.
    pub(crate) async fn withdraw(&self, id: &str) -> anyhow::Result<()> {
        let _changing = self.changing.lock().await;
        let mut invites = self.invites.borrow().clone();
        anyhow::ensure!(
            invites.withdraw(id, now_s()),
            "there is no join line '{}': 'oswalk cluster invite --list' lists those that this node has made",
            Said::from(id)
        );
        self.save_invites(invites).await.context("failed to withdraw the join line")
    }

    /// Writes changed invitations, then uses them.
    pub(super) async fn save_invites(&self, invites: Invites) -> anyhow::Result<()> {
        let files = self.files.clone();
        let saved = off_the_loop(move || files.save_invites(&invites).map(|()| invites)).await?;
        self.invites.replace(saved);
        Ok(())
    }

    fn may_invite(&self) -> bool {
        let roll = self.roll.borrow();
        roll.member(&self.key()).is_some_and(|member| member.may_invite)
    }

    /// Admits the node with a key that knows a join line's word. The same node may ask again.
    ///
    /// # Errors
    /// See [`JoinRefusal`].
    pub(crate) async fn admit(
        &self,
        word: &[u8; 16],
        node: &NodeId,
        key: Key,
    ) -> Result<(), JoinRefusal> {
        let _changing = self.changing.lock().await;
        if !self.may_invite() {
            return Err(JoinRefusal::MayNotInvite);
        }
        // It was admitted before, and the reply was lost.
        if self.node(&key).as_ref() == Some(node) {
            return Ok(());
        }
        let mut invites = self.invites.borrow().clone();
        invites.check(word, now_s())?;
        if self.key_of(node).is_some() {
            return Err(JoinRefusal::NameTaken(node.clone()));
        }
        let statement = Statement::Admitted { node: node.clone(), key, may_invite: false };
        // As the owner where it can: it stays a member whatever becomes of this node.
        let own = self.secret.borrow().clone();
        let signer = self.owner.as_ref().unwrap_or(&own);
        let mut roll = Roll::clone(&self.roll.borrow());
        let record = Record::sign(roll.cluster(), statement, now_s(), signer);
        roll.take(record).map_err(|error| JoinRefusal::NotSaved(error.to_string().into()))?;
        if roll.member(&key).is_none() {
            return Err(JoinRefusal::Removed);
        }
        invites.use_up(word);
        let not_saved = |error: anyhow::Error| JoinRefusal::NotSaved(format!("{error:#}").into());
        self.save_invites(invites).await.map_err(not_saved)?;
        self.save_roll(roll).await.map_err(not_saved)
    }

    /// Removes a node from the cluster, for good under its present key.
    ///
    /// # Errors
    /// There is no such node, this is not the owner's node, or the files cannot be written.
    pub(crate) async fn remove(&self, node: &NodeId) -> anyhow::Result<Key> {
        let _changing = self.changing.lock().await;
        let owner = self.check_owner()?;
        let key = self.key_of(node);
        let key = key.with_context(|| {
            format!("the cluster has no node '{node}': 'oswalk cluster nodes' lists them")
        })?;
        anyhow::ensure!(
            key != self.key(),
            "this node made the cluster and cannot be removed from it: end it with 'oswalk cluster leave' on all nodes"
        );
        let mut roll = Roll::clone(&self.roll.borrow());
        let statement = Statement::Removed { key };
        roll.take(Record::sign(roll.cluster(), statement, now_s(), owner))?;
        self.save_roll(roll).await?;
        Ok(key)
    }
}
