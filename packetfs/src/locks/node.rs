//! One node: who its master is, and what it says to others.

use std::collections::BTreeMap;
use std::time::Instant;

use worknode::history::{Author, FileId};

use super::client::{Client, Told, Want};
use super::master::{GONE_AFTER, Master};
use super::message::{Answer, Ask, Word};
use super::table::Held;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tells a program.
    Tell(Told),
    /// Says something. If a file is named, what programs have written to it, and closed, is made events first.
    Send { to: Author, first: Option<FileId>, round: u64, word: Word },
}

/// One node.
#[derive(Debug)]
pub struct Node {
    own: Author,
    /// Nodes that are linked, or were not long ago: since when they are not.
    peers: BTreeMap<Author, Option<Instant>>,
    client: Client,
    master: Master,
    actions: Vec<Action>,
}

impl Node {
    /// Returns a node that is alone.
    #[must_use]
    pub fn new(own: Author) -> Self {
        let (client, master) = (Client::new(own), Master::new(own));
        Self { own, peers: BTreeMap::new(), client, master, actions: Vec::new() }
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

    /// Tells whether anybody waits for an answer.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.client.waits() || self.master.is_waited_for()
    }

    /// Tells whether nothing will be due.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_alone() && !self.client.waits() && self.master.is_idle()
    }

    /// Takes a program's request, and returns its number.
    pub fn request(&mut self, file: FileId, want: Want, now: Instant) -> u64 {
        let id = self.client.request(file, want, now);
        self.act(now);
        id
    }

    /// Gives back what an owner has in the range of a lock.
    pub fn unlock(&mut self, file: FileId, lock: Held, now: Instant) {
        self.client.unlock(file, lock);
        self.act(now);
    }

    /// A program does not want to wait any longer. It is told whether it has its lock all the same.
    pub fn cancel(&mut self, id: u64, now: Instant) {
        self.client.cancel(id, now);
        self.act(now);
    }

    /// Another node is linked, or again.
    pub fn begin(&mut self, node: Author, now: Instant) {
        if node == self.own {
            return;
        }
        self.peers.insert(node, None);
        self.master.begin(node, now);
        self.say(node, None, Ask::Hello);
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
            self.say(node, None, Ask::Leave { linked });
        }
    }

    /// The link to another node has ended.
    pub fn end(&mut self, node: Author, now: Instant) {
        if let Some(gone) = self.peers.get_mut(&node) {
            gone.get_or_insert(now);
        }
        self.master.end(node, now);
        self.act(now);
    }

    /// Takes a message of another node.
    pub fn hear(&mut self, from: Author, round: u64, word: Word, now: Instant) {
        if !self.is_linked(from) {
            return;
        }
        match word {
            Word::Ask(Ask::Hello) => self.introduce(from, now),
            Word::Ask(ask) => self.master.take(from, round, ask, now),
            Word::Answer(answer) => {
                if (from, round) == (self.client.master, self.client.round) {
                    self.client.hear(answer);
                }
            }
        }
        self.act(now);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        let is_over = |gone: &Option<Instant>| gone.is_some_and(|at| now >= at + GONE_AFTER);
        self.peers.retain(|_, gone| !is_over(gone));
        let master = self.elect();
        if self.client.tick(now) || master != self.client.master {
            self.restart(master, now);
        }
        self.act(now);
        self.master.tick(now);
        self.act(now);
    }

    fn is_linked(&self, node: Author) -> bool {
        self.peers.get(&node).is_some_and(Option::is_none)
    }

    fn linked(&self) -> Vec<Author> {
        let linked = self.peers.iter().filter(|(_, gone)| gone.is_none());
        linked.map(|(node, _)| *node).collect()
    }

    fn elect(&self) -> Author {
        self.peers.keys().next().map_or(self.own, |peer| *peer.min(&self.own))
    }

    /// Goes to a master, or tells it all once more.
    fn restart(&mut self, master: Author, now: Instant) {
        let (former, linked) = (self.client.master, self.linked());
        if former != master && former != self.own && self.is_linked(former) {
            self.say(former, None, Ask::Leave { linked: linked.clone() });
        }
        if (former == self.own) != (master == self.own) {
            self.master.lead(master == self.own, &linked, now);
        }
        self.client.restart(master, &linked);
    }

    fn say(&mut self, to: Author, first: Option<FileId>, ask: Ask) {
        let round = self.client.round;
        self.actions.push(Action::Send { to, first, round, word: Word::Ask(ask) });
    }

    /// Passes on what the own programs and the master say, until there is nothing more.
    fn act(&mut self, now: Instant) {
        while !self.client.asks.is_empty() || !self.master.answers.is_empty() {
            for (to, first, ask) in std::mem::take(&mut self.client.asks) {
                match to == self.own {
                    true => self.master.take(to, 0, ask, now),
                    false => self.say(to, first, ask),
                }
            }
            for (to, round, file, answer) in std::mem::take(&mut self.master.answers) {
                if to == self.own {
                    self.client.hear(answer);
                    continue;
                }
                // What this node's programs wrote is seen by whoever gets the lock.
                let is_grant = matches!(answer, Answer::Granted { .. });
                let first = is_grant.then_some(file);
                self.actions.push(Action::Send { to, first, round, word: Word::Answer(answer) });
            }
        }
        let told = std::mem::take(&mut self.client.told);
        self.actions.extend(told.into_iter().map(Action::Tell));
    }
}
