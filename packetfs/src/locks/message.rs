//! What nodes say to each other about locks.

use serde::{Deserialize, Serialize};
use worknode::history::{Author, FileId};

use super::limits::{AUTHORS_MAX, CLAIMS_MAX};
use super::table::Held;

/// From a node to its master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// All locks that the sender's programs have, in one or more messages, and whom it is linked with. It begins a round.
    Claim { is_first: bool, is_last: bool, locks: Vec<(FileId, Held)>, linked: Vec<Author> },
    /// The sender has another master. These it is linked with.
    Leave { linked: Vec<Author> },
    /// A program wants a lock.
    Lock { id: u64, file: FileId, lock: Held, waits: bool },
    /// A program wants to know which lock is in the way of one.
    Test { id: u64, file: FileId, lock: Held },
    /// A program gives back what it has in the range of a lock.
    Unlock { id: u64, file: FileId, lock: Held },
    /// A program does not want to wait for a lock any longer. It is told what becomes of that.
    Cancel { id: u64, file: FileId },
    /// To any node: it is known from now on. What the other one told before may be lost.
    Hello,
}

/// From a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The program has its lock.
    Granted { id: u64 },
    /// Nothing is in the way.
    Free { id: u64 },
    /// The program does not get its lock.
    Refused { id: u64, refusal: Refusal },
    /// The lock was given back.
    Unlocked { id: u64 },
    /// Another node has what excludes a lock that was claimed.
    Lost { file: FileId, lock: Held },
}

/// Why a lock is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Another owner has this one.
    Held(Held),
    /// Its owner would wait for itself.
    Deadlock,
    /// There are too many.
    Full,
    /// The program did not want to wait any longer.
    Cancelled,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// To a master.
    Ask(Ask),
    /// From a master.
    Answer(Answer),
}

/// A message, and which events a program must see that gets a lock by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Of some authors the number up to which all events must be there.
    pub seen: Vec<(Author, u64)>,
    /// How often the node that asks has told a master all. Only answers of the present round count.
    pub round: u64,
    pub word: Word,
}

impl Envelope {
    /// Decodes a message. Returns `None` if it is damaged or too long.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let it: Self = postcard::from_bytes(bytes).ok()?;
        let fits = match &it.word {
            Word::Ask(Ask::Claim { locks, linked, .. }) => {
                locks.len() <= CLAIMS_MAX
                    && linked.len() <= AUTHORS_MAX
                    && locks.iter().all(|(_, lock)| lock.is_sound())
            }
            Word::Ask(Ask::Leave { linked }) => linked.len() <= AUTHORS_MAX,
            Word::Ask(
                Ask::Lock { lock, .. } | Ask::Test { lock, .. } | Ask::Unlock { lock, .. },
            )
            | Word::Answer(
                Answer::Lost { lock, .. } | Answer::Refused { refusal: Refusal::Held(lock), .. },
            ) => lock.is_sound(),
            _ => true,
        };
        (fits && it.seen.len() <= AUTHORS_MAX).then_some(it)
    }
}
