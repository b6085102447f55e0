//! The journal: one file with room for one commit, overwritten in place.
//!
//! Its layout is `u64 record bytes, digest[32], u64 cleared, u64 tries, record, bodies`. `cleared` is 1 once
//! everything in the way has been moved aside; `tries` counts the agents that have tried to finish the commit. The
//! digest is the record's; the packets' bodies are checked against their own digests.
//!
//! The header is written last. A process that is killed between two writes leaves no header, or one that does not
//! match its record: then nothing was begun. After a commit the header is overwritten. When no other commit follows
//! soon, the file is truncated, because its content may be private to its owner. There is no fsync: the page cache
//! survives the process, and a power cut is no worse than during the user's own program.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::apply::Begun;
use super::model::{Commit, Scope};
use super::temporary::Temporary;
use crate::change::ChangeSet;
use crate::identity::Owner;
use crate::packet::{Digest, Packed, PacketRef};
use crate::tree::Time;

const HEAD_BYTES: usize = 56;
const CLEARED_AT: u64 = 40;
const TRIES_AT: u64 = 48;
/// Suffix of the one journal that is set aside.
const ASIDE: &str = ".failed";
/// Mode of the journal, which only the agent may access: it is applied with the agent's privileges.
const MODE: u32 = 0o600;
const OTHERS: u32 = 0o022;
/// Size up to which bodies are written together.
const WRITE_BYTES: usize = 32 * 1024;

/// A commit without its packets' bodies; for each of them, whether it is compressed, and its length.
type Record = (Owner, Scope, ChangeSet, Vec<(PacketRef, bool, u64)>, bool, Time, Temporary);

/// An interrupted commit, and its temporary names.
pub(super) struct Pending {
    pub(super) commit: Commit,
    pub(super) temporary: Temporary,
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = options.mode(MODE).custom_flags(flags).open(path)?;
        check(&file)?;
        file.set_permissions(Permissions::from_mode(MODE))?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&self, commit: &Commit, temporary: Temporary) -> io::Result<()> {
        let packed = |(packet, packed): &(PacketRef, Packed)| {
            (*packet, packed.compressed, packed.body.len() as u64)
        };
        let packets: Vec<_> = commit.packets.iter().map(packed).collect();
        let Commit { owner, scope, changes, last_wins, began, .. } = commit;
        let record = (owner, scope, changes, packets, last_wins, began, temporary);
        let record = postcard::to_allocvec(&record).map_err(io::Error::other)?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
        let mut writer = BufWriter::with_capacity(WRITE_BYTES, file);
        writer.write_all(&record)?;
        commit.packets.iter().try_for_each(|(_, packed)| writer.write_all(&packed.body))?;
        writer.flush()?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend((record.len() as u64).to_le_bytes());
        head.extend(Digest::of(&record).0);
        head.extend([0; 16]);
        self.file.write_all_at(&head, 0)
    }

    /// Clears the journal by overwriting its header.
    pub(super) fn strike(&self) -> io::Result<()> {
        self.file.write_all_at(&[0; HEAD_BYTES], 0)
    }

    /// Truncates the journal, which costs a file system more than overwriting it.
    pub(super) fn empty(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Records that everything in the way has been moved aside.
    pub(super) fn note_cleared(&self) -> io::Result<()> {
        self.file.write_all_at(&1_u64.to_le_bytes(), CLEARED_AT)
    }

    /// Returns how many agents have tried to finish the commit in it.
    pub(super) fn tries(&self) -> io::Result<u64> {
        let mut tries = [0; 8];
        match self.file.read_exact_at(&mut tries, TRIES_AT) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read.map(|()| u64::from_le_bytes(tries)),
        }
    }

    /// Counts another try.
    pub(super) fn note_try(&self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if metadata.len() < HEAD_BYTES as u64 {
            return Ok(());
        }
        self.file.write_all_at(&(self.tries()? + 1).to_le_bytes(), TRIES_AT)?;
        // The mtime records when the commit was begun.
        self.file.set_modified(metadata.modified()?)
    }

    /// Renames the journal, and returns its new path.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(ASIDE);
        std::fs::rename(&self.path, &aside)?;
        Ok(aside.into())
    }

    /// Returns the progress of the commit in it.
    pub(super) fn begun(&self) -> io::Result<Begun> {
        let metadata = self.file.metadata()?;
        let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
        let mut cleared = [0; 8];
        self.file.read_exact_at(&mut cleared, CLEARED_AT)?;
        let at = Time { seconds: metadata.mtime(), nanos };
        Ok(Begun { at, is_cleared: u64::from_le_bytes(cleared) == 1 })
    }

    /// Returns the interrupted commit, if there is one.
    pub(super) fn pending(&self) -> io::Result<Option<Pending>> {
        let length = self.file.metadata()?.len();
        if length < HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact_at(&mut head, 0)?;
        let (bytes, rest) = head.split_first_chunk::<8>().expect("the head is longer");
        let bytes = u64::from_le_bytes(*bytes);
        if bytes == 0 || bytes > length - HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut file = &self.file;
        file.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
        let Some(record) = read(file, bytes)? else { return Ok(None) };
        if Digest::of(&record).0 != rest[..32] {
            return Ok(None);
        }
        // Journals of an earlier version have further fields.
        let Ok((record, [])) = postcard::take_from_bytes::<Record>(&record) else {
            return Ok(None);
        };
        let (owner, scope, changes, bodies, last_wins, began, temporary) = record;
        let mut packets = Vec::new();
        for (packet, compressed, bytes) in bodies {
            let Some(body) = read(file, bytes)? else { return Ok(None) };
            packets.push((packet, Packed { compressed, body }));
        }
        let commit = Commit { owner, scope, changes, packets, last_wins, began };
        Ok(Some(Pending { commit, temporary }))
    }
}

/// Refuses a journal that others may have written.
fn check(file: &File) -> io::Result<()> {
    let (metadata, own) = (file.metadata()?, nix::unistd::geteuid().as_raw());
    let refused = |why: String| {
        let remedy = "what is in it is not trusted: remove it, and an empty one is made";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{why}; {remedy}")))
    };
    match (metadata.uid(), metadata.mode() & 0o7777) {
        _ if !metadata.is_file() => refused("it is no regular file".into()),
        (uid, _) if uid != own => refused(format!("it belongs to user {uid}")),
        (_, mode) if mode & OTHERS != 0 => {
            refused(format!("others may write it (mode {mode:04o})"))
        }
        _ => Ok(()),
    }
}

/// Reads so many bytes, or returns `None` if the file is shorter.
fn read(file: &File, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    let read = file.take(bytes).read_to_end(&mut body)?;
    Ok((read as u64 == bytes).then_some(body))
}
