//! Nodes that agree about locks while messages are slow, links come up one by one, and are cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use worknode::history::{Author, FileId};

use super::super::limits::{ANSWER_MAX, CLAIMS_WAIT, GONE_AFTER, ROUND_EVERY, TRY_MAX};
use super::super::table::{Held, Mode, Owner, Space, Table};
use super::super::{Action, Node, Refusal, Ticket, Told, Want, Word};
use super::{Dice, seed};

const COUNT: usize = 4;
const STEPS: u64 = 300;
const HISTORIES: u64 = 100;
const FILES: [u64; 2] = [1, 2];
const OWNERS: u64 = 3;
pub(super) const USER: u32 = 1000;

pub(super) fn author(at: usize) -> Author {
    Author([u8::try_from(at + 1).unwrap(); 16])
}

pub(super) fn file(seq: u64) -> FileId {
    FileId { author: Author([9; 16]), seq }
}

pub(super) fn lock(node: usize, id: u64, mode: Mode, (start, end): (u64, u64)) -> Held {
    let owner = Owner { node: author(node), id };
    Held { owner, space: Space::Range, mode, start, end, pid: 0 }
}

/// The request of a program.
pub(super) type Number = (usize, u64);

/// Some nodes, and the messages between them.
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    links: BTreeSet<(usize, usize)>,
    pub(super) waiting: BTreeMap<(usize, usize), VecDeque<(u64, Word)>>,
    /// What is to be given to others first, of each node.
    pub(super) gives: Vec<(usize, Ticket)>,
    pub(super) now: Instant,
    wants: BTreeMap<Number, (FileId, Want)>,
    pub(super) told: BTreeMap<Number, Told>,
    /// What the programs of each node believe to have.
    held: BTreeMap<(usize, FileId), Table>,
    /// What they have given back, and the number of their last request before.
    released: Vec<((usize, FileId), u64, Held)>,
    lost: Vec<Held>,
    pub(super) sent: u64,
    seed: u64,
}

impl World {
    pub(super) fn new(count: usize, seed: u64) -> Self {
        Self {
            nodes: (0..count).map(|at| Node::new(author(at))).collect(),
            links: BTreeSet::new(),
            waiting: BTreeMap::new(),
            gives: Vec::new(),
            now: Instant::now(),
            wants: BTreeMap::new(),
            told: BTreeMap::new(),
            held: BTreeMap::new(),
            released: Vec::new(),
            lost: Vec::new(),
            sent: 0,
            seed,
        }
    }

    pub(super) fn connected(count: usize) -> Self {
        let mut world = Self::new(count, 0);
        world.connect_all();
        world.deliver_all();
        world
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        if a != b && self.links.insert((a.min(b), a.max(b))) {
            for (from, to) in [(a, b), (b, a)] {
                self.nodes[to].begin(author(from), self.now);
                self.act(to);
            }
        }
    }

    fn connect_all(&mut self) {
        for a in 0..self.nodes.len() {
            (a + 1..self.nodes.len()).for_each(|b| self.connect(a, b));
        }
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            for (from, to) in [(a, b), (b, a)] {
                self.waiting.remove(&(from, to));
                self.nodes[to].end(author(from), self.now);
                self.act(to);
            }
        }
    }

    pub(super) fn act(&mut self, at: usize) {
        for action in self.nodes[at].actions() {
            match action {
                Action::Tell(told) => self.tell(at, told),
                Action::Give { ticket, .. } => self.gives.push((at, ticket)),
                Action::Send { to, round, word } => {
                    self.sent += 1;
                    let to = usize::from(to.0[0]) - 1;
                    if self.links.contains(&(at.min(to), at.max(to))) {
                        self.waiting.entry((at, to)).or_default().push_back((round, word));
                    }
                }
            }
        }
    }

    fn tell(&mut self, at: usize, told: Told) {
        let id = match told {
            Told::Granted { id } => {
                let (file, want) = self.wants[&(at, id)];
                let table = self.held.entry((at, file)).or_default();
                table.set(*want.lock());
                // Its owner has given it back meanwhile, perhaps even before.
                let since = self.released.iter().filter(|(of, ..)| *of == (at, file));
                since.filter(|(_, asked, _)| *asked >= id).for_each(|(.., lock)| table.clear(lock));
                id
            }
            Told::Lost { file, lock } => {
                self.held.entry((at, file)).or_default().clear(&lock);
                return self.lost.push(lock);
            }
            Told::Free { id }
            | Told::Released { id }
            | Told::Refused { id, .. }
            | Told::Late { id } => id,
        };
        let before = self.told.insert((at, id), told);
        assert_eq!(before, None, "OSWALK_SEED={}: {id} was answered twice: {told:?}", self.seed);
    }

    pub(super) fn deliver(&mut self, (from, to): (usize, usize)) {
        let Some((round, word)) = self.waiting.get_mut(&(from, to)).and_then(VecDeque::pop_front)
        else {
            return;
        };
        let seed = self.seed;
        let is_fit = self.nodes[to].hear(author(from), round, word, self.now);
        assert!(is_fit, "OSWALK_SEED={seed}: node {to} does not believe {from}");
        self.act(to);
    }

    /// What a node's programs have written is given to others.
    pub(super) fn give(&mut self, at: usize) {
        let (node, ticket) = self.gives.swap_remove(at);
        self.nodes[node].given(ticket, self.now);
        self.act(node);
    }

    /// Everything arrives, and everything is given.
    pub(super) fn deliver_all(&mut self) {
        loop {
            if let Some((link, _)) = self.waiting.iter().find(|(_, queue)| !queue.is_empty()) {
                self.deliver(*link);
            } else if self.gives.is_empty() {
                break;
            } else {
                self.give(0);
            }
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        for at in 0..self.nodes.len() {
            self.nodes[at].tick(self.now);
            self.act(at);
        }
    }

    pub(super) fn request(&mut self, at: usize, file: FileId, want: Want) -> Number {
        if let Want::Lock { lock: lock @ Held { mode: Mode::Shared, .. }, .. } = want {
            // From now on others may get it, too.
            self.note_released(at, file, lock);
        }
        let id = self.nodes[at].request(file, want, USER, self.now);
        self.wants.insert((at, id), (file, want));
        self.act(at);
        (at, id)
    }

    pub(super) fn lock(&mut self, at: usize, owner: u64, waits: bool) -> Number {
        let lock = lock(at, owner, Mode::Exclusive, (0, 9));
        self.request(at, file(1), Want::Lock { lock, waits })
    }

    pub(super) fn release(&mut self, at: usize, file: FileId, lock: Held) {
        self.note_released(at, file, lock);
        self.nodes[at].unlock(file, lock, USER, self.now);
        self.act(at);
    }

    fn note_released(&mut self, at: usize, file: FileId, lock: Held) {
        self.held.entry((at, file)).or_default().clear(&lock);
        let asked = self.wants.range((at, 0)..(at + 1, 0)).next_back();
        self.released.push(((at, file), asked.map_or(0, |((_, id), _)| *id), lock));
    }

    pub(super) fn unlock(&mut self, at: usize, owner: u64) {
        self.release(at, file(1), lock(at, owner, Mode::Exclusive, (0, 9)));
    }

    pub(super) fn cancel(&mut self, (at, id): Number) {
        self.nodes[at].cancel(id, self.now);
        self.act(at);
    }

    /// Two nodes never have what excludes each other.
    pub(super) fn check(&self) {
        for seq in FILES {
            let tables = self.held.iter().filter(|((_, of), _)| *of == file(seq));
            let all: Vec<Held> = tables.flat_map(|(_, it)| it.all()).copied().collect();
            for (at, lock) in all.iter().enumerate() {
                let other = all[at + 1..].iter().find(|it| it.excludes(lock));
                assert_eq!(other, None, "OSWALK_SEED={}: {lock:?}", self.seed);
            }
        }
    }

    /// Something random that programs do, or a message that arrives.
    fn step(&mut self, dice: &mut Dice, waits: &mut Vec<Number>) {
        self.step_without(dice, waits, None);
    }

    fn step_without(&mut self, dice: &mut Dice, waits: &mut Vec<Number>, idle: Option<usize>) {
        let at = dice.pick(self.nodes.len());
        let other = dice.pick(self.nodes.len());
        let file = file(FILES[dice.pick(2)]);
        let (start, mode) = (dice.below(4), [Mode::Shared, Mode::Exclusive][dice.pick(2)]);
        let lock = lock(at, dice.below(OWNERS), mode, (start, start + dice.below(3)));
        if idle == Some(at) {
            return;
        }
        // Each owner is a program with one thread.
        let is_open = |(number, (of, want)): (&Number, &(FileId, Want))| {
            *of == file && want.lock().owner == lock.owner && !self.told.contains_key(number)
        };
        let may_ask = !self.wants.iter().any(is_open);
        match dice.below(16) {
            0..=3 => self.release(at, file, lock),
            4..=8 if !may_ask => {}
            4..=6 => waits.push(self.request(at, file, Want::Lock { lock, waits: true })),
            7 => drop(self.request(at, file, Want::Lock { lock, waits: false })),
            8 => drop(self.request(at, file, Want::Test { lock })),
            9 if !waits.is_empty() => {
                let number = waits.swap_remove(dice.pick(waits.len()));
                if !self.told.contains_key(&number) {
                    self.cancel(number);
                }
            }
            10 if !self.gives.is_empty() => self.give(dice.pick(self.gives.len())),
            _ => self.deliver((at, other)),
        }
    }

    /// All programs give back what they have, until nobody waits any more.
    fn release_all(&mut self, waits: &[Number]) {
        // What came too late is told again by then.
        self.pass(ROUND_EVERY);
        self.deliver_all();
        for _ in 0..waits.len() + 2 {
            for at in 0..self.nodes.len() {
                for (seq, id) in FILES.iter().flat_map(|seq| (0..OWNERS).map(move |id| (*seq, id)))
                {
                    self.release(at, file(seq), Held::all_of(Owner { node: author(at), id }));
                }
            }
            self.deliver_all();
            self.check();
        }
        for number in waits {
            let seed = self.seed;
            let is_told = self.told.contains_key(number);
            assert!(is_told, "OSWALK_SEED={seed}: {number:?} was never answered");
        }
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let first = seed();
    let given = std::env::var("OSWALK_HISTORIES").ok().and_then(|count| count.parse().ok());
    (0..given.unwrap_or(HISTORIES)).map(move |at| first.wrapping_add(at))
}

#[test]
fn a_node_alone_and_a_master_ask_nobody() {
    let mut alone = World::new(1, 0);
    let number = alone.lock(0, 5, true);
    assert_eq!(alone.told[&number], Told::Granted { id: number.1 });
    let mut world = World::connected(2);
    let sent = world.sent;
    let number = world.lock(0, 5, true);
    assert_eq!(world.told[&number], Told::Granted { id: number.1 });
    assert_eq!(world.sent, sent);
}

#[test]
fn a_lock_goes_from_node_to_node_in_order() {
    let mut world = World::connected(3);
    let first = world.lock(2, 5, true);
    world.deliver_all();
    let second = world.lock(1, 6, true);
    world.deliver_all();
    let third = world.lock(0, 7, true);
    let tried = world.lock(1, 8, false);
    world.deliver_all();
    let refusal = Refusal::Held(lock(2, 5, Mode::Exclusive, (0, 9)));
    assert_eq!(world.told[&tried], Told::Refused { id: tried.1, refusal });
    for (holder, owner, next) in [(2, 5, Some(second)), (1, 6, Some(third)), (0, 7, None)] {
        assert!(next.is_none_or(|next| !world.told.contains_key(&next)));
        world.unlock(holder, owner);
        world.deliver_all();
        world.check();
        assert!(next.is_none_or(|next| world.told.contains_key(&next)));
    }
    assert!(world.told.contains_key(&first));
}

#[test]
fn the_locks_of_a_node_that_is_gone_are_released_and_those_of_a_brief_cut_are_not() {
    let mut world = World::connected(2);
    world.lock(1, 5, true);
    world.deliver_all();
    let waits = world.lock(0, 6, true);
    world.cut(0, 1);
    world.pass(GONE_AFTER / 2);
    world.connect(0, 1);
    world.deliver_all();
    assert_eq!(world.told.get(&waits), None);
    world.cut(0, 1);
    world.pass(GONE_AFTER - Duration::from_millis(1));
    assert_eq!(world.told.get(&waits), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.told[&waits], Told::Granted { id: waits.1 });
    assert_eq!(world.lost, []);
    world.connect(0, 1);
    world.deliver_all();
    assert_eq!(world.lost, [lock(1, 5, Mode::Exclusive, (0, 9))]);
    world.check();
}

#[test]
fn a_node_that_has_lost_its_master_decides_by_itself_and_keeps_what_it_has() {
    let mut world = World::connected(3);
    world.lock(1, 5, true);
    world.deliver_all();
    world.cut(0, 1);
    world.cut(0, 2);
    let waits = world.lock(2, 6, true);
    world.pass(GONE_AFTER);
    world.deliver_all();
    let tried = world.lock(2, 7, false);
    world.deliver_all();
    let refusal = Refusal::Held(lock(1, 5, Mode::Exclusive, (0, 9)));
    assert_eq!(world.told[&tried], Told::Refused { id: tried.1, refusal });
    world.unlock(1, 5);
    world.deliver_all();
    assert_eq!(world.told[&waits], Told::Granted { id: waits.1 });
}

#[test]
fn what_nobody_answers_fails_and_does_not_come_later() {
    let mut world = World::connected(2);
    let tried = world.lock(1, 5, false);
    world.pass(ANSWER_MAX);
    assert_eq!(world.told[&tried], Told::Late { id: tried.1 });
    world.deliver_all();
    let other = world.lock(0, 6, false);
    world.pass(TRY_MAX);
    assert_eq!(world.told[&other], Told::Granted { id: other.1 });
}

#[test]
fn what_came_before_a_node_was_ready_is_told_again() {
    let mut world = World::new(2, 0);
    world.links.insert((0, 1));
    world.nodes[1].begin(author(0), world.now);
    world.act(1);
    let number = world.lock(1, 5, true);
    // The other one does not know the node yet.
    world.deliver_all();
    assert_eq!(world.told.get(&number), None);
    world.nodes[0].begin(author(1), world.now);
    world.act(0);
    world.deliver_all();
    assert_eq!(world.told[&number], Told::Granted { id: number.1 });
}

#[test]
fn a_program_that_would_wait_for_itself_is_told() {
    let mut world = World::connected(2);
    let want = |at, owner, range| Want::Lock {
        lock: lock(at, owner, Mode::Exclusive, range),
        waits: true,
    };
    world.request(0, file(1), want(0, 5, (0, 0)));
    world.request(1, file(1), want(1, 6, (1, 1)));
    world.deliver_all();
    world.request(0, file(1), want(0, 5, (1, 1)));
    let last = world.request(1, file(1), want(1, 6, (0, 0)));
    world.deliver_all();
    assert_eq!(world.told[&last], Told::Refused { id: last.1, refusal: Refusal::Deadlock });
}

#[test]
fn two_that_convert_a_lock_of_flock_do_not_wait_for_each_other() {
    let mut world = World::connected(2);
    let flock = |at, mode| Held { space: Space::Flock, ..lock(at, 5, mode, (0, 9)) };
    let want = |at, mode| Want::Lock { lock: flock(at, mode), waits: true };
    for mode in [Mode::Shared, Mode::Exclusive] {
        for at in [0, 1] {
            world.request(at, file(1), want(at, mode));
            world.deliver_all();
        }
    }
    let has_both = |world: &World| [0, 1].map(|at| world.told.contains_key(&(at, 2)));
    assert_eq!(has_both(&world), [false, true], "the first has given up what it had");
    world.release(1, file(1), flock(1, Mode::Exclusive));
    world.deliver_all();
    assert_eq!(has_both(&world), [true, true]);
}

#[test]
fn whoever_does_not_want_to_wait_any_longer_is_told_whether_it_has_the_lock() {
    let mut world = World::connected(2);
    world.lock(0, 5, true);
    let [first, second] = [6, 7].map(|owner| world.lock(1, owner, true));
    world.deliver_all();
    world.cancel(first);
    world.deliver_all();
    assert_eq!(world.told[&first], Told::Refused { id: first.1, refusal: Refusal::Cancelled });
    world.unlock(0, 5);
    world.give(0);
    world.cancel(second);
    world.deliver_all();
    assert_eq!(world.told[&second], Told::Granted { id: second.1 });
    let third = world.lock(1, 8, true);
    world.deliver_all();
    world.cancel(third);
    world.cut(0, 1);
    world.pass(GONE_AFTER);
    assert_eq!(world.told[&third], Told::Refused { id: third.1, refusal: Refusal::Cancelled });
}

/// All links together come up in less time than a new master waits.
fn soon(dice: &mut Dice) -> Duration {
    CLAIMS_WAIT / 200 * u32::from(dice.below(2) == 0)
}

/// Some nodes are linked. One more comes, whose links come up one by one in any order, and perhaps it becomes the master. No lock
/// is lost by that, and nobody has what excludes another at any time.
#[test]
fn a_node_that_comes_takes_no_lock_away() {
    for seed in seeds() {
        let mut dice = Dice(seed);
        let mut world = World::new(COUNT, seed);
        let new = dice.pick(COUNT);
        let old: Vec<usize> = (0..COUNT).filter(|at| *at != new).collect();
        for (a, b) in old.iter().flat_map(|a| old.iter().map(move |b| (*a, *b))) {
            world.connect(a, b);
        }
        world.deliver_all();
        let mut waits = Vec::new();
        let mut left = old;
        for step in 0..STEPS {
            if step >= STEPS / 3 && dice.below(8) == 0 && !left.is_empty() {
                let other = left.swap_remove(dice.pick(left.len()));
                world.connect(new, other);
                world.pass(soon(&mut dice));
            }
            // Alone it would take what others have.
            let idle = (left.len() == COUNT - 1).then_some(new);
            world.step_without(&mut dice, &mut waits, idle);
            world.check();
        }
        world.connect_all();
        world.deliver_all();
        world.pass(CLAIMS_WAIT);
        assert_eq!(world.lost, [], "OSWALK_SEED={seed}");
        world.release_all(&waits);
    }
}

/// Requests, releases, cuts and slow messages. When all are linked again, nothing is held twice; when all is released, everybody
/// has got what was waited for.
#[test]
fn after_cuts_nothing_is_held_twice_and_nobody_waits_for_ever() {
    for seed in seeds() {
        let mut dice = Dice(seed);
        let mut world = World::new(COUNT, seed);
        let mut waits = Vec::new();
        for _ in 0..STEPS {
            let (a, b) = (dice.pick(COUNT), dice.pick(COUNT));
            match dice.below(20) {
                0 if a != b => world.cut(a, b),
                1 | 2 => world.connect(a, b),
                3 => world.pass(Duration::from_millis(dice.below(2000))),
                _ => world.step(&mut dice, &mut waits),
            }
        }
        world.connect_all();
        world.pass(GONE_AFTER);
        world.deliver_all();
        world.pass(CLAIMS_WAIT);
        world.deliver_all();
        world.check();
        world.release_all(&waits);
    }
}

/// All are linked. Whatever the messages' order and delay, nobody has what excludes another at any time.
#[test]
fn while_all_are_linked_nothing_is_held_twice() {
    for seed in seeds() {
        let mut dice = Dice(seed);
        let mut world = World::connected(COUNT);
        world.seed = seed;
        let mut waits = Vec::new();
        for _ in 0..STEPS {
            match dice.below(20) {
                0 => world.pass(Duration::from_millis(dice.below(5000))),
                _ => world.step(&mut dice, &mut waits),
            }
            world.check();
        }
        assert_eq!(world.lost, [], "OSWALK_SEED={seed}");
        world.release_all(&waits);
    }
}
