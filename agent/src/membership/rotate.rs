//! Takes a new key for this node. The node that holds the owner's key admits the new key under the same name and removes
//! the old one, at once. An interrupted rotation is completed by the next one: the new key is on disk before it is used.

use anyhow::Context;
use worknode::id::NodeId;
use worknode::key::{Key, SecretKey};
use worknode::membership::{Record, Roll, Statement, Succession};

use super::invites::Invites;
use super::join::{self, Callee};
use super::{Membership, Place, now_s, off_the_loop};
use crate::tls::Identity;
use crate::wire::greeting::Spoken;
use crate::wire::joining::{BrokerPlace, JoinRefusal, JoinReply, JoinRequest, Proof};

impl Membership {
    /// Gives this node a new key. Connections under the old one are for the caller to end.
    ///
    /// # Errors
    /// The node with the owner's key cannot be reached or refuses, or a file cannot be written.
    pub(crate) async fn rotate(&self) -> anyhow::Result<Key> {
        let files = self.files.clone();
        let new = off_the_loop(move || files.successor()).await?;
        let succession = Succession::sign(self.roll().cluster(), new.key(), &self.secret.borrow());
        if self.owner.is_some() {
            self.succeed(&succession, &self.place.node, new.key()).await?;
        } else {
            self.ask_for_succession(&new, succession).await?;
        }
        self.use_key(new).await
    }

    /// Asks the node that made the cluster to admit the new key.
    async fn ask_for_succession(
        &self,
        new: &SecretKey,
        succession: Succession,
    ) -> anyhow::Result<()> {
        let founder = self.founder().context("the cluster has no node that may admit others")?;
        let host = self.key_of(&founder).context("that node is no member")?;
        let identity = Identity::new(new)?;
        let mut failed = anyhow::anyhow!("nobody knows where {founder} is: try again when it runs");
        for address in self.contacts.addresses(&host) {
            let request = JoinRequest {
                proof: Proof::Successor(succession),
                node: self.place.node.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                spoken: Spoken::OURS,
            };
            let callee = Callee { address: address.to_string(), key: host };
            match join::ask(&identity, &callee, &request).await {
                Ok(JoinReply::Welcome(welcome)) => {
                    self.merge(welcome.records).await;
                    return Ok(());
                }
                Ok(JoinReply::Refused(refusal)) => return Err(refusal.into()),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Admits a member's new key, and removes its old one. The same node may ask again.
    ///
    /// # Errors
    /// See [`JoinRefusal`].
    pub(super) async fn succeed(
        &self,
        succession: &Succession,
        node: &NodeId,
        new: Key,
    ) -> Result<(), JoinRefusal> {
        let _changing = self.changing.lock().await;
        let owner = self.owner.as_ref().ok_or(JoinRefusal::MayNotInvite)?;
        // It was admitted before, and the reply was lost.
        if self.node(&new).as_ref() == Some(node) {
            return Ok(());
        }
        let mut roll = Roll::clone(&self.roll());
        let member = roll.member(&succession.of).filter(|member| member.node == *node);
        let may_invite = member.ok_or(JoinRefusal::Removed)?.may_invite;
        succession.verify(roll.cluster(), new).map_err(|_| JoinRefusal::Removed)?;
        let admitted = Statement::Admitted { node: node.clone(), key: new, may_invite };
        for statement in [admitted, Statement::Removed { key: succession.of }] {
            let record = Record::sign(roll.cluster(), statement, now_s(), owner);
            roll.take(record).map_err(|error| JoinRefusal::NotSaved(error.to_string().into()))?;
        }
        if roll.member(&new).is_none() {
            return Err(JoinRefusal::Removed);
        }
        let not_saved = |error: anyhow::Error| JoinRefusal::NotSaved(format!("{error:#}").into());
        self.save_roll(roll).await.map_err(not_saved)
    }

    /// Uses a key that was admitted, from now on.
    async fn use_key(&self, new: SecretKey) -> anyhow::Result<Key> {
        let _changing = self.changing.lock().await;
        anyhow::ensure!(
            self.node(&new.key()).is_some(),
            "the new key was not admitted: run 'oswalk cluster rotate' again"
        );
        if self.owner.is_some() {
            // They name the old key.
            self.save_invites(Invites::default()).await?;
        }
        let files = self.files.clone();
        off_the_loop(move || files.use_successor()).await?;
        self.contacts.set_identity(Identity::new(&new)?);
        let key = new.key();
        self.secret.replace(new);
        Ok(key)
    }

    /// Changes the URL of a broker that is a server of its own. It is used from the agent's next start on.
    ///
    /// # Errors
    /// The cluster's broker is another one, or the file cannot be written.
    pub(crate) async fn set_broker_url(&self, url: String) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.place.broker_url().is_some(),
            "the cluster has no Redis of its own: rotate without --broker"
        );
        let (files, broker) = (self.files.clone(), Some(BrokerPlace::Url(url)));
        let place = Place { broker, ..self.place.clone() };
        off_the_loop(move || files.save_place(&place)).await
    }

    /// Notes the key by which the broker's node is known now, which its own rotation changes.
    pub(super) fn follow_broker(&self) {
        let roll = self.roll();
        if let Some(key) = self.place.broker_key() {
            self.contacts.set_broker(roll.successor_of(&key).unwrap_or(key));
        }
    }
}
