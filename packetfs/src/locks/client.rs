//! What a node's own programs have and want, and what it says of that to its master.
//!
//! The master answers what an owner asks about a file in the order in which it decides, and so `held` is at any time what the
//! master had noted at some moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use worknode::history::{Author, FileId};

use super::limits::{ANSWER_MAX, CLAIMS_MAX, LOCKS_MAX, RELEASES_MAX};
use super::message::{Answer, Ask, Refusal};
use super::shares::Shares;
use super::table::{Held, Mode, Owner, Space, Table, is_private};

/// What a program is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It has its lock.
    Granted { id: u64 },
    /// Nothing is in the way.
    Free { id: u64 },
    /// It has given back what it had, or that will be so soon.
    Released { id: u64 },
    /// It does not get its lock.
    Refused { id: u64, refusal: Refusal },
    /// The master did not answer in time.
    Late { id: u64 },
    /// It has lost its lock.
    Lost { file: FileId, lock: Held },
}

/// What a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A lock, and whether it waits for it.
    Lock { lock: Held, waits: bool },
    /// Which lock would exclude this one.
    Test { lock: Held },
    /// To give back what it has in the range of this one.
    Unlock { lock: Held },
}

impl Want {
    /// Returns the lock that it is about.
    #[must_use]
    pub fn lock(&self) -> &Held {
        match self {
            Self::Lock { lock, .. } | Self::Test { lock } | Self::Unlock { lock } => lock,
        }
    }

    fn is_unlock(&self) -> bool {
        matches!(self, Self::Unlock { .. })
    }

    /// Tells whether an answer may be one to this.
    fn fits(&self, answer: &Answer, is_cancelled: bool) -> bool {
        let Answer::Refused { refusal, .. } = answer else {
            return matches!(
                (self, answer),
                (Self::Lock { .. }, Answer::Granted { .. })
                    | (Self::Test { .. }, Answer::Free { .. })
                    | (Self::Unlock { .. }, Answer::Unlocked { .. })
            );
        };
        match (refusal, self) {
            (Refusal::Full, _) => true,
            (Refusal::Held(held), Self::Lock { lock, waits: false } | Self::Test { lock }) => {
                held.excludes(lock)
            }
            (Refusal::Deadlock, Self::Lock { waits, .. }) => *waits,
            (Refusal::Cancelled, Self::Lock { .. } | Self::Test { .. }) => is_cancelled,
            _ => false,
        }
    }
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its owner's last request about this file comes first.
    Behind,
    /// What was written under the lock is being given to others.
    Giving,
    /// The master is to answer it.
    Asked,
}

/// A request without an answer.
#[derive(Debug, Clone, Copy)]
struct Pending {
    file: FileId,
    want: Want,
    user: u32,
    until: Option<Instant>,
    stage: Stage,
    /// A master knows of it, and has perhaps given to others what it gives back.
    was_asked: bool,
    is_cancelled: bool,
    /// Its program goes on, or there is none.
    is_told: bool,
}

/// The own programs.
#[derive(Debug)]
pub(super) struct Client {
    own: Author,
    pub(super) master: Author,
    pub(super) round: u64,
    held: BTreeMap<FileId, Table>,
    /// Who has the locks of an owner.
    users: BTreeMap<(FileId, Owner), u32>,
    pending: BTreeMap<u64, Pending>,
    /// The same by owner.
    queues: BTreeSet<(FileId, Owner, u64)>,
    shares: Shares,
    last: u64,
    /// To whom something is said.
    pub(super) asks: Vec<(Author, Ask)>,
    /// Requests before which what was written to their files is to be given to others, with the user.
    pub(super) gives: Vec<(u64, FileId, u32)>,
    pub(super) told: Vec<Told>,
}

impl Client {
    pub(super) fn new(own: Author) -> Self {
        Self {
            own,
            master: own,
            round: 0,
            held: BTreeMap::new(),
            users: BTreeMap::new(),
            pending: BTreeMap::new(),
            queues: BTreeSet::new(),
            shares: Shares::default(),
            last: 0,
            asks: Vec::new(),
            gives: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Tells whether an answer is outstanding.
    pub(super) fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns what an owner has in the range of a lock.
    pub(super) fn own(&self, file: FileId, lock: &Held) -> Vec<Held> {
        self.held.get(&file).map(|it| it.own(lock).copied().collect()).unwrap_or_default()
    }

    /// Takes a program's request, and returns its number.
    pub(super) fn request(&mut self, file: FileId, want: Want, user: u32, now: Instant) -> u64 {
        self.last += 1;
        let id = self.last;
        if !self.has_room(file, &want, user) {
            self.told.push(Told::Refused { id, refusal: Refusal::Full });
            return id;
        }
        let is_told = want.is_unlock()
            && (self.is_over(file, want.lock()) || self.shares.releases(user) < RELEASES_MAX);
        if is_told {
            self.told.push(Told::Released { id });
        }
        if !want.is_unlock() || !self.is_over(file, want.lock()) {
            self.add(id, (file, want, user), is_told, now);
        }
        id
    }

    /// Gives back what an owner has, or is about to get, in the range of a lock. No program waits for that.
    pub(super) fn unlock(&mut self, file: FileId, lock: Held, user: u32, now: Instant) {
        if !self.is_over(file, &lock) {
            self.last += 1;
            self.add(self.last, (file, Want::Unlock { lock }, user), true, now);
        }
    }

    fn has_room(&self, file: FileId, want: &Want, user: u32) -> bool {
        let held = self.held.get(&file);
        let is_split = || held.is_some_and(|it| it.is_split(want.lock()));
        let grows = match want {
            Want::Lock { .. } => true,
            Want::Test { .. } => false,
            Want::Unlock { .. } => is_split(),
        };
        if grows {
            let (first, last) = (Owner::FIRST, Owner::LAST);
            let coming = self.queues.range((file, first, 0)..=(file, last, u64::MAX)).count();
            let count = held.map_or(0, Table::len) + 2 * (coming + 1);
            if count > LOCKS_MAX || !self.shares.may_lock(user) {
                return false;
            }
        }
        want.is_unlock() || self.shares.may_wait(user)
    }

    /// Tells whether nothing is to be given back. What was said already is not said again: so no more releases wait than there
    /// were locks.
    fn is_over(&self, file: FileId, lock: &Held) -> bool {
        let covers =
            |it: &Held| it.space == lock.space && it.start <= lock.start && it.end >= lock.end;
        let last = self.queue(file, lock.owner).next_back();
        match last.and_then(|id| self.pending.get(&id)).map(|it| it.want) {
            Some(Want::Unlock { lock }) => covers(&lock),
            Some(_) => false,
            None => !self.held.get(&file).is_some_and(|it| it.has(lock)),
        }
    }

    fn queue(&self, file: FileId, owner: Owner) -> impl DoubleEndedIterator<Item = u64> {
        self.queues.range((file, owner, 0)..=(file, owner, u64::MAX)).map(|(.., id)| *id)
    }

    fn add(&mut self, id: u64, of: (FileId, Want, u32), is_told: bool, now: Instant) {
        let (file, want, user) = of;
        let until = match want {
            Want::Lock { waits: true, .. } | Want::Unlock { .. } => None,
            _ => Some(now + ANSWER_MAX),
        };
        let (stage, was_asked, is_cancelled) = (Stage::Behind, false, false);
        let it = Pending { file, want, user, until, stage, was_asked, is_cancelled, is_told };
        self.shares.begin(user, want.is_unlock());
        let owner = want.lock().owner;
        self.queues.insert((file, owner, id));
        self.pending.insert(id, it);
        self.go_on(file, owner, now);
    }

    fn remove(&mut self, id: u64) -> Option<Pending> {
        let it = self.pending.remove(&id)?;
        self.queues.remove(&(it.file, it.want.lock().owner, id));
        self.shares.end(it.user, it.want.is_unlock());
        Some(it)
    }

    /// Asks what an owner may ask about a file by now.
    fn go_on(&mut self, file: FileId, owner: Owner, now: Instant) {
        let queue: Vec<u64> = self.queue(file, owner).collect();
        for id in queue {
            match self.pending.get(&id).map(|it| it.stage) {
                Some(Stage::Giving) => break,
                Some(Stage::Behind) if self.begin_giving(id) => break,
                Some(Stage::Behind) => self.ask(id, now),
                Some(Stage::Asked) | None => {}
            }
        }
    }

    /// Has given to others what was written under what a request gives back. Tells whether that is needed.
    fn begin_giving(&mut self, id: u64) -> bool {
        let Some(&Pending { file, want, user, .. }) = self.pending.get(&id) else { return false };
        let has = |lock| self.held.get(&file).is_some_and(|it| it.has(lock));
        let gives_back = match want {
            Want::Lock { lock, .. } => has(&lock),
            Want::Test { .. } => false,
            Want::Unlock { .. } => true,
        };
        let is_needed = gives_back && self.judge_of(file) != self.own;
        if is_needed {
            self.gives.push((id, file, user));
            self.set_stage(id, Stage::Giving);
        }
        is_needed
    }

    fn set_stage(&mut self, id: u64, stage: Stage) {
        if let Some(it) = self.pending.get_mut(&id) {
            it.stage = stage;
        }
    }

    /// What was written before a request has been given to others.
    pub(super) fn given(&mut self, id: u64, now: Instant) {
        let Some(&it) = self.pending.get(&id).filter(|it| it.stage == Stage::Giving) else {
            return;
        };
        self.ask(id, now);
        self.go_on(it.file, it.want.lock().owner, now);
    }

    /// A program does not want to wait any longer. It is told whether it has its lock all the same.
    pub(super) fn cancel(&mut self, id: u64, now: Instant) {
        let Some(it) = self.pending.get_mut(&id).filter(|it| !it.is_told) else { return };
        let Pending { file, want, stage, .. } = *it;
        if std::mem::replace(&mut it.is_cancelled, true) {
            return;
        }
        if stage != Stage::Asked {
            self.drop_request(id, Told::Refused { id, refusal: Refusal::Cancelled });
            return self.go_on(file, want.lock().owner, now);
        }
        it.until = Some(it.until.map_or(now + ANSWER_MAX, |until| until.min(now + ANSWER_MAX)));
        if !want.is_unlock() {
            self.say(file, Ask::Cancel { id, file });
        }
    }

    /// Ends a request that no master has answered. What one has perhaps given to others for it is theirs.
    fn drop_request(&mut self, id: u64, told: Told) {
        let Some(Pending { file, want, was_asked, .. }) = self.remove(id) else { return };
        self.told.push(told);
        match want {
            Want::Lock { lock, .. } if was_asked && lock.space == Space::Flock => {
                self.change(file, &lock, |it| it.clear(&lock));
            }
            Want::Lock { lock, .. } if was_asked && lock.mode == Mode::Shared => {
                self.change(file, &lock, |it| it.share(&lock));
            }
            _ => {}
        }
    }

    /// Takes an answer of the master. Tells whether it may be one to what was asked.
    pub(super) fn hear(&mut self, from: Author, answer: Answer) -> bool {
        let id = match answer {
            Answer::Lost { file, lock } => {
                let may_say = from == self.judge_of(file) && lock.owner.node == self.own;
                if may_say && self.held.get(&file).is_some_and(|it| it.has(&lock)) {
                    self.change(file, &lock, |it| it.clear(&lock));
                    self.told.push(Told::Lost { file, lock });
                }
                return may_say;
            }
            Answer::Granted { id }
            | Answer::Free { id }
            | Answer::Refused { id, .. }
            | Answer::Unlocked { id } => id,
        };
        // It may have come too late.
        let Some(it) = self.pending.get(&id) else { return true };
        let is_asked = it.stage == Stage::Asked && from == self.judge_of(it.file);
        if !is_asked || !it.want.fits(&answer, it.is_cancelled) {
            return false;
        }
        let Some(it) = self.remove(id) else { return true };
        self.take(id, it, answer);
        true
    }

    fn take(&mut self, id: u64, it: Pending, answer: Answer) {
        let Pending { file, want, user, is_told, .. } = it;
        let lock = *want.lock();
        let told = match answer {
            Answer::Granted { .. } => {
                self.users.entry((file, lock.owner)).or_insert(user);
                self.change(file, &lock, |it| it.set(lock));
                Told::Granted { id }
            }
            Answer::Unlocked { .. } => {
                self.change(file, &lock, |it| it.clear(&lock));
                Told::Released { id }
            }
            Answer::Refused { refusal, .. } => {
                if matches!(want, Want::Lock { .. }) && lock.space == Space::Flock {
                    // Whoever wants another mode of `flock` gives up the one it has.
                    self.change(file, &lock, |it| it.clear(&lock));
                }
                Told::Refused { id, refusal }
            }
            Answer::Free { .. } | Answer::Lost { .. } => Told::Free { id },
        };
        if !is_told {
            self.told.push(told);
        }
    }

    /// Refuses what was not answered in time. Returns whether the master may have granted it: then it is to be told all again.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let is_late = |it: &Pending| it.until.is_some_and(|until| now >= until);
        let late = self.pending.iter().filter(|(_, it)| is_late(it));
        let late: Vec<(u64, Pending)> = late.map(|(id, it)| (*id, *it)).collect();
        let mut is_unknown = false;
        for (id, it) in late {
            is_unknown |= it.stage == Stage::Asked;
            if it.want.is_unlock() {
                // It is over with the next round.
                if !it.is_told {
                    self.told.push(Told::Released { id });
                    self.pending.entry(id).and_modify(|it| it.is_told = true);
                }
                continue;
            }
            let refusal = Refusal::Cancelled;
            let told = match it.is_cancelled {
                true => Told::Refused { id, refusal },
                false => Told::Late { id },
            };
            self.drop_request(id, told);
            self.go_on(it.file, it.want.lock().owner, now);
        }
        is_unknown
    }

    /// Begins a round: tells a master what there is, and asks it for what is outstanding.
    pub(super) fn restart(&mut self, master: Author, linked: &[Author], now: Instant) {
        self.master = master;
        self.round += 1;
        self.end_releases();
        self.claim(linked);
        // If the former master has granted them, that was not claimed.
        let asked = self.pending.iter();
        let asked = asked.filter(|(_, it)| it.stage == Stage::Asked && !is_private(it.file));
        let asked: Vec<(u64, Pending)> = asked.map(|(id, it)| (*id, *it)).collect();
        for (id, it) in &asked {
            if it.is_cancelled && !it.want.is_unlock() {
                self.drop_request(*id, Told::Refused { id: *id, refusal: Refusal::Cancelled });
            } else {
                self.set_stage(*id, Stage::Behind);
            }
        }
        for (_, it) in asked {
            self.go_on(it.file, it.want.lock().owner, now);
        }
    }

    /// What is not claimed is given back. That comes too early only if its owner waits for a lock that it asked for before.
    fn end_releases(&mut self) {
        let mut waiting = BTreeSet::new();
        let mut over = Vec::new();
        for (id, it) in self.pending.iter().filter(|(_, it)| !is_private(it.file)) {
            let of = (it.file, it.want.lock().owner);
            match it.want {
                Want::Unlock { .. } if it.stage == Stage::Asked && !waiting.contains(&of) => {
                    over.push(*id);
                }
                Want::Lock { .. } if !it.is_cancelled => drop(waiting.insert(of)),
                _ => {}
            }
        }
        for id in over {
            if let Some(it) = self.remove(id) {
                self.take(id, it, Answer::Unlocked { id });
            }
        }
    }

    fn claim(&mut self, linked: &[Author]) {
        let mut locks = Vec::new();
        for (&file, table) in self.held.iter().filter(|(file, _)| !is_private(**file)) {
            let mut table = table.clone();
            // What the former master has perhaps given to others by now is not claimed.
            for id in self.queues.range((file, Owner::FIRST, 0)..=(file, Owner::LAST, u64::MAX)) {
                let it = self.pending.get(&id.2).filter(|it| it.was_asked);
                match it.map(|it| it.want) {
                    Some(Want::Unlock { lock }) => table.clear(&lock),
                    Some(Want::Lock { lock, .. }) if lock.space == Space::Flock => {
                        table.clear(&lock);
                    }
                    Some(Want::Lock { lock, .. }) if lock.mode == Mode::Shared => {
                        table.share(&lock);
                    }
                    Some(Want::Lock { .. } | Want::Test { .. }) | None => {}
                }
            }
            locks.extend(table.all().map(|lock| (file, *lock)));
        }
        let chunks: Vec<_> = locks.chunks(CLAIMS_MAX).map(<[_]>::to_vec).collect();
        let count = chunks.len().max(1);
        let mut chunks = chunks.into_iter();
        for at in 0..count {
            let locks = chunks.next().unwrap_or_default();
            let (is_first, is_last) = (at == 0, at + 1 == count);
            let claim = Ask::Claim { is_first, is_last, locks, linked: linked.to_vec() };
            self.asks.push((self.master, claim));
        }
    }

    fn ask(&mut self, id: u64, now: Instant) {
        let Some(it) = self.pending.get_mut(&id) else { return };
        (it.stage, it.was_asked) = (Stage::Asked, true);
        let Pending { file, want, .. } = *it;
        let ask = match want {
            Want::Lock { lock, waits } => Ask::Lock { id, file, lock, waits },
            Want::Test { lock } => Ask::Test { id, file, lock },
            Want::Unlock { lock } => {
                it.until = Some(now + ANSWER_MAX);
                Ask::Unlock { id, file, lock }
            }
        };
        self.say(file, ask);
    }

    /// Returns who decides about a file.
    fn judge_of(&self, file: FileId) -> Author {
        if is_private(file) { self.own } else { self.master }
    }

    fn say(&mut self, file: FileId, ask: Ask) {
        self.asks.push((self.judge_of(file), ask));
    }

    /// Changes what the owner of a lock has.
    fn change(&mut self, file: FileId, lock: &Held, change: impl FnOnce(&mut Table)) {
        let table = self.held.entry(file).or_default();
        let before = table.len();
        change(table);
        let (after, has_any) = (table.len(), table.has(&Held::all_of(lock.owner)));
        if table.is_empty() {
            self.held.remove(&file);
        }
        if let Some(user) = self.users.get(&(file, lock.owner)) {
            self.shares.note_locks(*user, before, after);
        }
        if !has_any {
            self.users.remove(&(file, lock.owner));
        }
    }
}
