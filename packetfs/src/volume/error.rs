//! Why a volume cannot be opened or written.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Why a volume does not work.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file operation failed.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The tables do not work.
    #[error("failed to use the tables {}: {source}", path.display())]
    Tables {
        /// Their file.
        path: PathBuf,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// A row of the tables has another form.
    #[error("a row of the tables is damaged: delete tables.redb, which is made again from the log")]
    Row,
    /// Nothing has, or had, a path.
    #[error("no such path, now or earlier")]
    NoPath,
    /// The work was cancelled.
    #[error("the work was cancelled")]
    Cancelled,
    /// A log lacks events that the tables have.
    #[error(
        "events of another node are missing in its log, which was damaged: they are fetched again from other nodes"
    )]
    Incomplete,
    /// The packets cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log does not work.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
}

impl VolumeError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Returns the number of the system's error that is the cause, if one is.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let of_tables = error.downcast_ref::<Box<redb::Error>>().map(|error| &**error);
            let system = match of_tables.or_else(|| error.downcast_ref()) {
                Some(redb::Error::Io(error)) => Some(error),
                _ => error.downcast_ref(),
            };
            if let Some(number) = system.and_then(io::Error::raw_os_error) {
                return Some(number);
            }
            cause = error.source();
        }
        None
    }

    /// Returns the error number for a program.
    pub(super) fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::NoPath => libc::ENOENT,
            _ => libc::EIO,
        }
    }
}
