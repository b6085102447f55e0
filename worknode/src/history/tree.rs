//! The tree of files: a pure function of a set of events.
//!
//! **Identity.** A file is named by the event that made it. So is each of its names: a *link* is made by a Make or Link
//! event, and keeps its identity when a Move takes it elsewhere. A directory has one link only. Where a link is follows
//! from the events that concern it, in the order of their stamps: a Move puts it somewhere, an Unlink or a Move onto its
//! name removes it. So two concurrent moves of one name end at the later one's place, and no link ever depends on another
//! link, except that moves of directories must not make cycles (`moves`).
//!
//! **What is at a name** is derived: all links that say they are there. Usually that is one. Directories among them are
//! united; of other files the latest wins, and the others stay as conflict versions of that name.
//!
//! **Parents.** An event that moves or removes a link names the event that put it where it is, and by that the link. An
//! event that removes a name also names versions of the content, and so tells what its author knew: content that no
//! remover knew brings the file back. A Move names first what it moves, then what it replaces or exchanges. An event that
//! sets something names the versions that it replaces; a Write those with the content that counted, so that what lost
//! stays a conflict. [`Tree::plan`] gives an author all of these.
//!
//! **Order.** An event waits until those that it refers to are applied. What is applied is therefore the same in
//! whatever order events come. Registers and links take late events in place; only late moves of directories undo and
//! redo those after them.

mod changed;
mod claims;
mod effects;
mod file;
mod link;
mod model;
mod moves;
mod names;
mod plan;
mod rename;
mod rows;
mod sound;
mod view;

pub use changed::Changed;
pub use file::{CONFLICTS_MAX, Dispute, File, Moments};
pub use model::Tree;
pub use plan::Change;
pub use rows::{Attribute, Binding, Standing};
pub use view::{Conflict, Entry};
