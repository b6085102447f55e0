//! What is made in the upper layer before a walk begins, as the overlay would make it when the walk
//! first changes something there; the overlay would ask the lower layer's agent several questions for each.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, lstat, mknod, utimensat};
use nix::sys::time::TimeSpec;
use packetfs::tree::{Attr, Bytes, Kind, Time};

use super::orders::{Ahead, path};

/// Set-user-id and set-group-id.
const SPECIAL_BITS: u32 = 0o6000;

/// The two layers of an overlay, side by side.
pub(super) struct Above<'a> {
    pub(super) lower: &'a Path,
    pub(super) upper: &'a Path,
    /// Extended attributes are shown.
    pub(super) xattrs: bool,
}

/// What the upper layer was like before the walk.
pub(super) struct Before {
    /// Its directories.
    dirs: Vec<(PathBuf, Mark)>,
    /// They may have extended attributes, whose values nobody has looked at.
    xattrs: bool,
}

/// What anything that is done in or to a directory changes.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    attr: Attr,
    xattrs: Vec<Bytes>,
}

impl Mark {
    fn of(dir: &Path) -> io::Result<Self> {
        let file = OwnedFd::from(File::open(dir)?);
        Ok(Self { attr: Attr::of(&fstat(&file)?), xattrs: packetfs::xattr::list(&file)? })
    }
}

impl Before {
    /// Tells whether the walk has changed anything, as far as can be told at a glance.
    pub(super) fn has_changed(&self) -> bool {
        let is_same = |(dir, mark): &(PathBuf, Mark)| Mark::of(dir).is_ok_and(|now| now == *mark);
        self.xattrs || !self.dirs.iter().all(is_same)
    }
}

impl Above<'_> {
    /// Makes it all.
    pub(super) fn prepare(&self, ahead: &Ahead) -> io::Result<Before> {
        let mut made = BTreeMap::new();
        for dir in &ahead.dirs {
            self.make_dir(path(dir), ahead, &mut made)?;
        }
        for name in &ahead.absent {
            // Where there can be no mark, or is one already, the overlay finds out by itself.
            let mark = self.upper.join(relative(path(name)));
            let _ = mknod(&mark, SFlag::S_IFCHR, Mode::empty(), 0);
        }
        // Last, because what is made in a directory moves its time; those below come first.
        let mut dirs = Vec::with_capacity(made.len() + 1);
        for (dir, mtime) in made.into_iter().rev() {
            let time = TimeSpec::new(mtime.seconds, i64::from(mtime.nanos));
            let dir = self.upper.join(relative(&dir));
            utimensat(AT_FDCWD, &dir, &time, &time, UtimensatFlags::NoFollowSymlink)?;
            dirs.push(dir);
        }
        dirs.push(self.upper.to_owned());
        let mark = |dir: PathBuf| Mark::of(&dir).map(|mark| (dir, mark));
        let dirs = dirs.into_iter().map(mark).collect::<io::Result<_>>()?;
        Ok(Before { dirs, xattrs: self.xattrs })
    }

    /// Makes a directory with those above it; notes the times that they are to have.
    fn make_dir(
        &self,
        dir: &Path,
        ahead: &Ahead,
        made: &mut BTreeMap<PathBuf, Time>,
    ) -> io::Result<()> {
        let all: Vec<_> = dir.ancestors().filter(|dir| dir.parent().is_some()).collect();
        for dir in all.into_iter().rev() {
            if made.contains_key(dir) {
                continue;
            }
            let (below, above) = (self.lower.join(relative(dir)), self.upper.join(relative(dir)));
            let known = ahead.known.iter().find(|(known, _)| path(known) == dir);
            let attr =
                known.map(|(_, attr)| *attr).or_else(|| Some(Attr::of(&lstat(&below).ok()?)));
            // A symbolic link on the way: it leads to a directory that is asked for as it is needed.
            let Some(attr) = attr.filter(|attr| attr.kind == Kind::Dir) else { break };
            std::fs::DirBuilder::new().mode(attr.mode).create(&above)?;
            lchown(&above, Some(attr.uid), Some(attr.gid))?;
            if attr.mode & SPECIAL_BITS != 0 {
                // `mkdir` and `chown` do without them.
                std::fs::set_permissions(&above, Permissions::from_mode(attr.mode))?;
            }
            if self.xattrs {
                let [below, above] = [&below, &above].map(File::open);
                packetfs::xattr::copy(&below?.into(), &above?.into())?;
            }
            made.insert(dir.to_owned(), attr.mtime);
        }
        Ok(())
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
