//! The thread that applies the change sets of walks sequentially. Users take turns.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context;
use packetfs::commit::{Commit, CommitError, Committer};
use packetfs::path::TreePath;
use tokio::sync::oneshot;

use crate::sys::outside::Outside;
use crate::turns::Turns;
use crate::vital::Vital;

/// The files of others that were overwritten, or why the commit failed.
type Committed = Result<Vec<TreePath>, CommitError>;
type Job = (Commit, oneshot::Sender<Result<Done, CommitError>>);

/// What has become of a commit.
#[derive(Debug)]
pub(crate) enum Done {
    /// It was applied.
    Applied {
        /// The files of others that it has overwritten.
        overwrote: Vec<TreePath>,
    },
    /// It was not begun: a file system that it concerns has not answered just now.
    Unheard(Box<Commit>),
}

/// Idle time after which the journal is truncated, so that commits in quick succession do not wait for that.
const REST_AFTER: Duration = Duration::from_secs(1);

/// The handle to the thread.
#[derive(Debug, Clone)]
pub(crate) struct Commits {
    /// Unbounded, since the agent must not wait for the thread. Each walk puts in one at a time, and waits for it;
    /// what they hold is bounded by the memory for all change sets.
    jobs_tx: mpsc::Sender<Job>,
}

/// Applies commits, in the thread.
trait Apply: 'static {
    fn apply(&self, commit: &Commit) -> Committed;

    /// Called when no commit has followed for a while.
    fn rest(&self);
}

impl Apply for Committer {
    fn apply(&self, commit: &Commit) -> Committed {
        self.commit(commit)
    }

    fn rest(&self) {
        Self::rest(self);
    }
}

impl Commits {
    /// Starts the thread. It begins only commits that `may_begin` allows. It first finishes a commit that an earlier agent left in the journal.
    pub(crate) fn start(
        vital: &Vital,
        journal: &Path,
        outside: &Arc<Outside>,
        may_begin: impl Fn(&Commit) -> bool + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (journal, outside) = (journal.to_owned(), Arc::clone(outside));
        Self::start_with(vital, may_begin, move || {
            outside.enter().context("failed to enter the mounts of users")?;
            // The thread has its own umask, which is 0 because a change set gives every mode.
            nix::sys::stat::umask(nix::sys::stat::Mode::empty());
            Ok(Committer::open(&journal)?)
        })
    }

    /// Starts the thread, which gets its committer from `open`.
    fn start_with<A: Apply>(
        vital: &Vital,
        may_begin: impl Fn(&Commit) -> bool + Send + 'static,
        open: impl FnOnce() -> anyhow::Result<A> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (jobs_tx, jobs_rx) = mpsc::channel::<Job>();
        let (ready_tx, ready_rx) = mpsc::channel();
        vital.thread("committer", move || {
            let committer = match open() {
                Ok(committer) => committer,
                Err(error) => return drop(ready_tx.send(Err(error))),
            };
            let _ = ready_tx.send(Ok(()));
            let mut turns = Turns::default();
            while let Some((commit, done_tx)) = next(&jobs_rx, &mut turns, || committer.rest()) {
                let done = if may_begin(&commit) {
                    committer.apply(&commit).map(|overwrote| Done::Applied { overwrote })
                } else {
                    Ok(Done::Unheard(Box::new(commit)))
                };
                let _ = done_tx.send(done);
            }
        })?;
        ready_rx.recv()??;
        Ok(Self { jobs_tx })
    }

    /// Applies a commit; see [`Committer::commit`].
    ///
    /// # Errors
    /// A [`CommitError`], or the thread has died, perhaps during this commit.
    pub(crate) async fn apply(&self, commit: Commit) -> anyhow::Result<Done> {
        if commit.changes.ops.is_empty() {
            return Ok(Done::Applied { overwrote: Vec::new() });
        }
        let (done_tx, done_rx) = oneshot::channel();
        let died = || anyhow::anyhow!("the committer has died: the program is executed here");
        self.jobs_tx.send((commit, done_tx)).map_err(|_| died())?;
        Ok(done_rx.await.map_err(|_| died())??)
    }
}

/// Returns the next commit, or `None` if the agent has ended. Users take turns. Rests if none has followed for a while.
fn next(jobs_rx: &mpsc::Receiver<Job>, turns: &mut Turns<Job>, rest: impl Fn()) -> Option<Job> {
    jobs_rx.try_iter().for_each(|job| turns.put(job.0.owner.uid, job));
    turns.take(|_| true).or_else(|| match jobs_rx.recv_timeout(REST_AFTER) {
        Ok(job) => Some(job),
        Err(_) => {
            rest();
            jobs_rx.recv().ok()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use packetfs::change::{ChangeSet, Op};
    use packetfs::identity::Owner;

    fn commit() -> Commit {
        let ops = vec![Op::Remove { path: "/nonexistent/oswalk".parse().expect("sound") }];
        let owner = Owner { uid: 0, gid: 0, groups: Vec::new() };
        let changes = ChangeSet { ops, ..ChangeSet::default() };
        Commit {
            scope: packetfs::commit::Scope::default(),
            owner,
            changes,
            packets: Vec::new(),
            last_wins: false,
            began: packetfs::tree::Time { seconds: 1, nanos: 0 },
        }
    }

    /// A committer that panics during a commit.
    struct Dies;

    impl Apply for Dies {
        fn apply(&self, _: &Commit) -> Committed {
            panic!("in the middle of a commit")
        }

        fn rest(&self) {}
    }

    #[test]
    fn users_take_turns() {
        let (jobs_tx, jobs_rx) = mpsc::channel();
        for uid in [1000, 1000, 1000, 1001] {
            let owner = Owner { uid, gid: uid, groups: Vec::new() };
            jobs_tx.send((Commit { owner, ..commit() }, oneshot::channel().0)).expect("heard");
        }
        drop(jobs_tx);
        let mut turns = Turns::default();
        let order = std::iter::from_fn(|| next(&jobs_rx, &mut turns, || ()));
        let order: Vec<_> = order.map(|(commit, _)| commit.owner.uid).collect();
        assert_eq!(order, [1000, 1001, 1000, 1000]);
    }

    #[tokio::test]
    async fn a_commit_that_may_not_begin_is_handed_back() {
        let commits =
            Commits::start_with(&Vital::new().0, |_| false, || Ok(Dies)).expect("a thread");
        let done = commits.apply(commit()).await.expect("the thread lives");
        assert!(matches!(done, Done::Unheard(back) if back.changes == commit().changes));
    }

    /// A commit that was not made must never count as made.
    #[tokio::test]
    async fn a_committer_that_dies_fails_its_commits() {
        let (vital, mut ended) = Vital::new();
        let commits = Commits::start_with(&vital, |_| true, || Ok(Dies)).expect("a thread");
        assert!(commits.apply(commit()).await.is_err(), "it died in this one");
        assert_eq!(ended.wait().await, "committer");
        assert!(commits.apply(commit()).await.is_err(), "it was dead before this one");
    }
}
