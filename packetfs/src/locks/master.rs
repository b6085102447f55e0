//! What a master decides: who has which locks, and who waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use worknode::history::{Author, FileId};

use super::client::Want;
use super::limits::{
    AWAITED_EVERY, CLAIMS_WAIT, DEADLOCK_STEPS_MAX, GONE_AFTER, LOCKS_MAX, NODE_LOCKS_MAX,
    NODE_WAITERS_MAX, TRY_MAX,
};
use super::message::{Answer, Ask, Refusal};
use super::table::{Held, Owner, Space, Table, is_private};

/// A node that asks.
#[derive(Debug, Default)]
struct Asker {
    round: u64,
    /// When it had told all in this round.
    claimed: Option<Instant>,
    /// When its link ended, or it went to another master.
    gone: Option<Instant>,
    /// What it claims, until it has told all.
    claims: Vec<(FileId, Held)>,
}

/// What a node has and waits for.
#[derive(Debug, Default)]
struct Share {
    /// How many locks on each file.
    files: BTreeMap<FileId, usize>,
    locks: usize,
    waiters: usize,
}

/// How long all others have waited for a node's claims.
#[derive(Debug, Clone, Copy)]
struct Patience {
    since: Instant,
    spent: Duration,
    /// Since when they wait now.
    begun: Option<Instant>,
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
    /// What was last in its way.
    blocker: Option<Held>,
}

impl Waiter {
    /// Tells whether it waits for a lock until that is free.
    fn waits(&self) -> bool {
        matches!(self.want, Want::Lock { waits: true, .. })
    }
}

/// A lock that another node's program has, but does not know of yet: what was written here before is being given to others.
#[derive(Debug)]
struct Withheld {
    from: Author,
    id: u64,
    file: FileId,
    lock: Held,
    /// What its owner had in its range before.
    before: Vec<Held>,
    /// What the owner has asked about the file since.
    behind: VecDeque<Ask>,
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

/// The locks of all nodes whose master this one is.
#[derive(Debug)]
pub(super) struct Master {
    own: Author,
    askers: BTreeMap<Author, Asker>,
    files: BTreeMap<FileId, File>,
    /// Files that somebody waits for.
    waited: BTreeSet<FileId>,
    /// What owners wait for.
    wants: BTreeMap<Owner, Vec<(FileId, u64, Held)>>,
    shares: BTreeMap<Author, Share>,
    withheld: BTreeMap<u64, Withheld>,
    /// The same by owner.
    withheld_from: BTreeSet<(FileId, Owner, u64)>,
    last: u64,
    /// Whether this node is its own master.
    leads: bool,
    /// Whose claims are waited for, each until when.
    settling: Option<BTreeMap<Author, Instant>>,
    /// How long nodes were waited for lately.
    patience: BTreeMap<Author, Patience>,
    /// When it went to another master.
    moved: Option<Instant>,
    /// To whom, and of which round.
    pub(super) answers: Vec<(Author, u64, Answer)>,
    /// Locks that are withheld until what was written to their files is given to others.
    pub(super) gives: Vec<(u64, FileId)>,
}

impl Master {
    pub(super) fn new(own: Author) -> Self {
        Self {
            own,
            askers: BTreeMap::new(),
            files: BTreeMap::new(),
            waited: BTreeSet::new(),
            wants: BTreeMap::new(),
            shares: BTreeMap::new(),
            withheld: BTreeMap::new(),
            withheld_from: BTreeSet::new(),
            last: 0,
            leads: true,
            settling: None,
            patience: BTreeMap::new(),
            moved: None,
            answers: Vec::new(),
            gives: Vec::new(),
        }
    }

    /// Tells whether anything may become due.
    pub(super) fn is_idle(&self) -> bool {
        self.askers.is_empty() && self.settling.is_none() && !self.is_waited_for()
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.waited.is_empty() || !self.withheld.is_empty()
    }

    /// Another node is linked, or again. It keeps what it had until it has told what it has.
    pub(super) fn begin(&mut self, node: Author, now: Instant) {
        let it = self.askers.entry(node).or_default();
        (it.claimed, it.gone) = (None, None);
        if self.leads {
            self.await_claim(node, now);
        }
    }

    /// Waits for the claims of a node, in some time not longer than once: one whose link comes and goes does not stop all others.
    fn await_claim(&mut self, node: Author, now: Instant) {
        let new = Patience { since: now, spent: Duration::ZERO, begun: None };
        let it = self.patience.entry(node).or_insert(new);
        let left = CLAIMS_WAIT.saturating_sub(it.spent);
        if left.is_zero() || it.begun.is_some() {
            return;
        }
        it.begun = Some(now);
        self.settling.get_or_insert_default().insert(node, now + left);
    }

    /// The link to a node has ended, or it has another master.
    pub(super) fn end(&mut self, node: Author, now: Instant) {
        if let Some(it) = self.askers.get_mut(&node) {
            it.gone.get_or_insert(now);
            it.claimed = None;
            it.claims.clear();
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
            // Now it may be because of another node.
            self.patience.clear();
            let is_silent =
                |node: &Author| self.askers.get(node).is_none_or(|it| it.claimed.is_none());
            let silent: Vec<Author> = linked.iter().copied().filter(is_silent).collect();
            // Its own claims come at once.
            let silent = silent.into_iter().chain([self.own]);
            silent.for_each(|node| self.await_claim(node, now));
        } else {
            self.moved = Some(now);
            self.take_back(self.own);
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
        self.patience.retain(|_, it| it.begun.is_some() || now < it.since + AWAITED_EVERY);
        let settling = self.settling.iter().flatten();
        let late: Vec<Author> =
            settling.filter(|(_, until)| now >= **until).map(|(node, _)| *node).collect();
        late.into_iter().for_each(|node| self.claims_come(node, now));
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
            Ask::Cancel { id, file } => self.cancel(from, id, file, now),
            Ask::Lock { id, file, lock, .. }
            | Ask::Test { id, file, lock }
            | Ask::Unlock { id, file, lock } => {
                let lock = of(lock, from);
                let last = (file, lock.owner, 0)..=(file, lock.owner, u64::MAX);
                let last = self.withheld_from.range(last).next_back();
                let withheld = last.and_then(|(.., number)| self.withheld.get_mut(number));
                let Some(withheld) = withheld else {
                    return self.take_now(from, ask, now);
                };
                if self.shares.get(&from).is_none_or(|it| it.waiters < NODE_WAITERS_MAX) {
                    withheld.behind.push_back(ask);
                    self.shares.entry(from).or_default().waiters += 1;
                } else {
                    self.answer(from, Answer::Refused { id, refusal: Refusal::Full });
                }
            }
        }
    }

    fn take_now(&mut self, from: Author, ask: Ask, now: Instant) {
        match ask {
            Ask::Claim { .. } | Ask::Leave { .. } | Ask::Hello | Ask::Cancel { .. } => {}
            Ask::Lock { id, file, lock, waits } => {
                let want = Want::Lock { lock: of(lock, from), waits };
                self.arrive(file, (from, id, want), now);
            }
            Ask::Test { id, file, lock } => {
                let want = Want::Test { lock: of(lock, from) };
                self.arrive(file, (from, id, want), now);
            }
            Ask::Unlock { id, file, lock } => {
                let lock = of(lock, from);
                let is_split = self.files.get(&file).is_some_and(|it| it.table.is_split(&lock));
                if is_split && self.is_full(from, file) {
                    // Who asks has not counted its locks.
                    return self.answer(from, Answer::Refused { id, refusal: Refusal::Full });
                }
                self.change(file, from, |it| it.clear(&lock));
                self.answer(from, Answer::Unlocked { id });
                self.decide(file, now);
            }
        }
    }

    fn cancel(&mut self, from: Author, id: u64, file: FileId, now: Instant) {
        let cancelled = Answer::Refused { id, refusal: Refusal::Cancelled };
        let waiters = self.files.get(&file).map(|it| it.waiters.iter());
        let at = waiters.and_then(|mut it| it.position(|it| (it.from, it.id) == (from, id)));
        if let Some(at) = at {
            self.remove_waiter(file, at);
            self.answer(from, cancelled);
            return self.decide(file, now);
        }
        let mut withheld =
            self.withheld.iter().filter(|(_, it)| (it.from, it.file) == (from, file));
        let number = withheld.find_map(|(number, it)| (it.id == id).then_some(*number));
        if let Some(it) = number.and_then(|number| self.end_withheld(number)) {
            let Withheld { lock, before, behind, .. } = it;
            self.change(file, from, |it| {
                it.clear(&lock);
                before.into_iter().for_each(|lock| it.set(lock));
            });
            self.answer(from, cancelled);
            behind.into_iter().for_each(|ask| self.take(from, self.round_of(from), ask, now));
            return self.decide(file, now);
        }
        // Otherwise the answer is under way.
        for it in self.withheld.values_mut().filter(|it| (it.from, it.file) == (from, file)) {
            let is_it = |ask: &Ask| matches!(ask, Ask::Lock { id: of, .. } | Ask::Test { id: of, .. } if *of == id);
            if let Some(at) = it.behind.iter().position(is_it) {
                it.behind.remove(at);
                self.shares.entry(from).or_default().waiters -= 1;
                return self.answer(from, cancelled);
            }
        }
    }

    /// What was written here has been given to others.
    pub(super) fn given(&mut self, number: u64, now: Instant) {
        let Some(Withheld { from, id, behind, .. }) = self.end_withheld(number) else { return };
        self.answer(from, Answer::Granted { id });
        behind.into_iter().for_each(|ask| self.take(from, self.round_of(from), ask, now));
    }

    fn end_withheld(&mut self, number: u64) -> Option<Withheld> {
        let it = self.withheld.remove(&number)?;
        self.withheld_from.remove(&(it.file, it.lock.owner, number));
        if let Some(share) = self.shares.get_mut(&it.from) {
            share.waiters -= 1 + it.behind.len();
        }
        Some(it)
    }

    fn round_of(&self, node: Author) -> u64 {
        self.askers.get(&node).map_or(0, |it| it.round)
    }

    fn take_claim(
        &mut self,
        from: Author,
        round: u64,
        (is_first, is_last): (bool, bool),
        (locks, linked): (Vec<(FileId, Held)>, Vec<Author>),
        now: Instant,
    ) {
        if is_first {
            // It asks again for all that it waits for. What it had others get when it has told all.
            self.drop_waiters(from);
            let it = self.askers.entry(from).or_default();
            *it = Asker { round, ..Asker::default() };
        }
        let Some(it) = self.askers.get_mut(&from).filter(|it| it.round == round) else { return };
        let room = NODE_LOCKS_MAX.saturating_sub(it.claims.len());
        let mut locks = locks.into_iter();
        it.claims.extend(locks.by_ref().take(room));
        locks.for_each(|(file, lock)| self.answer(from, Answer::Lost { file, lock }));
        if is_last {
            self.end_claims(from, &linked, now);
        }
    }

    fn end_claims(&mut self, from: Author, linked: &[Author], now: Instant) {
        let Some(it) = self.askers.get_mut(&from) else { return };
        let claims = std::mem::take(&mut it.claims);
        it.claimed = Some(now);
        if from == self.own {
            self.askers.remove(&from);
        }
        self.take_back(from);
        claims.into_iter().for_each(|(file, lock)| self.claim(from, file, of(lock, from)));
        self.await_others(linked);
        self.claims_come(from, now);
        self.decide_all(now);
    }

    /// Whoever another node is linked with will be linked with this one soon, and may have what others want now.
    fn await_others(&mut self, linked: &[Author]) {
        let Some(settling) = &mut self.settling else { return };
        let Some(until) = settling.values().max().copied() else { return };
        let is_silent = |node: &Author| {
            let has_claimed = |it: &Asker| it.claimed.or(it.gone).is_some();
            *node != self.own && !self.askers.get(node).is_some_and(has_claimed)
        };
        for node in linked.iter().copied().filter(is_silent) {
            settling.entry(node).or_insert(until);
        }
    }

    fn claim(&mut self, from: Author, file: FileId, lock: Held) {
        if is_private(file) && from != self.own {
            return;
        }
        let table = self.files.get(&file).map(|it| &it.table);
        let is_free = table.is_none_or(|it| it.conflict(&lock).is_none());
        if is_free && !self.is_full(from, file) {
            self.change(file, from, |it| it.set(lock));
        } else {
            self.answer(from, Answer::Lost { file, lock });
        }
    }

    /// The claims of a node are here, or will not come.
    fn claims_come(&mut self, node: Author, now: Instant) {
        if let Some(it) = self.patience.get_mut(&node)
            && let Some(begun) = it.begun.take()
        {
            it.spent += now.saturating_duration_since(begun);
        }
        let Some(settling) = &mut self.settling else { return };
        settling.remove(&node);
        if settling.is_empty() {
            self.settling = None;
            self.decide_all(now);
        }
    }

    fn arrive(&mut self, file: FileId, (from, id, want): (Author, u64, Want), now: Instant) {
        let is_allowed = !is_private(file) || from == self.own;
        if !is_allowed || self.shares.get(&from).is_some_and(|it| it.waiters >= NODE_WAITERS_MAX) {
            return self.answer(from, Answer::Refused { id, refusal: Refusal::Full });
        }
        let until = now + TRY_MAX;
        let waiter = Waiter { from, id, want, until, is_checked: false, blocker: None };
        if waiter.waits() {
            let lock = *want.lock();
            self.wants.entry(lock.owner).or_default().push((file, id, lock));
        }
        self.shares.entry(from).or_default().waiters += 1;
        self.waited.insert(file);
        self.files.entry(file).or_default().waiters.push_back(waiter);
        self.decide(file, now);
    }

    fn remove_waiter(&mut self, file: FileId, at: usize) -> Option<Waiter> {
        let it = self.files.get_mut(&file)?;
        let waiter = it.waiters.remove(at)?;
        if it.waiters.is_empty() {
            self.waited.remove(&file);
        }
        self.note_removed(file, &waiter);
        Some(waiter)
    }

    fn note_removed(&mut self, file: FileId, waiter: &Waiter) {
        if let Some(share) = self.shares.get_mut(&waiter.from) {
            share.waiters -= 1;
        }
        let owner = waiter.want.lock().owner;
        if let Some(wants) = self.wants.get_mut(&owner) {
            wants.retain(|(of, id, _)| (*of, *id) != (file, waiter.id));
            if wants.is_empty() {
                self.wants.remove(&owner);
            }
        }
    }

    /// Changes the locks of a node on a file.
    fn change(&mut self, file: FileId, node: Author, change: impl FnOnce(&mut Table)) {
        let table = &mut self.files.entry(file).or_default().table;
        let before = table.len();
        change(table);
        let after = table.len();
        let share = self.shares.entry(node).or_default();
        share.locks = (share.locks + after).saturating_sub(before);
        let count = share.files.get(&file).copied().unwrap_or_default();
        let count = (count + after).saturating_sub(before);
        if count > 0 {
            share.files.insert(file, count);
        } else {
            share.files.remove(&file);
        }
    }

    /// Tells whether a node has as many locks as it may have.
    fn is_full(&self, node: Author, file: FileId) -> bool {
        let Some(share) = self.shares.get(&node) else { return false };
        let here = share.files.get(&file).copied().unwrap_or_default();
        here + 2 > LOCKS_MAX || share.locks + 2 > NODE_LOCKS_MAX
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
        let waited: Vec<FileId> = self.waited.iter().copied().collect();
        waited.into_iter().for_each(|file| self.decide(file, now));
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
                Some(answer) => self.note(file, at, answer),
                None => {
                    at += 1;
                    self.give_up(file, waiter.want)
                }
            };
            // Somebody who waits for longer may get it.
            at = if has_given_up { 0 } else { at };
        }
        self.drop_unused(file);
    }

    /// Returns the answer to a request, if there is one by now.
    fn judge(&mut self, file: FileId, at: usize, now: Instant) -> Option<Answer> {
        let it = self.files.get(&file)?;
        let (waiter, table) = (*it.waiters.get(at)?, &it.table);
        let id = waiter.id;
        let former = waiter.blocker.filter(|held| table.contains(held));
        let Some(held) = former.or_else(|| table.conflict(waiter.want.lock()).copied()) else {
            return Some(match waiter.want {
                Want::Test { .. } => Answer::Free { id },
                _ if self.is_full(waiter.from, file) => {
                    Answer::Refused { id, refusal: Refusal::Full }
                }
                _ => Answer::Granted { id },
            });
        };
        self.files.get_mut(&file)?.waiters.get_mut(at)?.blocker = Some(held);
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
        let has = self.files.get(&file).is_some_and(|it| it.table.has(&lock));
        if is_flock && has {
            self.change(file, lock.owner.node, |it| it.clear(&lock));
        }
        is_flock && has
    }

    /// Notes an answer and gives it. Returns whether somebody has less than before.
    fn note(&mut self, file: FileId, at: usize, answer: Answer) -> bool {
        let Some(Waiter { from, id, want, .. }) = self.remove_waiter(file, at) else {
            return false;
        };
        let Want::Lock { lock, .. } = want else {
            self.answer(from, answer);
            return false;
        };
        if !matches!(answer, Answer::Granted { .. }) {
            self.answer(from, answer);
            // What waits has no lock of its own already.
            return self.give_up(file, Want::Lock { lock, waits: true });
        }
        let table = self.files.get(&file).map(|it| &it.table);
        let before: Vec<Held> =
            table.map(|it| it.own(&lock).copied().collect()).unwrap_or_default();
        let had = !before.is_empty();
        self.change(file, from, |it| it.set(lock));
        if from == self.own {
            self.answer(from, answer);
            return had;
        }
        // What this node's programs wrote is seen by whoever gets the lock.
        self.last += 1;
        let withheld = Withheld { from, id, file, lock, before, behind: VecDeque::new() };
        self.withheld.insert(self.last, withheld);
        self.withheld_from.insert((file, lock.owner, self.last));
        self.shares.entry(from).or_default().waiters += 1;
        self.gives.push((self.last, file));
        had
    }

    /// Tells whether the owner of a lock would wait for itself.
    fn is_deadlock(&self, file: FileId, lock: &Held) -> bool {
        if lock.space == Space::Flock {
            return false;
        }
        let mut seen: BTreeSet<Owner> = BTreeSet::new();
        let mut next: Vec<(FileId, Held)> = vec![(file, *lock)];
        let mut steps = 0;
        while let Some((file, wanted)) = next.pop() {
            let Some(it) = self.files.get(&file) else { continue };
            steps += it.table.len();
            if steps > DEADLOCK_STEPS_MAX {
                return false;
            }
            for held in it.table.conflicts(&wanted) {
                if held.owner == lock.owner {
                    return true;
                }
                if seen.insert(held.owner) {
                    let wants = self.wants.get(&held.owner).into_iter().flatten();
                    next.extend(wants.map(|(file, _, lock)| (*file, *lock)));
                }
            }
        }
        false
    }

    fn answer(&mut self, to: Author, answer: Answer) {
        self.answers.push((to, self.round_of(to), answer));
    }

    /// Takes away all that a node has or waits for. Nobody gets it yet.
    fn take_back(&mut self, node: Author) {
        self.drop_waiters(node);
        let Some(share) = self.shares.get(&node) else { return };
        let files: Vec<FileId> =
            share.files.keys().copied().filter(|it| !is_private(*it)).collect();
        for file in files {
            self.change(file, node, |it| it.take_back(node));
            self.drop_unused(file);
        }
    }

    fn drop_unused(&mut self, file: FileId) {
        if self.files.get(&file).is_some_and(File::is_unused) {
            self.files.remove(&file);
        }
    }

    fn drop_waiters(&mut self, node: Author) {
        let withheld = self.withheld.iter().filter(|(_, it)| it.from == node);
        let withheld: Vec<u64> = withheld.map(|(number, _)| *number).collect();
        withheld.into_iter().for_each(|number| drop(self.end_withheld(number)));
        let is_kept = |file: &FileId| node == self.own && is_private(*file);
        let files: Vec<FileId> = self.waited.iter().copied().filter(|it| !is_kept(it)).collect();
        for file in files {
            let Some(it) = self.files.get_mut(&file) else { continue };
            let waiters = std::mem::take(&mut it.waiters).into_iter();
            let (dropped, kept): (VecDeque<_>, _) = waiters.partition(|waiter| waiter.from == node);
            it.waiters = kept;
            if it.waiters.is_empty() {
                self.waited.remove(&file);
            }
            dropped.iter().for_each(|waiter| self.note_removed(file, waiter));
            self.drop_unused(file);
        }
        let is_nothing = |it: &Share| it.locks == 0 && it.waiters == 0;
        if self.shares.get(&node).is_some_and(is_nothing) {
            self.shares.remove(&node);
        }
    }
}

/// A node speaks of its own locks only.
fn of(lock: Held, node: Author) -> Held {
    Held { owner: Owner { node, ..lock.owner }, ..lock }
}
