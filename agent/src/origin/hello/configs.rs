//! Files that add arguments to those of a compiler: specs of gcc, configuration files of clang. What they say is not
//! read as a command line is: those of installations may do anything but ask for this very processor, and a step
//! with others stays.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use packetfs::path::{Bytes, join, split};
use worknode::policy::base_name;
use worknode::reason::Reason;

use crate::installed::is_system;
use crate::look::{self, Look, Resolved};
use crate::sys::place::Stamp;

/// Where clang looks for configuration files besides its own directory.
const SYSTEM_DIR: &[u8] = b"/etc/clang";
const ENDING: &[u8] = b".cfg";
/// Larger files say something that is not known here.
const CONFIG_BYTES_MAX: u64 = 256 * 1024;

/// A directory as it was, and the configuration files in it.
type Known = (Stamp, Vec<Bytes>);
/// Directories that are remembered: those of compilers, a few. When there are more, all are forgotten.
const KNOWN_MAX: usize = 100;
/// Configuration files of a directory that are looked at; a step with more stays.
const CONFIGS_MAX: usize = 100;
/// Directories that were looked into.
static KNOWN: Mutex<BTreeMap<Bytes, Known>> = Mutex::new(BTreeMap::new());

/// Judges a file that a command line names as specs or configuration.
///
/// # Errors
/// `EAGAIN`: it cannot be told at once.
pub(super) fn named(path: &[u8], look: Look) -> Result<Result<(), Reason>, Errno> {
    if is_system(path) { read(path, false, look) } else { Ok(Err(Reason::ResponseFile)) }
}

/// Judges the configuration files that a clang at this path finds by itself.
///
/// # Errors
/// `EAGAIN`: it cannot be told at once.
pub(super) fn found_by(program: &[u8], look: Look) -> Result<Result<(), Reason>, Errno> {
    if !base_name(program).windows(b"clang".len()).any(|part| part == b"clang") {
        return Ok(Ok(()));
    }
    let named = split(program).map(|(dir, _)| dir.to_vec());
    let own = match look.resolve(program)? {
        Resolved::At(found) => split(&found.path).map(|(dir, _)| dir.to_vec()),
        _ => None,
    };
    let mut dirs: Vec<Bytes> = named.into_iter().chain(own).collect();
    dirs.push(SYSTEM_DIR.to_vec());
    dirs.dedup();
    for dir in dirs {
        let configs = configs_in(&dir, look)?;
        if configs.len() > CONFIGS_MAX {
            return Ok(Err(Reason::ResponseFile));
        }
        for path in configs {
            if let Err(reason) = read(&path, true, look)? {
                return Ok(Err(reason));
            }
        }
    }
    Ok(Ok(()))
}

/// Returns the configuration files in a directory, which is listed when it has changed.
fn configs_in(dir: &[u8], look: Look) -> Result<Vec<Bytes>, Errno> {
    let place = match look.open(dir) {
        Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
        Err(_) => return Ok(Vec::new()),
        Ok(place) => place,
    };
    let Ok(stamp) = Stamp::of(&place) else { return Ok(Vec::new()) };
    let known = KNOWN.lock().expect("nobody panics with it").get(dir).cloned();
    if let Some((_, configs)) = known.filter(|(then, _)| *then == stamp) {
        return Ok(configs);
    }
    if look == Look::AtOnce {
        return Err(Errno::EAGAIN);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut listed) = Dir::openat(&place, ".", flags, Mode::empty()) else {
        return Ok(Vec::new());
    };
    let names = listed.iter().flatten().map(|entry| entry.file_name().to_bytes().to_vec());
    let configs = names.filter(|name| name.ends_with(ENDING)).map(|name| join(dir, &name));
    // That there are more is enough to know.
    let configs: Vec<Bytes> = configs.take(CONFIGS_MAX + 1).collect();
    let mut known = KNOWN.lock().expect("nobody panics with it");
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(dir.to_vec(), (stamp, configs.clone()));
    Ok(configs)
}

/// Reads a file for what makes a step stay; of clang's also whether it leads to further ones.
fn read(path: &[u8], is_clangs: bool, look: Look) -> Result<Result<(), Reason>, Errno> {
    if look == Look::AtOnce {
        // What is behind the name may take a while.
        return Err(Errno::EAGAIN);
    }
    let Ok(file) = look::open_file(path) else { return Ok(Ok(())) };
    let mut text = Vec::new();
    let size = file.take(CONFIG_BYTES_MAX).read_to_end(&mut text);
    let has = |word: &[u8]| text.windows(word.len()).any(|part| part == word);
    if has(b"native") {
        return Ok(Err(Reason::NativeCpu));
    }
    let is_whole = size.is_ok_and(|size| (size as u64) < CONFIG_BYTES_MAX);
    let leads_on = is_clangs && (has(b"@") || has(b"--config"));
    Ok(if is_whole && !leads_on { Ok(()) } else { Err(Reason::ResponseFile) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn what_a_clang_finds_by_itself() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name).as_os_str().as_bytes().to_vec();
        let found = |program: &str| found_by(&path(program), Look::Waiting).expect("is there");
        std::fs::write(dir.path().join("clang-19"), "").expect("writable");
        std::os::unix::fs::symlink("clang-19", dir.path().join("clang++")).expect("writable");
        assert_eq!(found("clang++"), Ok(()));
        for (text, expected) in [
            ("-O2\n", Ok(())),
            ("-march=native\n", Err(Reason::NativeCpu)),
            ("@more\n", Err(Reason::ResponseFile)),
        ] {
            // Not in place: the directory is listed again when a name has come.
            let _ = std::fs::remove_file(dir.path().join("clang.cfg"));
            std::fs::write(dir.path().join("clang.cfg"), text).expect("writable");
            assert_eq!(found("clang++"), expected, "{text}");
            assert_eq!(found("gcc"), Ok(()), "{text}");
        }
    }
}
