//! One node: who its master is, and what it says to others.

use std::collections::BTreeMap;
use std::time::Instant;

use worknode::history::{Author, FileId};

use super::client::{Client, Told, Want};
use super::limits::{GONE_AFTER, ROUND_EVERY};
use super::master::Master;
use super::message::{Ask, Word};
use super::table::Held;

/// What waits until what programs of this node have written is given to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticket {
    /// That an own program gives back a lock is told to the master.
    Release { id: u64, user: u32 },
    /// That another node's program has a lock is told to it.
    Grant(u64),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tells a program.
    Tell(Told),
    /// Gives to others what programs have written to a file, and closed, and says so by [`Node::given`].
    Give { ticket: Ticket, file: FileId },
    /// Says something.
    Send { to: Author, round: u64, word: Word },
}

/// Another node.
#[derive(Debug, Default)]
struct Peer {
    /// Since when it is not linked.
    gone: Option<Instant>,
    /// When a greeting of it was last obeyed.
    greeted: Option<Instant>,
    /// It has greeted too often, and is told all later.
    is_owed: bool,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    own: Author,
    /// Nodes that are linked, or were not long ago.
    peers: BTreeMap<Author, Peer>,
    client: Client,
    master: Master,
    /// When a round was begun because of late answers.
    retold: Option<Instant>,
    /// The master is to be told all again.
    is_unknown: bool,
    actions: Vec<Action>,
}

impl Node {
    /// Returns a node that is alone.
    #[must_use]
    pub fn new(own: Author) -> Self {
        let (client, master) = (Client::new(own), Master::new(own));
        let peers = BTreeMap::new();
        Self { own, peers, client, master, retold: None, is_unknown: false, actions: Vec::new() }
    }

    /// Returns what is to be done, in this order.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Tells whether no other node is linked, or was not long ago.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.peers.is_empty()
    }

    /// Tells whether another node is linked, or was not long ago.
    #[must_use]
    pub fn knows(&self, node: Author) -> bool {
        self.peers.contains_key(&node)
    }

    #[cfg(test)]
    pub(super) fn round(&self) -> u64 {
        self.client.round
    }

    /// Tells whether anybody waits for an answer.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.client.waits() || self.master.is_waited_for()
    }

    /// Tells whether nothing will be due.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_alone() && !self.client.waits() && !self.is_unknown && self.master.is_idle()
    }

    /// Returns what an owner has in the range of a lock.
    #[must_use]
    pub fn own(&self, file: FileId, lock: &Held) -> Vec<Held> {
        self.client.own(file, lock)
    }

    /// Takes a request of a user's program, and returns its number.
    pub fn request(&mut self, file: FileId, want: Want, user: u32, now: Instant) -> u64 {
        let id = self.client.request(file, want, user, now);
        self.act(now);
        id
    }

    /// Gives back what an owner has in the range of a lock.
    pub fn unlock(&mut self, file: FileId, lock: Held, user: u32, now: Instant) {
        self.client.unlock(file, lock, user, now);
        self.act(now);
    }

    /// A program does not want to wait any longer. It is told whether it has its lock all the same.
    pub fn cancel(&mut self, id: u64, now: Instant) {
        self.client.cancel(id, now);
        self.act(now);
    }

    /// What an action was to give is given.
    pub fn given(&mut self, ticket: Ticket, now: Instant) {
        match ticket {
            Ticket::Release { id, .. } => self.client.given(id, now),
            Ticket::Grant(number) => self.master.given(number, now),
        }
        self.act(now);
    }

    /// Another node is linked, or again.
    pub fn begin(&mut self, node: Author, now: Instant) {
        if node == self.own {
            return;
        }
        self.peers.insert(node, Peer::default());
        self.master.begin(node, now);
        self.say(node, Ask::Hello);
        self.introduce(node, now);
        self.act(now);
    }

    /// Tells a node what it must know.
    fn introduce(&mut self, node: Author, now: Instant) {
        let master = self.elect();
        if master == node || master != self.client.master {
            self.restart(master, now);
        } else if node < self.own && self.is_linked(master) {
            // It need not wait for what is here.
            let linked = self.linked();
            self.say(node, Ask::Leave { linked });
        }
    }

    /// The link to another node has ended.
    pub fn end(&mut self, node: Author, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.gone.get_or_insert(now);
        }
        self.master.end(node, now);
        self.act(now);
    }

    /// Takes a message of another node. Tells whether it may be true: an answer is one to what was asked.
    pub fn hear(&mut self, from: Author, round: u64, word: Word, now: Instant) -> bool {
        if !self.is_linked(from) {
            return true;
        }
        let is_fit = match word {
            Word::Ask(Ask::Hello) => {
                self.greet(from, now);
                true
            }
            Word::Ask(ask) => {
                self.master.take(from, round, ask, now);
                true
            }
            Word::Answer(answer) => {
                let is_present = (from, round) == (self.client.master, self.client.round);
                !is_present || self.client.hear(from, answer)
            }
        };
        self.act(now);
        is_fit
    }

    /// Tells all to a node that has greeted, if that was not done just before.
    fn greet(&mut self, node: Author, now: Instant) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.is_owed = peer.greeted.is_some_and(|at| now < at + ROUND_EVERY);
        if !peer.is_owed {
            peer.greeted = Some(now);
            self.introduce(node, now);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        let is_over = |peer: &Peer| peer.gone.is_some_and(|at| now >= at + GONE_AFTER);
        self.peers.retain(|_, peer| !is_over(peer));
        let owed = self.peers.iter().filter(|(_, peer)| peer.is_owed && peer.gone.is_none());
        for node in owed.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.greet(node, now);
        }
        let master = self.elect();
        self.is_unknown |= self.client.tick(now);
        let may_retell = self.retold.is_none_or(|at| now >= at + ROUND_EVERY);
        let retells = self.is_unknown && may_retell;
        if retells || master != self.client.master {
            self.retold = if retells { Some(now) } else { self.retold };
            self.restart(master, now);
        }
        self.act(now);
        self.master.tick(now);
        self.act(now);
    }

    fn is_linked(&self, node: Author) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.gone.is_none())
    }

    fn linked(&self) -> Vec<Author> {
        let linked = self.peers.iter().filter(|(_, peer)| peer.gone.is_none());
        linked.map(|(node, _)| *node).collect()
    }

    fn elect(&self) -> Author {
        self.peers.keys().next().map_or(self.own, |peer| *peer.min(&self.own))
    }

    /// Goes to a master, or tells it all once more.
    fn restart(&mut self, master: Author, now: Instant) {
        let (former, linked) = (self.client.master, self.linked());
        if former != master && former != self.own && self.is_linked(former) {
            self.say(former, Ask::Leave { linked: linked.clone() });
        }
        if (former == self.own) != (master == self.own) {
            self.master.lead(master == self.own, &linked, now);
        }
        self.is_unknown = false;
        self.client.restart(master, &linked, now);
    }

    fn say(&mut self, to: Author, ask: Ask) {
        let round = self.client.round;
        self.actions.push(Action::Send { to, round, word: Word::Ask(ask) });
    }

    /// Passes on what the own programs and the master say, until there is nothing more.
    fn act(&mut self, now: Instant) {
        while !self.client.asks.is_empty() || !self.master.answers.is_empty() {
            for (to, ask) in std::mem::take(&mut self.client.asks) {
                match to == self.own {
                    true => self.master.take(to, 0, ask, now),
                    false => self.say(to, ask),
                }
            }
            for (to, round, answer) in std::mem::take(&mut self.master.answers) {
                if to == self.own {
                    // What this node answers itself is true.
                    self.client.hear(to, answer);
                    continue;
                }
                self.actions.push(Action::Send { to, round, word: Word::Answer(answer) });
            }
        }
        for (id, file, user) in std::mem::take(&mut self.client.gives) {
            self.actions.push(Action::Give { ticket: Ticket::Release { id, user }, file });
        }
        for (number, file) in std::mem::take(&mut self.master.gives) {
            self.actions.push(Action::Give { ticket: Ticket::Grant(number), file });
        }
        let told = std::mem::take(&mut self.client.told);
        self.actions.extend(told.into_iter().map(Action::Tell));
    }
}
