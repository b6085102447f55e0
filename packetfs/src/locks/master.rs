//! What a master decides: who has which locks, and who waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use worknode::history::{Author, FileId};

use super::client::Want;
use super::message::{Answer, Ask, Refusal};
use super::table::{Held, LOCKS_MAX, Owner, Space, Table, is_private};

/// Time after the end of its link for which a node keeps its locks.
pub const GONE_AFTER: Duration = Duration::from_secs(3);
/// Longest wait of a master for what others have, before it gives anything.
pub const CLAIMS_WAIT: Duration = Duration::from_secs(3);
/// Time for which a lock that is not waited for may wait all the same, if a program of the same node has it: the kernel tells of
/// the end of a descriptor a little after the program has closed it.
pub const TRY_MAX: Duration = Duration::from_millis(20);
/// Most files with locks.
pub const FILES_MAX: usize = 65_536;

/// A node that asks.
#[derive(Debug, Default)]
struct Asker {
    round: u64,
    /// When it had told all in this round.
    claimed: Option<Instant>,
    /// When its link ended, or it went to another master.
    gone: Option<Instant>,
}

/// A request that waits.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    from: Author,
    id: u64,
    want: Want,
    /// Until when it waits for the end of a descriptor.
    until: Instant,
    /// It does not wait for itself.
    is_checked: bool,
}

#[derive(Debug, Default)]
struct File {
    table: Table,
    waiters: VecDeque<Waiter>,
}

impl File {
    fn is_unused(&self) -> bool {
        self.table.is_empty() && self.waiters.is_empty()
    }
}

/// Whose claims are waited for, and until when.
#[derive(Debug)]
struct Settling {
    awaited: BTreeSet<Author>,
    until: Instant,
}

/// The locks of all nodes whose master this one is.
#[derive(Debug)]
pub(super) struct Master {
    own: Author,
    askers: BTreeMap<Author, Asker>,
    files: BTreeMap<FileId, File>,
    /// Whether this node is its own master.
    leads: bool,
    settling: Option<Settling>,
    /// When it went to another master.
    moved: Option<Instant>,
    /// To whom, and of which round, and about which file.
    pub(super) answers: Vec<(Author, u64, FileId, Answer)>,
}

impl Master {
    pub(super) fn new(own: Author) -> Self {
        Self {
            own,
            askers: BTreeMap::new(),
            files: BTreeMap::new(),
            leads: true,
            settling: None,
            moved: None,
            answers: Vec::new(),
        }
    }

    /// Tells whether anything may become due.
    pub(super) fn is_idle(&self) -> bool {
        self.askers.is_empty() && self.settling.is_none() && !self.is_waited_for()
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.files.values().any(|it| !it.waiters.is_empty())
    }

    /// Another node is linked, or again. It keeps what it had until it has told what it has.
    pub(super) fn begin(&mut self, node: Author, now: Instant) {
        let it = self.askers.entry(node).or_default();
        (it.claimed, it.gone) = (None, None);
        if self.leads {
            self.await_claim(node, now);
        }
    }

    fn await_claim(&mut self, node: Author, now: Instant) {
        let until = now + CLAIMS_WAIT;
        let new = || Settling { awaited: BTreeSet::new(), until };
        let settling = self.settling.get_or_insert_with(new);
        settling.awaited.insert(node);
        settling.until = until;
    }

    /// The link to a node has ended, or it has another master.
    pub(super) fn end(&mut self, node: Author, now: Instant) {
        if let Some(it) = self.askers.get_mut(&node) {
            it.gone.get_or_insert(now);
            it.claimed = None;
        }
        // What it asks for it asks for again.
        self.drop_waiters(node);
        self.claims_come(node, now);
    }

    /// This node becomes its own master, or stops being that.
    pub(super) fn lead(&mut self, leads: bool, linked: &[Author], now: Instant) {
        self.leads = leads;
        self.settling = None;
        if leads {
            let is_silent =
                |node: &Author| self.askers.get(node).is_none_or(|it| it.claimed.is_none());
            let silent: Vec<Author> = linked.iter().copied().filter(is_silent).collect();
            // Its own claims come at once.
            let silent = silent.into_iter().chain([self.own]);
            silent.for_each(|node| self.await_claim(node, now));
        } else {
            self.moved = Some(now);
            let own = self.own;
            for (_, it) in self.files.iter_mut().filter(|(file, _)| !is_private(**file)) {
                it.table.retain(|lock| lock.owner.node != own);
                it.waiters.retain(|waiter| waiter.from != own);
            }
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        let is_over = |it: &Asker| it.gone.is_some_and(|at| now >= at + GONE_AFTER);
        let gone = self.askers.iter().filter(|(_, it)| is_over(it));
        for node in gone.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.askers.remove(&node);
            self.take_back(node);
        }
        if self.settling.as_ref().is_some_and(|it| now >= it.until) {
            self.settling = None;
        }
        self.decide_all(now);
    }

    /// Takes what a node asks.
    pub(super) fn take(&mut self, from: Author, round: u64, ask: Ask, now: Instant) {
        if let Ask::Claim { is_first, is_last, locks, linked } = ask {
            return self.take_claim(from, round, (is_first, is_last), (locks, linked), now);
        }
        if let Ask::Leave { linked } = ask {
            self.await_others(&linked);
            return self.end(from, now);
        }
        if from != self.own && self.askers.get(&from).is_none_or(|it| it.round != round) {
            return;
        }
        match ask {
            Ask::Claim { .. } | Ask::Leave { .. } | Ask::Hello => {}
            Ask::Lock { id, file, lock, waits } => {
                let want = Want::Lock { lock: of(lock, from), waits };
                self.arrive(file, (from, id, want), now);
            }
            Ask::Test { id, file, lock } => {
                let want = Want::Test { lock: of(lock, from) };
                self.arrive(file, (from, id, want), now);
            }
            Ask::Unlock { id, file, lock } => {
                if let Some(it) = self.files.get_mut(&file) {
                    it.table.clear(&of(lock, from));
                }
                self.answer(from, file, Answer::Unlocked { id });
                self.decide(file, now);
            }
            Ask::Cancel { id, file } => {
                let Some(it) = self.files.get_mut(&file) else { return };
                let at = it.waiters.iter().position(|it| (it.from, it.id) == (from, id));
                // Otherwise the answer is under way.
                if at.is_some_and(|at| it.waiters.remove(at).is_some()) {
                    self.answer(from, file, Answer::Refused { id, refusal: Refusal::Cancelled });
                    self.decide(file, now);
                }
            }
        }
    }

    fn take_claim(
        &mut self,
        from: Author,
        round: u64,
        (is_first, is_last): (bool, bool),
        (locks, linked): (Vec<(FileId, Held)>, Vec<Author>),
        now: Instant,
    ) {
        if is_first && from != self.own {
            let it = self.askers.entry(from).or_default();
            *it = Asker { round, claimed: None, gone: None };
            if self.leads {
                self.await_claim(from, now);
            }
        }
        if is_first {
            self.take_back(from);
        }
        if from != self.own && self.askers.get(&from).is_none_or(|it| it.round != round) {
            return;
        }
        for (file, lock) in locks {
            self.claim(from, file, of(lock, from));
        }
        if is_last {
            if let Some(it) = self.askers.get_mut(&from) {
                it.claimed = Some(now);
            }
            self.await_others(&linked);
            self.claims_come(from, now);
            self.decide_all(now);
        }
    }

    /// Whoever another node is linked with will be linked with this one soon, and may have what others want now.
    fn await_others(&mut self, linked: &[Author]) {
        let Some(settling) = &mut self.settling else { return };
        let is_silent = |node: &Author| {
            let has_claimed = |it: &Asker| it.claimed.or(it.gone).is_some();
            *node != self.own && !self.askers.get(node).is_some_and(has_claimed)
        };
        settling.awaited.extend(linked.iter().copied().filter(is_silent));
    }

    fn claim(&mut self, from: Author, file: FileId, lock: Held) {
        if is_private(file) && from != self.own {
            return;
        }
        let has_room = self.files.len() < FILES_MAX || self.files.contains_key(&file);
        let table = self.files.get(&file).map(|it| &it.table);
        let is_free = table.is_none_or(|it| it.conflict(&lock).is_none() && !it.is_full());
        if has_room && is_free {
            self.files.entry(file).or_default().table.set(lock);
        } else {
            self.answer(from, file, Answer::Lost { file, lock });
        }
    }

    /// The claims of a node are here, or will not come.
    fn claims_come(&mut self, node: Author, now: Instant) {
        let Some(settling) = &mut self.settling else { return };
        settling.awaited.remove(&node);
        if settling.awaited.is_empty() {
            self.settling = None;
            self.decide_all(now);
        }
    }

    fn arrive(&mut self, file: FileId, (from, id, want): (Author, u64, Want), now: Instant) {
        let has_room = self.files.len() < FILES_MAX || self.files.contains_key(&file);
        let is_full = |it: &File| it.waiters.len() >= LOCKS_MAX;
        let is_allowed = !is_private(file) || from == self.own;
        if !has_room || !is_allowed || self.files.get(&file).is_some_and(is_full) {
            return self.answer(from, file, Answer::Refused { id, refusal: Refusal::Full });
        }
        let waiter = Waiter { from, id, want, until: now + TRY_MAX, is_checked: false };
        self.files.entry(file).or_default().waiters.push_back(waiter);
        self.decide(file, now);
    }

    /// Tells whether this node decides what a node asks about a file: not before it knows what others have. One that has another
    /// master itself waits, since whoever asks it will probably be linked with that one soon.
    fn decides(&self, file: FileId, from: Author, now: Instant) -> bool {
        if is_private(file) {
            return true;
        }
        if self.leads {
            return self.settling.is_none();
        }
        let claimed = self.askers.get(&from).and_then(|it| it.claimed);
        let since = claimed.map(|at| self.moved.map_or(at, |moved| at.max(moved)));
        from != self.own && since.is_some_and(|since| now >= since + CLAIMS_WAIT)
    }

    fn decide_all(&mut self, now: Instant) {
        self.files.retain(|_, it| !it.is_unused());
        let waited_for = self.files.iter().filter(|(_, it)| !it.waiters.is_empty());
        let files: Vec<FileId> = waited_for.map(|(file, _)| *file).collect();
        files.into_iter().for_each(|file| self.decide(file, now));
    }

    /// Answers what can be answered, in the order in which it was asked.
    fn decide(&mut self, file: FileId, now: Instant) {
        let mut at = 0;
        while let Some(waiter) = self.files.get(&file).and_then(|it| it.waiters.get(at)).copied() {
            if !self.decides(file, waiter.from, now) {
                at += 1;
                continue;
            }
            let has_given_up = match self.judge(file, at, now) {
                Some(answer) => {
                    let has_given_up = self.note(file, at, &answer);
                    self.answer(waiter.from, file, answer);
                    has_given_up
                }
                None => {
                    at += 1;
                    self.give_up(file, waiter.want)
                }
            };
            // Somebody who waits for longer may get it.
            at = if has_given_up { 0 } else { at };
        }
        if self.files.get(&file).is_some_and(File::is_unused) {
            self.files.remove(&file);
        }
    }

    /// Returns the answer to a request, if there is one by now.
    fn judge(&mut self, file: FileId, at: usize, now: Instant) -> Option<Answer> {
        let it = self.files.get(&file)?;
        let (waiter, table) = (*it.waiters.get(at)?, &it.table);
        let id = waiter.id;
        let Some(held) = table.conflict(waiter.want.lock()).copied() else {
            let is_full = table.is_full();
            return Some(match waiter.want {
                Want::Test { .. } => Answer::Free { id },
                _ if is_full => Answer::Refused { id, refusal: Refusal::Full },
                _ => Answer::Granted { id },
            });
        };
        let is_ending = held.owner.node == waiter.from && now < waiter.until;
        match waiter.want {
            Want::Lock { lock, waits: true } => {
                if !waiter.is_checked && self.is_deadlock(file, &lock) {
                    return Some(Answer::Refused { id, refusal: Refusal::Deadlock });
                }
                self.files.get_mut(&file)?.waiters.get_mut(at)?.is_checked = true;
                None
            }
            Want::Lock { .. } if is_ending => None,
            _ => Some(Answer::Refused { id, refusal: Refusal::Held(held) }),
        }
    }

    /// Whoever wants another mode of `flock` and does not get it gives up the one it has. Returns whether there was one.
    fn give_up(&mut self, file: FileId, want: Want) -> bool {
        let Want::Lock { lock, waits } = want else { return false };
        let is_flock = lock.space == Space::Flock && waits;
        let Some(it) = self.files.get_mut(&file).filter(|it| is_flock && it.table.has(&lock))
        else {
            return false;
        };
        it.table.clear(&lock);
        true
    }

    /// Notes an answer. Returns whether somebody has less than before.
    fn note(&mut self, file: FileId, at: usize, answer: &Answer) -> bool {
        let Some(it) = self.files.get_mut(&file) else { return false };
        let Some(Waiter { want, .. }) = it.waiters.remove(at) else { return false };
        let Want::Lock { lock, .. } = want else { return false };
        match answer {
            Answer::Granted { .. } => {
                let had = it.table.has(&lock);
                it.table.set(lock);
                had
            }
            // What waits has no lock of its own already.
            _ => self.give_up(file, Want::Lock { lock, waits: true }),
        }
    }

    /// Tells whether the owner of a lock would wait for itself.
    fn is_deadlock(&self, file: FileId, lock: &Held) -> bool {
        if lock.space == Space::Flock {
            return false;
        }
        let mut seen: Vec<Owner> = Vec::new();
        let mut next: Vec<(FileId, Held)> = vec![(file, *lock)];
        while let Some((file, wanted)) = next.pop() {
            let Some(it) = self.files.get(&file) else { continue };
            for held in it.table.conflicts(&wanted) {
                if held.owner == lock.owner {
                    return true;
                }
                if seen.contains(&held.owner) {
                    continue;
                }
                seen.push(held.owner);
                for (file, it) in &self.files {
                    let waits = |it: &&Waiter| matches!(it.want, Want::Lock { waits: true, .. });
                    let wanted = it.waiters.iter().filter(waits).map(|it| *it.want.lock());
                    let wanted = wanted.filter(|it| it.owner == held.owner);
                    next.extend(wanted.map(|lock| (*file, lock)));
                }
            }
        }
        false
    }

    fn answer(&mut self, to: Author, file: FileId, answer: Answer) {
        let round = self.askers.get(&to).map_or(0, |it| it.round);
        self.answers.push((to, round, file, answer));
    }

    /// Takes away all that a node has or waits for. Nobody gets it yet.
    fn take_back(&mut self, node: Author) {
        self.drop_waiters(node);
        let is_private = |file: &FileId| node == self.own && is_private(*file);
        for (_, it) in self.files.iter_mut().filter(|(file, _)| !is_private(file)) {
            it.table.retain(|lock| lock.owner.node != node);
        }
    }

    fn drop_waiters(&mut self, node: Author) {
        let is_private = |file: &FileId| node == self.own && is_private(*file);
        for (_, it) in self.files.iter_mut().filter(|(file, _)| !is_private(file)) {
            it.waiters.retain(|waiter| waiter.from != node);
        }
    }
}

/// A node speaks of its own locks only.
fn of(lock: Held, node: Author) -> Held {
    Held { owner: Owner { node, ..lock.owner }, ..lock }
}
