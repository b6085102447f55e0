//! Files and directories that take long to read. The exporter only opens them, files with the rights of whoever asks; other
//! threads read them.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::entries::entry_in;
use super::hidden::is_kernels;
use super::open::{MayBeAsked, errno};
use crate::mounts::Mounts;
use crate::packet::{self, Manifest, PACKET_BYTES_MAX, Packed, PacketRef, reference};
use crate::path::{FileName, TreePath};
use crate::tree::{Attr, Content, Listing, Names, Version};

/// A file's content, with its packet if it is a single small one.
#[derive(Debug)]
pub struct Exported {
    /// Attributes and manifest.
    pub content: Content,
    /// The only packet of a small file.
    pub inline: Option<Packed>,
}

/// What there is to tell of a file's content.
#[derive(Debug)]
pub enum Asked {
    /// Its packets.
    Known(Exported),
    /// It must be read, which takes a while.
    Unread(Unread),
}

impl Asked {
    /// Returns the file's attributes.
    #[must_use]
    pub fn attr(&self) -> &Attr {
        match self {
            Self::Known(exported) => &exported.content.attr,
            Self::Unread(unread) => &unread.attr,
        }
    }
}

/// An open file whose packets are not known.
#[derive(Debug)]
pub struct Unread {
    pub(super) file: File,
    pub(super) attr: Attr,
}

impl Unread {
    /// Returns the version that is to be read.
    #[must_use]
    pub fn version(&self) -> Version {
        self.attr.version()
    }

    /// Returns its attributes.
    #[must_use]
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Returns the owner of the file.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.attr.uid
    }

    /// Splits the file into packets.
    ///
    /// # Errors
    /// What the system says; `EAGAIN` if it has changed meanwhile.
    pub fn read(&self) -> Result<Manifest, Errno> {
        let Attr { bytes, blocks, .. } = self.attr;
        let manifest = packet::split_file(&self.file, bytes, blocks, |_, _| {}).map_err(errno)?;
        let now = Attr::of(&fstat(&self.file)?);
        let is_same = now.version() == self.version() && manifest.bytes() == now.bytes;
        if is_same { Ok(manifest) } else { Err(Errno::EAGAIN) }
    }
}

/// An open directory whose names are not known.
pub struct Unlisted {
    pub(super) path: TreePath,
    pub(super) dir: OwnedFd,
    pub(super) attr: Attr,
    pub(super) mounts: Arc<Mounts>,
    pub(super) may_be_asked: MayBeAsked,
}

impl Unlisted {
    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        &self.path
    }

    /// Returns the attributes of the directory.
    #[must_use]
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Reads all names with what they name.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self) -> Result<Listing, Errno> {
        let Self { path, dir, attr, mounts, may_be_asked } = self;
        let mut entries = Vec::new();
        if !is_kernels(path) {
            let mut reader = Dir::from_fd(dir.try_clone().map_err(|_| Errno::EMFILE)?)?;
            for item in reader.iter() {
                // `.` and `..` are not valid names.
                let Ok(name) = FileName::new(item?.file_name().to_bytes()) else { continue };
                // A name that has been removed meanwhile is not listed.
                entries.extend(entry_in(&**may_be_asked, (dir, path), mounts, name));
            }
        }
        Ok(Listing { attr: *attr, entries, names: Names::Told })
    }
}

impl std::fmt::Debug for Unlisted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unlisted").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads packets of an open file, each at its offset. Packets that no longer exist are missing from the result.
#[must_use]
pub fn read_packets(file: &File, wanted: &[(u64, PacketRef)]) -> Vec<(PacketRef, Packed)> {
    let read = |&(offset, packet): &(u64, PacketRef)| {
        let bytes = usize::try_from(packet.bytes).ok().filter(|&it| it <= PACKET_BYTES_MAX)?;
        let mut content = vec![0; bytes];
        file.read_exact_at(&mut content, offset).ok()?;
        (reference(&content) == packet).then(|| (packet, Packed::pack(&content)))
    };
    wanted.iter().filter_map(read).collect()
}

/// The versions that are being read: by how many threads, and whether each is still what they began with.
#[derive(Debug, Default)]
pub(super) struct Reading(HashMap<Version, (usize, bool)>);

impl Reading {
    pub(super) fn begin(&mut self, version: Version) {
        self.0.entry(version).or_insert((0, true)).0 += 1;
    }

    /// Notes that a file was changed, and shows this version now.
    pub(super) fn spoil(&mut self, version: &Version) {
        if let Some((_, is_sound)) = self.0.get_mut(version) {
            *is_sound = false;
        }
    }

    /// Returns whether what was read is what the version stands for. Once it was changed, that holds for all who read it at
    /// that time.
    pub(super) fn end(&mut self, version: &Version) -> bool {
        let Some((count, is_sound)) = self.0.get_mut(version) else { return false };
        let was_sound = *is_sound;
        *count -= 1;
        if *count == 0 {
            self.0.remove(version);
        }
        was_sound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Time;

    fn version(ino: u64) -> Version {
        let time = Time { seconds: 1, nanos: 0 };
        Version { dev: 1, ino, bytes: 1, mtime: time, ctime: time }
    }

    #[test]
    fn what_changes_while_it_is_read_is_not_kept() {
        let mut reading = Reading::default();
        reading.begin(version(1));
        reading.begin(version(1));
        reading.begin(version(2));
        reading.spoil(&version(1));
        reading.spoil(&version(3));
        assert!(!reading.end(&version(1)) && !reading.end(&version(1)) && reading.end(&version(2)));
        assert!(reading.0.is_empty());
    }
}
