//! Whether a program is the compiler or the assembler that its name says: a wrapper of that name may read any variable,
//! and so may an `as` that stands before the system's in PATH.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{LazyLock, Mutex, PoisonError};

use memchr::memmem::Finder;
use nix::errno::Errno;
use packetfs::path::join;

use crate::look::{self, Look};
use crate::sys::place::Stamp;

/// One of these texts is in each of gcc's programs, in clang, and in binutils' `as`, and hardly in anything else.
const TEXTS: [&[u8]; 3] = [b"COLLECT_GCC_OPTIONS", b"-cc1as", b"GAS LISTING"];
/// A longer program is not looked through.
const BYTES_MAX: u64 = 512 * 1024 * 1024;
const CHUNK_BYTES: usize = 256 * 1024;
/// Programs that are remembered; when there are more, all are forgotten.
const KNOWN_MAX: usize = 1000;

/// What was found in files, as they were.
static KNOWN: LazyLock<Mutex<HashMap<Stamp, bool>>> = LazyLock::new(Mutex::default);

/// Tells whether a program is a compiler or an assembler.
///
/// # Errors
/// `EAGAIN`: it cannot be told at once.
pub(super) fn is_one(path: &[u8], look: Look) -> Result<bool, Errno> {
    Ok(look_at(path, look)?.unwrap_or(false))
}

/// Tells whether the `as` that is found in PATH, if there is one, is an assembler.
///
/// # Errors
/// `EAGAIN`: it cannot be told at once.
pub(super) fn assembles(path: &[u8], cwd: &[u8], look: Look) -> Result<bool, Errno> {
    for dir in path.split(|&byte| byte == b':') {
        let dir = if dir.starts_with(b"/") { dir.to_vec() } else { join(cwd, dir) };
        if let Some(is_one) = look_at(&join(&dir, b"as"), look)? {
            return Ok(is_one);
        }
    }
    Ok(true)
}

/// Looks into a program, if there is one.
fn look_at(path: &[u8], look: Look) -> Result<Option<bool>, Errno> {
    let file = match look.open(path) {
        Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
        Err(_) => return Ok(None),
        Ok(file) => file,
    };
    let Ok(stamp) = Stamp::of(&file) else { return Ok(None) };
    if stamp.mode & libc::S_IFMT != libc::S_IFREG || stamp.mode & 0o111 == 0 {
        return Ok(None);
    }
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&is_one) = known().get(&stamp) {
        return Ok(Some(is_one));
    }
    if look == Look::AtOnce {
        // To read it takes milliseconds.
        return Err(Errno::EAGAIN);
    }
    let has_text = || has_text(look::open_file(path).ok()?).ok();
    let is_one = stamp.bytes <= BYTES_MAX && has_text().unwrap_or(false);
    let mut known = known();
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(stamp, is_one);
    Ok(Some(is_one))
}

fn has_text(mut file: impl Read) -> io::Result<bool> {
    let finders = TEXTS.map(Finder::new);
    let overlap = TEXTS.iter().map(|text| text.len()).max().unwrap_or(0);
    let mut chunk = Vec::new();
    loop {
        let before = chunk.len();
        file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if finders.iter().any(|finder| finder.find(&chunk).is_some()) {
            return Ok(true);
        }
        if chunk.len() == before {
            return Ok(false);
        }
        chunk.drain(..chunk.len().saturating_sub(overlap));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn compilers_and_assemblers_are_told_from_what_stands_before_them() {
        let one = |path: &str| is_one(path.as_bytes(), Look::Waiting);
        for compiler in ["/usr/bin/gcc", "/usr/bin/g++", "/usr/bin/as", "/usr/bin/clang"] {
            assert_eq!(one(compiler), Ok(true), "{compiler}");
        }
        for other in ["/bin/sh", "/usr/bin/make", "/usr/bin/ccache", "/usr/bin", "/absent"] {
            assert_eq!(one(other), Ok(false), "{other}");
        }
        assert_eq!(is_one(b"/usr/bin/gcc", Look::AtOnce), Ok(true), "it is known now");
    }

    #[test]
    fn the_first_assembler_in_path_counts() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cwd = dir.path().as_os_str().as_bytes();
        let tool = dir.path().join("as");
        let find = |path: &str| assembles(path.as_bytes(), cwd, Look::Waiting);
        assert_eq!(find("tools:/usr/bin"), Ok(true));
        std::fs::write(&tool, "#!/bin/sh\n").expect("writable");
        assert_eq!(find(":/usr/bin"), Ok(true), "it cannot be executed");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("ours");
        for path in [":/usr/bin", ".:/usr/bin", &format!("{}:/usr/bin", dir.path().display())] {
            assert_eq!(find(path), Ok(false), "{path}");
        }
        assert_eq!(find("/usr/bin:."), Ok(true));
        assert_eq!(find("/absent"), Ok(true));
    }

    #[test]
    fn a_text_is_found_across_chunks() {
        for at in [0, CHUNK_BYTES - 5, 3 * CHUNK_BYTES] {
            let text = [&vec![b'x'; at][..], TEXTS[0], b"y"].concat();
            assert_eq!(has_text(&text[..]).ok(), Some(true), "{at}");
        }
        assert_eq!(has_text(&vec![b'x'; CHUNK_BYTES][..]).ok(), Some(false));
    }
}
