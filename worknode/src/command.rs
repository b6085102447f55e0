//! Reads the command lines of compilers, assemblers and their like: what a command reads and writes, as far as its
//! words and its `@file`s show, and whether it is a compile step, which may walk, or something that stays (a link, a
//! preprocessing run, a question to the tool, code for this very processor).
//!
//! This is the only place where such command lines are read. [`decide`] and [`read`] allocate nothing; [`Files`]
//! collects what [`read`] says, with the names of outputs that are derived from others.

pub mod environment;
mod item;
mod language;
mod options;
mod place;
mod reader;
mod response;
mod tables;
mod tool;
mod trial;

#[cfg(feature = "std")]
mod files;

#[cfg(feature = "std")]
pub use files::Files;
pub use item::{Item, Product, Role, Stage};
pub use place::is_stream;
pub use reader::{Reading, decide, read};
pub use response::{NoFiles, ROOM_BYTES, ResponseFiles, Unread};
pub use tool::Tool;
