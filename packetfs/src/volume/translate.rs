//! Makes packets of what was written, soon after it was closed, on a thread of its own.

use std::sync::Arc;

use nix::errno::Errno;
use worknode::history::{Content, Dot, Nanos, Op};

use super::backing::{self, Backing, Mark};
use super::changes::failed;
use super::error::VolumeError;
use super::model::{Shared, State};
use super::node::{Base, Node};
use super::queue::Job;
use super::tree::parent;

/// How far programs go before the making of packets.
const NICE: i32 = 10;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It is still being written, or may be.
    Later,
}

/// The content of a backing file as packets.
struct Put {
    mark: Mark,
    /// Nobody else had the file open before.
    was_alone: bool,
    content: Content,
    modified: Nanos,
}

/// Translates until the volume is closed.
pub(super) fn run(shared: &Shared) {
    while let Some(job) = shared.queue.next() {
        shared.work(job);
    }
}

impl Shared {
    /// Tells whether too many files wait to become packets.
    pub(super) fn has_excess(&self) -> bool {
        self.queue.has_excess(self.bounds.waiting)
    }

    /// Makes packets of a file that was closed, if too many wait: who writes faster than packets are made has to help.
    pub(super) fn relieve(&self) {
        if let Some(job) = self.queue.excess(self.bounds.waiting) {
            self.work(job);
        }
    }

    /// Translates a file, or has it tried again later.
    pub(super) fn work(&self, job: Job) {
        let (ino, holds) = (job.ino, job.holds);
        self.try_to_translate(job);
        if holds {
            self.holds.end(ino, self.log.last().0);
            self.prompt.note();
        }
    }

    fn try_to_translate(&self, job: Job) {
        match self.translate(&job) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Later) => self.queue.again(job),
            Err(error) => {
                tracing::warn!(%error, "failed to make packets of a file: its content stays where it is for now");
                self.queue.again(job);
            }
        }
    }

    fn translate(&self, job: &Job) -> Result<Outcome, VolumeError> {
        let Some(is_due) = self.is_due(job) else { return Ok(Outcome::Done) };
        if !is_due {
            return Ok(self.outcome(&mut self.lock(), job));
        }
        let _kept = self.keep_packets();
        // Other nodes may wait for what holds events back.
        let put = || self.put(&job.backing);
        let put = if job.holds { put() } else { idly(put) }?;
        self.make_merged_for(job.ino)?;
        let mut state = self.lock();
        match job.former {
            Some(after) => self.note_former(&mut state, job, after, put),
            // Programs write it again, and what was read may be a part. Who closes it has it looked at.
            None if state.is_written(job.ino) && !job.backing.is_at(put.mark) => Ok(Outcome::Done),
            None => {
                self.note(&mut state, job.ino, &job.backing, put)?;
                Ok(self.outcome(&mut state, job))
            }
        }
    }

    /// Makes a version of what a file has now, even while programs write it.
    pub(super) fn translate_now(
        &self,
        ino: u64,
        backing: &Arc<Backing>,
    ) -> Result<(), VolumeError> {
        let _kept = self.keep_packets();
        let put = self.put(backing)?;
        self.make_merged_for(ino)?;
        self.note(&mut self.lock(), ino, backing, put)
    }

    /// Does the same for a caller that has the lock.
    pub(super) fn translate_locked(
        &self,
        state: &mut State,
        ino: u64,
        backing: &Arc<Backing>,
    ) -> Result<(), VolumeError> {
        let put = self.put(backing)?;
        self.note(state, ino, backing, put)
    }

    fn put(&self, backing: &Backing) -> Result<Put, VolumeError> {
        let read = |source| VolumeError::io("look at", &backing.path())(source);
        let was_alone = backing.is_alone();
        let mark = backing.mark().map_err(read)?;
        let content = self.library.put(backing)?;
        let modified = backing::modified(&backing.stat().map_err(read)?);
        Ok(Put { mark, was_alone, content, modified })
    }

    fn note(
        &self,
        state: &mut State,
        ino: u64,
        backing: &Arc<Backing>,
        put: Put,
    ) -> Result<(), VolumeError> {
        let is_current = state.uses.is_backing(ino, backing);
        // What has no name any more would come back with a new content.
        let node = state.tree.find(ino)?.filter(|node| is_current && state.is_to_be(ino, node));
        let Some(node) = node else { return Ok(()) };
        // What another node has set since is not set back.
        let is_same = match state.bases.get(&ino) {
            Some(base) => base.content == put.content,
            None => {
                let is_old = node.modified == put.modified || backing.was_taken(put.mark);
                node.content == put.content && is_old
            }
        };
        if !is_same {
            let Put { content, modified, .. } = put;
            // Said by what failed. The content stays in its file.
            let Ok(()) = self.emit_write(state, ino, &node, content, modified, None) else {
                return Ok(());
            };
        }
        if backing.is_at(put.mark) {
            if put.was_alone {
                backing.set_clean(put.mark);
                self.give_way(state, ino);
            } else {
                backing.set_taken(put.mark);
            }
        }
        Ok(())
    }

    /// Has programs see what another node wrote while a file was open here, if nothing was written to it and it is closed.
    fn give_way(&self, state: &mut State, ino: u64) {
        let is_open = state.uses.get(ino).is_some_and(|it| it.opens > 0);
        if state.bases.contains_key(&ino) && !is_open {
            self.drop_backing(state, ino);
            self.end_use(state, ino);
        }
    }

    /// Makes an event of a content. If another node has written the file since programs here began to, it is concurrent.
    fn emit_write(
        &self,
        state: &mut State,
        ino: u64,
        node: &Node,
        content: Content,
        modified: Nanos,
        former: Option<Dot>,
    ) -> Result<(), Errno> {
        let op = Op::Write { file: node.id, content, modified };
        let base = former
            .or_else(|| state.bases.get(&ino).map(|base| base.version))
            .unwrap_or(node.written);
        if base == node.written && node.links > 0 {
            self.emit(state, op, parent(base))?;
        } else {
            self.emit_all(state, std::iter::once((op, parent(base))))?;
        }
        if former.is_none() {
            state.end_base(ino);
        } else if state.bases.contains_key(&ino) {
            // What programs have written since replaces it.
            let version = Dot { author: self.author, seq: state.tree.state.applied };
            state.set_base(ino, Base { version, content }).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Makes a version of a content that was replaced as a whole.
    fn note_former(
        &self,
        state: &mut State,
        job: &Job,
        after: Dot,
        put: Put,
    ) -> Result<Outcome, VolumeError> {
        let node = state.tree.find(job.ino)?.filter(|node| state.is_to_be(job.ino, node));
        let Some(node) = node else {
            state.doomed.push(job.backing.doom());
            return Ok(Outcome::Done);
        };
        // What another node wrote meanwhile is concurrent to what programs wrote here.
        let follows = after == node.written || node.written.author != self.author;
        if follows && (node.content, node.modified) != (put.content, put.modified) {
            let Put { content, modified, .. } = put;
            if self.emit_write(state, job.ino, &node, content, modified, Some(after)).is_err() {
                return Ok(Outcome::Later);
            }
        }
        Self::finish(state, &job.backing);
        Ok(Outcome::Done)
    }

    /// Tells whether a file is to be translated now, or perhaps later; none if it needs not to be.
    fn is_due(&self, job: &Job) -> Option<bool> {
        let mut state = self.lock();
        if job.former.is_some() {
            let exists = state.tree.find(job.ino).is_ok_and(|node| node.is_some());
            if !exists {
                state.doomed.push(job.backing.doom());
            }
            return exists.then_some(true);
        }
        let it =
            state.uses.get(job.ino).filter(|_| state.uses.is_backing(job.ino, &job.backing))?;
        if it.writers > 0 || it.is_orphan {
            return None;
        }
        let is_due = job.backing.has_news() || job.backing.is_alone();
        (it.opens == 0 || job.backing.is_dirty()).then_some(is_due)
    }

    /// Drops the backing file if nobody uses it any more; otherwise it is looked at again.
    fn outcome(&self, state: &mut State, job: &Job) -> Outcome {
        let Some(it) = state.uses.get(job.ino) else { return Outcome::Done };
        // Whoever closes it last has it looked at.
        if it.opens > 0 || it.is_orphan || !state.uses.is_backing(job.ino, &job.backing) {
            return Outcome::Done;
        }
        if !job.backing.is_dirty() && job.backing.is_alone() {
            self.drop_backing(state, job.ino);
            self.end_use(state, job.ino);
            return Outcome::Done;
        }
        if !std::mem::replace(&mut state.uses.of(job.ino).is_mapped, true) {
            // The kernel does not know when a mapping changes attributes.
            self.mounts.file(job.ino);
        }
        Outcome::Later
    }
}

impl State {
    fn is_written(&self, ino: u64) -> bool {
        self.uses.get(ino).is_some_and(|it| it.writers > 0)
    }

    /// Tells whether a file has a name, or gets it back with what others who removed it did not know.
    fn is_to_be(&self, ino: u64, node: &Node) -> bool {
        let is_orphan = self.uses.get(ino).is_some_and(|it| it.is_orphan);
        node.links > 0 || self.bases.contains_key(&ino) && !is_orphan
    }
}

/// Does something while programs go before this thread. Not for what a lock is held for that they wait for.
fn idly<T>(what: impl FnOnce() -> T) -> T {
    let usual = rustix::process::getpriority_process(None).unwrap_or(0);
    let is_nice = rustix::process::setpriority_process(None, usual + NICE).is_ok();
    let done = what();
    if is_nice {
        // Who may not go back stays behind, which is slower only.
        let _ = rustix::process::setpriority_process(None, usual);
    }
    done
}
