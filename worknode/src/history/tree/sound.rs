//! Which events have no effect wherever they are known, because no correct node makes them.

use super::super::event::{Dot, Event, FileId, Kind, NAME_BYTES_MAX, Name, Op, TARGET_BYTES_MAX};
use super::model::{Tree, causes};

impl Tree {
    /// Returns whether an event may have an effect. Its causes are known.
    pub(super) fn is_sound(&self, event: &Event) -> bool {
        event.dot.seq > 0
            && causes(event).iter().all(|cause| self.is_before(*cause, event))
            && event.op.is_well_formed()
            && self.is_op_sound(&event.op)
    }

    /// A hybrid clock puts causes before their effects.
    fn is_before(&self, cause: Dot, event: &Event) -> bool {
        self.events.get(cause).is_some_and(|cause| cause.hlc < event.hlc)
    }

    fn is_op_sound(&self, op: &Op) -> bool {
        match op {
            Op::Make { dir, .. } | Op::Unlink { dir, .. } => self.is_dir(*dir),
            Op::Link { dir, file, .. } => self.is_dir(*dir) && self.is_made(*file),
            Op::Move { dir, to, .. } => self.is_dir(*dir) && self.is_dir(*to),
            Op::Set { file, .. } => self.files.contains_key(file),
            Op::Xattr { file, .. } => self.files.contains_key(file),
            Op::Write { file, .. } => self.is_regular(*file),
            Op::Choose { file, version } => {
                self.files.get(file).is_some_and(|file| file.content().version(*version).is_some())
            }
        }
    }

    fn is_dir(&self, id: FileId) -> bool {
        self.files.get(&id).is_some_and(|file| file.is_dir())
    }

    fn is_regular(&self, id: FileId) -> bool {
        self.files.get(&id).is_some_and(|file| *file.kind() == Kind::File)
    }

    /// The root is not made, and has no name.
    fn is_made(&self, id: FileId) -> bool {
        id != FileId::default() && self.files.contains_key(&id)
    }
}

impl Op {
    /// Returns whether a correct node may make such an event, whatever the files are.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        // Of the events of number 0 only the root's is one.
        let is_one = |id: &FileId| id.seq > 0 || *id == FileId::default();
        self.files().iter().flatten().all(|id| is_one(id)) && self.is_fit()
    }

    /// Returns the files that it names.
    const fn files(&self) -> [Option<&FileId>; 2] {
        match self {
            Self::Make { dir, .. } | Self::Unlink { dir, .. } => [Some(dir), None],
            Self::Link { dir, file, .. } => [Some(dir), Some(file)],
            Self::Move { dir, to, .. } => [Some(dir), Some(to)],
            Self::Set { file, .. }
            | Self::Write { file, .. }
            | Self::Xattr { file, .. }
            | Self::Choose { file, .. } => [Some(file), None],
        }
    }

    fn is_fit(&self) -> bool {
        match self {
            Self::Make { name, kind, .. } => is_name(name) && is_kind(kind),
            Self::Link { name, .. } => is_name(name),
            Self::Move { new, name, exchange, .. } => is_name(new) && (!exchange || is_name(name)),
            _ => true,
        }
    }
}

impl Event {
    /// Returns the events that it refers to: without them it means nothing.
    #[must_use]
    pub fn causes(&self) -> Vec<Dot> {
        causes(self)
    }
}

fn is_name(name: &Name) -> bool {
    let is_byte = |byte: &u8| ![0, b'/'].contains(byte);
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.iter().all(is_byte)
        && ![&b"."[..], b".."].contains(&name.as_slice())
}

const fn is_kind(kind: &Kind) -> bool {
    match kind {
        Kind::Symlink(target) => !target.is_empty() && target.len() <= TARGET_BYTES_MAX,
        _ => true,
    }
}
