//! The origin's side of its tree: lists directories, splits files into packets and reads packets,
//! for runners that ask by path. What is [`Hidden`] is never shown, whatever other name it has.

mod hidden;
mod inodes;
mod names;
mod pattern;
mod secrets;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{fstat, fstatat};

use crate::packet::{
    self, Manifest, PACKET_BYTES_MAX, Packed, PacketRef, WHOLE_BYTES_MAX, reference,
};
use crate::path::{FileName, TreePath};
use crate::tree::{Attr, Bytes, Content, Entry, Kind, Listing, Version, join};
use crate::xattr;
use hidden::is_kernels;
use inodes::Inodes;

pub use hidden::{Hidden, Own, PatternError};
pub use pattern::{PATTERN_BYTES_MAX, PATTERNS_MAX};

/// Manifests that are remembered; when there are more, all are forgotten and made again on demand.
const MANIFESTS_MAX: usize = 200_000;
/// A file that changes while it is read is read again this often.
const READS_MAX: u32 = 5;
/// Homes that are looked into at the start; secrets in others are found when a runner lists these.
const HOMES_MAX: usize = 100;

/// Shows the files of this machine.
#[derive(Debug)]
pub struct Exporter {
    hidden: Arc<Hidden>,
    inodes: Inodes,
    manifests: HashMap<Version, Arc<Manifest>>,
}

/// A file's content, with its packet if it is a single small one.
#[derive(Debug)]
pub struct Exported {
    /// Attributes and packets.
    pub content: Content,
    /// The only packet of a small file.
    pub inline: Option<Packed>,
}

impl Exporter {
    /// Makes an exporter that shows all but what is hidden. It looks for that in the agent's own directories
    /// and in the homes of users.
    #[must_use]
    pub fn new(hidden: Arc<Hidden>) -> Self {
        let mut inodes = Inodes::default();
        hidden.own_paths().iter().for_each(|path| inodes.note_path(path));
        for home in homes() {
            names::in_home().for_each(|name| inodes.note_path(&join(&home, name.as_bytes())));
        }
        Self { hidden, inodes, manifests: HashMap::new() }
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
        let mut entries = Vec::new();
        for item in reader.iter() {
            // `.` and `..` are no names.
            let Ok(name) = FileName::new(item?.file_name().to_bytes()) else { continue };
            // A name that vanished meanwhile is simply not listed.
            entries.extend(entry(&dir, name));
        }
        self.note_hidden(path, entries.iter());
        Ok(Listing { attr, entries, hidden: false })
    }

    /// Keeps the inodes of what is hidden in a directory in mind.
    fn note_hidden<'a>(&mut self, dir: &[u8], entries: impl Iterator<Item = &'a Entry>) {
        let mut hides = self.hidden.hider(dir);
        for entry in entries.filter(|entry| hides(&entry.name)) {
            self.inodes.note(&join(dir, &entry.name), &entry.attr);
        }
    }

    /// Returns what a name of a directory names now, if anything.
    #[must_use]
    pub fn entry(&self, dir: &[u8], name: &[u8]) -> Option<Entry> {
        if is_kernels(dir) {
            return None;
        }
        let dir = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?;
        entry(&dir, FileName::new(name).ok()?)
    }

    /// Returns what the names of a directory name now, and the directory's own attributes.
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
        let shown =
            |name: &FileName| (!is_kernels(dir)).then(|| entry(&open, name.clone())).flatten();
        let entries: Vec<_> = names.map(|name| (name.clone(), shown(&name))).collect();
        self.note_hidden(dir, entries.iter().filter_map(|(_, entry)| entry.as_ref()));
        for (_, entry) in &entries {
            // Two writes within one tick of the clock leave one version.
            entry.iter().for_each(|entry| drop(self.manifests.remove(&entry.attr.version())));
        }
        (attr, entries)
    }

    /// Returns the packets of a file, reading it if it is not known already.
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

    /// Reads packets of a file, each at its offset. A packet that is not there any more, because
    /// the file changed, is missing from the result.
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

    /// Tells whether a small file's content shows that nobody else may see it, whatever its name: it is a
    /// private key, or has one of the agent's words in it and is not everybody's to read anyway.
    fn is_secret(&self, path: &[u8], attr: &Attr, content: &[u8]) -> bool {
        let first_line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let is_key = first_line.starts_with(b"-----BEGIN ")
            && first_line.trim_ascii_end().ends_with(b"PRIVATE KEY-----")
            && !names::is_public_path(path);
        is_key || (attr.mode & 0o004 == 0 && self.hidden.has_own_word(content))
    }

    /// Returns what is hidden.
    #[must_use]
    pub fn hidden(&self) -> &Arc<Hidden> {
        &self.hidden
    }
}

/// Returns the homes of those who work here, as far as the machine itself knows them.
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

/// Opens a directory to read its names.
fn open_dir(path: &[u8]) -> std::io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
}

/// Opens a path without following symbolic links: a runner names only real directories, and a
/// link put in their place meanwhile must not lead anywhere else.
fn open(path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = nix::fcntl::openat2(nix::fcntl::AT_FDCWD, OsStr::from_bytes(path), how);
    opened.map_err(shown)
}

/// Returns the error that a runner is told when this machine refuses something.
fn shown(errno: Errno) -> Errno {
    match errno {
        // Nobody has hidden it: a server keeps it from this agent, though perhaps not from the walk's user.
        Errno::EACCES => Errno::EIO,
        errno => errno,
    }
}

/// Opens a regular file to read it that was opened as a place only. Anything else is not opened: the writer of a
/// fifo would go on, and a device may do something.
fn open_again(place: &OwnedFd) -> Result<File, Errno> {
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(link);
    opened.map_err(|error| shown(errno(error)))
}

fn entry(dir: &OwnedFd, name: FileName) -> Option<Entry> {
    let path = OsStr::from_bytes(&name);
    let attr = Attr::of(&fstatat(dir, path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?);
    let target = match attr.kind {
        Kind::Symlink => Some(nix::fcntl::readlinkat(dir.as_fd(), path).ok()?.as_bytes().to_vec()),
        _ => None,
    };
    // What cannot be read is shown without attributes, as by a file system that has none.
    let xattrs = xattr::shown_at(dir, &name).unwrap_or_default();
    Some(Entry { name, attr, target, xattrs })
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn path(dir: &tempfile::TempDir, name: &str) -> TreePath {
        TreePath::new(dir.path().join(name).as_os_str().as_bytes()).expect("a sound path")
    }

    fn root(dir: &tempfile::TempDir) -> TreePath {
        TreePath::new(dir.path().as_os_str().as_bytes()).expect("a sound path")
    }

    #[test]
    fn lists_and_reads() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("small"), b"hello").expect("writable");
        std::fs::write(dir.path().join("large"), vec![b'x'; 300_000]).expect("writable");
        symlink("small", dir.path().join("link")).expect("writable");
        let mut exporter = Exporter::new(Arc::default());
        let listing = exporter
            .list(&TreePath::new(dir.path().as_os_str().as_bytes()).expect("sound"))
            .expect("listable");
        let mut names: Vec<_> = listing.entries.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        assert_eq!(
            names.iter().map(|name| &**name).collect::<Vec<_>>(),
            [b"large".as_slice(), b"link", b"small"]
        );
        let link = listing.entries.iter().find(|entry| *entry.name == *b"link").expect("listed");
        assert_eq!(link.target.as_deref(), Some(b"small".as_slice()));

        let small = exporter.content(&path(&dir, "small"), true).expect("readable");
        let packet = small.content.manifest.packets[0];
        assert_eq!(*small.inline.expect("inline").unpack(packet).expect("sound"), *b"hello");
        let large = exporter.content(&path(&dir, "large"), true).expect("readable");
        assert!(large.inline.is_none());
        let wanted: Vec<_> = large.content.manifest.covering(0, 300_000).collect();
        let packets = exporter.packets(&path(&dir, "large"), &wanted).expect("readable");
        assert_eq!(packets.len(), wanted.len());
        assert_eq!(exporter.content(&path(&dir, "link"), true).err(), Some(Errno::ELOOP));

        std::fs::write(dir.path().join("large"), b"other").expect("writable");
        assert!(exporter.packets(&path(&dir, "large"), &wanted).expect("readable").is_empty());
    }

    /// Somebody who waits until his fifo is opened goes on only for one who reads it.
    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fifo = dir.path().join("fifo");
        let status = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(status.expect("every machine has it").success());
        let queue = nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_NONBLOCK)
            .expect("an instance");
        let opened = nix::sys::inotify::AddWatchFlags::IN_OPEN;
        queue.add_watch(dir.path(), opened).expect("watchable");
        let mut exporter = Exporter::new(Arc::default());
        let content = exporter.content(&path(&dir, "fifo"), true).err();
        let packets = exporter.packets(&path(&dir, "fifo"), &[]).err();
        assert_eq!((content, packets), (Some(Errno::EINVAL), Some(Errno::EINVAL)));
        assert_eq!(queue.read_events().err(), Some(Errno::EAGAIN), "nothing was opened");
    }

    /// An exporter that hides this.
    fn hiding(paths: &[&str], words: &[&str]) -> Exporter {
        let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Exporter::new(Arc::new(Hidden::new(Own { paths, words })))
    }

    fn is_refused(exporter: &mut Exporter, path: &TreePath) -> bool {
        let packets = exporter.packets(path, &[]).err();
        let content = exporter.content(path, true).err();
        assert_eq!(content, packets, "{}", String::from_utf8_lossy(path));
        content == Some(Errno::EACCES)
    }

    #[test]
    fn secrets_are_hidden() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join(".ssh/keys")).expect("writable");
        for name in [".ssh/x", ".ssh/keys/y", ".netrc", "own", "plain"] {
            std::fs::write(dir.path().join(name), name).expect("writable");
        }
        let own = path(&dir, "own");
        let mut exporter = hiding(&[std::str::from_utf8(&own).expect("plain")], &[]);
        for name in [".ssh/x", ".ssh/keys/y", ".netrc", "own"] {
            assert!(is_refused(&mut exporter, &path(&dir, name)), "{name}");
        }
        assert!(!is_refused(&mut exporter, &path(&dir, "plain")));
        assert_eq!(exporter.list(&path(&dir, ".ssh")).err(), Some(Errno::EACCES));
        assert!(exporter.list(&root(&dir)).is_ok());
        let told =
            exporter.entries(&path(&dir, ".ssh"), std::iter::once("x".parse().expect("sound")));
        assert_eq!(told, (None, Vec::new()), "nothing in it is told of");
    }

    #[test]
    fn other_names_of_secrets_are_hidden() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join(".ssh/keys")).expect("writable");
        for name in [".ssh/x", ".ssh/keys/y", ".netrc", "own", "plain"] {
            std::fs::write(dir.path().join(name), name).expect("writable");
        }
        let link = |from: &str, to: &str| {
            std::fs::hard_link(dir.path().join(from), dir.path().join(to)).expect("linkable");
        };
        link(".ssh/x", "a");
        link("own", "d");
        link("plain", "e");
        let own = path(&dir, "own");
        let mut exporter = hiding(&[std::str::from_utf8(&own).expect("plain")], &[]);
        assert!(is_refused(&mut exporter, &path(&dir, "d")), "known from the start");
        // Whoever looks the others up lists the directory first.
        exporter.list(&root(&dir)).expect("listable");
        assert!(is_refused(&mut exporter, &path(&dir, "a")));
        assert!(!is_refused(&mut exporter, &path(&dir, "e")));
        link(".ssh/keys/y", "b");
        link(".netrc", "c");
        for name in ["b", "c"] {
            assert!(is_refused(&mut exporter, &path(&dir, name)), "{name}, made later");
        }
        // A file that gets the number of one that is gone is no secret.
        std::fs::rename(dir.path().join(".netrc"), dir.path().join("f")).expect("movable");
        assert!(!is_refused(&mut exporter, &path(&dir, "f")));
    }

    #[test]
    fn the_kernels_directories_are_empty_whatever_comes_and_goes() {
        let mut exporter = hiding(&[], &[]);
        for dir in ["/dev", "/proc"] {
            let dir: TreePath = dir.parse().expect("sound");
            assert!(exporter.list(&dir).expect("listable").entries.is_empty());
            let name = if &*dir == b"/dev" { "null" } else { "self" };
            let (attr, names) =
                exporter.entries(&dir, std::iter::once(name.parse().expect("sound")));
            assert!(attr.is_some() && names.iter().all(|(_, entry)| entry.is_none()), "{name}");
            assert_eq!(exporter.entry(&dir, name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_content() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut exporter = hiding(&[], &["0123456789abcdef", "short"]);
        for (name, text, mode, expected) in [
            ("a", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", 0o644, true),
            ("b", "-----BEGIN CERTIFICATE-----\nb3Bl", 0o644, false),
            ("c.h", "#define K \"-----BEGIN PRIVATE KEY-----\"\n", 0o644, false),
            ("d", "requirepass 0123456789abcdef\n", 0o640, true),
            ("e", "requirepass 0123456789abcdef\n", 0o644, false),
            ("f", "a short one", 0o600, false),
        ] {
            let file = dir.path().join(name);
            std::fs::write(&file, text).expect("writable");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("mine");
            let refused = exporter.content(&path(&dir, name), true).err() == Some(Errno::EACCES);
            assert_eq!(refused, expected, "{name}");
        }
    }

    #[test]
    fn what_is_hidden_elsewhere_is_hidden_here() {
        let hidden = Hidden::new(Own {
            paths: vec![b"/srv/oswalk".to_vec(), b"/etc/cluster.secret".to_vec()],
            words: Vec::new(),
        });
        let mounts = "1 0 8:1 / / rw - ext4 d rw\n2 1 8:1 /home/u/.docker /mnt/d rw - ext4 d rw\n\
            3 1 8:1 /srv /mnt/s rw - ext4 d rw\n4 1 0:5 / /mnt/c/proc rw - proc p rw\n\
            5 1 0:5 / /proc rw - proc p rw\n";
        hidden.set_mounts(Arc::new(crate::mounts::Mounts::parse(mounts.as_bytes())));
        assert_eq!(hidden.hide(&["/data/*.pw"]), Ok(true));
        assert_eq!(hidden.hide(&["/data/*.pw"]), Ok(false));
        assert!(hidden.hide(&["nowhere"]).is_err());
        for path in [
            "/srv/oswalk",
            "/srv/oswalk/secret",
            "/etc/cluster.secret",
            "/mnt/d/config.json",
            "/mnt/s/oswalk/x",
            "/mnt/c/proc/1/environ",
            "/proc/1/environ",
            "/data/a/b.pw",
        ] {
            assert!(hidden.hides(path.as_bytes()), "{path}");
        }
        for path in ["/proc", "/run", "/mnt/d/x", "/mnt/s/x", "/data/a", "/etc/cluster"] {
            assert!(!hidden.hides(path.as_bytes()), "{path}");
        }
        for path in ["/srv", "/", "/etc", "/data", "/home/u/.docker"] {
            assert!(hidden.contains_hidden(path.as_bytes()), "{path}");
        }
        assert!(!hidden.contains_hidden(b"/home/u"));
        for (from, to) in [("/srv", "/s"), ("/x", "/srv"), ("/data", "/d"), ("/a/.docker", "/a/d")]
        {
            assert!(!hidden.may_be_renamed(from.as_bytes(), to.as_bytes()), "{from} {to}");
        }
        assert!(hidden.may_be_renamed(b"/home/u/a", b"/home/u/b"));
    }
}
