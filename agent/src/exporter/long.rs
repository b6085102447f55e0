//! Reads large files and directories for the exporter on threads of their own, a few for each user, so that nobody waits for
//! the files of another. The exporter opens each, and answers when it has been read: a question about a file as if it had known
//! the file, one about a directory with what has changed meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use packetfs::export::{Asked, Exporter, Unlisted, Unread, read_packets};
use packetfs::packet::{Manifest, Packed, PacketRef, WHOLE_BYTES_MAX};
use packetfs::path::{FileName, TreePath, is_within};
use packetfs::tree::{Listing, Version};
use packetfs::watch::Drained;

use crate::own_volume::OwnVolume;
use crate::turns::Turns;
use crate::vital::Vital;

/// Most bytes that the exporter itself reads for a question: a quarter of a millisecond of hashing. Starting a thread costs a
/// tenth of that.
pub(super) const AT_ONCE_BYTES_MAX: u64 = 256 * 1024;
/// Largest directory that the exporter itself lists: some 10,000 names, for 30 milliseconds.
pub(super) const DIR_AT_ONCE_BYTES_MAX: u64 = 256 * 1024;
/// Most files of one user that are read at once, as many as one disk and one network keep up with …
const READS_PER_USER_MAX: usize = 2;
/// … and most of all users.
const READS_MAX: usize = 32;
/// Most reads for one question. A file that still changes is written faster than it can be read.
pub(super) const READS_PER_QUESTION_MAX: u8 = 5;

/// A long read.
pub(super) struct Long {
    /// Who has it done.
    pub(super) user: u32,
    /// Who owns the file.
    pub(super) owner: u32,
    work: Work,
}

enum Work {
    Content(Unread),
    Packets(File, Vec<(u64, PacketRef)>),
    Listing(Unlisted),
}

/// What was read.
pub(super) enum Read {
    /// A version of a file.
    Content(Version, Result<Manifest, Errno>),
    Packets(Vec<(PacketRef, Packed)>),
    Listing(Result<Listing, Errno>),
}

/// Returns what there is to tell of a file's content, and reads it if it is small. One of the agent's own volume may be with other
/// nodes only, which reading waits for: it is read only if it is here.
pub(super) fn at_once(
    files: &mut Exporter,
    path: &TreePath,
    want_inline: bool,
    own: Option<&OwnVolume>,
) -> Result<Asked, Errno> {
    let Some(own) = own else {
        return files.content_within(path, want_inline, AT_ONCE_BYTES_MAX);
    };
    match files.content_within(path, want_inline, 0)? {
        Asked::Unread(file) if own.is_here(file.attr()) => {
            files.content_within(path, want_inline, WHOLE_BYTES_MAX as u64)
        }
        asked => Ok(asked),
    }
}

/// What has changed in a directory while it is listed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) names: BTreeSet<FileName>,
    /// It may be another directory now.
    pub(super) is_other: bool,
}

/// The end of a read.
pub(super) struct Done {
    number: u64,
    pub(super) read: Read,
}

impl Long {
    pub(super) fn content(user: u32, file: Unread) -> Self {
        Self { user, owner: file.owner(), work: Work::Content(file) }
    }

    pub(super) fn packets(
        user: u32,
        file: File,
        wanted: &[(u64, PacketRef)],
    ) -> Result<Self, Errno> {
        let metadata = file.metadata().map_err(|_| Errno::EIO)?;
        Ok(Self { user, owner: metadata.uid(), work: Work::Packets(file, wanted.to_vec()) })
    }
}

impl Long {
    /// Returns the version of a file that is to be read.
    pub(super) fn version(&self) -> Option<Version> {
        self.work.version()
    }

    pub(super) fn listing(user: u32, dir: Unlisted) -> Self {
        Self { user, owner: dir.attr().uid, work: Work::Listing(dir) }
    }
}

impl Work {
    fn version(&self) -> Option<Version> {
        match self {
            Self::Content(file) => Some(file.version()),
            Self::Packets(..) | Self::Listing(_) => None,
        }
    }

    fn dir(&self) -> Option<TreePath> {
        match self {
            Self::Listing(dir) => Some(dir.path().clone()),
            Self::Content(_) | Self::Packets(..) => None,
        }
    }

    fn read(self) -> Read {
        match self {
            Self::Content(file) => Read::Content(file.version(), file.read()),
            Self::Packets(file, wanted) => Read::Packets(read_packets(&file, &wanted)),
            Self::Listing(dir) => Read::Listing(dir.read()),
        }
    }
}

/// A read under way, for a question.
pub(super) struct Running<Q> {
    user: u32,
    version: Option<Version>,
    dir: Option<TreePath>,
    pub(super) asked: Q,
    /// Questions of the same user about the same file.
    pub(super) same: Vec<Q>,
    /// Of the directory.
    pub(super) changed: Changed,
}

/// All reads, and the questions that wait for one.
pub(super) struct Reads<Q> {
    vital: Vital,
    running: HashMap<u64, Running<Q>>,
    next: u64,
    waiting: Turns<Q>,
}

impl<Q> Reads<Q> {
    pub(super) fn new(vital: Vital) -> Self {
        Self { vital, running: HashMap::new(), next: 0, waiting: Turns::default() }
    }

    pub(super) fn has_room(&self, user: u32) -> bool {
        let of_user = self.running.values().filter(|it| it.user == user).count();
        self.running.len() < READS_MAX && of_user < READS_PER_USER_MAX
    }

    /// Returns the read of the same file for the same user.
    pub(super) fn same(&mut self, long: &Long) -> Option<&mut Running<Q>> {
        let version = long.version()?;
        self.running.values_mut().find(|it| it.user == long.user && it.version == Some(version))
    }

    pub(super) fn wait(&mut self, user: u32, asked: Q) {
        self.waiting.put(user, asked);
    }

    /// Returns the next question for which there is room.
    pub(super) fn next(&mut self) -> Option<Q> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let next = waiting.take(|user| self.has_room(user));
        self.waiting = waiting;
        next
    }

    /// Notes what has changed, for the directories that are being listed.
    pub(super) fn note(&mut self, drained: &Drained) {
        for Running { dir, changed, .. } in self.running.values_mut() {
            let Some(dir) = dir.as_deref() else { continue };
            changed.is_other |= drained.overflow
                || drained.forgotten.keys().any(|forgotten| is_within(dir, forgotten));
            let names = drained.names.get(dir).into_iter().flat_map(|(_, names)| names);
            changed.names.extend(names.filter_map(|name| FileName::new(&**name).ok()));
        }
    }

    /// Starts a read, whose end is told by `tell`.
    ///
    /// # Errors
    /// There is no thread for it. The question is handed back.
    pub(super) fn start(
        &mut self,
        asked: Q,
        long: Long,
        tell: impl FnOnce(Done) + Send + 'static,
    ) -> Result<(), Q> {
        let (number, version, dir) = (self.next, long.version(), long.work.dir());
        let (user, work) = (long.user, long.work);
        let started = self.vital.thread("reader", move || {
            tell(Done { number, read: work.read() });
        });
        if let Err(error) = started {
            tracing::error!(%error, "failed to start a thread that reads a file: its walk is executed here");
            return Err(asked);
        }
        self.next += 1;
        let (same, changed) = (Vec::new(), Changed::default());
        let running = Running { user, version, dir, asked, same, changed };
        self.running.insert(number, running);
        Ok(())
    }

    /// Removes a read that has ended.
    pub(super) fn end(&mut self, done: &Done) -> Option<Running<Q>> {
        self.running.remove(&done.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(reads: &mut Reads<u32>, user: u32) {
        let (same, changed) = (Vec::new(), Changed::default());
        let running = Running { user, version: None, dir: None, asked: user, same, changed };
        reads.running.insert(reads.next, running);
        reads.next += 1;
    }

    #[test]
    fn users_take_turns() {
        let mut reads = Reads::new(Vital::new().0);
        for user in 0..100 {
            while reads.has_room(user) {
                run(&mut reads, user);
            }
        }
        assert_eq!(reads.running.len(), READS_MAX);
        assert_eq!(reads.running.values().filter(|it| it.user == 0).count(), READS_PER_USER_MAX);
        (0..5).for_each(|_| reads.wait(50, 50));
        reads.wait(51, 51);
        assert!(reads.next().is_none());
        reads.running.clear();
        let turns: Vec<_> = std::iter::from_fn(|| reads.next()).collect();
        assert_eq!(turns, [50, 51, 50, 50, 50, 50]);
    }
}
