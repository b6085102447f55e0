//! Predicts what a compile step will read from the `#include`s of its sources, so that everything can be sent at once to a
//! node that has seen nothing similar. Missing files are requested later, and superfluous ones only cost their bytes:
//! neither affects what the walk sees.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use packetfs::path::{Bytes, join, normal, split};

use super::profile::Known;
use worknode::command::{Files, Role};

/// Most files that are scanned, and most bytes of each.
const FILES_MAX: usize = 400;
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Most bytes of all, more than is sent ahead of a walk. Everybody's questions wait meanwhile, ten milliseconds at most.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// Predicts what a compile step in this directory will read, except files that the caller skips and headers reachable only
/// through them. Reads only what `may_be_asked` allows.
pub(super) fn reads(
    cwd: &[u8],
    files: &Files,
    may_be_asked: impl Fn(&[u8]) -> bool,
    leave: impl Fn(&[u8]) -> bool,
) -> Known {
    let mut known = Known::default();
    let dirs = |role: Role| -> Vec<Bytes> {
        files.of_roles(&[role]).map(|name| normal(cwd, name)).collect()
    };
    let search = Search { quoted: dirs(Role::QuotedDir), included: dirs(Role::IncludedDir) };
    let system = system_dirs();
    let dirs = search.quoted.iter().chain(&search.included).chain(&system);
    for dir in dirs.filter(|dir| may_be_asked(dir)) {
        // The listing of the parent shows that a directory is missing.
        let listed =
            if is_dir(dir) { Some(dir.as_slice()) } else { split(dir).map(|(dir, _)| dir) };
        listed.iter().for_each(|dir| known.of(dir).listing = true);
    }
    let search = Search { included: [search.included, system].concat(), ..search };
    let mut seen: HashSet<Bytes> = files.inputs().map(|name| normal(cwd, name)).collect();
    let mut queue: VecDeque<Bytes> = seen.iter().cloned().collect();
    let mut bytes = 0;
    while let Some(path) = queue.pop_front() {
        if bytes >= BYTES_MAX {
            break;
        }
        if leave(&path) || !may_be_asked(&path) {
            continue;
        }
        let Some(text) = read(&path) else { continue };
        bytes += text.len();
        known.of(&path).content = true;
        let Some((dir, _)) = split(&path) else { continue };
        for (name, is_quoted) in includes(&text) {
            if seen.len() >= FILES_MAX {
                break;
            }
            let is_file = |path: &[u8]| may_be_asked(path) && is_file(path);
            if let Some(found) = search.find(dir, name, is_quoted, is_file)
                && seen.insert(found.clone())
            {
                queue.push_back(found);
            }
        }
    }
    known
}

/// The search path for headers.
struct Search {
    quoted: Vec<Bytes>,
    included: Vec<Bytes>,
}

impl Search {
    /// Resolves an `#include` of a file in this directory.
    fn find(
        &self,
        dir: &[u8],
        name: &[u8],
        is_quoted: bool,
        is_file: impl Fn(&[u8]) -> bool,
    ) -> Option<Bytes> {
        let quoted = std::iter::once(dir).chain(self.quoted.iter().map(Vec::as_slice));
        let quoted = is_quoted.then_some(quoted).into_iter().flatten();
        let mut dirs = quoted.chain(self.included.iter().map(Vec::as_slice));
        dirs.find_map(|dir| Some(normal(dir, name)).filter(|path| is_file(path)))
    }
}

/// The default search path of compilers.
fn system_dirs() -> Vec<Bytes> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let include = b"/usr/include";
    vec![b"/usr/local/include".to_vec(), join(include, multiarch.as_bytes()), include.to_vec()]
}

/// Returns the `#include`s of a text that name a file, each with whether it is in quotes.
fn includes(text: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let directive = line.trim_ascii_start().strip_prefix(b"#")?.trim_ascii_start();
        let named = directive.strip_prefix(b"include")?.trim_ascii_start();
        let (&quote, rest) = named.split_first()?;
        let end = match quote {
            b'"' => b'"',
            b'<' => b'>',
            _ => return None,
        };
        let name = rest.split(|&byte| byte == end).next()?;
        (!name.is_empty() && name.len() < rest.len()).then_some((name, quote == b'"'))
    })
}

/// Reads a regular file, unless it is large. Other types are not opened.
fn read(path: &[u8]) -> Option<Vec<u8>> {
    let place = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(OsStr::from_bytes(path))
        .ok()?;
    place.metadata().ok().filter(std::fs::Metadata::is_file)?;
    // Another process may hold a lease on it.
    let mut how = File::options();
    how.read(true).custom_flags(libc::O_NONBLOCK);
    let file = how.open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

fn is_file(path: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path)).is_file()
}

fn is_dir(path: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path)).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use worknode::command::{NoFiles, Tool};

    #[test]
    fn includes_of_a_text() {
        let text = b"#include <a.h>\n  # include \"b/c.h\" // d\n#include MACRO\n#include <e\n#if 0\n#include\"f\"\n//#include <g>";
        let found: Vec<_> = includes(text).collect();
        let expected = [(b"a.h".as_slice(), false), (b"b/c.h", true), (b"f", true)];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_included_is_found_through_all() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("inc/sub")).expect("writable");
        for (name, text) in [
            (
                "a.c",
                "#include \"a.h\"\n#include <sub/b.h>\n#include \"secret.h\"\n#include <not/there.h>\n",
            ),
            ("a.h", "#include \"a.h\"\n"),
            ("inc/a.h", ""),
            ("inc/sub/b.h", "#include \"c.h\"\n"),
            ("inc/sub/c.h", ""),
            ("secret.h", "#include \"inc/a.h\"\n"),
        ] {
            std::fs::write(dir.path().join(name), text).expect("writable");
        }
        let cwd = dir.path().as_os_str().as_bytes();
        let arguments = [b"-Iinc".as_slice(), b"-Imissing/x", b"-c", b"a.c"];
        let files = Files::of(Tool::Driver, arguments.into_iter(), &mut NoFiles, false);
        let known = reads(cwd, &files, |_| true, |path| path.ends_with(b"secret.h"));
        let below: Vec<_> = known
            .iter()
            .filter_map(|(path, facts)| {
                Some((path.strip_prefix(cwd)?, facts.listing, facts.content))
            })
            .map(|(path, listing, content)| {
                (String::from_utf8_lossy(path).into_owned(), listing, content)
            })
            .collect();
        let expected = [
            ("/a.c", false, true),
            ("/a.h", false, true),
            ("/inc", true, false),
            ("/inc/sub/b.h", false, true),
            ("/inc/sub/c.h", false, true),
            ("/missing", true, false),
        ];
        assert_eq!(
            below,
            expected.map(|(path, listing, content)| (path.to_owned(), listing, content))
        );
    }
}
