//! The thread that applies the change sets of walks, one after the other.

use std::path::Path;
use std::sync::mpsc;

use packetfs::commit::{Commit, CommitError, Committer};
use packetfs::path::TreePath;
use tokio::sync::oneshot;

type Job = (Commit, oneshot::Sender<Result<Vec<TreePath>, CommitError>>);

/// The handle to the thread.
#[derive(Debug, Clone)]
pub(crate) struct Commits {
    jobs_tx: mpsc::Sender<Job>,
}

impl Commits {
    /// Starts the thread, which first finishes what an earlier agent left in the journal.
    pub(crate) fn start(journal: &Path) -> anyhow::Result<Self> {
        let (jobs_tx, jobs_rx) = mpsc::channel::<Job>();
        let (ready_tx, ready_rx) = mpsc::channel();
        let journal = journal.to_owned();
        std::thread::Builder::new().name("committer".into()).spawn(move || {
            let committer = own_umask().and_then(|()| Ok(Committer::open(&journal)?));
            let committer = match committer {
                Ok(committer) => committer,
                Err(error) => return drop(ready_tx.send(Err(error))),
            };
            let _ = ready_tx.send(Ok(()));
            while let Ok((commit, done_tx)) = jobs_rx.recv() {
                let _ = done_tx.send(committer.commit(&commit));
            }
        })?;
        ready_rx.recv()??;
        Ok(Self { jobs_tx })
    }

    /// Applies a commit; see [`Committer::commit`].
    pub(crate) async fn apply(&self, commit: Commit) -> Result<Vec<TreePath>, CommitError> {
        let (done_tx, done_rx) = oneshot::channel();
        if commit.changes.ops.is_empty() || self.jobs_tx.send((commit, done_tx)).is_err() {
            return Ok(Vec::new());
        }
        // The thread ends only with the agent.
        done_rx.await.unwrap_or_else(|_| Ok(Vec::new()))
    }
}

/// Gives the calling thread a mask of its own that masks nothing: a change set says every mode.
fn own_umask() -> anyhow::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    Ok(())
}
