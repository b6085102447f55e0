//! What a node's own programs have and want, and what it says of that to its master.
//!
//! The master answers in the order in which it decides, and so `held` is at any time what the master had noted at some moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use worknode::history::{Author, FileId};

use super::message::{Answer, Ask, CLAIMS_MAX, Refusal};
use super::table::{Held, Mode, Space, Table, is_private};

/// Most requests of a node without an answer.
pub const WAITERS_MAX: usize = 1024;
/// Longest wait for the answer to a request that does not wait for a lock.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What a program is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It has its lock.
    Granted { id: u64 },
    /// Nothing is in the way.
    Free { id: u64 },
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
}

/// A request without an answer.
#[derive(Debug, Clone, Copy)]
struct Pending {
    file: FileId,
    want: Want,
    until: Option<Instant>,
    is_cancelled: bool,
}

/// The own programs.
#[derive(Debug)]
pub(super) struct Client {
    own: Author,
    pub(super) master: Author,
    pub(super) round: u64,
    held: BTreeMap<FileId, Table>,
    pending: BTreeMap<u64, Pending>,
    last: u64,
    /// To whom something is said, and about which file whose contents others must see first.
    pub(super) asks: Vec<(Author, Option<FileId>, Ask)>,
    pub(super) told: Vec<Told>,
}

impl Client {
    pub(super) fn new(own: Author) -> Self {
        Self {
            own,
            master: own,
            round: 0,
            held: BTreeMap::new(),
            pending: BTreeMap::new(),
            last: 0,
            asks: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Tells whether an answer is outstanding.
    pub(super) fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes a program's request, and returns its number.
    pub(super) fn request(&mut self, file: FileId, want: Want, now: Instant) -> u64 {
        self.last += 1;
        let id = self.last;
        if self.pending.len() >= WAITERS_MAX {
            self.told.push(Told::Refused { id, refusal: Refusal::Full });
            return id;
        }
        let until = match want {
            Want::Lock { waits: true, .. } => None,
            _ => Some(now + ANSWER_MAX),
        };
        self.pending.insert(id, Pending { file, want, until, is_cancelled: false });
        self.ask(id);
        id
    }

    /// Gives back what an owner has, or is about to get, in the range of a lock.
    pub(super) fn unlock(&mut self, file: FileId, lock: Held) {
        let own = self.pending.values().rev();
        let mut own = own.filter(|it| (it.file, it.want.lock().owner) == (file, lock.owner));
        let covers =
            |it: &Held| it.space == lock.space && it.start <= lock.start && it.end >= lock.end;
        let is_over = match own.next().map(|it| it.want) {
            // It was said already: so no more wait than there were locks.
            Some(Want::Unlock { lock }) => covers(&lock),
            Some(_) => false,
            None => !self.held.get(&file).is_some_and(|it| it.has(&lock)),
        };
        if is_over {
            return;
        }
        self.last += 1;
        let want = Want::Unlock { lock };
        self.pending.insert(self.last, Pending { file, want, until: None, is_cancelled: false });
        self.ask(self.last);
    }

    /// A program does not want to wait any longer. It is told whether it has its lock all the same.
    pub(super) fn cancel(&mut self, id: u64, now: Instant) {
        let Some(it) = self.pending.get_mut(&id) else { return };
        if !std::mem::replace(&mut it.is_cancelled, true) {
            it.until = Some(now + ANSWER_MAX);
            let file = it.file;
            self.say(file, None, Ask::Cancel { id, file });
        }
    }

    /// Takes an answer.
    pub(super) fn hear(&mut self, answer: Answer) {
        match answer {
            Answer::Granted { id } => self.take_grant(id),
            Answer::Free { id } => {
                if self.pending.remove(&id).is_some() {
                    self.told.push(Told::Free { id });
                }
            }
            Answer::Refused { id, refusal } => self.take_refusal(id, refusal),
            Answer::Unlocked { id } => {
                if let Some(it) = self.pending.remove(&id) {
                    self.clear(it.file, it.want.lock());
                }
            }
            Answer::Lost { file, lock } => {
                if self.held.get(&file).is_some_and(|it| it.has(&lock)) {
                    self.clear(file, &lock);
                    self.told.push(Told::Lost { file, lock });
                }
            }
        }
    }

    fn take_grant(&mut self, id: u64) {
        if let Some(Pending { file, want, .. }) = self.pending.remove(&id) {
            self.held.entry(file).or_default().set(*want.lock());
            self.told.push(Told::Granted { id });
        }
    }

    fn take_refusal(&mut self, id: u64, refusal: Refusal) {
        let Some(Pending { file, want, .. }) = self.pending.remove(&id) else { return };
        if let Want::Lock { lock, .. } = want
            && lock.space == Space::Flock
        {
            // Whoever wants another mode of `flock` gives up the one it has.
            self.clear(file, &lock);
        }
        self.told.push(Told::Refused { id, refusal });
    }

    /// Refuses what was not answered in time. Returns whether the master may have granted it: then it is to be told all again.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let is_late = |it: &Pending| it.until.is_some_and(|until| now >= until);
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, it)| is_late(it)).map(|(id, _)| *id).collect();
        for id in &late {
            self.pending.remove(id);
            self.told.push(Told::Late { id: *id });
        }
        !late.is_empty()
    }

    /// Begins a round: tells a master what there is, and asks it for what is outstanding.
    pub(super) fn restart(&mut self, master: Author, linked: &[Author]) {
        self.master = master;
        self.round += 1;
        self.claim(linked);
        // If the former master has granted them, that was not claimed.
        let is_over = |it: &Pending| it.is_cancelled && !is_private(it.file);
        for (id, _) in self.pending.extract_if(.., |_, it| is_over(it)) {
            self.told.push(Told::Refused { id, refusal: Refusal::Cancelled });
        }
        let public = self.pending.iter().filter(|(_, it)| !is_private(it.file));
        let again: Vec<u64> = public.map(|(id, _)| *id).collect();
        again.into_iter().for_each(|id| self.ask(id));
    }

    fn claim(&mut self, linked: &[Author]) {
        let mut locks = Vec::new();
        for (&file, table) in self.held.iter().filter(|(file, _)| !is_private(**file)) {
            let mut table = table.clone();
            // What the former master has perhaps given to others by now is not claimed.
            for it in self.pending.values().filter(|it| it.file == file) {
                match it.want {
                    Want::Unlock { lock } => table.clear(&lock),
                    Want::Lock { lock, .. } if lock.space == Space::Flock => table.clear(&lock),
                    Want::Lock { lock, .. } if lock.mode == Mode::Shared => table.share(&lock),
                    Want::Lock { .. } | Want::Test { .. } => {}
                }
            }
            locks.extend(table.all().iter().map(|lock| (file, *lock)));
        }
        let chunks: Vec<_> = locks.chunks(CLAIMS_MAX).map(<[_]>::to_vec).collect();
        let count = chunks.len().max(1);
        let mut chunks = chunks.into_iter();
        for at in 0..count {
            let locks = chunks.next().unwrap_or_default();
            let (is_first, is_last) = (at == 0, at + 1 == count);
            let claim = Ask::Claim { is_first, is_last, locks, linked: linked.to_vec() };
            // What was given back since the last round is seen by whoever gets it.
            self.asks.push((self.master, Some(FileId::default()), claim));
        }
    }

    fn ask(&mut self, id: u64) {
        let Some(&Pending { file, want, .. }) = self.pending.get(&id) else { return };
        let ask = match want {
            Want::Lock { lock, waits } => Ask::Lock { id, file, lock, waits },
            Want::Test { lock } => Ask::Test { id, file, lock },
            Want::Unlock { lock } => Ask::Unlock { id, file, lock },
        };
        let has = |lock| self.held.get(&file).is_some_and(|it| it.has(lock));
        let gives_back = match want {
            Want::Lock { lock, .. } => has(&lock),
            Want::Test { .. } => false,
            Want::Unlock { .. } => true,
        };
        self.say(file, gives_back.then_some(file), ask);
    }

    fn say(&mut self, file: FileId, first: Option<FileId>, ask: Ask) {
        let to = if is_private(file) { self.own } else { self.master };
        self.asks.push((to, first, ask));
    }

    fn clear(&mut self, file: FileId, lock: &Held) {
        if let Some(table) = self.held.get_mut(&file) {
            table.clear(lock);
            if table.is_empty() {
                self.held.remove(&file);
            }
        }
    }
}
