//! The mount table: its changes, and the aliases that file systems have which are mounted more than once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::makedev;

use crate::path::{Bytes, above, is_within, join, split};

/// The mounts of the caller's namespace, below its root.
const MOUNTS: &str = "/proc/thread-self/mountinfo";
/// Most mounts of one file system that are searched for aliases of a path. One with more is mounted in
/// every container, and its files are hidden by name.
const ALIASES_MAX: usize = 64;

/// File systems that the kernel answers for by itself.
const LOCAL: [&str; 34] = [
    "ext4",
    "ext3",
    "ext2",
    "xfs",
    "btrfs",
    "f2fs",
    "zfs",
    "bcachefs",
    "vfat",
    "exfat",
    "iso9660",
    "squashfs",
    "erofs",
    "overlay",
    "tmpfs",
    "ramfs",
    "rootfs",
    "devtmpfs",
    "devpts",
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "bpf",
    "pstore",
    "fusectl",
    "nsfs",
    "binfmt_misc",
];

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mount {
    /// The file system's device number, as in `stat`.
    dev: u64,
    /// The directory or file within the file system that is mounted.
    root: Bytes,
    point: Bytes,
    kind: Bytes,
}

/// All mounts of a namespace.
#[derive(Debug, Default)]
pub struct Mounts {
    mounts: Vec<Mount>,
    /// The last mount at each point.
    points: HashMap<Bytes, usize>,
    /// Directories that contain mount points.
    parents: HashSet<Bytes>,
    /// File systems that are mounted more than once.
    shared: HashMap<u64, Vec<usize>>,
    /// Some file system is not a local one.
    has_served: bool,
}

impl Mount {
    fn is_local(&self) -> bool {
        LOCAL.iter().any(|kind| kind.as_bytes() == self.kind)
    }
}

impl Mounts {
    /// Parses a `mountinfo`, skipping malformed lines.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mounts: Vec<Mount> = text.split(|&byte| byte == b'\n').filter_map(parse).collect();
        let (mut points, mut parents) = (HashMap::new(), HashSet::new());
        let mut shared: HashMap<u64, Vec<usize>> = HashMap::new();
        for (number, mount) in mounts.iter().enumerate() {
            points.insert(mount.point.clone(), number);
            parents.extend(split(&mount.point).map(|(dir, _)| dir.to_vec()));
            shared.entry(mount.dev).or_default().push(number);
        }
        shared.retain(|_, mounts| mounts.len() > 1);
        shared.values_mut().for_each(|mounts| mounts.truncate(ALIASES_MAX));
        let has_served = mounts.iter().any(|mount| !mount.is_local());
        Self { mounts, points, parents, shared, has_served }
    }

    /// Returns the points at which `newer` differs.
    #[must_use]
    pub fn changed(&self, newer: &Self) -> BTreeSet<Bytes> {
        let (old, new) = (self.stacks(), newer.stacks());
        let points = old.keys().chain(new.keys());
        points
            .filter(|&point| old.get(point) != new.get(point))
            .map(|&point| point.clone())
            .collect()
    }

    /// Returns the stack of mounts at each point.
    fn stacks(&self) -> BTreeMap<&Bytes, Vec<&Mount>> {
        let mut stacks: BTreeMap<&Bytes, Vec<&Mount>> = BTreeMap::new();
        for mount in &self.mounts {
            stacks.entry(&mount.point).or_default().push(mount);
        }
        stacks
    }

    /// Tells whether something is mounted in the directory.
    #[must_use]
    pub fn has_points_in(&self, dir: &[u8]) -> bool {
        self.parents.contains(dir)
    }

    /// Tells whether something is mounted at the path.
    #[must_use]
    pub fn is_point(&self, path: &[u8]) -> bool {
        self.points.contains_key(path)
    }

    /// Tells whether a path lies in a file system of one of these kinds.
    #[must_use]
    pub fn is_of_kind(&self, path: &[u8], kinds: &[&str]) -> bool {
        let of_kind = |path| {
            self.at(path)
                .is_some_and(|mount: &Mount| kinds.iter().any(|kind| kind.as_bytes() == mount.kind))
        };
        of_kind(path) || above(path).any(of_kind)
    }

    /// Returns the mount that a path is in, as its point and its device, if a server or another process answers for
    /// its file system: one that is not known to be local.
    #[must_use]
    pub fn served_at(&self, path: &[u8]) -> Option<(&[u8], u64)> {
        if !self.has_served {
            return None;
        }
        let mount = std::iter::once(path).chain(above(path)).find_map(|dir| self.at(dir))?;
        (!mount.is_local()).then_some((mount.point.as_slice(), mount.dev))
    }

    /// Returns the points in a directory at which such file systems are mounted.
    pub fn served_in(&self, dir: &[u8]) -> impl Iterator<Item = &[u8]> {
        let points = self.has_points_in(dir).then(|| self.points.keys()).into_iter().flatten();
        let is_in = move |point: &&[u8]| split(point).is_some_and(|(above, _)| above == dir);
        points.map(Vec::as_slice).filter(is_in).filter(|point| self.served_at(point).is_some())
    }

    /// Returns the other paths that mounts give to what is at a path.
    pub fn aliases(&self, path: &[u8]) -> impl Iterator<Item = Bytes> {
        let found = (!self.shared.is_empty()).then(|| self.within(path)).flatten();
        let others = found.iter().filter_map(|(mount, _)| self.shared.get(&mount.dev)).flatten();
        let paths: Vec<Bytes> = others
            .map(|&number| &self.mounts[number])
            .filter_map(|other| {
                let (mount, inner) = found.as_ref()?;
                let rest = below(inner, &other.root).filter(|_| other != *mount)?;
                Some(if rest.is_empty() { other.point.clone() } else { join(&other.point, rest) })
            })
            .collect();
        paths.into_iter().filter(move |alias| alias != path)
    }

    /// Returns the mount that a path is in, and its path in the file system.
    fn within(&self, path: &[u8]) -> Option<(&Mount, Bytes)> {
        let point = std::iter::once(path).chain(above(path)).find_map(|dir| self.at(dir))?;
        let rest = below(path, &point.point)?;
        let inner = if rest.is_empty() { point.root.clone() } else { join(&point.root, rest) };
        Some((point, inner))
    }

    fn at(&self, point: &[u8]) -> Option<&Mount> {
        self.points.get(point).map(|&number| &self.mounts[number])
    }
}

/// Returns a path relative to a directory, or `None` if it is not below it.
fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    let within = is_within(path, dir).then(|| path.strip_prefix(dir)).flatten()?;
    Some(within.strip_prefix(b"/").unwrap_or(within))
}

/// Parses a line: id, parent, device, root, point, options, optional fields, `-`, kind, …
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (major, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let dev = makedev(major.parse().ok()?, minor.parse().ok()?);
    let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let kind = fields.skip_while(|&field| field != b"-").nth(1)?.to_vec();
    Some(Mount { dev, root, point, kind })
}

/// Decodes the kernel's `\` and three octal digits for spaces, tabs, newlines and backslashes.
fn unescaped(field: &[u8]) -> Bytes {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[3..] } else { after };
    }
    plain
}

/// Detects that something was mounted or unmounted. Each watch reports a change once.
#[derive(Debug)]
pub struct MountWatch {
    file: File,
}

impl MountWatch {
    /// Watches the mounts of the calling thread's namespace.
    ///
    /// # Errors
    /// There is no `/proc` in it.
    pub fn new() -> io::Result<Self> {
        let watch = Self { file: File::open(MOUNTS)? };
        // Discards changes before now.
        let _ = watch.has_changed();
        Ok(watch)
    }

    /// Tells whether there was a change since the last call.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let mut fds = [self.poll_fd()];
        // If polling fails, the table has to be read.
        poll(&mut fds, PollTimeout::ZERO).is_err() || Self::is_set(&fds[0])
    }

    /// Returns an entry for a caller's own `poll`.
    #[must_use]
    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(self.as_fd(), PollFlags::POLLPRI)
    }

    /// Tells whether `poll` reported a change.
    #[must_use]
    pub fn is_set(asked: &PollFd<'_>) -> bool {
        asked
            .revents()
            .is_none_or(|events| events.intersects(PollFlags::POLLPRI | PollFlags::POLLERR))
    }

    /// Reads the mounts.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub fn read(&mut self) -> io::Result<Mounts> {
        let mut text = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut text)?;
        Ok(Mounts::parse(&text))
    }
}

impl AsFd for MountWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
22 21 0:20 / /proc rw - proc proc rw
30 21 254:1 /home/u/.docker /mnt/d rw - ext4 /dev/vda1 rw
31 21 254:1 /data /home/u/.ssh rw master:3 shared:4 - ext4 /dev/vda1 rw
32 21 0:40 / /mnt/a\\040b rw - tmpfs none rw
33 21 0:20 / /srv/root/proc rw - proc proc rw
34 21 254:1 /src/v.h /work/v.h rw - ext4 /dev/vda1 rw
nonsense
";

    fn aliases(mounts: &Mounts, path: &str) -> Vec<String> {
        let paths = mounts.aliases(path.as_bytes());
        paths.map(|path| String::from_utf8(path).expect("plain")).collect()
    }

    #[test]
    fn other_paths() {
        let mounts = Mounts::parse(HOST.as_bytes());
        assert_eq!(aliases(&mounts, "/mnt/d/config.json"), ["/home/u/.docker/config.json"]);
        assert_eq!(aliases(&mounts, "/home/u/.docker/config.json"), ["/mnt/d/config.json"]);
        assert_eq!(aliases(&mounts, "/data/id"), ["/home/u/.ssh/id"]);
        assert_eq!(aliases(&mounts, "/work/v.h"), ["/src/v.h"]);
        assert!(aliases(&mounts, "/home/u/x").is_empty());
        assert!(aliases(&mounts, "/mnt/a b/x").is_empty());
        assert!(mounts.is_point(b"/mnt/a b") && mounts.has_points_in(b"/work"));
        assert!(mounts.is_of_kind(b"/srv/root/proc/1/environ", &["proc"]));
        assert!(!mounts.is_of_kind(b"/srv/root", &["proc"]));
    }

    #[test]
    fn what_others_answer_for() {
        let text = format!(
            "{HOST}50 21 0:41 / /net rw - nfs4 a:/ rw\n51 50 254:1 / /net/b rw - ext4 d rw\n"
        );
        let mounts = Mounts::parse(text.as_bytes());
        for (path, expected) in [
            ("/net", Some("/net")),
            ("/net/a/f", Some("/net")),
            ("/net/b/f", None),
            ("/network", None),
            ("/", None),
        ] {
            let expected = expected.map(|point| (point.as_bytes(), makedev(0, 41)));
            assert_eq!(mounts.served_at(path.as_bytes()), expected, "{path}");
        }
        let served_in = |dir: &str| mounts.served_in(dir.as_bytes()).collect::<Vec<_>>();
        assert_eq!((served_in("/"), served_in("/net").len()), (vec![&b"/net"[..]], 0));
    }

    #[test]
    fn points_that_changed() {
        let old = Mounts::parse(HOST.as_bytes());
        let more = format!("{HOST}50 32 0:41 / /mnt/a\\040b rw - tmpfs none rw\n");
        let more = Mounts::parse(more.as_bytes());
        let expected = BTreeSet::from([b"/mnt/a b".to_vec()]);
        assert_eq!(old.changed(&more), expected);
        assert_eq!(more.changed(&old), expected);
        assert!(old.changed(&Mounts::parse(HOST.as_bytes())).is_empty());
    }

    #[test]
    fn reads_the_mounts_of_this_process() {
        let mut watch = MountWatch::new().expect("there is a /proc");
        let mounts = watch.read().expect("readable");
        assert!(mounts.is_point(b"/") && mounts.is_of_kind(b"/proc/self", &["proc"]));
    }
}
