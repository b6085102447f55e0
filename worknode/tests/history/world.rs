//! Nodes that make events as a live file system does, each from what it sees, and that meet now and then.

use worknode::history::{
    Attrs, Author, Change, Clock, Conflict, Content, Dot, Event, Events, FileId, Kind, Name, Op,
    Permissions, Tree,
};

use crate::random::Random;

pub(crate) const ROOT: FileId = Dot { author: Author([0; 16]), seq: 0 };
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
pub(crate) const RW: Permissions = Permissions { mode: 0o644, uid: 1, gid: 1 };

/// One node: its tree, its clock, and how much that is ahead.
pub(crate) struct Node {
    pub(crate) tree: Tree,
    clock: Clock,
    author: Author,
    seq: u64,
    skew_ms: u64,
}

impl Node {
    pub(crate) fn new(number: u8, skew_ms: u64) -> Self {
        let author = Author([number; 16]);
        Self { tree: Tree::default(), clock: Clock::default(), author, seq: 0, skew_ms }
    }

    /// Does something. Returns the first event's name.
    pub(crate) fn act(&mut self, now_ms: u64, op: Op) -> Dot {
        let changes = self.tree.plan(op);
        let first = self.next();
        self.perform(now_ms, changes);
        first
    }

    /// Returns the name of its next event.
    pub(crate) fn next(&self) -> Dot {
        Dot { author: self.author, seq: self.seq + 1 }
    }

    pub(crate) fn perform(&mut self, now_ms: u64, changes: Vec<Change>) {
        for change in changes {
            self.seq += 1;
            let event = Event {
                dot: Dot { author: self.author, seq: self.seq },
                hlc: self.clock.tick(now_ms + self.skew_ms),
                time: i64::try_from(now_ms).expect("small"),
                parents: change.parents,
                op: change.op,
            };
            self.tree.apply(&event);
        }
        assert_eq!(self.tree.events().summary().of(self.author), self.seq);
    }

    pub(crate) fn learn(&mut self, now_ms: u64, event: &Event) {
        self.clock.observe(event.hlc, now_ms + self.skew_ms).expect("skews are small");
        self.tree.apply(event);
    }

    /// Learns all that another knows.
    pub(crate) fn learn_all(&mut self, now_ms: u64, other: &Self) {
        let missing: Vec<Event> =
            other.tree.events().missing(self.tree.events().summary()).cloned().collect();
        missing.iter().for_each(|event| self.learn(now_ms, event));
    }
}

/// A few nodes.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) nodes: Vec<Node>,
    pub(crate) now_ms: u64,
    /// Whether names are removed.
    pub(crate) removes: bool,
}

impl World {
    /// Returns nodes that have done and learnt random things.
    pub(crate) fn lived(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.below(3);
        let node = |number: usize| {
            let skew_ms = if random.percent(50) { 0 } else { random.next() % 20 };
            Node::new(u8::try_from(number + 1).expect("few"), skew_ms)
        };
        let nodes = (0..count).map(node).collect();
        let removes = !random.percent(20);
        let mut world = Self { random, nodes, now_ms: 1000, removes };
        for _ in 0..6 + world.random.below(24) {
            world.step();
        }
        world
    }

    fn step(&mut self) {
        self.now_ms += self.random.next() % 5;
        let node = self.random.below(self.nodes.len());
        if self.random.percent(25) {
            return self.meet(node);
        }
        let node = &mut self.nodes[node];
        if self.removes && self.random.percent(10) {
            return dismiss(&mut self.random, node, self.now_ms);
        }
        if let Some(op) = random_op(&mut self.random, &node.tree, self.removes) {
            node.act(self.now_ms, op);
        }
    }

    /// A node learns from another one, all or parts in any order.
    fn meet(&mut self, node: usize) {
        let other = self.random.below(self.nodes.len());
        let all = self.random.percent(60);
        let there = self.nodes[node].tree.events().summary();
        let mut missing: Vec<Event> =
            self.nodes[other].tree.events().missing(there).cloned().collect();
        self.random.shuffle(&mut missing);
        for event in missing {
            if all || self.random.percent(70) {
                self.nodes[node].learn(self.now_ms, &event);
            }
        }
    }

    /// Returns all events, in the order of their moments.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut all = Events::default();
        self.nodes.iter().for_each(|node| all.unite(node.tree.events()));
        let mut events: Vec<Event> = all.iter().cloned().collect();
        events.sort_by_key(|event| (event.hlc, event.dot));
        events
    }
}

/// Ends a conflict about a name.
fn dismiss(random: &mut Random, node: &mut Node, now_ms: u64) {
    let conflicts = node.tree.conflicts();
    if conflicts.is_empty() {
        return;
    }
    if let Conflict::Name { dir, name, entry } = random.pick(&conflicts) {
        let changes = node.tree.plan_dismiss(*dir, name, *random.pick(&entry.others));
        node.perform(now_ms, changes);
    }
}

/// Returns all directories that are shown.
pub(crate) fn dirs(tree: &Tree) -> Vec<FileId> {
    let mut dirs = vec![ROOT];
    let mut at = 0;
    while at < dirs.len() {
        let files = tree.entries(dirs[at]).into_values().map(|entry| entry.file);
        dirs.extend(files.filter(|id| tree.file(*id).expect("it has a name").is_dir()));
        at += 1;
    }
    dirs
}

/// Returns something that POSIX allows to do to a tree.
pub(crate) fn random_op(random: &mut Random, tree: &Tree, removes: bool) -> Option<Op> {
    let dirs = dirs(tree);
    let dir = *random.pick(&dirs);
    let name = random.pick(&NAMES).to_vec();
    match tree.entry(dir, &name) {
        None => Some(random_new(random, tree, dir, name)),
        Some(entry) if random.percent(50) => random_edit(random, tree, entry.file),
        Some(entry) if removes && random.percent(40) => {
            tree.entries(entry.file).is_empty().then_some(Op::Unlink { dir, name })
        }
        Some(_) => random_move(random, tree, (dir, name), &dirs, removes),
    }
}

fn random_new(random: &mut Random, tree: &Tree, dir: FileId, name: Name) -> Op {
    let others: Vec<FileId> = dirs(tree)
        .into_iter()
        .flat_map(|dir| tree.entries(dir).into_values().map(|entry| entry.file))
        .filter(|id| !tree.file(*id).expect("it has a name").is_dir())
        .collect();
    if !others.is_empty() && random.percent(20) {
        return Op::Link { dir, name, file: *random.pick(&others) };
    }
    let kind = match random.below(10) {
        0..5 => Kind::Dir,
        5 => Kind::Symlink(b"target".to_vec()),
        _ => Kind::File,
    };
    Op::Make { dir, name, kind, permissions: RW }
}

fn random_edit(random: &mut Random, tree: &Tree, file: FileId) -> Option<Op> {
    let known = tree.file(file).expect("it has a name");
    let number = random.next() % 4;
    Some(match random.below(10) {
        0 => {
            Op::Set { file, attrs: Attrs { mode: Some(0o600 + number as u32), ..Attrs::default() } }
        }
        1 => Op::Set { file, attrs: Attrs { modified: Some(number as i64), ..Attrs::default() } },
        2 => {
            let value = (number > 0).then(|| vec![number as u8]);
            Op::Xattr { file, name: b"user.x".to_vec(), value }
        }
        3 => {
            let heads = known.content().heads().iter();
            let versions: Vec<Dot> =
                heads.chain(known.content().history()).map(|version| version.stamp.dot).collect();
            let version = *versions.get(random.below(versions.len().max(1)))?;
            Op::Choose { file, version }
        }
        _ if *known.kind() == Kind::File => write(file, number + 1),
        _ => return None,
    })
}

pub(crate) fn write(file: FileId, bytes: u64) -> Op {
    Op::Write { file, content: Content { bytes, packet: None }, modified: bytes as i64 }
}

fn random_move(
    random: &mut Random,
    tree: &Tree,
    (dir, name): (FileId, Name),
    dirs: &[FileId],
    removes: bool,
) -> Option<Op> {
    let (to, new) = (*random.pick(dirs), random.pick(&NAMES).to_vec());
    let exchange = random.percent(30);
    let path = |dir: FileId, name: &Name| {
        let mut path: Vec<Name> =
            tree.path(dir).expect("it is shown").into_iter().cloned().collect();
        path.push(name.clone());
        path
    };
    let (from, into) = (path(dir, &name), path(to, &new));
    if from.starts_with(&into) || into.starts_with(&from) {
        return None;
    }
    let is_dir = |id| tree.file(id).expect("it has a name").is_dir();
    let moved = tree.entry(dir, &name).expect("it was found");
    match tree.entry(to, &new) {
        None if exchange => None,
        None => Some(Op::Move { dir, name, to, new, exchange }),
        Some(_) if exchange => Some(Op::Move { dir, name, to, new, exchange }),
        Some(target) => {
            let fits = is_dir(target.file) == is_dir(moved.file) && removes;
            let free = tree.entries(target.file).is_empty();
            (fits && free).then_some(Op::Move { dir, name, to, new, exchange })
        }
    }
}
