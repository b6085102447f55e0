//! Counters of requests, and records of remarkable ones.

use std::sync::atomic::AtomicU64;

use super::noted::Noted;

/// Counters of the requests that reached user space.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests of the kernel.
    pub requests: AtomicU64,
    /// Requests that needed a fetch.
    pub fetches: AtomicU64,
    /// Requests that failed because a fetch failed.
    pub failures: Noted,
    /// Requests for files whose extended attributes were not shown.
    pub missed: Noted,
    /// Those of them for files with access control lists.
    pub missed_acls: Noted,
    /// Requests that were refused because the directory or file is hidden.
    pub hidden: Noted,
    /// Requests that reach the runner's own files: for names in its empty `/run`, and for links to its
    /// devices and processes.
    pub elsewhere: Noted,
    /// Those of them for names that no system service uses.
    pub elsewhere_in_files: Noted,
    /// Requests for a file that changed after the kernel cached it: what was read may not match what was
    /// read before.
    pub torn: Noted,
}
