//! Where the report of a session goes. Whether it can be written is found out before the command
//! runs.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use worknode::report::Report;

use crate::error::Failure;

/// A place that the report can be written to.
#[derive(Debug)]
pub(crate) enum ReportFile {
    /// A regular file, or none yet: it appears whole, in the place of an old one.
    Named(PathBuf),
    /// A terminal, a pipe, `/dev/null`: written as it is.
    Stream(PathBuf, File),
}

impl ReportFile {
    /// Returns the place, if the report can be written there.
    pub(crate) fn prepare(path: &Path) -> Result<Self, Failure> {
        Self::find(path).map_err(|error| {
            Failure::new(format!("failed to write the report {}: {error}", path.display()))
                .hint("nothing was run: name a file that can be written with --report")
        })
    }

    fn find(path: &Path) -> io::Result<Self> {
        let stream = match fs::metadata(path) {
            Ok(metadata) => {
                let file = OpenOptions::new().append(true).open(path)?;
                (!metadata.is_file()).then_some(file)
            }
            // A link to nothing: the file that it names is made.
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
        // What a link leads to is replaced, not the link.
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

/// Makes a temporary file in the directory of a file.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(dir);
    // The error would name the temporary file.
    made.map_err(|error| error.raw_os_error().map_or(error, io::Error::from_raw_os_error))
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
    fn reports_appear_whole() {
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
    fn what_cannot_be_written_is_refused_before() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        fs::write(dir.path().join("file"), "").expect("writable");
        for name in ["", "missing/report.json", "file/report.json"] {
            assert!(ReportFile::prepare(&dir.path().join(name)).is_err(), "'{name}'");
        }
    }
}
