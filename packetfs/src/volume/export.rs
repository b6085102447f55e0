//! Writes a tree of the volume into a directory outside, with all that belongs to its files.

mod attributes;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use worknode::history::{Content, Hlc, Kind, Name};

use super::error::VolumeError;
use super::model::{State, Volume};
use super::node::Node;
use crate::progress::Progress;
use crate::tree::Xattr;

/// Nobody else may enter the tree before it is complete.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The end of the name until the tree is complete.
const PART: &str = ".part";
/// Read and written at once.
const PART_BYTES: usize = 1024 * 1024;

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exported {
    /// Files, directories included.
    pub files: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Files whose owner or attributes could not be set there.
    pub changed: u64,
}

/// A file to be written.
struct Item {
    ino: u64,
    node: Node,
    xattrs: Vec<Xattr>,
    to: PathBuf,
}

impl Volume {
    /// Writes a directory of the volume as it is, or as it was at a moment, into a new directory outside, durably. Until it is
    /// complete, the end of its name is `.part`.
    ///
    /// # Errors
    /// There is no directory of that path; the new directory exists or cannot be written; a content is damaged; it was cancelled.
    pub fn export(
        &self,
        path: &[u8],
        moment: Option<Hlc>,
        to: &Path,
        progress: &Progress,
    ) -> Result<Exported, VolumeError> {
        if moment.is_none() {
            self.shared.catch_up_all().map_err(|errno| absent(path)(errno.into()))?;
        }
        let _kept = self.shared.keep_packets();
        let state = self.shared.lock();
        let moment = moment.unwrap_or(state.tree.state.hlc);
        let ino = state
            .tree
            .walk_at(path, moment)?
            .ok_or_else(|| absent(path)(io::Error::from_raw_os_error(libc::ENOENT)))?;
        let top = item(&state, ino, moment, to.to_owned())?;
        drop(state);
        if top.node.kind != Kind::Dir {
            return Err(absent(path)(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        let exists = |found| VolumeError::io("make", to)(found);
        if to.symlink_metadata().is_ok() {
            return Err(exists(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let mut part = to.as_os_str().to_owned();
        part.push(PART);
        let part = PathBuf::from(part);
        let exported = Work::begin(self, moment, &part, progress)?.run(top)?;
        rename(&part, to).map_err(exists)?;
        Ok(exported)
    }
}

/// Renames a directory to a name that is free.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can say so.
        Err(Errno::INVAL) => std::fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

fn absent(path: &[u8]) -> impl FnOnce(io::Error) -> VolumeError {
    VolumeError::io("export", Path::new(std::ffi::OsStr::from_bytes(path)))
}

fn item(state: &State, ino: u64, moment: Hlc, to: PathBuf) -> Result<Item, VolumeError> {
    let node = state.tree.find_at(ino, moment)?.ok_or(VolumeError::Row)?;
    let xattrs = if node.has_xattrs { state.tree.xattrs_at(ino, moment)? } else { Vec::new() };
    Ok(Item { ino, node, xattrs, to })
}

/// An export under way.
struct Work<'a> {
    volume: &'a Volume,
    moment: Hlc,
    progress: &'a Progress,
    /// The new directory.
    top: File,
    /// Files with several names, and the first of them.
    linked: HashMap<u64, PathBuf>,
    done: Exported,
}

impl<'a> Work<'a> {
    fn begin(
        volume: &'a Volume,
        moment: Hlc,
        to: &Path,
        progress: &'a Progress,
    ) -> Result<Self, VolumeError> {
        let made = DirBuilder::new().mode(DIR_MODE).create(to);
        made.map_err(VolumeError::io("make", to))?;
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(to);
        let top = open.map_err(VolumeError::io("open", to))?;
        let (linked, done) = Default::default();
        Ok(Self { volume, moment, progress, top, linked, done })
    }

    fn run(mut self, top: Item) -> Result<Exported, VolumeError> {
        // Whoever may rename the directory cannot lead the rest astray.
        let within = PathBuf::from(format!("/proc/self/fd/{}/.", self.top.as_raw_fd()));
        let mut dirs = vec![Item { to: within, ..top }];
        let mut at = 0;
        while let Some(dir) = dirs.get(at) {
            for below in self.items(dir)? {
                if self.progress.is_cancelled() {
                    return Err(VolumeError::Cancelled);
                }
                if below.node.kind == Kind::Dir {
                    let made = DirBuilder::new().mode(DIR_MODE).create(&below.to);
                    made.map_err(VolumeError::io("make", &below.to))?;
                    dirs.push(below);
                } else {
                    self.write(&below)?;
                }
            }
            at += 1;
        }
        // A directory's time is set when nothing more is made in it.
        dirs.iter().rev().for_each(|dir| self.finish(dir));
        nix::unistd::syncfs(&self.top).map_err(|errno| {
            VolumeError::io("sync", Path::new("the exported tree"))(errno.into())
        })?;
        Ok(self.done)
    }

    fn items(&self, dir: &Item) -> Result<Vec<Item>, VolumeError> {
        let state = self.volume.shared.lock();
        let names: Vec<(Name, _)> = state.tree.entries_at(dir.ino, self.moment)?;
        let items = names.into_iter().map(|(name, entry)| {
            let to = dir.to.join(std::ffi::OsStr::from_bytes(&name));
            item(&state, entry.ino, self.moment, to)
        });
        items.collect()
    }

    fn write(&mut self, item: &Item) -> Result<(), VolumeError> {
        if let Some(first) = self.linked.get(&item.ino) {
            return std::fs::hard_link(first, &item.to).map_err(VolumeError::io("make", &item.to));
        }
        self.make(item)?;
        if item.node.links > 1 {
            self.linked.insert(item.ino, item.to.clone());
        }
        self.finish(item);
        Ok(())
    }

    fn make(&mut self, item: &Item) -> Result<(), VolumeError> {
        let mode = Mode::from_bits_truncate(FILE_MODE);
        let special = |kind, device| mknod(&item.to, kind, mode, device).map_err(io::Error::from);
        let made = match &item.node.kind {
            Kind::File => return self.fill(&item.node.content, &item.to),
            Kind::Symlink(target) => symlink(std::ffi::OsStr::from_bytes(target), &item.to),
            Kind::Fifo => special(SFlag::S_IFIFO, 0),
            Kind::Socket => special(SFlag::S_IFSOCK, 0),
            Kind::Char(device) => special(SFlag::S_IFCHR, *device),
            Kind::Block(device) => special(SFlag::S_IFBLK, *device),
            Kind::Dir => Ok(()),
        };
        match made {
            // Only root of the machine makes devices.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            made => made.map_err(VolumeError::io("make", &item.to)),
        }
    }

    fn fill(&mut self, content: &Content, to: &Path) -> Result<(), VolumeError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(to);
        let file = file.map_err(VolumeError::io("make", to))?;
        let mut at = 0;
        while at < content.bytes {
            if self.progress.is_cancelled() {
                return Err(VolumeError::Cancelled);
            }
            let part = self.volume.shared.library.read(content, at, PART_BYTES);
            let part = part.map_err(VolumeError::io("read the content of", to))?;
            // What is zero stays a hole.
            if part.iter().any(|&byte| byte != 0) {
                file.write_all_at(&part, at).map_err(VolumeError::io("write", to))?;
            }
            at += part.len() as u64;
            self.progress.add(part.len() as u64);
        }
        self.done.bytes += content.bytes;
        file.set_len(content.bytes).map_err(VolumeError::io("write", to))
    }

    /// Gives a file its attributes.
    fn finish(&mut self, item: &Item) {
        self.done.files += 1;
        let set = attributes::set(&item.to, &item.node, &item.xattrs);
        self.done.changed += u64::from(set.is_err());
    }
}
