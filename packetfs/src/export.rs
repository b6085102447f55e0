//! Exports the origin's tree: lists directories, splits files into packets and reads packets for runners
//! that ask by path. [`Hidden`] files are never shown, not even through another hard link.

mod hidden;
mod inodes;
mod names;
mod open;
mod pattern;
mod secrets;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{fstat, fstatat};
use rustix::fs::{AtFlags as LookFlags, StatxFlags, statx};

use crate::mounts::Mounts;
use crate::packet::{
    self, Manifest, PACKET_BYTES_MAX, Packed, PacketRef, WHOLE_BYTES_MAX, reference,
};
use crate::path::{Bytes, FileName, TreePath, join};
use crate::tree::{Attr, Content, Entry, Kind, Listing, Version};
use crate::xattr;
use hidden::is_kernels;
use inodes::Inodes;
use open::{MayBeAsked, errno, open_again, resolved};

pub(crate) use open::open;

pub use hidden::{Hidden, Own, PatternError};
pub use pattern::{PATTERN_BYTES_MAX, PATTERNS_MAX};

/// Most cached manifests. Beyond this, the cache is cleared.
const MANIFESTS_MAX: usize = 200_000;
/// Most attempts to read a file that changes while it is read.
const READS_MAX: u32 = 5;
/// Most home directories that are searched at the start. Secrets in others are found when a runner lists
/// them.
const HOMES_MAX: usize = 100;

/// Exports the files of this machine.
pub struct Exporter {
    hidden: Arc<Hidden>,
    inodes: Inodes,
    manifests: HashMap<Version, Arc<Manifest>>,
    may_be_asked: MayBeAsked,
}

/// A file's content, with its packet if it is a single small one.
#[derive(Debug)]
pub struct Exported {
    /// Attributes and manifest.
    pub content: Content,
    /// The only packet of a small file.
    pub inline: Option<Packed>,
}

impl Exporter {
    /// Makes an exporter of everything that is not hidden, in a tree whose file systems all answer.
    #[must_use]
    pub fn new(hidden: Arc<Hidden>) -> Self {
        Self::asking(hidden, |_| true)
    }

    /// Makes an exporter of everything that is not hidden. It records the inodes of hidden files in the agent's directories
    /// and in users' homes. `may_be_asked` tells which paths it may ask their file systems about: mount points that it may
    /// not ask are listed with what the kernel knows of them.
    #[must_use]
    pub fn asking(
        hidden: Arc<Hidden>,
        may_be_asked: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        let may_be_asked: MayBeAsked = Arc::new(may_be_asked);
        let mut inodes = Inodes::new(Arc::clone(&may_be_asked));
        let mut note = |path: &[u8]| {
            resolved(path, &*may_be_asked).iter().for_each(|path| inodes.note_path(path));
        };
        hidden.own_paths().iter().for_each(|path| note(path));
        for home in homes() {
            names::in_home().for_each(|name| note(&join(&home, name.as_bytes())));
        }
        Self { hidden, inodes, manifests: HashMap::new(), may_be_asked }
    }

    /// Lists a directory.
    ///
    /// # Errors
    /// What the system says, or `EACCES` for what is not exported.
    pub fn list(&mut self, path: &TreePath) -> Result<Listing, Errno> {
        if self.hidden.hides_dir(path) {
            return Err(Errno::EACCES);
        }
        let dir = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let attr = Attr::of(&fstat(&dir)?);
        if is_kernels(path) {
            return Ok(Listing { attr, entries: Vec::new(), hidden: false });
        }
        let mut reader = Dir::from_fd(dir.try_clone().map_err(|_| Errno::EMFILE)?)?;
        let mounts = self.hidden.mounts();
        let mut entries = Vec::new();
        for item in reader.iter() {
            // `.` and `..` are not valid names.
            let Ok(name) = FileName::new(item?.file_name().to_bytes()) else { continue };
            // A name that has been removed meanwhile is not listed.
            entries.extend(self.entry_in((&dir, path), &mounts, name));
        }
        self.note_hidden(path, entries.iter());
        Ok(Listing { attr, entries, hidden: false })
    }

    /// Records the inodes of hidden entries of a directory.
    fn note_hidden<'a>(&mut self, dir: &[u8], entries: impl Iterator<Item = &'a Entry>) {
        let mut hides = self.hidden.hider(dir);
        for entry in entries.filter(|entry| hides(&entry.name)) {
            self.inodes.note(&join(dir, &entry.name), &entry.attr);
        }
    }

    /// Returns the current entry of a name, if it exists.
    #[must_use]
    pub fn entry(&self, dir: &[u8], name: &[u8]) -> Option<Entry> {
        if is_kernels(dir) {
            return None;
        }
        let opened = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?;
        self.entry_in((&opened, dir), &self.hidden.mounts(), FileName::new(name).ok()?)
    }

    /// Returns the entry of a name in an open directory.
    fn entry_in(
        &self,
        (open, dir): (&OwnedFd, &[u8]),
        mounts: &Mounts,
        name: FileName,
    ) -> Option<Entry> {
        if mounts.has_points_in(dir) {
            let path = join(dir, &name);
            if mounts.is_point(&path) && !(self.may_be_asked)(&path) {
                return entry_at_hand(open, name);
            }
        }
        entry(open, name)
    }

    /// Returns the current entries of names of a directory, and the directory's own attributes.
    #[must_use]
    pub fn entries(
        &mut self,
        dir: &TreePath,
        names: impl Iterator<Item = FileName>,
    ) -> (Option<Attr>, Vec<(FileName, Option<Entry>)>) {
        let shown = (!self.hidden.hides_dir(dir)).then_some(dir);
        let opened = shown.map(|dir| open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY));
        let Some(Ok(open)) = opened else { return (None, Vec::new()) };
        let attr = fstat(&open).ok().map(|stat| Attr::of(&stat));
        let mounts = self.hidden.mounts();
        let shown = |name: &FileName| {
            if is_kernels(dir) { None } else { self.entry_in((&open, dir), &mounts, name.clone()) }
        };
        let entries: Vec<_> = names.map(|name| (name.clone(), shown(&name))).collect();
        self.note_hidden(dir, entries.iter().filter_map(|(_, entry)| entry.as_ref()));
        for (_, entry) in &entries {
            // Two writes within one clock tick leave the same version.
            entry.iter().for_each(|entry| drop(self.manifests.remove(&entry.attr.version())));
        }
        (attr, entries)
    }

    /// Returns the packets of a file, reading it if its manifest is not cached.
    ///
    /// # Errors
    /// What the system says, `EACCES` for what is not exported, `EAGAIN` for a file that is
    /// written faster than it can be read.
    pub fn content(&mut self, path: &TreePath, want_inline: bool) -> Result<Exported, Errno> {
        if self.hidden.hides(path) {
            return Err(Errno::EACCES);
        }
        let place = open(path, OFlag::O_PATH)?;
        let mut attr = self.shown_attr(&place)?;
        let mut opened = None;
        for _ in 0..READS_MAX {
            let small = attr.bytes <= WHOLE_BYTES_MAX as u64;
            let known = self.manifests.get(&attr.version());
            if let (Some(manifest), false) = (known, small && want_inline) {
                let manifest = manifest.as_ref().clone();
                return Ok(Exported { content: Content { attr, manifest }, inline: None });
            }
            let file = match &opened {
                Some(file) => file,
                None => opened.insert(open_again(&place)?),
            };
            let (mut inline, mut secret) = (None, false);
            let manifest = packet::split_file(file, attr.bytes, attr.blocks, |_, piece| {
                secret |= small && self.is_secret(path, &attr, piece);
                if small && want_inline && !secret {
                    inline = Some(Packed::pack(piece));
                }
            });
            let manifest = manifest.map_err(errno)?;
            if secret {
                return Err(Errno::EACCES);
            }
            let before = std::mem::replace(&mut attr, Attr::of(&fstat(file)?));
            if before.version() != attr.version() || manifest.bytes() != attr.bytes {
                continue;
            }
            if self.manifests.len() >= MANIFESTS_MAX {
                self.manifests.clear();
            }
            self.manifests.insert(attr.version(), Arc::new(manifest.clone()));
            return Ok(Exported { content: Content { attr, manifest }, inline });
        }
        Err(Errno::EAGAIN)
    }

    /// Reads packets of a file, each at its offset. Packets that no longer exist, because the file has
    /// changed, are missing from the result.
    ///
    /// # Errors
    /// What the system says, or `EACCES` for what is not exported.
    pub fn packets(
        &mut self,
        path: &TreePath,
        wanted: &[(u64, PacketRef)],
    ) -> Result<Vec<(PacketRef, Packed)>, Errno> {
        if self.hidden.hides(path) {
            return Err(Errno::EACCES);
        }
        let place = open(path, OFlag::O_PATH)?;
        self.shown_attr(&place)?;
        let file = open_again(&place)?;
        let mut packets = Vec::with_capacity(wanted.len());
        for &(offset, packet) in wanted {
            if packet.bytes as usize > PACKET_BYTES_MAX {
                continue;
            }
            let mut bytes = vec![0; packet.bytes as usize];
            let whole = file.read_exact_at(&mut bytes, offset).is_ok();
            if whole && reference(&bytes) == packet {
                packets.push((packet, Packed::pack(&bytes)));
            }
        }
        Ok(packets)
    }

    /// Returns the attributes of a regular file, unless it is hidden under another name.
    fn shown_attr(&mut self, place: &OwnedFd) -> Result<Attr, Errno> {
        let attr = Attr::of(&fstat(place)?);
        match attr.kind {
            Kind::File if self.inodes.holds(&attr) => Err(Errno::EACCES),
            Kind::File => Ok(attr),
            Kind::Symlink => Err(Errno::ELOOP),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Tells whether a small file is secret by its content, whatever its name: a private key, or a file with one
    /// of the agent's secret words that is not world-readable.
    fn is_secret(&self, path: &[u8], attr: &Attr, content: &[u8]) -> bool {
        let first_line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let is_key = first_line.starts_with(b"-----BEGIN ")
            && first_line.trim_ascii_end().ends_with(b"PRIVATE KEY-----")
            && !names::is_public_path(path);
        is_key || (attr.mode & 0o004 == 0 && self.hidden.has_own_word(content))
    }

    /// Returns the rules for hiding.
    #[must_use]
    pub fn hidden(&self) -> &Arc<Hidden> {
        &self.hidden
    }
}

/// Returns the home directories in this machine's `/etc/passwd`.
fn homes() -> Vec<Bytes> {
    let text = std::fs::read("/etc/passwd").unwrap_or_default();
    let home = |line: &[u8]| line.split(|&byte| byte == b':').nth(5).map(<[u8]>::to_vec);
    let mut homes: Vec<Bytes> = text.split(|&byte| byte == b'\n').filter_map(home).collect();
    homes.retain(|home| home.len() > 1 && home.starts_with(b"/"));
    homes.sort();
    homes.dedup();
    homes.truncate(HOMES_MAX);
    homes
}

/// Returns what a name names, as the kernel knows it without asking the file system.
fn entry_at_hand(dir: &OwnedFd, name: FileName) -> Option<Entry> {
    let flags = LookFlags::SYMLINK_NOFOLLOW | LookFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::BASIC_STATS;
    let found = statx(dir, OsStr::from_bytes(&name), flags, mask).ok()?;
    Some(Entry { name, attr: Attr::of_statx(&found), target: None, xattrs: Vec::new() })
}

fn entry(dir: &OwnedFd, name: FileName) -> Option<Entry> {
    let path = OsStr::from_bytes(&name);
    let attr = Attr::of(&fstatat(dir, path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?);
    let target = match attr.kind {
        Kind::Symlink => Some(nix::fcntl::readlinkat(dir.as_fd(), path).ok()?.as_bytes().to_vec()),
        _ => None,
    };
    // If attributes cannot be read, the file is shown without any.
    let xattrs = xattr::shown_at(dir, &name).unwrap_or_default();
    Some(Entry { name, attr, target, xattrs })
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("hidden", &self.hidden).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
