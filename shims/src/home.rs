//! The home directory of the user.

use std::env;
use std::path::PathBuf;

use nix::unistd::{User, geteuid};

/// Returns `HOME`, or without it the directory in the user's passwd entry.
pub(crate) fn dir() -> Option<PathBuf> {
    let of_entry = || Some(User::from_uid(geteuid()).ok()??.dir);
    let named = env::var_os("HOME").filter(|value| !value.is_empty());
    named.map(PathBuf::from).or_else(of_entry).filter(|dir| !dir.as_os_str().is_empty())
}
