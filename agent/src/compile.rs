//! The files of a compile step, as its command line names them, on this machine's disk.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use nix::errno::Errno;
use packetfs::path::{Bytes, normal};
use worknode::command::{Files, NoFiles, ResponseFiles, Tool, Unread};
use worknode::spec::WalkSpec;

use crate::look::{self, Look};

/// Reads response files relative to a working directory.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    pub(crate) cwd: &'a [u8],
}

impl ResponseFiles for Disk<'_> {
    fn read(&mut self, path: &[u8], room: &mut [u8]) -> Result<usize, Unread> {
        let file = look::open_file(&normal(self.cwd, path)).map_err(|errno| match errno {
            Errno::EINVAL => Unread::Refused,
            _ => Unread::Absent,
        })?;
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file);
        let size = metadata.and_then(|metadata| usize::try_from(metadata.len()).ok());
        let text = size.and_then(|size| room.get_mut(..size)).ok_or(Unread::Refused)?;
        (&file).read_exact(text).map_err(|_| Unread::Refused)?;
        Ok(text.len())
    }
}

/// Returns each input's inode and mtime, or `None` where it is absent.
pub(crate) fn versions(files: &Files, cwd: &[u8]) -> Vec<Option<(u64, SystemTime)>> {
    let version = |name: &[u8]| {
        // An unreadable file counts as changed, which at worst sends it again.
        let file = File::from(Look::AtOnce.open(&normal(cwd, name)).ok()?);
        let meta = file.metadata().ok()?;
        Some((meta.ino(), meta.modified().ok()?))
    };
    files.inputs().map(version).collect()
}

/// Returns the files of a compile step, as its command line and the current response files on this machine name them.
pub(crate) fn files(spec: &WalkSpec) -> Option<Files> {
    let tool = Tool::named(&spec.path).unwrap_or(Tool::Driver);
    let read = || Files::of(tool, spec.arguments().skip(1), &mut Disk { cwd: &spec.cwd }, true);
    spec.compiles.then(read)
}

/// Returns the outputs of a compile step, named as in its command line. Response files are not read, because they are
/// on the origin.
pub(crate) fn outputs(spec: &WalkSpec) -> Vec<Bytes> {
    let tool = Tool::named(&spec.path).unwrap_or(Tool::Driver);
    let files = Files::of(tool, spec.arguments().skip(1), &mut NoFiles, true);
    files.outputs().map(<[u8]>::to_vec).collect()
}

/// Tells whether a name contains `..`.
pub(crate) fn goes_up(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'/').any(|name| name == b"..")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use worknode::command::Tool;
    use worknode::reason::Reason;

    #[test]
    fn names_that_go_up() {
        assert!(goes_up(b"x/../a") && !goes_up(b"..x/a"));
    }

    #[test]
    fn response_files_are_relative_to_the_working_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let cwd = dir.path().as_os_str().as_bytes();
        std::fs::write(dir.path().join("args"), "-c 'a b.c' @more").expect("writable");
        std::fs::write(dir.path().join("more"), "-o x/a.o").expect("writable");
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU)
            .expect("a fifo");
        let files = |word: &str| {
            let arguments = [word.as_bytes()];
            Files::of(Tool::Driver, arguments.into_iter(), &mut Disk { cwd }, false)
        };
        let found = files("@args");
        assert_eq!(found.decision, Ok(()));
        assert_eq!(found.inputs().collect::<Vec<_>>(), [&b"args"[..], b"a b.c", b"more"]);
        assert_eq!(found.outputs().collect::<Vec<_>>(), [b"x/a.o"]);
        assert_eq!(files("@fifo").decision, Err(Reason::ResponseFile));
        assert_eq!(files("@absent").decision, Err(Reason::Link));
    }
}
