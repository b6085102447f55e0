//! \[unsafe\] Kernel interfaces that no library wraps: the launcher process, the sandbox of a walk, passing
//! descriptors over sockets.

mod above;
pub(crate) mod fds;
mod filter;
mod groups;
pub(crate) mod launcher;
pub(crate) mod lent;
pub(crate) mod orders;
pub(crate) mod outside;
pub(crate) mod peer;
pub(crate) mod place;
pub(crate) mod process;
mod program;
mod readers;
pub(crate) mod realm;
pub(crate) mod rights;
mod root;
mod rootless;
mod sandbox;
pub(crate) mod standing;
pub(crate) mod tcp;
pub(crate) mod terminal;
pub(crate) mod view;
pub(crate) mod watch;
