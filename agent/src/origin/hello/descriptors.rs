//! Decides how each descriptor of a process is carried to the runner.

use nix::errno::Errno;
use packetfs::export::Hidden;
use std::os::unix::ffi::OsStringExt;
use worknode::door::FdEntry;
use worknode::reason::Reason;
use worknode::spec::{FdKind, FdSpec, strings};

use super::parsed::Hello;
use super::places;
use crate::look::Look;

impl Hello {
    /// Returns the walk's descriptors, or why they cannot be carried.
    pub(super) fn descriptors(
        &self,
        pid: u32,
        compiles: bool,
        (look, hidden): (Look, &Hidden),
    ) -> Result<Result<Vec<FdSpec>, Reason>, Errno> {
        let mut specs: Vec<FdSpec> = Vec::new();
        for (index, entry) in self.fds.iter().enumerate() {
            let same = self.fds[..index].iter().find(|other| is_same_output(other, entry));
            let kind = match same {
                Some(other) if !self.is_terminal(entry) => FdKind::Same { fd: other.fd },
                _ => match self.descriptor(entry, compiles) {
                    Ok(Carried::As(kind)) => kind,
                    Ok(Carried::ByPath) => match file(entry, pid, look, hidden)? {
                        Ok(kind) => kind,
                        Err(reason) => return Ok(Err(reason)),
                    },
                    Err(reason) => return Ok(Err(reason)),
                },
            };
            specs.push(FdSpec { fd: entry.fd, kind });
        }
        Ok(Ok(specs))
    }

    /// Tells whether a descriptor refers to the process's terminal, which is the first one that it has open.
    fn is_terminal(&self, entry: &FdEntry) -> bool {
        let first = self.fds.iter().find(|entry| entry.terminal != 0);
        entry.terminal != 0 && first.is_some_and(|first| first.rdev == entry.rdev)
    }

    /// Tells whether output goes to the terminal. Such a program may query its width through descriptor 0.
    fn writes_to_terminal(&self) -> bool {
        self.fds.iter().any(|entry| (1..=2).contains(&entry.fd) && self.is_terminal(entry))
    }

    fn descriptor(&self, entry: &FdEntry, compiles: bool) -> Result<Carried, Reason> {
        // Links number descriptors with one byte.
        if entry.fd > u32::from(u8::MAX) {
            return Err(Reason::Descriptor);
        }
        let access = entry.flags & access_mode();
        let kind = entry.mode & libc::S_IFMT;
        let null = kind == libc::S_IFCHR && entry.rdev == libc::makedev(1, 3);
        if null {
            return Ok(Carried::As(FdKind::Null { flags: access }));
        }
        if kind == libc::S_IFCHR && entry.terminal == 0 {
            // A device of this machine.
            return Err(Reason::Descriptor);
        }
        if self.is_terminal(entry) && !(compiles && entry.fd == 0 && !self.writes_to_terminal()) {
            return Ok(Carried::As(FdKind::Terminal));
        }
        let reads = access == flag(libc::O_RDONLY)
            || (access == flag(libc::O_RDWR) && (entry.fd == 0 || kind == libc::S_IFSOCK));
        if !reads {
            return Ok(Carried::As(FdKind::Output));
        }
        if entry.fd > 2 && kind != libc::S_IFREG {
            // The program may use its number: `diff <(one) <(two)` reads /dev/fd/63.
            let named = strings(&self.argv).any(|argument| argument.starts_with(b"/dev/fd/"));
            if named || !compiles {
                return Err(Reason::Descriptor);
            }
        }
        if compiles {
            // Compile steps that walk read files rather than standard input.
            return Ok(Carried::As(FdKind::Null { flags: flag(libc::O_RDONLY) }));
        }
        Ok(if kind == libc::S_IFREG { Carried::ByPath } else { Carried::As(FdKind::Input) })
    }
}

/// How a descriptor is carried.
enum Carried {
    As(FdKind),
    /// As a file that is reopened, if its path still leads to it.
    ByPath,
}

/// Carries a regular file by reopening it, or as a stream if it has no path any more. A hidden file is not carried,
/// because its content would reach the runner.
fn file(
    entry: &FdEntry,
    pid: u32,
    look: Look,
    hidden: &Hidden,
) -> Result<Result<FdKind, Reason>, Errno> {
    let Ok(path) = std::fs::read_link(format!("/proc/{pid}/fd/{}", entry.fd)) else {
        return Ok(Ok(FdKind::Input));
    };
    let path = path.into_os_string().into_vec();
    if is_hidden(&path, hidden) {
        return Ok(Err(Reason::NotExported));
    }
    if places::is_local(&path) {
        // Such paths are local to each machine, so the file is carried as a stream.
        return Ok(Ok(FdKind::Input));
    }
    let same =
        look.find(&path)?.is_some_and(|place| (place.dev, place.ino) == (entry.dev, entry.ino));
    let offset = u64::try_from(entry.offset).unwrap_or(0);
    Ok(Ok(if same { FdKind::File { path, offset } } else { FdKind::Input }))
}

/// Tells whether an open file is hidden, even if it has been removed.
fn is_hidden(path: &[u8], hidden: &Hidden) -> bool {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    hidden.hides_secret(path)
}

/// Tells whether two descriptors write to the same file, so that the order of writes matters.
fn is_same_output(a: &FdEntry, b: &FdEntry) -> bool {
    let writes = |entry: &FdEntry| entry.flags & access_mode() != flag(libc::O_RDONLY);
    let input = |entry: &FdEntry| entry.fd == 0;
    let null = |entry: &FdEntry| {
        entry.mode & libc::S_IFMT == libc::S_IFCHR && entry.rdev == libc::makedev(1, 3)
    };
    let same_place = (a.dev, a.ino) == (b.dev, b.ino) && a.flags == b.flags;
    let regular = b.mode & libc::S_IFMT == libc::S_IFREG;
    writes(a)
        && writes(b)
        && !input(a)
        && !input(b)
        && !null(b)
        && same_place
        && (!regular || a.offset == b.offset)
}

fn access_mode() -> u32 {
    flag(libc::O_ACCMODE)
}

fn flag(value: libc::c_int) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use packetfs::export::Own;

    use super::*;

    #[test]
    fn hidden_files_are_not_read_for_a_runner() {
        let hidden = Hidden::new(Own::default());
        for path in ["/root/.ssh/id_rsa", "/root/.ssh/id_rsa (deleted)", "/home/a/.ssh/id_ed25519"]
        {
            assert!(is_hidden(path.as_bytes(), &hidden), "{path}");
        }
        for path in ["/root/a.c", "/proc/cpuinfo", "/dev/shm/x", "/run/x", "/tmp/x (deleted)"] {
            assert!(!is_hidden(path.as_bytes(), &hidden), "{path}");
        }
    }

    fn entry(fd: u32, mode: u32, flags: libc::c_int, ino: u64) -> FdEntry {
        FdEntry { fd, mode, flags: flag(flags), ino, offset: -1, ..FdEntry::default() }
    }

    #[test]
    fn outputs_to_one_place_share_it() {
        let out = entry(1, libc::S_IFIFO, libc::O_WRONLY, 7);
        let err = entry(2, libc::S_IFIFO, libc::O_WRONLY, 7);
        assert!(is_same_output(&out, &err));
        assert!(!is_same_output(&out, &entry(2, libc::S_IFIFO, libc::O_WRONLY, 8)));
        assert!(!is_same_output(&entry(0, libc::S_IFCHR, libc::O_RDWR, 7), &out));
    }
}
