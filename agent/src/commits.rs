//! The thread that applies the change sets of walks, one after the other.

use std::path::Path;
use std::sync::mpsc;

use packetfs::commit::{Commit, CommitError, Committer};
use tokio::sync::oneshot;

type Job = (Commit, oneshot::Sender<Result<(), CommitError>>);

/// The handle to the thread.
#[derive(Debug, Clone)]
pub(crate) struct Commits {
    jobs_tx: mpsc::Sender<Job>,
}

impl Commits {
    /// Finishes what an earlier agent left unfinished in the journal, and starts the thread.
    pub(crate) fn start(journal: &Path) -> anyhow::Result<Self> {
        let committer = Committer::open(journal)?;
        let (jobs_tx, jobs_rx) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("committer".into()).spawn(move || {
            while let Ok((commit, done_tx)) = jobs_rx.recv() {
                let _ = done_tx.send(committer.commit(&commit));
            }
        })?;
        Ok(Self { jobs_tx })
    }

    /// Applies a commit.
    pub(crate) async fn apply(&self, commit: Commit) -> Result<(), CommitError> {
        let (done_tx, done_rx) = oneshot::channel();
        if commit.changes.ops.is_empty() || self.jobs_tx.send((commit, done_tx)).is_err() {
            return Ok(());
        }
        // The thread ends only with the agent.
        done_rx.await.unwrap_or(Ok(()))
    }
}
