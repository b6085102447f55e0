//! Why a commit fails.

use std::io;
use std::path::PathBuf;

use super::apply::ApplyError;
use super::vet::Refusal;
use crate::packet::Digest;
use crate::path::TreePath;

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The journal cannot be written; nothing was changed.
    #[error("failed to write the journal {}", path.display())]
    Journal {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A packet is missing or damaged; nothing was changed.
    #[error("packet {0} of a changed file is missing or damaged")]
    Packet(Digest),
    /// Another process has changed a file that the walk changed; nothing was changed.
    #[error("{} was changed by another process meanwhile", String::from_utf8_lossy(.0))]
    Conflict(TreePath),
    /// The walk could not have made these changes; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A change could not be made.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}
