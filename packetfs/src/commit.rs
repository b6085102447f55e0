//! Applies change sets at the origin, each exactly once and completely.
//!
//! Before the first change, a set is written to the journal with all its content; after the last, it is cleared.
//! If the agent dies in between, the next one applies it again, since all steps are idempotent. A set that is
//! incomplete in the journal was not begun.

mod appends;
mod apply;
mod error;
mod journal;
mod lock;
mod model;
mod moves;
mod pieces;
mod place;
mod reconcile;
mod steps;
mod temporary;
mod vet;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use crate::change::Op;
use crate::packet::PacketRef;
use crate::path::TreePath;
use appends::Appends;
use journal::{Journal, Pending};
use model::Contents;
use temporary::Temporaries;

pub use apply::ApplyError;
pub use error::CommitError;
pub use model::{Commit, Scope};
pub use vet::Refusal;

/// Number of agents that may die of an interrupted commit before the next one sets it aside.
const TRIES_MAX: u64 = 2;

/// Applies commits, one at a time.
#[derive(Debug)]
pub struct Committer {
    journal: Journal,
    appends: RefCell<Appends>,
    temporaries: Temporaries,
}

impl Committer {
    /// Opens the journal at `path` and finishes an interrupted commit in it. One of which two agents have died is
    /// set aside.
    ///
    /// # Errors
    /// The journal cannot be used.
    pub fn open(path: &Path) -> Result<Self, CommitError> {
        let failed = |source| CommitError::Journal { path: path.to_owned(), source };
        let mut journal = Journal::open(path).map_err(failed)?;
        let temporaries = Temporaries::new().map_err(failed)?;
        if journal.tries().map_err(failed)? >= TRIES_MAX {
            let aside = journal.set_aside().map_err(failed)?;
            tracing::error!(
                journal = %aside.display(),
                "{TRIES_MAX} agents have died of an interrupted commit: it was moved to this journal, unfinished"
            );
            journal = Journal::open(path).map_err(failed)?;
        }
        // Counted before reading, of which an agent may die as well.
        journal.note_try().map_err(failed)?;
        if let Some(Pending { commit, temporary }) = journal.pending().map_err(failed)? {
            tracing::warn!(ops = commit.changes.ops.len(), "finishing an interrupted commit");
            let begun = journal.begun().map_err(failed)?;
            let cleared = || journal.note_cleared();
            let finish = || {
                vet::vet(&commit, true)?;
                Ok(apply::apply(&commit, &contents(&commit)?, temporary, Some(begun), &cleared)?)
            };
            let finished: Result<(), CommitError> = finish();
            if let Err(error) = finished {
                tracing::error!(%error, "failed to finish an interrupted commit");
            }
        }
        journal.strike().and_then(|()| journal.empty()).map_err(failed)?;
        Ok(Self { journal, temporaries, appends: RefCell::default() })
    }

    /// Applies a commit. Returns the files that others have changed meanwhile and that it has overwritten.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&self, commit: &Commit) -> Result<Vec<TreePath>, CommitError> {
        if commit.changes.ops.is_empty() {
            return Ok(Vec::new());
        }
        vet::vet(commit, false)?;
        let mut contents = contents(commit)?;
        let reconciled = reconcile::reconcile(commit, &self.appends.borrow(), &mut contents)?;
        let commit = reconciled.commit.as_ref().unwrap_or(commit);
        let failed = |source| CommitError::Journal { path: self.journal.path().to_owned(), source };
        apply::check(commit)?;
        let temporary = self.temporaries.next();
        self.journal.write(commit, temporary).map_err(failed)?;
        let cleared = || self.journal.note_cleared();
        let result = apply::apply(commit, &contents, temporary, None, &cleared);
        // If this fails, the next agent clears the journal, or applies it again.
        if let Err(error) = self.journal.strike() {
            tracing::error!(%error, "failed to clear the journal");
        }
        result.map_err(|error| match error.conflict() {
            Some(path) => CommitError::Conflict(path),
            None => CommitError::Apply(error),
        })?;
        reconciled.note_appends(&mut self.appends.borrow_mut());
        Ok(reconciled.overwritten)
    }

    /// Removes the last commit's content from the journal. To be called when no other follows soon.
    pub fn rest(&self) {
        if let Err(error) = self.journal.empty() {
            tracing::error!(%error, "failed to empty the journal");
        }
    }
}

/// Decompresses and checks all content before anything is changed.
fn contents(commit: &Commit) -> Result<Contents<'_>, CommitError> {
    let mut contents = HashMap::new();
    for (packet, packed) in &commit.packets {
        let content = packed.unpack(*packet).map_err(|_| CommitError::Packet(packet.digest))?;
        contents.insert(packet.digest, content);
    }
    for op in &commit.changes.ops {
        if let Op::File { manifest, .. } = op {
            // The check for free space relies on the lengths in manifests.
            let is_whole = |packet: &PacketRef| {
                let content = contents.get(&packet.digest);
                content.is_some_and(|content| content.len() as u64 == u64::from(packet.bytes))
            };
            let missing = manifest.packets.iter().find(|&packet| !is_whole(packet));
            if let Some(packet) = missing {
                return Err(CommitError::Packet(packet.digest));
            }
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests;
