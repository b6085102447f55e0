//! What a question may lack, and where it comes from.

use crate::mirror::{Answer, Need};
use crate::packet::PacketRef;
use crate::path::Bytes;

/// What a request lacks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ask {
    /// A listing or a file's packets are not known.
    Need(Need),
    /// These packets of the file at a path are not in the store, each with its offset; those of
    /// the second list will be wanted soon.
    Packets(Bytes, Vec<(u64, PacketRef)>, Vec<(u64, PacketRef)>),
}

impl Ask {
    /// Returns the path that it is about, for the log.
    pub(super) fn named(&self) -> String {
        let (Self::Need(Need::Listing(path) | Need::Content(path)) | Self::Packets(path, ..)) =
            self;
        path.escape_ascii().to_string()
    }
}

/// Called when what was asked for has arrived, or with the `errno` that came instead.
pub type Done = Box<dyn FnOnce(Result<(), i32>) + Send>;

/// Fetches what the mirror lacks. An answer is put into mirror or store before `done` is called.
pub trait Source: Send + Sync + 'static {
    /// Starts fetching; never blocks.
    fn fetch(&self, ask: Ask, done: Done);
}

/// Why a request cannot be answered at once.
#[derive(Debug)]
pub(crate) enum Lack {
    Ask(Ask),
    Errno(i32),
    Hidden,
}

/// Returns what is known, or what is lacking.
pub(super) fn known<T>(answer: Answer<T>) -> Result<T, Lack> {
    match answer {
        Answer::Known(value) => Ok(value),
        Answer::Absent => Err(Lack::Errno(libc::ENOENT)),
        Answer::Unknown(need) => Err(Lack::Ask(Ask::Need(need))),
        Answer::Hidden => Err(Lack::Hidden),
    }
}
