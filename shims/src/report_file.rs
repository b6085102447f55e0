//! The destination of a session's report. Whether it can be written is checked before the command
//! runs.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{AccessFlags, access};
use tempfile::NamedTempFile;
use worknode::report::Report;

use crate::error::Failure;
use crate::process;

/// Most links followed on the way to an open descriptor, as in the kernel.
const LINKS_MAX: usize = 40;

/// A destination that the report can be written to.
#[derive(Debug)]
pub(crate) enum ReportFile {
    /// A regular file, or a new one: replaced atomically.
    Named(PathBuf),
    /// A terminal, a pipe, `/dev/null`, or the file of an open descriptor: written in place.
    Stream(PathBuf, File),
}

impl ReportFile {
    /// Returns the destination, if the report can be written there.
    pub(crate) fn prepare(path: &Path) -> Result<Self, Failure> {
        Self::find(path).map_err(|error| {
            Failure::new(format!("failed to write the report {}: {error}", path.display()))
                .hint("nothing was run; name a file that can be written with --report")
        })
    }

    fn find(path: &Path) -> io::Result<Self> {
        match Descriptor::named(path) {
            Some(Descriptor::Own(fd)) => return Ok(Self::Stream(path.to_owned(), writable(fd)?)),
            // A file that another process has open is not replaced either.
            Some(Descriptor::Foreign) => {
                let file = OpenOptions::new().append(true).open(path)?;
                return Ok(Self::Stream(path.to_owned(), file));
            }
            None => {}
        }
        let stream = match fs::metadata(path) {
            Ok(metadata) => {
                let file = OpenOptions::new().append(true).open(path)?;
                (!metadata.is_file()).then_some(file)
            }
            // A dangling link: create the file that it names.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                OpenOptions::new().append(true).create(true).open(path)?;
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                beside(path)?;
                return Ok(Self::Named(path.to_owned()));
            }
            Err(error) => return Err(error),
        };
        if let Some(file) = stream {
            return Ok(Self::Stream(path.to_owned(), file));
        }
        // Replace the target of a link, not the link.
        let path = fs::canonicalize(path)?;
        beside(&path)?;
        Ok(Self::Named(path))
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        let (Self::Named(path) | Self::Stream(path, _)) = self;
        path
    }

    /// Writes the report.
    pub(crate) fn write(&mut self, report: &Report) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(report)?;
        text.push(b'\n');
        match self {
            Self::Named(path) => {
                let mut file = beside(path)?;
                file.write_all(&text)?;
                file.persist(path).map(drop).map_err(|error| error.error)
            }
            Self::Stream(_, file) => file.write_all(&text),
        }
    }
}

/// A descriptor named by `/dev/stdout`, `/dev/fd/N`, `/proc/self/fd/N` or a link to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descriptor {
    Own(RawFd),
    Foreign,
}

impl Descriptor {
    /// Returns the descriptor that a path names, if it names one.
    fn named(path: &Path) -> Option<Self> {
        let own = fs::canonicalize("/proc/self").ok()?;
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            let dir = fs::canonicalize(dir.unwrap_or(Path::new("."))).ok()?;
            let name = path.file_name()?;
            if dir.starts_with("/proc") && dir.ends_with("fd") {
                let number = name.to_str()?.parse().ok()?;
                return Some(if dir.starts_with(&own) { Self::Own(number) } else { Self::Foreign });
            }
            path = dir.join(fs::read_link(dir.join(name)).ok()?);
        }
        None
    }
}

/// Duplicates a descriptor of this process that is open for writing.
fn writable(fd: RawFd) -> io::Result<File> {
    let file = File::from(process::duplicate(fd)?);
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
    if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("descriptor {fd} is open for reading only"),
        ));
    }
    Ok(file)
}

/// Creates a temporary file in the directory of `path`.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Checked apart, because the error of `tempfile` names the temporary file.
    access(&dir.join("."), AccessFlags::W_OK | AccessFlags::X_OK)?;
    tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(path: &Path) -> Result<(), Failure> {
        ReportFile::prepare(path)?.write(&Report::default()).expect("it was prepared");
        Ok(())
    }

    fn is_report(path: &Path) -> bool {
        let text = fs::read(path).expect("reads");
        serde_json::from_slice::<Report>(&text).expect("JSON") == Report::default()
    }

    #[test]
    fn reports_are_replaced_atomically() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let path = dir.path().join("report.json");
        for _ in 0..2 {
            write(&path).expect("writable");
            assert!(is_report(&path));
            assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        }
    }

    #[test]
    fn a_link_stays_and_leads_to_the_report() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let (link, path) = (dir.path().join("link"), dir.path().join("report.json"));
        symlink("report.json", &link).expect("links");
        for _ in 0..2 {
            write(&link).expect("writable");
            assert!(link.is_symlink() && !path.is_symlink() && is_report(&path));
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_replaced() {
        write(Path::new("/dev/null")).expect("writable");
        assert!(!fs::metadata("/dev/null").expect("there").is_file());
    }

    #[test]
    fn names_of_descriptors() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let link = dir.path().join("link");
        symlink("/dev/stderr", &link).expect("links");
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        for (path, expected) in [
            ("/dev/stdout".to_owned(), Some(Descriptor::Own(1))),
            ("/dev/fd/7".to_owned(), Some(Descriptor::Own(7))),
            ("/proc/self/fd/2".to_owned(), Some(Descriptor::Own(2))),
            ("/proc/thread-self/fd/2".to_owned(), Some(Descriptor::Own(2))),
            (format!("/proc/{own}/fd/1"), Some(Descriptor::Own(1))),
            (format!("/proc/{parent}/fd/1"), Some(Descriptor::Foreign)),
            (link.display().to_string(), Some(Descriptor::Own(2))),
            ("/dev/null".to_owned(), None),
            ("/dev/fd/x".to_owned(), None),
            ("report.json".to_owned(), None),
            (dir.path().join("fd/1").display().to_string(), None),
        ] {
            assert_eq!(Descriptor::named(Path::new(&path)), expected, "{path}");
        }
        assert!(writable(1 << 20).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_refused_beforehand() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        fs::write(dir.path().join("file"), "").expect("writable");
        for name in ["", "missing/report.json", "file/report.json"] {
            assert!(ReportFile::prepare(&dir.path().join(name)).is_err(), "'{name}'");
        }
    }
}
