//! Links this node with runners that hold what it needs, and shuts out those that lie.

use std::rc::Rc;

use tokio::sync::mpsc::UnboundedReceiver;
use worknode::id::NodeId;

use super::Links;
use crate::holders::Wish;

impl Links {
    /// Does what the claims of packets need.
    pub(crate) async fn serve_claims(self: Rc<Self>, mut wishes_rx: UnboundedReceiver<Wish>) {
        while let Some(wish) = wishes_rx.recv().await {
            match wish {
                Wish::Call(node) => {
                    let links = Rc::clone(&self);
                    tokio::task::spawn_local(async move { links.call_holder(&node).await });
                }
                Wish::Shun(node, evidence) => self.quarantine(&node, evidence),
            }
        }
    }

    async fn call_holder(self: Rc<Self>, node: &NodeId) {
        let others = self.everybody();
        if let Some((_, addresses)) = others.iter().find(|(other, _)| other == node) {
            self.link_to(node, addresses).await;
        }
    }
}
