//! Changes of this machine's files and mounts, as readers are told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use packetfs::path::{Bytes, FileName, TreePath, join};
use packetfs::tree::{Change, Entry};
use packetfs::watch::{Drained, ReaderId};

use super::{State, is_linked};
use crate::wire::frame::{Frame, Kind};
use crate::wire::lists;

/// Delay after which changes are sent to a reader without new walks, together with the next ones.
const BEHIND_MAX: Duration = Duration::from_secs(1);

impl State {
    /// Drains changes. Pending changes go out with the next message to a reader, or after a delay, consecutive ones
    /// together.
    pub(super) fn drain(&mut self) {
        let points = self.changed_mounts();
        let mut drained = self.watcher.drain(&points);
        let own_volume = self.heard.own_volume();
        if !own_volume.is_quiet() {
            let (devices, news) = own_volume.news();
            devices.iter().for_each(|dev| self.watcher.add(*dev, &news, &mut drained));
        }
        if drained.is_empty() {
            return;
        }
        self.reads.note(&drained);
        let mut changes: BTreeMap<ReaderId, Vec<Change>> = BTreeMap::new();
        let Drained { names, forgotten, overflow } = drained;
        if overflow {
            for &reader in self.readers.keys() {
                changes.entry(reader).or_default().push(Change::Forget { dir: TreePath::root() });
            }
        }
        for (dir, readers) in forgotten {
            let dir = watched(dir);
            for reader in readers {
                changes.entry(reader).or_default().push(Change::Forget { dir: dir.clone() });
            }
        }
        for (dir, (readers, names)) in names {
            let dir = watched(dir);
            // What is mounted in it is listed with what the kernel knows, if it does not answer.
            if !self.heard.may_be_asked(&dir) {
                // They ask again, and may wait for it.
                for reader in readers {
                    let change = Change::Forget { dir: dir.clone() };
                    changes.entry(reader).or_default().push(change);
                }
                continue;
            }
            // The kernel reports only valid names.
            let names = names.into_iter().filter_map(|name| FileName::new(name).ok());
            let (mut attr, mut names) = self.exporter.entries(&dir, names);
            let entries: Vec<_> = names.iter().filter_map(|(_, entry)| entry.as_ref()).collect();
            if self.watch_files(&dir, entries.into_iter()) {
                // Read again, because they may have changed before they were watched.
                let again: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
                (attr, names) = self.exporter.entries(&dir, again.into_iter());
            }
            // A reader of another directory may know the same file.
            let linked = |(_, entry): &&(_, Option<Entry>)| {
                entry.as_ref().is_some_and(|entry| is_linked(&entry.attr))
            };
            let linked: Vec<_> = names.iter().filter(linked).cloned().collect();
            let others = self.readers.keys().filter(|reader| !readers.contains(reader));
            for &other in others.filter(|_| !linked.is_empty()) {
                let change = Change::Names { dir: dir.clone(), attr, names: linked.clone() };
                changes.entry(other).or_default().push(change);
            }
            let paths = names.iter().filter_map(|(name, _)| TreePath::new(join(&dir, name)).ok());
            let paths: Vec<_> = paths.collect();
            let change = Change::Names { dir: dir.clone(), attr, names };
            for reader in readers {
                let changes = changes.entry(reader).or_default();
                let closed = self.readers.get(&reader).map(|reader| &reader.closed);
                let is_closed = |dir: &TreePath| closed.is_some_and(|closed| closed.contains(dir));
                changes.push(match is_closed(&dir) {
                    true => Change::Forget { dir: dir.clone() },
                    false => change.clone(),
                });
                let below = paths.iter().filter(|path| is_closed(path));
                changes.extend(below.map(|dir| Change::Forget { dir: dir.clone() }));
            }
        }
        for (number, changes) in changes {
            self.queue(number, changes);
        }
    }

    /// Returns the points at which something was mounted or unmounted since the last call.
    pub(super) fn changed_mounts(&mut self) -> BTreeSet<Bytes> {
        // Cleared before reading, because later changes may be missing from what is read.
        let was_noted = self.quiet.mounted.swap(false, Ordering::SeqCst);
        if !self.mounts.has_changed() && !was_noted {
            return BTreeSet::new();
        }
        let hidden = self.exporter.hidden();
        match self.mounts.read() {
            Ok(mounts) => {
                let changed = hidden.mounts().changed(&mounts);
                hidden.set_mounts(Arc::new(mounts));
                changed
            }
            Err(error) => {
                tracing::error!(%error, "failed to read the mounts: all runners fetch everything again");
                BTreeSet::from([b"/".to_vec()])
            }
        }
    }

    /// Adds a pending change for a reader.
    pub(super) fn queue(&mut self, number: ReaderId, mut changes: Vec<Change>) {
        changes.iter_mut().for_each(|change| self.withhold_in(number, change));
        let Some(reader) = self.readers.get_mut(&number) else { return };
        changes.iter().for_each(|change| reader.forget(change));
        if reader.changes.is_empty() {
            reader.behind_since = Instant::now();
            self.quiet.behind().insert(number);
        }
        reader.changes.extend(changes);
        if reader.behind_since.elapsed() > BEHIND_MAX {
            self.tell_changes(number);
        }
    }

    /// Sends a reader its pending changes.
    pub(super) fn tell_changes(&mut self, number: ReaderId) {
        let Some(reader) = self.readers.get_mut(&number) else { return };
        if reader.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut reader.changes);
        let payload = lists::encode_changes(&changes, &mut reader.squeezer);
        self.outbox
            .put(&reader.out_tx, Frame { kind: Kind::Changes, stream: 0, payload: payload.into() });
        self.quiet.behind().remove(&number);
    }
}

/// Returns the path of a watched directory, or of an ancestor.
fn watched(dir: Bytes) -> TreePath {
    TreePath::new(dir).expect("only directories of tree paths are watched")
}
