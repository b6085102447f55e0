//! Sessions that are gone.

use worknode::id::{NodeId, SessionId, WalkId};

use super::call::Call;
use super::queue::Lane;

impl Call<'_> {
    /// Cancels all walks of a session.
    pub(crate) fn cancel_session(&mut self, session: SessionId) {
        self.state.gone.insert(session);
        self.condemn(|lane, _| lane.session == session);
        self.sweep();
    }

    /// Stops granting walks of some lanes, and leaves the sessions' walks to [`Self::sweep`].
    pub(crate) fn condemn(&mut self, is_gone: impl Fn(&Lane, &NodeId) -> bool) {
        let queue = &mut self.state.queue;
        let lanes = queue.lanes().filter(|(lane, origin)| is_gone(lane, origin));
        for lane in lanes.map(|(lane, _)| lane.clone()).collect::<Vec<_>>() {
            queue.condemn(&lane);
            self.state.gone.insert(lane.session);
        }
    }

    /// Cancels the walks of sessions that are gone.
    pub(crate) fn sweep(&mut self) {
        let walks = self.walks_of_gone();
        self.state.gone.clear();
        let mut freed: Vec<(NodeId, usize)> = Vec::new();
        for walk in walks {
            let Some(walk) = self.state.walks.get(&walk).cloned() else { continue };
            let Some(node) = self.remove(&walk) else { continue };
            match freed.iter_mut().find(|(name, _)| *name == node) {
                Some((_, slots)) => *slots += 1,
                None => freed.push((node, 1)),
            }
        }
        for (node, slots) in freed {
            self.fill(&node, slots);
        }
    }

    fn walks_of_gone(&self) -> Vec<WalkId> {
        let (gone, nodes, queue) = (&self.state.gone, &self.state.nodes, &self.state.queue);
        let running = nodes.iter().flat_map(|(_, node)| node.holders_by_text());
        let running = running.filter(|walk| gone.contains(&walk.session));
        let lanes = queue.lanes().filter(|(lane, _)| gone.contains(&lane.session));
        running.chain(lanes.flat_map(|(lane, _)| queue.walks_of(lane))).collect()
    }
}
