//! Answers the kernel's requests about an origin's files from a mirror and a packet store. Independent of
//! any FUSE library: [`crate::fuse`] passes the requests on.
//!
//! A request that lacks data is answered once the [`Source`] has fetched it. [`Notice`]s invalidate what
//! changes in the kernel, in the order in which the mirror changed.

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
