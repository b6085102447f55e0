//! Orders: the node that made the cluster has others drain.

use std::rc::Rc;

use anyhow::Context;
use worknode::id::NodeId;
use worknode::key::Key;

use super::Links;
use crate::cluster::Failure;
use crate::link::call::LINK_TIMEOUT;
use crate::link::handshake;
use crate::membership::Membership;
use crate::wire::greeting::{Ordered, Purpose};

impl Links {
    /// Has another node finish its walks and take no others, or take walks again.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub(crate) async fn drain(self: &Rc<Self>, node: &NodeId, drains: bool) -> anyhow::Result<()> {
        let purpose = if drains { Purpose::Drain } else { Purpose::Resume };
        let addresses = self.everybody().into_iter().find(|(other, _)| other == node);
        let (_, addresses) = addresses.with_context(|| {
            format!("the cluster has no node '{node}': 'oswalk cluster nodes' lists them")
        })?;
        let mut failed = anyhow::anyhow!("it has not been seen yet: try again when its agent runs");
        for address in addresses {
            match self.call(node, address, purpose).await {
                Ok(mut called) => {
                    let answer = handshake::ordered(&mut called.socket);
                    let answer = tokio::time::timeout(LINK_TIMEOUT, answer).await;
                    return match answer.context("it does not answer")?? {
                        Ordered::Done => Ok(()),
                        Ordered::Refused(why) => Err(anyhow::anyhow!("it refuses: {why}")),
                    };
                }
                Err(Failure { why, remedy, .. }) => failed = anyhow::anyhow!("{why}: {remedy}"),
            }
        }
        Err(failed.context(format!("failed to tell {node}")))
    }

    /// Obeys the order of a member with this key, if it may give it.
    pub(super) async fn obey(&self, membership: &Membership, by: Key, drains: bool) -> Ordered {
        if !membership.may_manage(&by) {
            return Ordered::Refused("only the node that made the cluster may order this".into());
        }
        match membership.set_draining(drains).await {
            Ok(()) => {
                self.cluster.note_draining(drains).await;
                Ordered::Done
            }
            Err(error) => Ordered::Refused(format!("{error:#}").as_str().into()),
        }
    }
}
