//! The parser for command lines of compilers and assemblers. It finds the files that a command reads and writes, as
//! far as its arguments and response files name them, and decides whether the command is a compile step, which may
//! walk, or must stay (a link, a preprocessing run, a query such as `--version`, code for the origin's own processor).
//!
//! Nothing else in OS Walk parses such command lines. [`decide`] and [`read`] do not allocate. [`Files`] collects the
//! items that [`read`] finds and adds outputs whose names are derived from other names.

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
