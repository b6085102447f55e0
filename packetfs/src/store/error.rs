//! Why a store fails.

use std::path::PathBuf;

/// Why a store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The index does not work.
    #[error("failed to use the packet index {}", path.display())]
    Index {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: Box<redb::Error>,
    },
}
