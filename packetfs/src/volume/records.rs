//! What was done to a file, or to all files, in words: from the log of events.

use std::collections::{HashMap, HashSet};

use worknode::history::{Attrs, Author, Event, FileId, Hlc, Kind, Name, Nanos, Op};

use super::error::VolumeError;
use super::model::Volume;
use super::node::{Node, ROOT};
use super::past::{Spot, components};
use super::tree::Tree;

/// Events that are read at first; then twice as many each time, up to a bound for the memory that they take.
const EVENTS_FIRST: u64 = 1024;
const EVENTS_MAX: u64 = 64 * 1024;
/// Most directories above a file: more would be a cycle.
const DEPTH_MAX: usize = 4096;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in the order of events.
    pub moment: Hlc,
    /// When, by the clock of who did it.
    pub time: Nanos,
    /// Who did it.
    pub author: Author,
    /// Its number among all that the author did.
    pub seq: u64,
    /// The path then.
    pub path: Vec<u8>,
    /// What was done.
    pub what: String,
}

impl Volume {
    /// Returns what was done at a path and below it, also to the file that is there now when it had another name. The latest
    /// comes first; there are at most `limit`.
    ///
    /// # Errors
    /// Nothing has, or had, the path; the log is damaged, or the volume does not work.
    pub fn log(&self, path: &[u8], limit: usize) -> Result<Vec<Record>, VolumeError> {
        let (mut end, mut count) = (self.shared.log.last().0, EVENTS_FIRST);
        let tree = self.shared.lock().tree.as_now()?;
        let file = self.shared.lock().walk(path).ok().filter(|&ino| ino != ROOT);
        let mut wanted = Wanted::new(&tree, path, file)?;
        let mut records = Vec::new();
        let first = self.shared.log.first_seq()?;
        while end >= first && records.len() < limit {
            let begin = end.saturating_sub(count - 1).max(first);
            let events = self.shared.log.read_from(begin)?;
            let events = events.take(usize::try_from(end + 1 - begin).unwrap_or(usize::MAX));
            let events: Vec<Event> = events.collect::<Result<_, _>>()?;
            for event in events.iter().rev() {
                records.extend(wanted.record(&tree, event)?);
            }
            (end, count) = (begin - 1, (2 * count).min(EVENTS_MAX));
        }
        records.truncate(limit);
        Ok(records)
    }
}

/// What is asked for.
struct Wanted {
    path: Vec<u8>,
    /// The file that has the path.
    file: Option<u64>,
    /// The names that files had when they were last looked for.
    names: HashMap<u64, (u64, Name)>,
    /// All files that may ever have had the path, and the directories that they were in.
    ever: HashSet<u64>,
    above: HashSet<u64>,
    /// Whether a directory is one of them or below one, since directories were moved last.
    below: HashMap<u64, bool>,
}

impl Wanted {
    fn new(tree: &Tree, path: &[u8], file: Option<u64>) -> Result<Self, VolumeError> {
        let (mut ever, mut above) = (HashSet::from([ROOT]), HashSet::new());
        for name in components(path) {
            above = std::mem::take(&mut ever);
            for &dir in &above {
                let held = tree.bindings(&Spot::new(dir, name.to_vec()))?;
                ever.extend(held.into_iter().map(|held| held.value.ino));
            }
        }
        if ever.is_empty() {
            return Err(VolumeError::NoPath);
        }
        let clean = components(path).flat_map(|name| [b"/", name].concat()).collect();
        let (names, below) = (HashMap::new(), HashMap::new());
        Ok(Self { path: clean, file, names, ever, above, below })
    }

    /// Tells whether an event may be asked for, without its path, which takes long to find.
    fn may_have(&mut self, tree: &Tree, event: &Event) -> Result<bool, VolumeError> {
        let (at, current) = (event.hlc, self.file);
        let mut is_in = |dir: FileId| {
            let dir = tree.ino(dir);
            Ok(self.above.contains(&dir) || self.is_below(tree, dir, at)?)
        };
        match &event.op {
            Op::Make { dir, .. } | Op::Unlink { dir, .. } => is_in(*dir),
            Op::Link { dir, file, .. } => Ok(Some(tree.ino(*file)) == current || is_in(*dir)?),
            Op::Move { dir, to, .. } => Ok(is_in(*dir)? || is_in(*to)?),
            Op::Set { file, .. }
            | Op::Write { file, .. }
            | Op::Xattr { file, .. }
            | Op::Choose { file, .. } => {
                let ino = tree.ino(*file);
                let is_it = self.ever.contains(&ino) || Some(ino) == current;
                Ok(is_it || self.is_below(tree, parent_at(tree, ino, at)?, at)?)
            }
        }
    }

    /// Tells whether a directory is one that had the path, or was below one.
    fn is_below(&mut self, tree: &Tree, dir: u64, at: Hlc) -> Result<bool, VolumeError> {
        let is_still = at > tree.state.moved;
        if let Some(known) = self.below.get(&dir).filter(|_| is_still) {
            return Ok(*known);
        }
        let (mut above, mut depth) = (dir, 0);
        while !self.ever.contains(&above) && above != ROOT && depth < DEPTH_MAX {
            (above, depth) = (parent_at(tree, above, at)?, depth + 1);
        }
        let is_below = self.ever.contains(&above);
        if is_still {
            self.below.insert(dir, is_below);
        }
        Ok(is_below)
    }

    fn has(&self, path: &[u8]) -> bool {
        let below = path.strip_prefix(self.path.as_slice());
        below.is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
    }

    /// Returns the record of an event, if it is asked for.
    fn record(&mut self, tree: &Tree, event: &Event) -> Result<Option<Record>, VolumeError> {
        if !self.may_have(tree, event)? {
            return Ok(None);
        }
        let (path, other) = self.paths(tree, event)?;
        let is_file = file(&event.op).is_some_and(|id| Some(tree.ino(id)) == self.file);
        if !is_file && !self.has(&path) && !other.as_ref().is_some_and(|other| self.has(other)) {
            return Ok(None);
        }
        let what = match dismissed(tree, event)? {
            Some(what) => what.to_owned(),
            None => what(&event.op, other.as_deref()),
        };
        let Event { dot, hlc, time, .. } = *event;
        Ok(Some(Record { moment: hlc, time, author: dot.author, seq: dot.seq, path, what }))
    }

    /// Returns the path that an event is about, and that to which something was moved.
    fn paths(
        &mut self,
        tree: &Tree,
        event: &Event,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), VolumeError> {
        let at = event.hlc;
        match &event.op {
            Op::Make { dir, name, .. } | Op::Link { dir, name, .. } | Op::Unlink { dir, name } => {
                Ok((self.named(tree, *dir, name, at)?, None))
            }
            Op::Move { dir, name, to, new, .. } => {
                Ok((self.named(tree, *dir, name, at)?, Some(self.named(tree, *to, new, at)?)))
            }
            Op::Set { file, .. }
            | Op::Write { file, .. }
            | Op::Xattr { file, .. }
            | Op::Choose { file, .. } => Ok((self.path(tree, tree.ino(*file), at)?, None)),
        }
    }

    fn named(
        &mut self,
        tree: &Tree,
        dir: FileId,
        name: &[u8],
        at: Hlc,
    ) -> Result<Vec<u8>, VolumeError> {
        Ok([&self.path(tree, tree.ino(dir), at)?, b"/".as_slice(), name].concat())
    }

    /// Returns the path of a file at a moment.
    fn path(&mut self, tree: &Tree, mut ino: u64, at: Hlc) -> Result<Vec<u8>, VolumeError> {
        let mut names = Vec::new();
        while ino != ROOT && names.len() < DEPTH_MAX {
            let (dir, name) = self.name(tree, ino, at)?;
            names.push(name);
            ino = dir;
        }
        Ok(names.iter().rev().flat_map(|name| [b"/", name.as_slice()].concat()).collect())
    }

    fn name(&mut self, tree: &Tree, ino: u64, at: Hlc) -> Result<(u64, Name), VolumeError> {
        if let Some((dir, name)) = self.names.get(&ino)
            && tree.entry_at(*dir, name, at)?.is_some_and(|entry| entry.ino == ino)
        {
            return Ok((*dir, name.clone()));
        }
        let dir = parent_at(tree, ino, at)?;
        // All that is found is remembered: others of the directory may be asked for.
        let names = tree.entries_at(dir, at)?.into_iter();
        self.names.extend(names.map(|(name, entry)| (entry.ino, (dir, name))));
        match self.names.get(&ino).filter(|(known, _)| *known == dir) {
            Some((_, name)) if tree.entry_at(dir, name, at)?.is_some_and(|it| it.ino == ino) => {
                Ok((dir, name.clone()))
            }
            _ => Ok((ROOT, format!("(file {ino})").into_bytes())),
        }
    }
}

/// Returns the directory that a file was in at a moment, or at last.
fn parent_at(tree: &Tree, ino: u64, at: Hlc) -> Result<u64, VolumeError> {
    let node = match tree.find_at(ino, at)? {
        Some(node) => Some(node),
        None => tree.latest(ino)?,
    };
    Ok(node.map_or(ROOT, |node| node.parent))
}

/// Tells what was dismissed, if an event dismisses a version that lost: by a Write of the content that the file already had, or
/// by an Unlink of a file that lost the name, which another one keeps.
fn dismissed(tree: &Tree, event: &Event) -> Result<Option<&'static str>, VolumeError> {
    let Hlc(at) = event.hlc;
    let before = Hlc(at.saturating_sub(1));
    match &event.op {
        Op::Write { file, content, modified } => {
            let held = tree.find_at(tree.ino(*file), before)?;
            let is_same = |node: Node| (node.content, node.modified) == (*content, *modified);
            // Both the content and what lost against it are replaced.
            let ends_conflict = event.parents.len() > 1;
            Ok((ends_conflict && held.is_some_and(is_same)).then_some("dismissed a version"))
        }
        Op::Unlink { dir, name } => {
            let dir = tree.ino(*dir);
            if tree.losers(dir, name)?.is_empty() {
                return Ok(None);
            }
            let holder = |at| tree.entry_at(dir, name, at);
            let (Some(was), Some(is)) = (holder(before)?, holder(event.hlc)?) else {
                return Ok(None);
            };
            let id = tree.find_at(is.ino, event.hlc)?.map(|node| node.id);
            let is_kept = was.ino == is.ino && !id.is_some_and(|id| event.parents.contains(&id));
            Ok(is_kept.then_some("dismissed a file that had lost the name"))
        }
        _ => Ok(None),
    }
}

fn file(op: &Op) -> Option<FileId> {
    match op {
        Op::Link { file, .. }
        | Op::Set { file, .. }
        | Op::Write { file, .. }
        | Op::Xattr { file, .. } => Some(*file),
        _ => None,
    }
}

fn what(op: &Op, other: Option<&[u8]>) -> String {
    let other = String::from_utf8_lossy(other.unwrap_or_default());
    match op {
        Op::Make { kind, .. } => match kind {
            Kind::File => "made a file".into(),
            Kind::Dir => "made a directory".into(),
            Kind::Symlink(target) => format!("made a link to {}", String::from_utf8_lossy(target)),
            Kind::Fifo => "made a named pipe".into(),
            Kind::Socket => "made a socket".into(),
            Kind::Char(_) | Kind::Block(_) => "made a device".into(),
        },
        Op::Link { .. } => "made another name of a file".into(),
        Op::Unlink { .. } => "removed".into(),
        Op::Move { exchange: true, .. } => format!("exchanged with {other}"),
        Op::Move { .. } => format!("moved to {other}"),
        Op::Set { attrs, .. } => format!("set {}", attributes(attrs)),
        Op::Write { content, .. } => format!("wrote {} bytes", content.bytes),
        Op::Xattr { name, value: Some(_), .. } => {
            format!("set attribute {}", String::from_utf8_lossy(name))
        }
        Op::Xattr { name, .. } => format!("removed attribute {}", String::from_utf8_lossy(name)),
        Op::Choose { .. } => "chose a version".into(),
    }
}

fn attributes(attrs: &Attrs) -> String {
    let mut all = Vec::new();
    all.extend(attrs.mode.map(|mode| format!("mode {mode:04o}")));
    all.extend(attrs.uid.map(|uid| format!("owner {uid}")));
    all.extend(attrs.gid.map(|gid| format!("group {gid}")));
    all.extend(attrs.accessed.or(attrs.modified).map(|_| "times".to_owned()));
    all.join(", ")
}
