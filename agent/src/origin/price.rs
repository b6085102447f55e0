//! Decides whether a compile step is worth the transfer that it would cause; see [`crate::transfer`].

use worknode::id::NodeId;
use worknode::spec::WalkSpec;

use super::shared::Shared;
use crate::session::Session;

/// Tells whether a compile step is not worth its transfer to any available node.
pub(super) fn all_are_too_dear(shared: &Shared, session: &Session, spec: &WalkSpec) -> bool {
    if !spec.compiles || !session.keeps_lone {
        return false;
    }
    let nodes = shared.cluster.nodes.borrow();
    let mut runners = nodes
        .iter()
        .filter(|state| state.alive && state.info.slots > 0 && state.info.node != shared.node)
        .peekable();
    runners.peek().is_some()
        && runners.all(|state| is_too_dear(shared, session, spec, &state.info.node))
}

/// Tells whether a program is a compile step that is not worth its transfer to a node, as far as that is known. A user
/// who named a node, or lets everything walk, has decided otherwise.
pub(super) fn is_too_dear(
    shared: &Shared,
    session: &Session,
    spec: &WalkSpec,
    node: &NodeId,
) -> bool {
    if !spec.compiles || !session.keeps_lone {
        return false;
    }
    let rate = || shared.links.get(node).map_or(0, |link| link.delivery_rate());
    let price = shared.links.transfers.price(node, &spec.path, rate);
    price.is_some_and(|price| !session.affords(price))
}
