//! Does to the tables what other nodes' events say, once the events are there that they refer to.
//!
//! An event that follows on what the tables have is applied like one that was made here. Otherwise the merged tree says what
//! the events mean, and the tables are made to agree with it.

use std::time::Instant;

use nix::errno::Errno;
use worknode::history::{Dot, Event, Op};

use super::agree::Touched;
use super::changes::{failed, ms};
use super::error::VolumeError;
use super::key;
use super::model::{Shared, State};
use super::node::{Base, ROOT};
use super::pending::Pending;
use super::row::Row;
use super::tree::Tree;

/// Events that are read again at once.
const READ_AT_ONCE: usize = 512;

impl Shared {
    /// Applies events of another author, which follow on those that were handed over before. Those that refer to events that
    /// are not here wait.
    ///
    /// If the merged tree is needed, and is not there, they wait for [`Self::apply_pending`], and the state says so.
    ///
    /// # Errors
    /// The tables or logs do not work: then the volume does not work until it is opened again.
    pub(super) fn apply_foreign(
        &self,
        state: &mut State,
        events: &[Event],
    ) -> Result<(), VolumeError> {
        if let Some(first) = events.first() {
            state.tree.state.others.meet(first.dot.author);
        }
        state.wait(events);
        self.apply_some(state)
    }

    /// Applies all events of the logs that the tables lack, after these were opened again.
    pub(super) fn replay_all(&self, state: &mut State) -> Result<(), VolumeError> {
        (state.pending, state.merged) = (Pending::default(), None);
        for event in self.log.read_from(state.tree.state.applied + 1)? {
            state.pending.add(event?, state.tree.state.applied);
        }
        for foreign in self.foreign.all() {
            state.tree.state.others.meet(foreign.author);
            let applied = state.tree.applied(foreign.author);
            for event in foreign.read_from(applied + 1)? {
                let (event, now) = (event?, ms(state.now()));
                if state.clock.observe(event.hlc, now).is_err() {
                    break;
                }
                state.pending.add(event, applied);
            }
        }
        self.apply_pending(state)
    }

    /// Applies events of one author.
    pub(super) fn apply_in_order(
        &self,
        state: &mut State,
        events: &[Event],
    ) -> Result<(), VolumeError> {
        state.wait(events);
        self.apply_pending(state)
    }

    /// Applies what can be applied of what waits.
    pub(super) fn apply_pending(&self, state: &mut State) -> Result<(), VolumeError> {
        self.apply_some(state)?;
        while std::mem::take(&mut state.lacks_merged) {
            match self.merged(state) {
                Ok(_) => self.apply_some(state)?,
                // What is missing will come, and this is tried again then.
                Err(VolumeError::Incomplete) => return Ok(()),
                Err(error) => {
                    state.is_broken = true;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Applies what can be applied of what waits, as far as that is possible without a merged tree that is not there.
    fn apply_some(&self, state: &mut State) -> Result<(), VolumeError> {
        if state.is_broken || state.is_closed || state.pending.is_empty() {
            return Ok(());
        }
        self.apply_known(state)?;
        while !state.lacks_merged && self.read_again(state)? {
            self.apply_known(state)?;
        }
        Ok(())
    }

    /// Reads events again from their logs that found no room in memory. Tells whether there were any.
    fn read_again(&self, state: &mut State) -> Result<bool, VolumeError> {
        let mut has_more = false;
        while let Some(wanted) = state.pending.wanted() {
            let (from, to) = (*wanted.seqs.start(), *wanted.seqs.end());
            let count = usize::try_from(to + 1 - from).unwrap_or(usize::MAX).min(READ_AT_ONCE);
            let events = if wanted.author == self.author {
                self.log.read_from(from)?
            } else {
                let Some(foreign) = self.foreign.get(wanted.author) else { break };
                foreign.read_from(from)?
            };
            let events: Vec<Event> = events.take(count).collect::<Result<_, _>>()?;
            if events.is_empty() {
                break;
            }
            for event in events {
                let applied = state.tree.applied(event.dot.author);
                state.pending.add(event, applied);
            }
            has_more = true;
            // What the log does not have is fetched again from other nodes.
            if state.pending.wanted().as_ref() == Some(&wanted) {
                break;
            }
        }
        Ok(has_more)
    }

    /// Applies what can be applied of what waits in memory.
    fn apply_known(&self, state: &mut State) -> Result<(), VolumeError> {
        let applied = self.apply_ready(state);
        // Moments to come are after all that rows have.
        let latest = state.tree.tables.latest();
        state.tree.state.hlc = state.tree.state.hlc.max(latest);
        let _ = state.clock.observe(latest, latest.ms());
        if applied.is_err() {
            state.is_broken = true;
        }
        let touched = applied?;
        self.pass_on(state, touched)
    }

    fn apply_ready(&self, state: &mut State) -> Result<Touched, VolumeError> {
        let mut touched = Touched::default();
        let mut later = Vec::new();
        while let Some(event) = state.pending.next(&state.tree) {
            let is_own = event.dot.author == self.author;
            let is_other = |it: &Event| (it.dot.author == self.author) != is_own;
            let is_removed = removes(&event.op) && later.iter().any(|it: &Event| writes(&it.op));
            if is_removed || later.last().is_some_and(is_other) {
                // What is written and removed in between would be in no row, and so no version.
                touched.add(self.apply_merged(state, &std::mem::take(&mut later))?);
            }
            if later.is_empty() && state.tree.is_linear(&event)? {
                state.apply_linear(&event, is_own, &mut touched)?;
                continue;
            }
            if later.is_empty() && state.merged.is_none() {
                state.pending.put_back(event);
                state.lacks_merged = true;
                return Ok(touched);
            }
            state.tree.note_applied(&event);
            later.push(event);
        }
        if !later.is_empty() {
            touched.add(self.apply_merged(state, &later)?);
        }
        Ok(touched)
    }

    /// Applies events to the merged tree, and has the tables agree.
    pub(super) fn apply_merged(
        &self,
        state: &mut State,
        events: &[Event],
    ) -> Result<Touched, VolumeError> {
        let merged = self.merged(state)?;
        merged.apply_all(events);
        let changed = merged.take_changed();
        let at = events.iter().map(|event| event.hlc).max().unwrap_or_default();
        let State { merged, tree, .. } = state;
        let moves = events.iter().filter(|it| matches!(it.op, Op::Move { .. } | Op::Link { .. }));
        let moved = moves.map(|event| event.hlc).max().unwrap_or_default();
        tree.state.moved = tree.state.moved.max(moved);
        let merged = merged.as_ref().expect("it was just used");
        let mut touched = tree.agree(&merged.tree, &changed, at)?;
        if events.iter().all(|event| event.dot.author != self.author) {
            touched.taken.clone_from(&touched.gone);
        }
        Ok(touched)
    }

    /// Has programs and the kernel see what was changed.
    pub(super) fn pass_on(&self, state: &mut State, touched: Touched) -> Result<(), VolumeError> {
        state.listeners.tell(&touched.names, &touched.files);
        for ino in &touched.back {
            state.uses.revive(*ino);
            // What was closed meanwhile was not translated: nothing was to be found by a name.
            self.unused(state, *ino);
        }
        for (ino, former) in &touched.rewritten {
            self.rewritten(state, *ino, *former)?;
        }
        for ino in &touched.gone {
            if !touched.taken.contains(ino) || !self.outlives(state, *ino)? {
                self.orphaned(state, Some(*ino));
            }
        }
        for ino in &touched.files {
            self.set_time(state, *ino)?;
            if *ino == ROOT || state.uses.get(*ino).is_some() {
                let dir = state.tree.find(*ino)?.map_or(ROOT, |node| node.parent);
                self.mounts.file_in(dir, *ino);
            } else {
                self.mounts.unknown_file(*ino);
            }
        }
        for (dir, name) in &touched.names {
            if *dir == ROOT || state.uses.get(*dir).is_some() {
                self.mounts.name(*dir, name);
                self.mounts.file(*dir);
            }
        }
        Ok(())
    }

    /// Tells whether a file that others have removed has a content that they did not know. It comes back when that is an event.
    fn outlives(&self, state: &mut State, ino: u64) -> Result<bool, VolumeError> {
        let has_news = match state.uses.get(ino) {
            Some(it) => {
                let backing = it.backing.as_ref().filter(|_| !it.is_orphan);
                backing.is_some_and(|backing| backing.is_dirty() || it.writers > 0)
            }
            None => state.unclaimed.contains(&ino),
        };
        let node = state.tree.find(ino)?.filter(|node| has_news && node.is_file());
        let Some(node) = node else { return Ok(false) };
        if !state.bases.contains_key(&ino) {
            state.set_base(ino, Base { version: node.written, content: node.content })?;
        }
        self.unused(state, ino);
        Ok(true)
    }

    /// Has programs see another content of a file. What programs have written stays, as a concurrent change of the former.
    fn rewritten(&self, state: &mut State, ino: u64, former: Base) -> Result<(), VolumeError> {
        let Some(it) = state.uses.get_mut(ino) else { return Ok(()) };
        it.has_stale_pages = true;
        it.rewritten = Some(Instant::now());
        let Some(backing) = &it.backing else { return Ok(()) };
        let is_open = it.writers > 0 || it.opens > 0 && it.is_through;
        let is_used = backing.has_news() || is_open || !backing.is_alone();
        if !is_used {
            self.drop_backing(state, ino);
            return Ok(());
        }
        if state.bases.contains_key(&ino) { Ok(()) } else { state.set_base(ino, former) }
    }

    /// Gives the backing file of a file that nobody has written the time that another node has set. The next translation would
    /// take the former one for a change.
    fn set_time(&self, state: &State, ino: u64) -> Result<(), VolumeError> {
        let backing = state.uses.backing(ino).filter(|it| !it.is_dirty());
        let Some(backing) = backing.filter(|_| !state.bases.contains_key(&ino)) else {
            return Ok(());
        };
        let Some(node) = state.tree.find(ino)? else { return Ok(()) };
        let set = backing.set_modified(node.modified).and_then(|()| backing.mark_clean());
        set.map_err(VolumeError::io("set the time of", &backing.path()))
    }

    /// Makes events of a change to something in dispute, as the merged tree says, and does what they say.
    pub(super) fn emit_planned(&self, state: &mut State, op: Op) -> Result<(), Errno> {
        let changes = self.merged(state).map_err(|error| failed(&error))?.plan(op);
        self.emit_all(state, changes.into_iter().map(|change| (change.op, change.parents)))
    }

    /// Makes events that do not follow on what the tables have, and does what they say.
    pub(super) fn emit_all(
        &self,
        state: &mut State,
        changes: impl Iterator<Item = (Op, Vec<Dot>)>,
    ) -> Result<(), Errno> {
        self.merged(state).map_err(|error| failed(&error))?;
        let mut events = Vec::new();
        let mut logged = Ok(());
        for (op, parents) in changes {
            match self.log_event(state, op, parents) {
                Ok(event) => {
                    state.tree.note_applied(&event);
                    events.push(event);
                }
                Err(error) => {
                    logged = Err(error);
                    break;
                }
            }
        }
        let applied = self.apply_merged(state, &events);
        let mut touched = applied.map_err(|error| state.broke(&error))?;
        // What is written here is in the backing file already.
        touched.rewritten.clear();
        self.pass_on(state, touched).map_err(|error| state.broke(&error))?;
        logged
    }
}

const fn writes(op: &Op) -> bool {
    matches!(op, Op::Write { .. } | Op::Choose { .. })
}

/// Tells whether a file may lose its last name by it.
const fn removes(op: &Op) -> bool {
    matches!(op, Op::Unlink { .. } | Op::Move { .. })
}

impl State {
    /// Has events wait for those that they refer to.
    fn wait(&mut self, events: &[Event]) {
        for event in events {
            let applied = self.tree.applied(event.dot.author);
            self.pending.add(event.clone(), applied);
        }
    }

    /// Applies an event like one that was made here.
    fn apply_linear(
        &mut self,
        event: &Event,
        is_own: bool,
        touched: &mut Touched,
    ) -> Result<(), VolumeError> {
        if let Op::Write { content, .. } = &event.op {
            self.readers.note(*content);
        }
        touched.note(&self.tree, &event.op)?;
        self.tree.tables.begin(event.hlc);
        let gone = self.tree.apply(event)?;
        touched.taken.extend(gone.filter(|_| !is_own));
        touched.gone.extend(gone);
        self.note_merged(event);
        Ok(())
    }

    /// Notes which version programs have changed.
    pub(super) fn set_base(&mut self, ino: u64, base: Base) -> Result<(), VolumeError> {
        self.bases.insert(ino, base);
        self.tree.tables.set_plain(key::base(ino), &base.encode()?);
        Ok(())
    }

    /// Notes that the content is that of the tables again, and tells whether it was not.
    pub(super) fn end_base(&mut self, ino: u64) -> bool {
        let had_base = self.bases.remove(&ino).is_some();
        if had_base {
            self.tree.tables.remove_plain(key::base(ino));
        }
        had_base
    }

    /// Forgets versions that programs had changed, where nothing of theirs is left: the end of one may be missing in the tables.
    pub(super) fn end_bases_without_backing(&mut self) {
        let is_over = |ino: &u64| self.uses.backing(*ino).is_none();
        let over: Vec<u64> = self.bases.keys().copied().filter(is_over).collect();
        for ino in over {
            self.end_base(ino);
        }
    }

    fn broke(&mut self, error: &VolumeError) -> Errno {
        self.is_broken = true;
        failed(error)
    }

    /// Tells whether only the merged tree knows the parents of an event.
    pub(super) fn is_disputed(&self, op: &Op) -> Result<bool, VolumeError> {
        let tree = &self.tree;
        if tree.state.disputes == 0 {
            return Ok(false);
        }
        let file = |ino: u64| Ok(tree.find(ino)?.is_some_and(|node| node.is_disputed));
        let name = |dir, name: &[u8]| {
            let dir = tree.ino(dir);
            let Some(entry) = tree.entry(dir, name)? else { return file(dir) };
            Ok(entry.is_disputed || file(dir)? || file(entry.ino)?)
        };
        match op {
            Op::Make { dir, name: new, .. } | Op::Unlink { dir, name: new } => name(*dir, new),
            Op::Link { dir, name: new, file: linked } => {
                Ok(name(*dir, new)? || file(tree.ino(*linked))?)
            }
            Op::Move { dir, name: former, to, new, .. } => {
                Ok(name(*dir, former)? || name(*to, new)?)
            }
            Op::Set { file: id, .. }
            | Op::Write { file: id, .. }
            | Op::Xattr { file: id, .. }
            | Op::Choose { file: id, .. } => file(tree.ino(*id)),
        }
    }
}

impl Touched {
    fn add(&mut self, other: Self) {
        self.files.extend(other.files);
        self.names.extend(other.names);
        self.gone.extend(other.gone.iter().copied());
        self.taken.extend(other.taken);
        self.gone.retain(|ino| !other.back.contains(ino) || other.gone.contains(ino));
        self.back.extend(other.back);
        self.rewritten.extend(other.rewritten);
    }

    /// Notes what an event is about to change.
    fn note(&mut self, tree: &Tree, op: &Op) -> Result<(), VolumeError> {
        match op {
            Op::Make { dir, name, .. } => self.name(tree, tree.ino(*dir), name)?,
            Op::Link { dir, name, file } => {
                self.files.insert(tree.ino(*file));
                self.name(tree, tree.ino(*dir), name)?;
            }
            Op::Unlink { dir, name } => self.name(tree, tree.ino(*dir), name)?,
            Op::Move { dir, name, to, new, .. } => {
                self.name(tree, tree.ino(*dir), name)?;
                self.name(tree, tree.ino(*to), new)?;
            }
            Op::Write { file, .. } => {
                let ino = tree.ino(*file);
                let former = tree.find(ino)?;
                let former = former.map(|it| Base { version: it.written, content: it.content });
                self.rewritten.extend(former.map(|former| (ino, former)));
                self.files.insert(ino);
            }
            Op::Set { file, .. } | Op::Xattr { file, .. } | Op::Choose { file, .. } => {
                self.files.insert(tree.ino(*file));
            }
        }
        Ok(())
    }

    fn name(&mut self, tree: &Tree, dir: u64, name: &[u8]) -> Result<(), VolumeError> {
        self.files.extend(tree.entry(dir, name)?.map(|entry| entry.ino));
        self.names.insert((dir, name.to_vec()));
        Ok(())
    }
}
