//! The open descriptors of the process, and whether they can be carried to another machine.

use core::ffi::CStr;

use worknode::door::{FD_ENTRY_BYTES, FdEntry};

use crate::sys::{self, POLLNVAL, PollFd, Stat};

const LIST: &CStr = c"/proc/self/fd";
/// The link names a descriptor by one byte.
const CARRIED_BELOW: i32 = 256;
/// Descriptors below this number are examined one by one, since most open ones are here …
const NEAR: i32 = 16;
/// … and those above are polled, so many at a time.
const FAR: usize = 48;
/// Without `/proc`, descriptors below this number are examined.
const PROBED: i32 = 64;
const STANDARD: u32 = 3;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
/// `/dev/null`: major 1, minor 3.
const NULL_DEVICE: u64 = 0x103;
/// Offset of the name in a directory entry, after inode, offset, length and type.
const ENTRY_NAME: usize = 19;

/// The list of descriptors in the hello.
#[derive(Debug)]
pub(crate) struct Descriptors<'r> {
    encoded: &'r mut [u8],
    count: usize,
    terminal: Option<i32>,
}

impl<'r> Descriptors<'r> {
    /// Lists all open descriptors into `encoded`; `entries` is a buffer for directory entries. Returns
    /// `None` if one of them cannot be carried.
    pub(crate) fn list(encoded: &'r mut [u8], entries: &mut [u8]) -> Option<Self> {
        let mut list = Self { encoded, count: 0, terminal: None };
        match sys::size(LIST) {
            // Since Linux 6.2 the size is the number of open descriptors. Listing the names costs five
            // times as much.
            Ok(open @ 1..) => list.find(open)?,
            Ok(_) => {
                let directory = sys::open(LIST, sys::O_RDONLY | sys::O_DIRECTORY).ok()?;
                let listed = list.read_directory(directory, entries);
                sys::close(directory);
                listed?;
            }
            Err(_) => (0..PROBED).try_for_each(|fd| list.add(fd).map(drop))?,
        }
        Some(list)
    }

    /// Adds all `open` descriptors; returns `None` if one of them is not below [`CARRIED_BELOW`].
    fn find(&mut self, open: u64) -> Option<()> {
        let mut found = 0;
        for fd in 0..NEAR {
            if found == open {
                return Some(());
            }
            found += u64::from(self.add(fd)?);
        }
        // Shells keep some at high numbers: one poll tells which of many are open.
        for first in (NEAR..CARRIED_BELOW).step_by(FAR) {
            if found == open {
                return Some(());
            }
            let mut fds = [PollFd { fd: 0, events: 0, ready: 0 }; FAR];
            (first..).zip(&mut fds).for_each(|(fd, asked)| asked.fd = fd);
            // If the poll fails, each is examined.
            let _ = sys::look(&mut fds);
            for asked in fds.iter().filter(|asked| asked.ready & POLLNVAL == 0) {
                found += u64::from(self.add(asked.fd)?);
            }
        }
        (found == open).then_some(())
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded[..self.count * FD_ENTRY_BYTES]
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the first descriptor that is a terminal.
    pub(crate) fn terminal(&self) -> Option<i32> {
        self.terminal
    }

    fn read_directory(&mut self, directory: i32, bytes: &mut [u8]) -> Option<()> {
        loop {
            let length = sys::directory_entries(directory, bytes).ok()?;
            if length == 0 {
                return Some(());
            }
            let mut rest = &bytes[..length];
            while let Some(entry_bytes) = rest.get(16..18) {
                let entry_bytes = usize::from(u16::from_ne_bytes([entry_bytes[0], entry_bytes[1]]));
                let (entry, next) = rest.split_at_checked(entry_bytes.max(ENTRY_NAME))?;
                if let Some(fd) = number(&entry[ENTRY_NAME..]).filter(|&fd| fd != directory) {
                    self.add(fd)?;
                }
                rest = next;
            }
        }
    }

    /// Adds a descriptor; returns whether it is open, or `None` if it cannot be carried.
    fn add(&mut self, fd: i32) -> Option<bool> {
        let Ok(stat) = sys::fstat(fd) else { return Some(false) };
        let number = u32::try_from(fd).ok()?;
        let kind = stat.mode & S_IFMT;
        let terminal = kind == S_IFCHR && stat.rdev != NULL_DEVICE && sys::settings(fd).is_some();
        if terminal {
            self.terminal = self.terminal.or(Some(fd));
        }
        if number >= STANDARD && !is_portable(&stat, terminal) {
            return None;
        }
        let entry = FdEntry {
            fd: u32::from(u16::try_from(number).ok()?),
            flags: sys::flags(fd).ok()?,
            mode: stat.mode,
            terminal: u32::from(terminal),
            dev: stat.dev,
            ino: stat.ino,
            rdev: stat.rdev,
            offset: if kind == S_IFREG { sys::offset(fd) } else { -1 },
        };
        let at = self.count * FD_ENTRY_BYTES;
        self.encoded.get_mut(at..at + FD_ENTRY_BYTES)?.copy_from_slice(&entry.encode());
        self.count += 1;
        Some(true)
    }
}

/// Tells whether carrying bytes is all that the descriptor needs.
fn is_portable(stat: &Stat, terminal: bool) -> bool {
    match stat.mode & S_IFMT {
        S_IFREG | S_IFIFO => true,
        S_IFCHR => terminal || stat.rdev == NULL_DEVICE,
        _ => false,
    }
}

fn number(name: &[u8]) -> Option<i32> {
    let digits = name.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(name.len());
    let name = name.get(..digits).filter(|digits| !digits.is_empty())?;
    name.iter().try_fold(0_i32, |value, &digit| {
        value.checked_mul(10)?.checked_add(i32::from(digit - b'0'))
    })
}
