//! Events as they are sent, and why they are refused.

use serde::{Deserialize, Serialize};
use worknode::history::Author;

use super::super::error::VolumeError;
use super::statement::Statement;
use crate::log::{Feed, Unfit};

/// Events of one author, as they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Whose they are.
    pub statement: Statement,
    /// The events.
    pub feed: Feed,
}

/// Why events are not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The statement is not signed by its node.
    #[error("nobody has stated whose events they are")]
    Stranger,
    /// The events do not fit.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// Two histories of the author are known.
    #[error("its author has signed two different histories, so nothing more of it is taken")]
    Quarantined,
    /// The node has stated that events of very many authors are its own.
    #[error("its node has too many authors, so nothing of another one is taken")]
    Crowd,
    /// They are this node's own.
    #[error("another node has events of this node that are not here")]
    Own,
    /// The volume does not work.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

impl Batch {
    /// Returns whose events they are.
    #[must_use]
    pub fn author(&self) -> Author {
        self.statement.author()
    }
}
