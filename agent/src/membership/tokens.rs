//! Tokens: mints them with this node's key, verifies those of any member, and keeps which were revoked. The roll and the
//! lists of revoked tokens travel together.

use anyhow::Context;
use tokio::sync::watch;
use worknode::capability::{
    Bounds, Capability, Holder, Lack, REVOKED_MAX, RevocationList, Revocations, Revoked, Right,
    Rights, Token, TokenId,
};
use worknode::id::{NodeId, SessionId};
use worknode::key::{Key, SecretKey};
use worknode::principal::Principal;

use super::{Membership, off_the_loop, take_in};
use crate::admission::Refusal;
use crate::clock::now_s;
use crate::random;

/// How long a token is good that is handed out, unless it is narrowed to less. Revoked tokens are listed until they have
/// expired.
const GOOD_FOR_S: u64 = 30 * 24 * 3600;
/// Most tokens that an ordinary user revokes before the agent starts again …
const REVOKED_PER_USER_MAX: usize = 4;
/// … and places that are kept for those of root and of the agent's user.
const REVOKED_RESERVE: usize = 8;

/// The token of a session, and what it allows.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) token: Token,
    pub(crate) capability: Capability,
    /// The root and the numbers of the token that the user has shown, if any.
    shown: Option<(Key, Vec<TokenId>)>,
}

impl Membership {
    /// Mints the token that a user gets at this node's door.
    ///
    /// # Errors
    /// The user's name cannot be written into a token.
    pub(crate) fn token_for(
        &self,
        who: &Principal,
        rights: Rights,
        user: Option<String>,
    ) -> anyhow::Result<Token> {
        let bounds = Bounds { until_s: Some(now_s() + GOOD_FOR_S), ..Bounds::default() };
        Ok(self.mint(who, rights, user)?.narrow(&bounds, &seed())?)
    }

    /// Mints the token of a session. It allows what the user may do, narrowed by a token that the user has shown: whoever
    /// shows one gets no right that the kernel does not give anyway.
    ///
    /// # Errors
    /// The token is not valid, was revoked, or does not allow the session.
    pub(crate) fn pass(
        &self,
        who: &Principal,
        rights: Rights,
        (session, on): (SessionId, Option<&NodeId>),
        shown: Option<&Token>,
    ) -> anyhow::Result<Pass> {
        let mut bounds = Bounds {
            rights: Some(Rights::SESSION),
            nodes: on.map(|node| [node.clone()].into()),
            sessions: Some([session].into()),
            ..Bounds::default()
        };
        let mut root = self.mint(who, rights, None)?;
        let shown = shown.map(|token| Ok::<_, anyhow::Error>((token, self.verify(token)?)));
        let shown = match shown.transpose()? {
            Some((token, (key, capability))) => {
                if let (Some(on), Some(nodes)) = (on, &capability.bounds.nodes)
                    && !nodes.contains(on)
                {
                    anyhow::bail!(Lack::Node(on.clone()));
                }
                if key == self.key() && capability.holder.uid == who.uid {
                    // Runners can see by themselves whether it was revoked.
                    root = token.clone();
                }
                bounds = bounds.and(&capability.bounds);
                Some((key, capability.ids))
            }
            None => None,
        };
        let token = root.narrow(&bounds, &seed())?;
        let capability = token.verify(&self.key())?;
        for right in [Right::Exec, Right::Read] {
            capability.gives(right, now_s())?;
        }
        Ok(Pass { token, capability, shown })
    }

    fn mint(&self, who: &Principal, rights: Rights, user: Option<String>) -> anyhow::Result<Token> {
        let (node, uid) = (who.node.clone(), who.uid);
        let holder = Holder { node, uid, user, minted_s: now_s(), rights };
        Ok(Token::mint(&holder, &self.secret.borrow(), &seed())?)
    }

    /// Verifies a token of any member. Returns its root, too.
    ///
    /// # Errors
    /// No member has minted it, or it was revoked.
    pub(crate) fn verify(&self, token: &Token) -> anyhow::Result<(Key, Capability)> {
        let node = token.peek()?.holder.node;
        let key = self.key_of(&node).with_context(|| {
            format!("node {node}, which has made the token, is not a member of this cluster: use one of a member")
        })?;
        Ok((key, self.verify_of(&key, token)?))
    }

    /// Verifies a token of one member.
    ///
    /// # Errors
    /// Another one has minted it, or it was revoked.
    pub(crate) fn verify_of(&self, key: &Key, token: &Token) -> Result<Capability, Refusal> {
        let capability = token.verify(key)?;
        match self.revoked(*key, &capability.ids) {
            None if self.node(key).as_ref() == Some(&capability.holder.node) => Ok(capability),
            None => Err(Refusal::NoToken),
            Some(id) => Err(Lack::Revoked(id).into()),
        }
    }

    /// Returns which of these blocks of a token of a member was revoked.
    pub(crate) fn revoked(&self, root: Key, ids: &[TokenId]) -> Option<TokenId> {
        let owner = self.roll.borrow().owner();
        self.revocations.borrow().of(ids, root, owner)
    }

    /// Returns the number by which a session's token is invalid: it was revoked, or the key that has minted it was removed.
    pub(crate) fn revoked_pass(&self, pass: &Pass) -> Option<TokenId> {
        let of_shown = |(root, ids): &(Key, Vec<TokenId>)| match self.node(root) {
            Some(_) => self.revoked(*root, ids),
            None => ids.last().copied(),
        };
        let shown = pass.shown.as_ref().and_then(of_shown);
        shown.or_else(|| self.revoked(self.key(), &pass.capability.ids))
    }

    /// Tells whether a session's token is valid now.
    pub(crate) fn is_valid(&self, pass: &Pass) -> bool {
        pass.token.verify(&self.key()).is_ok() && self.revoked_pass(pass).is_none()
    }

    /// Mints a session's token anew, with this node's new key. It allows what the old one did.
    ///
    /// # Errors
    /// It cannot be minted.
    pub(crate) fn renewed(&self, pass: &Pass) -> anyhow::Result<Pass> {
        let holder = Holder { minted_s: now_s(), ..pass.capability.holder.clone() };
        let root = Token::mint(&holder, &self.secret.borrow(), &seed())?;
        let token = root.narrow(&pass.capability.bounds, &seed())?;
        let capability = token.verify(&self.key())?;
        Ok(Pass { token, capability, shown: pass.shown.clone() })
    }

    /// Revokes a token, and all that were narrowed from it. A user may revoke tokens of their own.
    ///
    /// # Errors
    /// The token is another user's or node's, or the list is full or cannot be written. What cannot be written holds until
    /// the agent ends.
    pub(crate) async fn revoke(
        &self,
        who: &Principal,
        rights: Rights,
        token: &Token,
    ) -> anyhow::Result<TokenId> {
        let _changing = self.changing.lock().await;
        let (root, capability) = self.verify(token)?;
        let is_own = root == self.key() && capability.holder.uid == who.uid;
        if !is_own && !rights.has(Right::Admin) {
            anyhow::bail!(Refusal::OthersToken {
                node: capability.holder.node,
                uid: capability.holder.uid
            });
        }
        let own = self.secret.borrow().clone();
        let signer = match (&self.owner, root == self.key()) {
            (_, true) => &own,
            (Some(owner), false) => owner,
            (None, false) => anyhow::bail!(
                "the token is of node {node}: revoke it there, or on the node that made the cluster",
                node = capability.holder.node
            ),
        };
        let until_s = capability.bounds.until_s.unwrap_or_else(|| now_s() + GOOD_FOR_S);
        let id = capability.id();
        if !rights.has(Right::Admin) {
            self.count_revoked(who.uid)?;
        }
        self.list(Revoked { id, until_s }, signer).await?;
        Ok(id)
    }

    /// Counts a token that an ordinary user revokes, so that the list has room for those of others.
    fn count_revoked(&self, uid: u32) -> anyhow::Result<()> {
        let own = self.key();
        let listed = self
            .revocations
            .borrow()
            .lists()
            .find(|list| list.by == own)
            .map_or(0, |list| list.revoked.len());
        let mut by_user = self.revoked_by_user.borrow_mut();
        let count = by_user.entry(uid).or_default();
        anyhow::ensure!(
            *count < REVOKED_PER_USER_MAX && listed < REVOKED_MAX - REVOKED_RESERVE,
            "user {uid} has revoked {count} tokens since the agent started, and {listed} of {REVOKED_MAX} places are taken: \
             ask root to revoke it ('oswalk token revoke'), or wait until it expires"
        );
        *count += 1;
        Ok(())
    }

    /// Revokes the tokens with a number: of this node, and on the node of the cluster's owner of any.
    ///
    /// # Errors
    /// The list is full, or cannot be written. What cannot be written holds until the agent ends.
    pub(crate) async fn revoke_id(&self, id: TokenId) -> anyhow::Result<()> {
        let _changing = self.changing.lock().await;
        let own = self.secret.borrow().clone();
        let signer = self.owner.as_ref().unwrap_or(&own);
        self.list(Revoked { id, until_s: now_s() + GOOD_FOR_S }, signer).await
    }

    async fn list(&self, token: Revoked, signer: &SecretKey) -> anyhow::Result<()> {
        let cluster = self.roll.borrow().cluster();
        let mut revocations = self.revocations.borrow().clone();
        revocations.revoke(token, cluster, signer, now_s())?;
        let saved = self.save_revocations(revocations).await;
        saved.context("the token is revoked, but only until this agent ends: make room on its disk, and revoke it again")
    }

    /// Writes changed lists, then believes them. They hold even if they cannot be written.
    async fn save_revocations(&self, revocations: Revocations) -> anyhow::Result<()> {
        let (files, written) = (self.files.clone(), revocations.clone());
        let saved = off_the_loop(move || files.save_revocations(&written)).await;
        self.revocations.replace(revocations);
        self.revoked_tx.send_replace(());
        saved
    }

    /// Returns all lists of revoked tokens.
    pub(crate) fn revocation_lists(&self) -> Vec<RevocationList> {
        self.revocations.borrow().lists().cloned().collect()
    }

    /// Takes in lists of revoked tokens. Returns whether any was new.
    pub(crate) async fn merge_revocations(&self, lists: Vec<RevocationList>) -> bool {
        let _changing = self.changing.lock().await;
        let (roll, mut revocations) = (self.roll(), self.revocations.borrow().clone());
        let merged = off_the_loop(move || {
            let is_any = take_in(&mut revocations, lists, &roll);
            Ok(is_any.then_some(revocations))
        });
        let Ok(Some(revocations)) = merged.await else { return false };
        if let Err(error) = self.save_revocations(revocations).await {
            // After a restart, others tell of these lists again.
            tracing::error!("failed to save the revoked tokens: {error:#}");
        }
        true
    }

    /// Notifies when tokens may have become invalid.
    pub(crate) fn revocations(&self) -> watch::Receiver<()> {
        self.revoked_tx.subscribe()
    }
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    random::fill(&mut seed);
    seed
}

#[cfg(test)]
mod tests;
