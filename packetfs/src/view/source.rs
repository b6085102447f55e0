//! What a request may lack, and the source that fetches it.

use crate::mirror::{Answer, Need};
use crate::packet::PacketRef;
use crate::path::Bytes;

/// Data to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ask {
    /// A listing or a manifest.
    Need(Need),
    /// Packets of the file at a path, each with its offset. Those of the second list will be needed
    /// soon.
    Packets(Bytes, Vec<(u64, PacketRef)>, Vec<(u64, PacketRef)>),
}

impl Ask {
    /// Returns the path for the log.
    pub(super) fn named(&self) -> String {
        let (Self::Need(Need::Listing(path) | Need::Content(path)) | Self::Packets(path, ..)) =
            self;
        path.escape_ascii().to_string()
    }
}

/// Called when the data has arrived, or with an `errno` if the fetch failed.
pub type Done = Box<dyn FnOnce(Result<(), i32>) + Send>;

/// Fetches what mirror or store lack. The answer is stored there before `done` is called.
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

/// Returns the answer, or what it lacks.
pub(super) fn known<T>(answer: Answer<T>) -> Result<T, Lack> {
    match answer {
        Answer::Known(value) => Ok(value),
        Answer::Absent => Err(Lack::Errno(libc::ENOENT)),
        Answer::Unknown(need) => Err(Lack::Ask(Ask::Need(need))),
        Answer::Hidden => Err(Lack::Hidden),
        Answer::Closed => Err(Lack::Errno(libc::EACCES)),
    }
}
