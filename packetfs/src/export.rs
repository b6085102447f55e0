//! Exports the origin's tree: lists directories, splits files into packets and reads packets for runners
//! that ask by path. [`Hidden`] files are never shown, not even through another hard link.

mod entries;
mod hidden;
mod inodes;
mod long;
mod names;
mod open;
mod pattern;
mod secrets;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

use crate::identity::{Identity, Owner};
use crate::mounts::Mounts;
use crate::packet::{self, Manifest, Packed, PacketRef, WHOLE_BYTES_MAX};
use crate::path::{Bytes, FileName, TreePath, join};
use crate::tree::{Attr, Content, Entry, Kind, Listing, Version};
use entries::entry_in;
use inodes::Inodes;
use long::Reading;
use open::{MayBeAsked, errno, open_again, resolved};

pub(crate) use open::open;

pub use hidden::{Hidden, Own, PatternError, is_kernels};
pub use long::{Asked, Exported, Unlisted, Unread, read_packets};
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
    /// Versions that other threads are reading.
    reading: Reading,
    may_be_asked: MayBeAsked,
    /// Whether the thread has a user's rights: then what is cached is not shown before the file has been opened.
    acts_for_user: bool,
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
        Self {
            hidden,
            inodes,
            manifests: HashMap::new(),
            reading: Reading::default(),
            may_be_asked,
            acts_for_user: false,
        }
    }

    /// Reads a file with a user's rights.
    ///
    /// # Errors
    /// What `read` returns; `EACCES` for what the user may not read.
    pub fn for_user<T>(
        &mut self,
        user: &Owner,
        read: impl FnOnce(&mut Self) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let _identity = Identity::assume(user).map_err(errno)?;
        let own = nix::unistd::geteuid();
        self.acts_for_user = user.uid != own.as_raw();
        let result = read(self);
        self.acts_for_user = false;
        match user.uid != 0 || !own.is_root() {
            // Whatever the reason, the walk is then executed here, where the user finds it out.
            true => result.map_err(|errno| if errno == Errno::EIO { Errno::EACCES } else { errno }),
            false => result,
        }
    }

    /// Tells whether a user may look up names in a directory. Its names are then shown, also if the user may not list it:
    /// on the runner as here the kernel shows users what they may see.
    ///
    /// # Errors
    /// `EACCES` if the user may not.
    pub fn may_search(&mut self, user: &Owner, dir: &TreePath) -> Result<(), Errno> {
        self.for_user(user, |_| {
            open(&join(dir, b"."), OFlag::O_PATH | OFlag::O_DIRECTORY).map(drop)
        })
    }

    /// Tells whether the thread may read a file or directory.
    #[must_use]
    pub fn may_read(&self, path: &[u8], attr: &Attr) -> bool {
        let place = matches!(attr.kind, Kind::File | Kind::Dir).then(|| open(path, OFlag::O_PATH));
        let Some(Ok(place)) = place else { return false };
        // Something else may have taken its place.
        let is_same = fstat(&place).is_ok_and(|stat| Attr::of(&stat).kind == attr.kind);
        is_same && open_again(&place).is_ok()
    }

    /// Lists a directory.
    ///
    /// # Errors
    /// What the system says, or `EACCES` for what is not exported.
    pub fn list(&mut self, path: &TreePath) -> Result<Listing, Errno> {
        let listing = self.open_dir(path)?.read()?;
        self.note_listed(path, &listing.entries);
        Ok(listing)
    }

    /// Opens a directory that is to be listed, perhaps by another thread.
    ///
    /// # Errors
    /// See [`Self::list`].
    pub fn open_dir(&self, path: &TreePath) -> Result<Unlisted, Errno> {
        if self.hidden.hides_dir(path) {
            return Err(Errno::EACCES);
        }
        let dir = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let attr = Attr::of(&fstat(&dir)?);
        let (mounts, may_be_asked) = (self.hidden.mounts(), Arc::clone(&self.may_be_asked));
        Ok(Unlisted { path: path.clone(), dir, attr, mounts, may_be_asked })
    }

    /// Records the inodes of hidden entries of a directory that was listed.
    pub fn note_listed(&mut self, dir: &TreePath, entries: &[Entry]) {
        self.note_hidden(dir, entries.iter());
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
    fn entry_in(&self, dir: (&OwnedFd, &[u8]), mounts: &Mounts, name: FileName) -> Option<Entry> {
        entry_in(&*self.may_be_asked, dir, mounts, name)
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
            for version in entry.iter().map(|entry| entry.attr.version()) {
                self.manifests.remove(&version);
                self.reading.spoil(&version);
            }
        }
        (attr, entries)
    }

    /// Returns the packets of a file, reading it if its manifest is not cached.
    ///
    /// # Errors
    /// What the system says, `EACCES` for what is not exported, `EAGAIN` for a file that is
    /// written faster than it can be read.
    pub fn content(&mut self, path: &TreePath, want_inline: bool) -> Result<Exported, Errno> {
        match self.content_within(path, want_inline, u64::MAX)? {
            Asked::Known(exported) => Ok(exported),
            Asked::Unread(_) => Err(Errno::EAGAIN),
        }
    }

    /// Returns the same, but opens a file of more than `bytes_max` only, unless its manifest is cached.
    ///
    /// # Errors
    /// See [`Self::content`].
    pub fn content_within(
        &mut self,
        path: &TreePath,
        want_inline: bool,
        bytes_max: u64,
    ) -> Result<Asked, Errno> {
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
                if self.acts_for_user {
                    open_again(&place)?;
                }
                return Ok(Asked::Known(Exported {
                    content: Content { attr, manifest },
                    inline: None,
                }));
            }
            let file = match opened.take() {
                Some(file) => file,
                None => open_again(&place)?,
            };
            if attr.bytes > bytes_max {
                return Ok(Asked::Unread(Unread { file, attr }));
            }
            let file = opened.insert(file);
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
            self.keep(attr.version(), manifest.clone());
            return Ok(Asked::Known(Exported { content: Content { attr, manifest }, inline }));
        }
        Err(Errno::EAGAIN)
    }

    /// Takes over the packets of a version of a file, which its file system knows.
    pub fn learn(&mut self, version: Version, manifest: Manifest) {
        self.keep(version, manifest);
    }

    fn keep(&mut self, version: Version, manifest: Manifest) {
        if self.manifests.len() >= MANIFESTS_MAX {
            self.manifests.clear();
        }
        self.manifests.insert(version, Arc::new(manifest));
    }

    /// Notes that another thread begins to read a version of a file.
    pub fn begin(&mut self, version: Version) {
        self.reading.begin(version);
    }

    /// Keeps what another thread has read, unless the version was seen to change meanwhile: two writes within one clock tick
    /// leave the same version. `None` if it could not be read.
    pub fn end(&mut self, version: Version, manifest: Option<Manifest>) {
        let is_sound = self.reading.end(&version);
        if let Some(manifest) = manifest.filter(|_| is_sound) {
            self.keep(version, manifest);
        }
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
        Ok(read_packets(&self.open_file(path)?, wanted))
    }

    /// Opens a file whose packets are wanted.
    ///
    /// # Errors
    /// See [`Self::packets`].
    pub fn open_file(&mut self, path: &TreePath) -> Result<File, Errno> {
        if self.hidden.hides(path) {
            return Err(Errno::EACCES);
        }
        let place = open(path, OFlag::O_PATH)?;
        self.shown_attr(&place)?;
        open_again(&place)
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
        is_private_key(path, content)
            || (attr.mode & 0o004 == 0 && self.hidden.has_own_word(content))
    }

    /// Returns the rules for hiding.
    #[must_use]
    pub fn hidden(&self) -> &Arc<Hidden> {
        &self.hidden
    }
}

/// Tells whether a file is a private key by the first line of its content, and not one of those that are published with software.
pub(crate) fn is_private_key(path: &[u8], content: &[u8]) -> bool {
    let first_line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    first_line.starts_with(b"-----BEGIN ")
        && first_line.trim_ascii_end().ends_with(b"PRIVATE KEY-----")
        && !names::is_public_path(path)
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

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("hidden", &self.hidden).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
