//! What a runner's kernel is answered about an origin's files: the meaning of each request, from a mirror
//! and a packet store. It names no FUSE library; [`crate::fuse`] carries the kernel's requests here.
//!
//! A request that lacks something is answered once the [`Source`] has fetched it. What changes is taken
//! back through [`Notice`]s, in the order in which the mirror changed.

mod answer;
mod content;
mod counters;
mod elsewhere;
mod names;
mod noted;
mod outset;
mod source;

pub(crate) use answer::{Notice, View};
pub use counters::Counters;
pub(crate) use names::Looked;
pub(crate) use noted::Asker;
pub use noted::Noted;
pub use outset::Outset;
pub(crate) use source::Lack;
pub use source::{Ask, Done, Source};
