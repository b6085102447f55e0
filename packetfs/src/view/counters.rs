//! Counts of requests, and what was noted of them.

use std::sync::atomic::AtomicU64;

use super::noted::Noted;

/// Counts of what reached user space.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests of the kernel.
    pub requests: AtomicU64,
    /// Requests that had to fetch something.
    pub fetches: AtomicU64,
    /// Requests that failed because something could not be fetched.
    pub failures: Noted,
    /// Requests that found something whose extended attributes they were not shown.
    pub missed: Noted,
    /// Requests that were refused because they looked into a hidden directory or file.
    pub hidden: Noted,
    /// Requests that lead to what a runner has of its own: for names in its empty `/run`, and of links to
    /// its devices and processes.
    pub elsewhere: Noted,
    /// Those of them for names that no service of a machine has.
    pub elsewhere_in_files: Noted,
    /// Requests that found another file than the kernel still believed in: what was read of it may not
    /// fit what was read before.
    pub torn: Noted,
}
