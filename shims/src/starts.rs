//! Tells whether an unknown program may start others: it is a script, an interpreter that runs one, or
//! imports functions that execute programs. Static programs count as starting none, since the preload
//! library cannot see what they execute anyway.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use worknode::request::CommandFile;

/// Prefixes of interpreters' names, which a version may follow.
const INTERPRETERS: [&[u8]; 13] = [
    b"python",
    b"pypy",
    b"perl",
    b"ruby",
    b"node",
    b"lua",
    b"php",
    b"tclsh",
    b"expect",
    b"guile",
    b"Rscript",
    b"julia",
    b"osascript",
];

/// Functions that execute programs.
const FUNCTIONS: [&[u8]; 14] = [
    b"execve",
    b"execv",
    b"execvp",
    b"execvpe",
    b"execl",
    b"execlp",
    b"execle",
    b"execveat",
    b"fexecve",
    b"posix_spawn",
    b"posix_spawnp",
    b"pidfd_spawn",
    b"system",
    b"popen",
];

/// Most bytes read of program headers, and of the dynamic section; they take a few kilobytes.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Most bytes read of symbol names; those of large programs take some hundred kilobytes.
const NAMES_BYTES_MAX: usize = 64 * 1024 * 1024;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;

/// Tells whether the program may start others. An interpreter without arguments at a terminal is
/// interactive, and counts as starting none.
pub(crate) fn may_start_others(file: &Path, arguments: &[OsString], terminal: bool) -> bool {
    if is_interpreter(file) {
        return !(arguments.is_empty() && terminal);
    }
    let Ok(opened) = File::open(file) else { return false };
    let mut head = [0; 2];
    match opened.read_exact_at(&mut head, 0) {
        Ok(()) if head == *b"#!" => true,
        Ok(()) => imports(&opened).unwrap_or(false),
        Err(_) => false,
    }
}

/// Returns the identity of a command: its file, or that of the script that it interprets, and its
/// arguments. Returns `None` for a program text in an argument.
pub(crate) fn known_by(file: &Path, arguments: &[OsString]) -> Option<CommandFile> {
    let script = arguments.first().map(Path::new);
    let file = if is_interpreter(file) { script? } else { file };
    let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
    let mut hasher = DefaultHasher::new();
    arguments.hash(&mut hasher);
    Some(CommandFile {
        dev: metadata.dev(),
        ino: metadata.ino(),
        changed_ns: metadata
            .mtime()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(metadata.mtime_nsec()),
        arguments: hasher.finish(),
    })
}

fn is_interpreter(file: &Path) -> bool {
    let name = file.file_name().map(OsStr::as_bytes).unwrap_or_default();
    INTERPRETERS.iter().any(|interpreter| {
        name.strip_prefix(*interpreter).is_some_and(|version| {
            version.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
                || version == b"js"
        })
    })
}

/// Tells whether an ELF program imports a function that executes programs.
fn imports(file: &File) -> Option<bool> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (at, size, count) =
        (number(&header, 32, 8)?, number(&header, 54, 2)?, number(&header, 56, 2)?);
    let headers = part(file, at, size.checked_mul(count)?, HEADERS_BYTES_MAX)?;
    let segments: Vec<[u64; 4]> = headers
        .chunks_exact(usize::try_from(size).ok().filter(|&size| size >= 56)?)
        .filter_map(|header| {
            let field = |at| number(header, at, 8);
            Some([number(header, 0, 4)?, field(8)?, field(16)?, field(32)?])
        })
        .collect();
    let dynamic = segments.iter().find(|segment| segment[0] == PT_DYNAMIC)?;
    let dynamic = part(file, dynamic[1], dynamic[3], HEADERS_BYTES_MAX)?;
    let entry = |tag| {
        let mut entries = dynamic.chunks_exact(16);
        let entry = entries.find(|entry| number(entry, 0, 8) == Some(tag))?;
        number(entry, 8, 8)
    };
    let (address, bytes) = (entry(DT_STRTAB)?, entry(DT_STRSZ)?);
    let offset = segments.iter().find_map(|&[kind, offset, start, length]| {
        let within = address.checked_sub(start).filter(|&within| within < length)?;
        (kind == PT_LOAD).then(|| offset.checked_add(within)).flatten()
    })?;
    let names = part(file, offset, bytes, NAMES_BYTES_MAX)?;
    Some(names.split(|&byte| byte == 0).any(|name| FUNCTIONS.contains(&name)))
}

fn part(file: &File, offset: u64, bytes: u64, bytes_max: usize) -> Option<Vec<u8>> {
    let bytes = usize::try_from(bytes).ok().filter(|&bytes| bytes <= bytes_max)?;
    let mut part = vec![0; bytes];
    file.read_exact_at(&mut part, offset).ok()?;
    Some(part)
}

/// Reads a little-endian number of the ELF file.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_may_start_others() {
        let may = |file: &str, arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            may_start_others(Path::new(file), &arguments, true)
        };
        assert!(may("/usr/bin/env", &[]), "it executes");
        assert!(may("/usr/bin/ldd", &[]), "a script");
        assert!(!may("/usr/bin/seq", &["3"]));
        assert!(!may("/nowhere", &[]));
        assert!(may("/usr/bin/python3", &["build.py"]) && may("perl5.36", &["-e", "1"]));
        assert!(!may("/usr/bin/python3", &[]), "somebody talks to it");
        assert!(!is_interpreter(Path::new("perldoc")) && is_interpreter(Path::new("nodejs")));
    }

    #[test]
    fn what_a_command_is_known_by() {
        let by = |file: &str, arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            known_by(Path::new(file), &arguments)
        };
        assert_eq!(by("/usr/bin/env", &["a"]), by("/usr/bin/../bin/env", &["a"]));
        assert_ne!(by("/usr/bin/env", &["a"]), by("/usr/bin/env", &["b"]));
        assert_eq!(by("python3", &["-c", "1"]), None);
        let script = by("python3", &["/etc/passwd"]).expect("a file");
        assert_eq!(script.ino, std::fs::metadata("/etc/passwd").expect("there").ino());
    }
}
