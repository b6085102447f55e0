//! Operations on walks: place, retry, end.

use worknode::id::{Attempt, NodeId, WalkId};

use super::call::Call;
use super::walk::Walk;
use crate::limits::{ATTEMPTS_MAX, QUEUED_MAX, QUEUED_SESSION_MAX};
use crate::model::{Event, Finished, Grant, Retried, Submit, Submitted};

impl Call<'_> {
    /// Places a walk of the caller.
    pub(crate) fn submit(&mut self, submit: &Submit) -> Submitted {
        if let Some(walk) = self.state.walks.get(&submit.walk) {
            return self.decide_again(walk.clone(), submit.after);
        }
        let walk = Walk {
            id: submit.walk,
            origin: self.caller.clone(),
            attempt: submit.after,
            first: submit.after,
            uid: submit.uid,
            node: None,
            only: submit.only.clone(),
            avoid: submit.avoid.clone(),
            near: submit.near.clone(),
            prefer: submit.prefer.clone(),
        };
        let placed = self.state.nodes.place(&walk, self.now);
        let queue = &self.state.queue;
        let is_full =
            queue.count() >= QUEUED_MAX || queue.count_of(&walk.lane()) >= QUEUED_SESSION_MAX;
        if placed.is_none() && is_full {
            return Submitted::Busy;
        }
        self.place_or_wait(walk)
    }

    pub(crate) fn retry(
        &mut self,
        walk: WalkId,
        attempt: Attempt,
        avoid: Option<&NodeId>,
    ) -> Retried {
        let Some(mut walk) = self.state.walks.get(&walk).cloned() else {
            return Retried::NotNeeded;
        };
        if let Some(avoid) = avoid
            && !walk.avoid.contains(avoid)
        {
            walk.avoid.insert(0, avoid.clone());
        }
        Retried::Submitted(self.decide_again(walk, attempt))
    }

    /// Answers for a known walk whose origin has given up the attempts up to `after`.
    fn decide_again(&mut self, mut walk: Walk, after: Attempt) -> Submitted {
        let Some(node) = walk.node.clone() else {
            let place = self.state.queue.place(walk.id, &walk.lane());
            if walk.attempt < after {
                walk.attempt = after;
                self.state.walks.insert(walk.id, walk);
            }
            return Submitted::Queued(place);
        };
        if walk.attempt > after {
            return Submitted::Granted(self.grant_of(&walk, &node));
        }
        self.release(&walk, &node);
        self.state.nodes.settle(&node, self.now);
        walk.attempt = after;
        let answer = if is_exhausted(&walk) {
            self.state.walks.remove(&walk.id);
            Submitted::Exhausted
        } else {
            self.place_or_wait(walk)
        };
        self.fill(&node, 1);
        answer
    }

    pub(crate) fn finish(&mut self, id: WalkId, node: &NodeId, attempt: Attempt) -> Finished {
        let Some(walk) = self.state.walks.get(&id).cloned() else { return Finished::Unknown };
        if walk.node.as_ref() != Some(node) || walk.attempt != attempt {
            return Finished::Fenced(walk.attempt);
        }
        self.release(&walk, node);
        self.state.walks.remove(&id);
        let before = self.mail_count();
        self.fill(node, 1);
        Finished::Done { next: self.take_grant(before) }
    }

    /// Removes a walk. Returns whether it was known.
    pub(crate) fn cancel(&mut self, id: WalkId) -> bool {
        let Some(walk) = self.state.walks.get(&id).cloned() else { return false };
        if let Some(freed) = self.remove(&walk) {
            self.fill(&freed, 1);
        }
        true
    }

    /// Removes a walk and notifies its nodes. Returns the node whose slot it held, which the caller fills.
    pub(crate) fn remove(&mut self, walk: &Walk) -> Option<NodeId> {
        match &walk.node {
            None => self.state.queue.dequeue(walk.id, &walk.lane()),
            Some(node) => {
                self.release(walk, node);
                if *node != walk.origin {
                    self.tell(node, Event::Cancelled(walk.id));
                }
            }
        }
        self.state.walks.remove(&walk.id);
        if walk.origin != *self.caller {
            self.tell(&walk.origin, Event::Cancelled(walk.id));
        }
        walk.node.clone()
    }

    /// Places a walk again whose attempt was lost, and notifies its origin of a grant.
    pub(crate) fn lose(&mut self, walk: Walk) {
        let (id, origin) = (walk.id, walk.origin.clone());
        if is_exhausted(&walk) {
            self.state.walks.remove(&id);
            self.tell(&origin, Event::Exhausted(id));
        } else if let Submitted::Granted(grant) = self.place_or_wait(walk) {
            self.tell(&origin, Event::Granted(grant));
        }
    }

    /// Grants slots of a node to up to `limit` waiting walks, and settles the node.
    pub(crate) fn fill(&mut self, node: &NodeId, limit: usize) {
        self.serve(node, limit);
        self.state.nodes.settle(node, self.now);
    }

    /// Grants slots of a node to up to `limit` waiting walks; returns to how many.
    pub(crate) fn serve(&mut self, name: &NodeId, limit: usize) -> usize {
        let free = match self.state.nodes.get(name) {
            Some(node) if node.is_usable(self.now) => node.free_slots(),
            _ => 0,
        };
        for granted in 0..limit.min(free) {
            let walks = &self.state.walks;
            let suits = |walk| walks.get(&walk).is_some_and(|walk| walk.suits(name));
            let Some(walk) = self.state.queue.next_for(name, suits) else { return granted };
            let walk = self.state.walks[&walk].clone();
            self.state.queue.dequeue_in_turn(walk.id, &walk.lane(), self.now);
            let origin = walk.origin.clone();
            let grant = self.grant(walk, name);
            self.tell(&origin, Event::Granted(grant));
        }
        limit.min(free)
    }

    fn place_or_wait(&mut self, mut walk: Walk) -> Submitted {
        if let Some(node) = self.state.nodes.place(&walk, self.now) {
            let grant = self.grant(walk, &node);
            self.state.nodes.settle(&node, self.now);
            return Submitted::Granted(grant);
        }
        walk.node = None;
        let (id, lane, user) = (walk.id, walk.lane(), walk.user());
        self.state.walks.insert(id, walk);
        Submitted::Queued(self.state.queue.enqueue(id, lane, user, self.now))
    }

    /// Starts the walk's next attempt on a node; the caller settles the node.
    fn grant(&mut self, mut walk: Walk, name: &NodeId) -> Grant {
        walk.attempt = Attempt(walk.attempt.0 + 1);
        walk.node = Some(name.clone());
        if let Some(node) = self.state.nodes.get_mut(name) {
            node.holders.insert(walk.id);
        }
        let grant = self.grant_of(&walk, name);
        self.state.walks.insert(walk.id, walk);
        grant
    }

    fn grant_of(&self, walk: &Walk, name: &NodeId) -> Grant {
        let node = self.state.nodes.get(name).expect("a node with a holder is known: see bury");
        let Walk { id, attempt, .. } = *walk;
        Grant { walk: id, node: name.clone(), address: node.info.address, attempt }
    }

    /// Releases a walk's slot; the caller settles or fills the node.
    pub(crate) fn release(&mut self, walk: &Walk, node: &NodeId) {
        if let Some(node) = self.state.nodes.get_mut(node) {
            node.holders.remove(&walk.id);
        }
    }
}

fn is_exhausted(walk: &Walk) -> bool {
    walk.attempt.0.saturating_sub(walk.first.0) >= ATTEMPTS_MAX
}
