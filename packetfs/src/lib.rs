//! PacketFS: file content as content-addressed packets, an origin's tree as its runners see it, and the
//! change sets that walks produce.
//!
//! Reading order: [`packet`] and [`store`] hold content; [`path`] and [`tree`] name files and directories;
//! [`export`], [`mounts`] and [`watch`] export an origin's tree and detect its changes; [`mirror`] is that tree
//! on a runner, [`view`] answers the kernel from it, [`fuse`] mounts it with the numbers that [`owners`] gives to
//! users; [`change`], [`upper`] and [`commit`] take a walk's changes back to the origin. [`log`] keeps the events of a
//! file system's history.
//!
//! The crate knows nothing of walks, sessions or Redis. Only [`fuse`] depends on fuser.

pub mod packet;
pub mod path;
pub mod store;
pub mod tree;

pub mod export;
pub mod identity;
pub mod mounts;
pub mod watch;

pub mod mirror;
pub mod owners;
pub mod view;

pub mod locks;
pub mod log;
pub mod share;
pub mod volume;

pub mod fuse;

pub mod allowance;
pub mod change;
pub mod commit;
pub mod contents;
pub mod progress;
pub mod upper;

pub mod whole;
pub mod xattr;

#[cfg(test)]
mod deep;
