//! A plain tree in memory that does what POSIX says. One node's history shows the same after each step.

use std::collections::BTreeMap;

use worknode::history::{Attrs, FileId, Kind, Name, Op, Tree};

use crate::live::Live;
use crate::random::{Random, for_seeds};
use crate::world::{Node, ROOT, RW, dirs, write};

/// So many random histories of [`STEPS`] if optimised.
const HISTORIES: u64 = 20_000;
const STEPS: usize = 40;
const NAMES: [&[u8]; 3] = [b"a", b"b", b"c"];

type Ino = usize;

/// What is compared of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inode {
    kind: Kind,
    mode: u32,
    bytes: u64,
    xattr: Option<Vec<u8>>,
    modified: i64,
    changed: i64,
    links: usize,
}

/// The tree: inodes, and the names of directories. The root is 0.
struct Posix {
    inodes: Vec<Inode>,
    names: BTreeMap<(Ino, Name), Ino>,
    now: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errno {
    Exist,
    NoEnt,
    IsDir,
    NotDir,
    NotEmpty,
    Inval,
    Perm,
}

impl Posix {
    fn new() -> Self {
        let root = Inode { links: 1, mode: 0o755, ..inode(Kind::Dir, 0) };
        Self { inodes: vec![root], names: BTreeMap::new(), now: 0 }
    }

    fn find(&self, dir: Ino, name: &Name) -> Result<Ino, Errno> {
        self.names.get(&(dir, name.clone())).copied().ok_or(Errno::NoEnt)
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.inodes[ino].kind == Kind::Dir
    }

    fn bind(&mut self, dir: Ino, name: &Name, ino: Ino) {
        self.names.insert((dir, name.clone()), ino);
        (self.inodes[dir].modified, self.inodes[dir].changed) = (self.now, self.now);
        self.inodes[ino].changed = self.now;
        self.inodes[ino].links += 1;
    }

    fn unbind(&mut self, dir: Ino, name: &Name) -> Ino {
        let ino = self.names.remove(&(dir, name.clone())).expect("it was found");
        (self.inodes[dir].modified, self.inodes[dir].changed) = (self.now, self.now);
        self.inodes[ino].changed = self.now;
        self.inodes[ino].links -= 1;
        ino
    }

    fn make(&mut self, dir: Ino, name: &Name, kind: Kind) -> Result<Ino, Errno> {
        if self.find(dir, name).is_ok() {
            return Err(Errno::Exist);
        }
        self.inodes.push(inode(kind, self.now));
        self.bind(dir, name, self.inodes.len() - 1);
        Ok(self.inodes.len() - 1)
    }

    fn link(&mut self, dir: Ino, name: &Name, ino: Ino) -> Result<(), Errno> {
        match self.find(dir, name) {
            _ if self.is_dir(ino) => Err(Errno::Perm),
            Ok(_) => Err(Errno::Exist),
            Err(_) => {
                self.bind(dir, name, ino);
                Ok(())
            }
        }
    }

    /// unlink and rmdir.
    fn unlink(&mut self, dir: Ino, name: &Name) -> Result<(), Errno> {
        let ino = self.find(dir, name)?;
        self.check_empty(ino)?;
        self.unbind(dir, name);
        Ok(())
    }

    fn check_empty(&self, dir: Ino) -> Result<(), Errno> {
        if self.names.keys().any(|(other, _)| *other == dir) {
            Err(Errno::NotEmpty)
        } else {
            Ok(())
        }
    }

    fn is_below(&self, ino: Ino, ancestor: Ino) -> bool {
        let parent = || self.names.iter().find(|(_, at)| **at == ino).map(|((dir, _), _)| *dir);
        ino == ancestor
            || (self.is_dir(ino) && parent().is_some_and(|dir| self.is_below(dir, ancestor)))
    }

    fn rename(&mut self, dir: Ino, name: &Name, to: Ino, new: &Name) -> Result<(), Errno> {
        let ino = self.find(dir, name)?;
        if self.is_below(to, ino) {
            return Err(Errno::Inval);
        }
        if let Ok(target) = self.find(to, new) {
            if target == ino {
                return Ok(());
            }
            match (self.is_dir(ino), self.is_dir(target)) {
                (false, true) => return Err(Errno::IsDir),
                (true, false) => return Err(Errno::NotDir),
                _ => self.check_empty(target)?,
            }
            self.unbind(to, new);
        }
        self.unbind(dir, name);
        self.bind(to, new, ino);
        Ok(())
    }

    fn exchange(&mut self, dir: Ino, name: &Name, to: Ino, new: &Name) -> Result<(), Errno> {
        let (left, right) = (self.find(dir, name)?, self.find(to, new)?);
        if self.is_below(to, left) || self.is_below(dir, right) {
            return Err(Errno::Inval);
        }
        if left != right {
            self.unbind(dir, name);
            self.unbind(to, new);
            self.bind(dir, name, right);
            self.bind(to, new, left);
        }
        Ok(())
    }
}

fn inode(kind: Kind, now: i64) -> Inode {
    let mode = RW.mode;
    Inode { kind, mode, bytes: 0, xattr: None, modified: now, changed: now, links: 0 }
}

/// Both trees, and which file is which inode.
struct Pair {
    posix: Posix,
    node: Node,
    ids: Vec<FileId>,
    /// Names the parents; without it, `plan` does.
    live: Option<Live>,
}

#[test]
fn one_node_sees_a_posix_file_system() {
    for_seeds(HISTORIES, |seed| {
        let mut random = Random(seed);
        let live = (seed % 2 == 1).then(Live::default);
        let mut pair = Pair { posix: Posix::new(), node: Node::new(1, 0), ids: vec![ROOT], live };
        for now in 1..=STEPS as i64 {
            pair.posix.now = now;
            pair.step(&mut random);
            pair.compare();
        }
    });
}

impl Pair {
    fn act(&mut self, op: Op) -> FileId {
        let now_ms = u64::try_from(self.posix.now).expect("it is positive");
        let Some(live) = &mut self.live else { return self.node.act(now_ms, op) };
        if self.node.tree.plan(op.clone()).is_empty() {
            return FileId::default();
        }
        let dot = self.node.next();
        self.node.perform(now_ms, vec![live.change(dot, op)]);
        dot
    }

    fn step(&mut self, random: &mut Random) {
        let dirs: Vec<Ino> = dirs(&self.node.tree).into_iter().map(|id| self.ino(id)).collect();
        let (dir, to) = (*random.pick(&dirs), *random.pick(&dirs));
        let (name, new) = (random.pick(&NAMES).to_vec(), random.pick(&NAMES).to_vec());
        let ids = (self.ids[dir], self.ids[to]);
        match random.below(10) {
            0..3 => self.make(random, dir, name),
            3 => {
                let Ok(file) = self.posix.find(to, &new) else { return };
                if self.posix.link(dir, &name, file).is_ok() {
                    self.act(Op::Link { dir: ids.0, name, file: self.ids[file] });
                }
            }
            4 if self.posix.unlink(dir, &name).is_ok() => {
                self.act(Op::Unlink { dir: ids.0, name });
            }
            5..7 if self.posix.rename(dir, &name, to, &new).is_ok() => {
                self.act(Op::Move { dir: ids.0, name, to: ids.1, new, exchange: false });
            }
            7 if self.posix.exchange(dir, &name, to, &new).is_ok() => {
                self.act(Op::Move { dir: ids.0, name, to: ids.1, new, exchange: true });
            }
            8.. => self.edit(random, dir, &name),
            _ => {}
        }
    }

    fn make(&mut self, random: &mut Random, dir: Ino, name: Name) {
        let kind = random.pick(&[Kind::Dir, Kind::File, Kind::Symlink(b"x".to_vec())]).clone();
        if self.posix.make(dir, &name, kind.clone()).is_ok() {
            let id = self.act(Op::Make { dir: self.ids[dir], name, kind, permissions: RW });
            self.ids.push(id);
        }
    }

    fn edit(&mut self, random: &mut Random, dir: Ino, name: &Name) {
        let Ok(ino) = self.posix.find(dir, name) else { return };
        let (file, now) = (self.ids[ino], self.posix.now);
        // Nothing is modified in the future.
        let number = u8::try_from(random.next() % 100).expect("it is below 100");
        let number = number.min(u8::try_from(now).unwrap_or(u8::MAX));
        let inode = &mut self.posix.inodes[ino];
        let former = std::mem::replace(&mut inode.changed, now);
        let op = match random.below(4) {
            0 if inode.kind == Kind::File => {
                (inode.bytes, inode.modified) = (number.into(), number.into());
                inode.changed = former.max(inode.modified);
                write(file, number.into())
            }
            1 => {
                inode.modified = number.into();
                Op::Set { file, attrs: Attrs { modified: Some(number.into()), ..Attrs::default() } }
            }
            2 => {
                inode.xattr = (number > 30).then(|| vec![number]);
                Op::Xattr { file, name: b"user.x".to_vec(), value: inode.xattr.clone() }
            }
            _ => {
                inode.mode = number.into();
                Op::Set { file, attrs: Attrs { mode: Some(number.into()), ..Attrs::default() } }
            }
        };
        self.act(op);
    }

    fn ino(&self, id: FileId) -> Ino {
        self.ids.iter().position(|other| *other == id).expect("it was made")
    }

    fn compare(&self) {
        let tree = &self.node.tree;
        let names: BTreeMap<(Ino, Name), Ino> = dirs(tree)
            .into_iter()
            .flat_map(|dir| tree.entries(dir).into_iter().map(move |entry| (dir, entry)))
            .map(|(dir, (name, entry))| ((self.ino(dir), name.clone()), self.ino(entry.file)))
            .collect();
        assert_eq!(names, self.posix.names);
        for (id, inode) in self.ids.iter().zip(&self.posix.inodes) {
            assert_eq!(shown(tree, *id), *inode, "{id:?}");
        }
        assert_eq!(tree.conflicts(), [], "one node has none");
    }
}

fn shown(tree: &Tree, id: FileId) -> Inode {
    let file = tree.file(id).expect("it was made");
    Inode {
        kind: file.kind().clone(),
        mode: file.permissions().mode,
        bytes: file.content().value().map_or(0, |content| content.bytes),
        xattr: file.xattrs().next().map(|(_, value)| value.to_vec()),
        modified: file.modified(),
        changed: file.changed(),
        links: if id == ROOT { 1 } else { tree.names(id).len() },
    }
}
