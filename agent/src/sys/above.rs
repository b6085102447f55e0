//! Copies directories up and makes whiteouts before a walk begins. The overlay would do so at the walk's first
//! change there, at the cost of several requests to the origin each.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, lstat, mknod, utimensat};
use nix::sys::time::TimeSpec;
use packetfs::owners::Owners;
use packetfs::path::Bytes;
use packetfs::tree::{Attr, Kind, Time};

use super::orders::{Ahead, path};

/// Set-user-id and set-group-id.
const SPECIAL_BITS: u32 = 0o6000;

/// The two layers of an overlay, side by side.
pub(super) struct Above<'a> {
    pub(super) lower: &'a Path,
    pub(super) upper: &'a Path,
    pub(super) owners: Owners,
    /// Whether the lower layer shows extended attributes.
    pub(super) xattrs: bool,
}

/// The state of the upper layer before the walk.
pub(super) struct Before {
    /// Its directories.
    dirs: Vec<(PathBuf, Mark)>,
    /// Whether they may have extended attributes, whose values are not recorded.
    xattrs: bool,
}

/// A fingerprint of a directory that any change in or of it alters.
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
    /// Tells whether the walk may have changed anything, without reading the layer.
    pub(super) fn has_changed(&self) -> bool {
        let is_same = |(dir, mark): &(PathBuf, Mark)| Mark::of(dir).is_ok_and(|now| now == *mark);
        self.xattrs || !self.dirs.iter().all(is_same)
    }
}

impl Above<'_> {
    /// Prepares the upper layer.
    pub(super) fn prepare(&self, ahead: &Ahead) -> io::Result<Before> {
        let mut made = BTreeMap::new();
        for dir in &ahead.dirs {
            self.make_dir(path(dir), ahead, &mut made)?;
        }
        for name in &ahead.absent {
            // A failure is harmless: the overlay asks the lower layer instead.
            let mark = self.upper.join(relative(path(name)));
            let _ = mknod(&mark, SFlag::S_IFCHR, Mode::empty(), 0);
        }
        // Last, because creating entries changes a directory's time; children come before parents.
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

    /// Makes a directory with its ancestors, and records the times to set on them.
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
            let look = || self.owners.attr_there(Attr::of(&lstat(&below).ok()?));
            let attr = known.map(|(_, attr)| *attr).or_else(look);
            // A component is a symbolic link: its target is fetched when it is needed.
            let Some(attr) = attr.filter(|attr| attr.kind == Kind::Dir) else { break };
            let [Some(uid), Some(gid)] = [attr.uid, attr.gid].map(|it| self.owners.number(it))
            else {
                break;
            };
            std::fs::DirBuilder::new().mode(attr.mode).create(&above)?;
            lchown(&above, Some(uid), Some(gid))?;
            if attr.mode & SPECIAL_BITS != 0 {
                // `mkdir` and `chown` do not set these bits.
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
