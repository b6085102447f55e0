//! Examines the file about to be executed: can it load this library, and does it change ids?

use core::ffi::{CStr, c_int};

use worknode::script::{self, LINE_BYTES};

use crate::cluster;
use crate::sys::{self, Stat};

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

/// Bytes read from the start of a file: enough for the ELF header, program headers and interpreter of
/// ordinary programs.
const HEAD_BYTES: usize = 1024;
const ELF_CLASS_64: u8 = 2;
const ELF_LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: usize = 62;
const PT_INTERP: usize = 3;

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A program of this architecture and C library, or a static one.
    Native,
    /// A script with an interpreter that can be executed.
    Script,
    /// A program for another architecture or C library.
    Foreign,
    /// A program with more rights than its caller.
    Privileged,
    /// A program that its caller may execute but not read.
    Unreadable,
    /// Executable by its mode, but of no known format: libc may pass it to a shell.
    Unknown,
}

/// Returns the kind of the file at `path`, or `None` if the real call will fail.
pub(crate) fn look(path: &CStr) -> Option<Target> {
    let stat = cluster::look(path, sys::stat_at).ok().filter(is_regular)?;
    if !cluster::look(path, sys::may_execute_at) {
        return None;
    }
    if is_privileged(path, &stat) {
        return Some(Target::Privileged);
    }
    let opened =
        cluster::look(path, |directory, path| sys::open_at(directory, path, sys::O_RDONLY));
    let Ok(fd) = opened else { return Some(Target::Unreadable) };
    let target = format(fd);
    sys::close(fd);
    Some(target)
}

/// Tells whether a file is regular.
pub(crate) fn is_regular(stat: &Stat) -> bool {
    stat.mode & S_IFMT == S_IFREG
}

/// Tells whether executing the file changes ids or capabilities. File capabilities are not read for
/// root, who has them all.
fn is_privileged(path: &CStr, stat: &Stat) -> bool {
    let user = sys::effective_user();
    let changes_user = stat.mode & S_ISUID != 0 && stat.uid != user;
    let set_group = S_ISGID | S_IXGRP;
    let changes_group = || stat.mode & set_group == set_group && stat.gid != sys::effective_group();
    changes_user || changes_group() || (user != 0 && sys::has_capabilities(path))
}

fn format(fd: c_int) -> Target {
    let mut head = [0; HEAD_BYTES];
    let length = sys::read_at(fd, &mut head, 0).unwrap_or(0);
    let head = &head[..length];
    match head {
        [b'#', b'!', ..] if has_interpreter(head) => Target::Script,
        [0x7f, b'E', b'L', b'F', ELF_CLASS_64, ELF_LITTLE_ENDIAN, ..] => elf(fd, head),
        [0x7f, b'E', b'L', b'F', ..] => Target::Foreign,
        _ => Target::Unknown,
    }
}

/// Tells whether the interpreter that a script's first line names can be executed. If not, the real
/// call fails, and its caller may try something else.
fn has_interpreter(head: &[u8]) -> bool {
    let name = script::read(head).and_then(|line| head.get(line.interpreter));
    let mut path = [0; LINE_BYTES];
    let Some((name, room)) = name.and_then(|name| Some((name, path.get_mut(..name.len())?))) else {
        return false;
    };
    room.copy_from_slice(name);
    CStr::from_bytes_until_nul(&path).is_ok_and(|path| cluster::look(path, sys::may_execute_at))
}

fn elf(fd: c_int, head: &[u8]) -> Target {
    if number(head, 18, 2) != Some(MACHINE_X86_64) {
        return Target::Foreign;
    }
    let mut name = [0; 256];
    match interpreter(fd, head, &mut name) {
        Some(name) if is_glibc_loader(name) => Target::Native,
        Some(_) => Target::Foreign,
        // A static program: only the rules decide.
        None => Target::Native,
    }
}

fn interpreter<'a>(fd: c_int, head: &'a [u8], buffer: &'a mut [u8; 256]) -> Option<&'a [u8]> {
    let (table, entry_bytes) = (number(head, 32, 8)?, number(head, 54, 2)?);
    for index in 0..number(head, 56, 2)? {
        let at = table.checked_add(index.checked_mul(entry_bytes)?)?;
        if number(head, at, 4)? == PT_INTERP {
            let (offset, length) = (number(head, at + 8, 8)?, number(head, at + 32, 8)?);
            let inside = offset.checked_add(length).and_then(|end| head.get(offset..end));
            return inside.or_else(|| {
                let read = sys::read_at(fd, buffer, offset).ok()?;
                buffer.get(..read.min(length))
            });
        }
    }
    None
}

/// Tells glibc's loader (`ld-linux-x86-64.so.2`, in any directory) from others, such as musl's.
fn is_glibc_loader(name: &[u8]) -> bool {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    worknode::policy::base_name(name).starts_with(b"ld-linux")
}

/// Reads a little-endian number of the ELF file.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_this_machine() {
        assert_eq!(look(c"/bin/sh"), Some(Target::Native));
        assert_eq!(look(c"/usr/bin/ldd"), Some(Target::Script));
        assert_eq!(look(c"/etc/passwd"), None);
        assert_eq!(look(c"/etc"), None);
        assert_eq!(look(c"/nowhere"), None);
    }

    #[test]
    fn loaders() {
        assert!(is_glibc_loader(b"/lib64/ld-linux-x86-64.so.2\0"));
        assert!(is_glibc_loader(b"/nix/store/x-glibc/lib/ld-linux-x86-64.so.2\0"));
        assert!(!is_glibc_loader(b"/lib/ld-musl-x86_64.so.1\0"));
    }
}
