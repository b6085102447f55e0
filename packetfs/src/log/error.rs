//! Why a log fails, and what can be wrong with its bytes.

use std::io;
use std::path::PathBuf;

/// Why a log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process uses the log.
    #[error("the log in {} is in use by {}: stop that one first", dir.display(), holder(*pid))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other process, if known.
        pid: Option<u32>,
    },
    /// The log is of another version.
    #[error(
        "{} has version {found} of the log's format, this agent knows only version {known}: \
         start the agent that wrote it",
        path.display()
    )]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version of this agent.
        known: u32,
    },
    /// The log is damaged.
    #[error(
        "the log is damaged in {} at byte {offset}: {flaw}. Nothing was changed; \
         restore this file from a backup, or see what is left with 'oswalk fs fsck'",
        path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        flaw: Flaw,
    },
    /// The event does not follow the last one.
    #[error("event {found} cannot be appended to the log: the next one is {next}")]
    OutOfOrder {
        /// The number that is next.
        next: u64,
        /// The event's number.
        found: u64,
    },
    /// The event is too long for a record.
    #[error("an event of {bytes} bytes is too long for the log: {max} are the most")]
    TooLong {
        /// Its encoded length.
        bytes: usize,
        /// The most that a record holds.
        max: usize,
    },
    /// What events refer to could not be made durable.
    #[error("failed to make durable what the log refers to: check the disk, then mount again")]
    Settle {
        /// The cause.
        source: io::Error,
    },
    /// An earlier sync failed: what is in memory may differ from what is on disk.
    #[error("the log's disk has failed earlier: check the disk, then mount again")]
    Failed,
}

impl LogError {
    /// Returns the number by which a system call tells of it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::InUse { .. } => libc::EBUSY,
            Self::TooLong { .. } => libc::E2BIG,
            _ => libc::EIO,
        }
    }

    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Names the process that uses a log.
fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// What is wrong with bytes of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A segment's file is not there.
    #[error("the segment is missing")]
    Missing,
    /// A segment's header is not one.
    #[error("the segment's header is damaged")]
    Header,
    /// A segment's header is of another version.
    #[error("the segment has version {0} of the format")]
    Version(u32),
    /// A segment does not follow on the one before it.
    #[error("the segment does not follow on the one before it")]
    Order,
    /// A record is longer than a record can be, or than its segment.
    #[error("a record's length is impossible")]
    Length,
    /// A record is not what its hash says, or does not follow on the one before it.
    #[error("a record differs from its hash")]
    Chain,
    /// A record's content does not decode.
    #[error("a record does not decode")]
    Content,
    /// An event does not have the number that follows.
    #[error("event {found} stands where {next} should")]
    Gap {
        /// The number that is next.
        next: u64,
        /// The event's number.
        found: u64,
    },
    /// A barrier covers what it cannot.
    #[error("a barrier covers events that are not there")]
    Covers,
    /// A barrier is not signed by the key that its segment names.
    #[error("a barrier's signature is not valid")]
    Signature,
}
