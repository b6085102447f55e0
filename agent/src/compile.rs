//! The files of a compile step, as its command line names them, on this machine's disk.

use std::io::Read;

use nix::errno::Errno;
use packetfs::path::{Bytes, normal};
use worknode::command::{Files, NoFiles, ResponseFiles, Tool, Unread};
use worknode::spec::WalkSpec;

use crate::look::{self, Look};
use crate::sys::place::Stamp;

/// Reads response files relative to a working directory.
#[derive(Debug)]
struct Disk<'a> {
    cwd: &'a [u8],
    look: Look,
    /// There are some, which are not read at once.
    is_waited_for: bool,
}

impl ResponseFiles for Disk<'_> {
    fn read(&mut self, path: &[u8], room: &mut [u8]) -> Result<usize, Unread> {
        if self.look == Look::AtOnce {
            self.is_waited_for = true;
            return Err(Unread::Refused);
        }
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

/// Returns a stamp of each input; nothing for what is not there.
pub(crate) fn versions(files: &Files, cwd: &[u8]) -> Vec<Option<Stamp>> {
    // What is not at hand is taken for changed: the worst is that it is told again.
    let version = |name: &[u8]| Stamp::of(Look::AtOnce.open(&normal(cwd, name)).ok()?).ok();
    files.inputs().map(version).collect()
}

/// Returns the files of a compile step, as its command line and this machine's files of arguments name them now.
///
/// # Errors
/// `EAGAIN`: there are files of arguments, which are not read at once.
pub(crate) fn files<'a>(
    tool: Tool,
    arguments: impl Iterator<Item = &'a [u8]> + Clone,
    cwd: &[u8],
    look: Look,
) -> Result<Files, Errno> {
    let mut disk = Disk { cwd, look, is_waited_for: false };
    let files = Files::of(tool, arguments, &mut disk, true);
    if disk.is_waited_for { Err(Errno::EAGAIN) } else { Ok(files) }
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

    use super::{files as files_of, *};
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
            files_of(Tool::Driver, arguments.into_iter(), cwd, Look::Waiting).expect("it may wait")
        };
        let at_once = files_of(Tool::Driver, [b"@args".as_slice()].into_iter(), cwd, Look::AtOnce);
        assert_eq!(at_once, Err(Errno::EAGAIN));
        let found = files("@args");
        assert_eq!(found.decision, Ok(()));
        assert_eq!(found.inputs().collect::<Vec<_>>(), [&b"args"[..], b"a b.c", b"more"]);
        assert_eq!(found.outputs().collect::<Vec<_>>(), [b"x/a.o"]);
        assert_eq!(files("@fifo").decision, Err(Reason::ResponseFile));
        assert_eq!(files("@absent").decision, Err(Reason::Link));
    }
}
