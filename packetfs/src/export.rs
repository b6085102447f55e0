//! The origin's side of its tree: lists directories, splits files into packets and reads packets,
//! for runners that ask by path. Secrets and the kernel's own file systems are never shown.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{fstat, fstatat};

use crate::packet::{
    self, Manifest, PACKET_BYTES_MAX, Packed, PacketRef, WHOLE_BYTES_MAX, reference,
};
use crate::path::{FileName, TreePath};
use crate::tree::{Attr, Bytes, Content, Entry, Kind, Listing, Version, is_within, split};
use crate::xattr;

/// Manifests that are remembered; when there are more, all are forgotten and made again on demand.
const MANIFESTS_MAX: usize = 200_000;
/// A file that changes while it is read is read again this often.
const READS_MAX: u32 = 5;

/// Shows the files of this machine.
#[derive(Debug)]
pub struct Exporter {
    private: Vec<Bytes>,
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
    /// Makes an exporter that hides the directories in `private` besides what it always hides.
    #[must_use]
    pub fn new(private: Vec<Bytes>) -> Self {
        Self { private, manifests: HashMap::new() }
    }

    /// Lists a directory.
    ///
    /// # Errors
    /// What the system says, or `EACCES` for what is not exported.
    pub fn list(&self, path: &TreePath) -> Result<Listing, Errno> {
        if self.is_hidden(path) {
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
        Ok(Listing { attr, entries, hidden: false })
    }

    /// Returns what a name of a directory names now, if anything.
    #[must_use]
    pub fn entry(&self, dir: &[u8], name: &[u8]) -> Option<Entry> {
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
        let Ok(dir) = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY) else {
            return (None, Vec::new());
        };
        let attr = fstat(&dir).ok().map(|stat| Attr::of(&stat));
        let entries: Vec<_> = names.map(|name| (name.clone(), entry(&dir, name))).collect();
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
        if self.is_hidden(path) {
            return Err(Errno::EACCES);
        }
        let file = File::from(open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
        for _ in 0..READS_MAX {
            let attr = Attr::of(&fstat(&file)?);
            if attr.kind != Kind::File {
                return Err(Errno::EINVAL);
            }
            let small = attr.bytes <= WHOLE_BYTES_MAX as u64;
            let known = self.manifests.get(&attr.version());
            if let (Some(manifest), false) = (known, small && want_inline) {
                let manifest = manifest.as_ref().clone();
                return Ok(Exported { content: Content { attr, manifest }, inline: None });
            }
            let mut inline = None;
            let manifest = packet::split_file(&file, attr.bytes, attr.blocks, |_, piece| {
                if small && want_inline {
                    inline = Some(Packed::pack(piece));
                }
            });
            let manifest = manifest.map_err(errno)?;
            if Attr::of(&fstat(&file)?).version() != attr.version()
                || manifest.bytes() != attr.bytes
            {
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
        &self,
        path: &TreePath,
        wanted: &[(u64, PacketRef)],
    ) -> Result<Vec<(PacketRef, Packed)>, Errno> {
        if self.is_hidden(path) {
            return Err(Errno::EACCES);
        }
        let file = File::from(open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
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

    /// Tells whether the path is never exported.
    #[must_use]
    pub fn is_hidden(&self, path: &[u8]) -> bool {
        self.private.iter().any(|dir| is_within(path, dir)) || is_secret(path)
    }
}

/// Directories that the kernel fills: a runner has its own.
fn is_kernels(path: &[u8]) -> bool {
    matches!(path, b"/proc" | b"/sys" | b"/dev" | b"/run")
}

/// Tells whether a path leads to keys, passwords or tokens, wherever they lie.
#[must_use]
pub fn is_secret(path: &[u8]) -> bool {
    const DIRS: [&[u8]; 10] = [
        b".ssh",
        b".gnupg",
        b".aws",
        b".azure",
        b".kube",
        b".password-store",
        b"gcloud",
        b"keyrings",
        b".oci",
        b".terraform.d",
    ];
    const FILES: [&[u8]; 11] = [
        b".netrc",
        b".git-credentials",
        b".pgpass",
        b".npmrc",
        b".pypirc",
        b".vault-token",
        b"credentials.toml",
        b"shadow",
        b"shadow-",
        b"gshadow",
        b"gshadow-",
    ];
    let kernels = [b"/proc/".as_slice(), b"/sys/", b"/dev/", b"/run/"];
    if kernels.iter().any(|dir| path.starts_with(dir)) {
        return true;
    }
    let Some((dir, name)) = split(path) else { return false };
    let in_etc = dir == b"/etc";
    let file = match name {
        b"shadow" | b"shadow-" | b"gshadow" | b"gshadow-" => in_etc,
        b"credentials.toml" | b"credentials" => dir.ends_with(b"/.cargo"),
        b"hosts.yml" => dir.ends_with(b"/.config/gh"),
        b"config.json" => dir.ends_with(b"/.docker"),
        _ if dir == b"/etc/ssh" => name.starts_with(b"ssh_host_") && !name.ends_with(b".pub"),
        _ => FILES.contains(&name),
    };
    file || path.split(|&byte| byte == b'/').any(|part| match part {
        b"gcloud" => path.windows(15).any(|window| window == b"/.config/gcloud"),
        b"keyrings" => path.windows(9).any(|window| window == b"/keyrings") && !in_usr(path),
        _ => DIRS.contains(&part),
    })
}

fn in_usr(path: &[u8]) -> bool {
    is_within(path, b"/usr") || is_within(path, b"/etc")
}

/// Opens a path without following symbolic links: a runner names only real directories, and a
/// link put in their place meanwhile must not lead anywhere else.
fn open(path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    nix::fcntl::openat2(nix::fcntl::AT_FDCWD, OsStr::from_bytes(path), how)
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

    #[test]
    fn lists_and_reads() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("small"), b"hello").expect("writable");
        std::fs::write(dir.path().join("large"), vec![b'x'; 300_000]).expect("writable");
        symlink("small", dir.path().join("link")).expect("writable");
        let mut exporter = Exporter::new(Vec::new());
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

    #[test]
    fn secrets_are_hidden() {
        let exporter = Exporter::new(vec![b"/var/lib/oswalk".to_vec()]);
        for secret in [
            "/home/u/.ssh",
            "/home/u/.ssh/id_ed25519",
            "/root/.gnupg/x",
            "/etc/shadow",
            "/home/u/.config/gcloud/creds",
            "/home/u/.docker/config.json",
            "/proc/1/environ",
            "/home/u/.netrc",
            "/etc/ssh/ssh_host_rsa_key",
            "/var/lib/oswalk/secret",
        ] {
            assert!(exporter.is_hidden(secret.as_bytes()), "{secret}");
        }
        for public in [
            "/usr/include/shadow.h",
            "/home/u/src/gcloud/x.c",
            "/usr/share/keyrings/a",
            "/etc/passwd",
            "/home/u/src/config.json",
            "/src/shadow",
        ] {
            assert!(!exporter.is_hidden(public.as_bytes()), "{public}");
        }
    }
}
