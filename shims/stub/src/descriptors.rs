//! The open descriptors of the process, and whether they can be carried to another machine.

use core::ffi::CStr;

use worknode::door::{FD_ENTRY_BYTES, FdEntry};

use crate::sys::{self, POLLNVAL, PollFd, Stat};

const LIST: &CStr = c"/proc/self/fd";
/// Agents name descriptors with a byte.
const CARRIED_BELOW: i32 = 256;
/// Below this number most are; those above are looked for so many at once.
const NEAR: i32 = 16;
const FAR: usize = 48;
/// Where to look if there is no `/proc`.
const PROBED: i32 = 64;
const STANDARD: u32 = 3;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
/// `/dev/null`: major 1, minor 3.
const NULL_DEVICE: u64 = 0x103;
/// Where the name lies in a directory entry, behind number, offset, length and type.
const ENTRY_NAME: usize = 19;

/// The list that goes with the hello.
#[derive(Debug)]
pub(crate) struct Descriptors<'r> {
    encoded: &'r mut [u8],
    count: usize,
    terminal: Option<i32>,
}

impl<'r> Descriptors<'r> {
    /// Lists all open descriptors into `encoded`, with a buffer for directory entries; nothing is
    /// returned if one of them cannot be carried.
    pub(crate) fn list(encoded: &'r mut [u8], entries: &mut [u8]) -> Option<Self> {
        let mut list = Self { encoded, count: 0, terminal: None };
        match sys::size(LIST) {
            // Since Linux 6.2 it is how many there are: to make the names would cost five times as much.
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

    /// Finds so many descriptors, all that are open, below the number from which on none is carried.
    fn find(&mut self, open: u64) -> Option<()> {
        let mut found = 0;
        for fd in 0..NEAR {
            if found == open {
                return Some(());
            }
            found += u64::from(self.add(fd)?);
        }
        // Shells keep some far above the others: one call tells of many whether they are open.
        for first in (NEAR..CARRIED_BELOW).step_by(FAR) {
            if found == open {
                return Some(());
            }
            let mut fds = [PollFd { fd: 0, events: 0, ready: 0 }; FAR];
            (first..).zip(&mut fds).for_each(|(fd, asked)| asked.fd = fd);
            // Without an answer each is looked at.
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

    /// Adds a descriptor; tells whether it is open.
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

/// Tells whether bytes alone make up what can be done with the descriptor.
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
