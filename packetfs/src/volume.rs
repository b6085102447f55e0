//! A volume: a POSIX file system whose every change is an event of a log, and whose contents are packets.
//!
//! Reading order: [`names`] and [`files`] are what programs do; each change is an event, which [`changes`] appends to the log
//! and [`tree`] does to the [`tables`]. Contents are in [`backing`] files while they are written, then in the [`library`] of
//! packets, by [`translate`]. [`upkeep`] makes all of it durable.
//!
//! Looking back: [`past`] reads former moments from the tables; [`versions`] are what a file had, [`restore`] brings them back, [`records`] tell what was done. A mount shows the tree and its
//! past by [`shown`], [`export`] writes it elsewhere. [`garbage`] drops what is too old; [`known`] says which moments are left.
//!
//! Other nodes: [`exchange`] gives events and packets to their volumes and learns from them, [`foreign`] does what their events
//! say.
//!
//! Nothing here knows FUSE. All methods may be called from any thread.

mod access;
mod acl;
mod agree;
mod backing;
mod below;
mod beside;
mod bounds;
mod changes;
mod check;
mod compare;
mod conflicts;
mod dirs;
mod error;
mod exchange;
mod export;
mod fetching;
mod files;
mod foreign;
mod garbage;
mod given;
mod givers;
mod giving;
mod handles;
mod heal;
mod holds;
mod interrupted;
mod keepers;
mod key;
mod known;
mod lease;
mod library;
mod linear;
mod listener;
mod listing;
mod locking;
mod locks;
mod looks;
mod marks;
mod mend;
mod merged;
mod model;
pub mod moment;
mod names;
mod news;
mod node;
mod noted;
mod open;
mod others;
mod past;
mod pending;
mod privileges;
mod put;
mod queue;
mod reach;
mod readers;
mod records;
mod replicas;
mod restore;
mod room;
mod row;
mod seen;
mod showing;
mod shown;
mod spares;
mod special;
mod stale;
mod tables;
mod told;
mod translate;
mod tree;
mod upkeep;
mod uses;
mod versions;
mod watched;

#[cfg(test)]
mod tests;

pub use below::{Below, Fetched, Prefetched};
pub use beside::Beside;
pub use check::Checked;
pub use conflicts::Conflicted;
pub use error::VolumeError;
pub use exchange::{Batch, Refused, Statement, author_of, small_packets};
pub use export::Exported;
pub use files::{BackingFile, Io, Opened};
pub use garbage::{Garbage, Policy, VolumeStat};
pub use handles::{DirEntry, Page};
pub use keepers::keepers;
pub use known::MomentError;
pub(crate) use lease::has_writer;
pub use library::Source;
pub use listener::{Heard, Listener};
pub use locks::{Done, LockCall, Unsound, Wire};
pub use marks::is_long;
pub use model::Volume;
pub use names::{Caller, Found, Make, Moving};
pub use news::{Feed, News};
pub use node::ROOT;
pub use open::Options;
pub use put::{Like, Ordinary};
pub use records::Record;
pub use replicas::REPLICAS_MAX;
pub use restore::Restored;
pub use seen::Seen;
pub use shown::Shown;
pub use told::{Mark, Stale, Told};
pub use versions::{Version, VersionReader};
