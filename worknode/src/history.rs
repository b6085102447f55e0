//! The history of a file system: events, the clock that orders them, and what a set of them means.
//!
//! Every change is an [`Event`] of one author. Events are never changed; a tree is a pure function of a set of events, in
//! whatever order they arrive. [`Hlc`] orders them so that a cause is always before its effect.

mod event;
mod hlc;
mod merge;
mod register;
mod tree;

pub use event::{
    Attrs, Author, Content, Dot, Event, FileId, Hash, Kind, NAME_BYTES_MAX, Name, Nanos, Op,
    Packet, Permissions, TARGET_BYTES_MAX,
};
pub use hlc::{AHEAD_MS_MAX, Clock, Hlc, TooFarAhead};
pub use merge::{Events, Summary};
pub use register::{Register, SET_AGAIN_MAX, Stamp, Version};
pub use tree::{
    Attribute, Binding, CONFLICTS_MAX, Change, Changed, Conflict, Dispute, Entry, File, Moments,
    Standing, Tree,
};
