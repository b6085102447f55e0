//! The pure model of OS Walk: what a walk is, which processes walk, and the formats that the preload
//! library, the stub, the agents and the broker share.
//!
//! Nothing here does I/O or reads a clock or the environment. The modules of the first block work
//! without an allocator, because the preload library uses them between `vfork` and `execve`. Those of
//! the second block need `std`; only the daemons and `oswalk` use them.
#![forbid(unsafe_code)]
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod command;
pub mod door;
pub mod glob;
pub mod known;
pub mod page;
pub mod policy;
pub mod reason;
pub mod script;
pub mod tally;
pub mod variables;

#[cfg(feature = "std")]
mod bounded;
#[cfg(feature = "std")]
pub mod broker_url;
#[cfg(feature = "std")]
pub mod capability;
#[cfg(feature = "std")]
pub mod history;
#[cfg(feature = "std")]
pub mod id;
#[cfg(feature = "std")]
pub mod key;
#[cfg(feature = "std")]
pub mod membership;
#[cfg(feature = "std")]
pub mod notice;
#[cfg(feature = "std")]
pub mod principal;
#[cfg(feature = "std")]
pub mod report;
#[cfg(feature = "std")]
pub mod request;
#[cfg(feature = "std")]
pub mod said;
#[cfg(feature = "std")]
pub mod spec;
