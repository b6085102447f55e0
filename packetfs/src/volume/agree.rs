//! Makes the tables agree with the merged tree, where that has changed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use worknode::history::{Changed, Content, Dot, FileId, Hlc, Name, Tree as Merged, Version};

use super::error::VolumeError;
use super::key;
use super::node::{Base, Entry, Node, ROOT, Xattr};
use super::row::Row;
use super::tree::Tree;

/// Most files that lost a name and whose versions are listed there afterwards; the latest stay.
const LOSERS_MAX: usize = 64;

/// What was changed otherwise than by a call of this node.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) files: BTreeSet<u64>,
    pub(super) names: BTreeSet<(u64, Name)>,
    /// Files that lost their last name.
    pub(super) gone: BTreeSet<u64>,
    /// Those of them that other nodes have removed.
    pub(super) taken: BTreeSet<u64>,
    /// Files that had lost their last name, and have one again.
    pub(super) back: BTreeSet<u64>,
    /// Files that got another content, and the former one.
    pub(super) rewritten: Vec<(u64, Base)>,
}

/// A content that a file had at another node only, or that lost against a concurrent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lost {
    pub(super) version: Dot,
    pub(super) written_at: Hlc,
    pub(super) content: Content,
    /// It is still to be chosen or dismissed.
    pub(super) is_sibling: bool,
    /// When it was found out.
    pub(super) until: Hlc,
}

impl Tree {
    /// Makes the rows what the merged tree says, as from a moment.
    pub(super) fn agree(
        &mut self,
        merged: &Merged,
        changed: &Changed,
        at: Hlc,
    ) -> Result<Touched, VolumeError> {
        self.tables.begin(at);
        let mut touched = Touched::default();
        if changed.is_all {
            for id in merged.files() {
                self.agree_names(merged, id, at, &mut touched)?;
                self.agree_file(merged, id, at, &mut touched)?;
            }
            return Ok(touched);
        }
        for (dir, name) in &changed.names {
            self.agree_name(merged, *dir, name, at, &mut touched)?;
        }
        for id in &changed.files {
            self.agree_file(merged, *id, at, &mut touched)?;
        }
        Ok(touched)
    }

    /// Returns the row of a file with a name.
    pub(super) fn row_of(&self, merged: &Merged, id: FileId) -> Option<Node> {
        let file = merged.file(id)?;
        if id != FileId::default() && !file.is_named() {
            return None;
        }
        let standing = merged.standing(id)?;
        let names = merged.names(id);
        let of_dir = |moment: Hlc| if file.is_dir() { moment } else { Hlc(0) };
        let mut node = Node {
            id,
            kind: file.kind().clone(),
            permissions: file.permissions(),
            links: u32::try_from(names.len()).unwrap_or(u32::MAX),
            entries: 0,
            parent: names.first().map_or(ROOT, |(dir, _)| self.ino(*dir)),
            accessed: file.accessed(),
            modified: file.modified(),
            changed: file.changed(),
            content: file.present().map(|it| it.value).unwrap_or_default(),
            written: standing.written.map_or(id, |written| written.dot),
            written_at: standing.written.map_or(standing.moments.made, |written| written.hlc),
            set: standing.set.unwrap_or(id),
            has_xattrs: file.xattrs().next().is_some(),
            lost_xattrs: merged.attributes(file).any(|xattr| xattr.value.is_none()),
            is_disputed: standing.is_disputed,
            changed_at: standing.moments.changed,
            made_at: of_dir(standing.moments.made),
            modified_at: of_dir(standing.moments.modified),
        };
        if node.is_dir() {
            let entries = merged.entries(id);
            let is_dir = |id: FileId| merged.file(id).is_some_and(|file| file.is_dir());
            let dirs = entries.values().filter(|entry| is_dir(entry.file)).count();
            node.entries = entries.len() as u64;
            node.links = u32::try_from(2 + dirs).unwrap_or(u32::MAX);
        }
        Some(node)
    }

    fn agree_file(
        &mut self,
        merged: &Merged,
        id: FileId,
        at: Hlc,
        touched: &mut Touched,
    ) -> Result<(), VolumeError> {
        let ino = self.ino(id);
        let before = self.find(ino)?;
        let Some(mut node) = self.row_of(merged, id) else {
            return self.lose(ino, before, at, touched);
        };
        self.agree_xattrs(merged, id, at)?;
        if let Some(before) = &before {
            node.lost_xattrs |= before.lost_xattrs;
        }
        if before.as_ref() != Some(&node) {
            touched.files.insert(ino);
            self.set_node(ino, before.as_ref(), &node, at)?;
        }
        let Some(before) = before else {
            self.state.files += 1;
            return self.note_lost(merged, id, &node, at);
        };
        if before.links == 0 {
            self.tables.remove_plain(key::orphan(ino));
            touched.back.insert(ino);
        }
        if before.written != node.written {
            let (version, content) = (before.written, before.content);
            touched.rewritten.push((ino, Base { version, content }));
        }
        if before.written != node.written || before.is_disputed || node.is_disputed {
            self.note_lost(merged, id, &node, at)?;
        }
        Ok(())
    }

    fn set_node(
        &mut self,
        ino: u64,
        before: Option<&Node>,
        node: &Node,
        at: Hlc,
    ) -> Result<(), VolumeError> {
        self.count_dispute(before.is_some_and(|node| node.is_disputed), node.is_disputed);
        // Contents are always kept, and who may read them.
        let is_kept = |before: &Node| before.content != node.content || before.protects(node);
        self.put(ino, node, at, before.is_some_and(is_kept))
    }

    fn count_dispute(&mut self, was: bool, is: bool) {
        let disputes = self.state.disputes.saturating_sub(u64::from(was));
        self.state.disputes = disputes + u64::from(is);
    }

    /// Notes that a file has no name.
    fn lose(
        &mut self,
        ino: u64,
        before: Option<Node>,
        at: Hlc,
        touched: &mut Touched,
    ) -> Result<(), VolumeError> {
        let Some(before) = before.filter(|node| node.links > 0) else { return Ok(()) };
        self.count_dispute(before.is_disputed, false);
        let mut node = before.clone();
        (node.links, node.entries, node.is_disputed) = (0, 0, false);
        self.put(ino, &node, at, before.protects(&node))?;
        self.end_conflict(ino, at)?;
        self.tables.set_plain(key::orphan(ino), &[]);
        touched.files.insert(ino);
        touched.gone.insert(ino);
        Ok(())
    }

    fn agree_xattrs(&mut self, merged: &Merged, id: FileId, at: Hlc) -> Result<(), VolumeError> {
        let (ino, Some(file)) = (self.ino(id), merged.file(id)) else { return Ok(()) };
        for xattr in merged.attributes(file) {
            let key = key::xattr(ino, xattr.name);
            match xattr.value {
                Some(value) => {
                    let row = Xattr { set: xattr.set, value: value.to_vec() }.encode()?;
                    if self.tables.get(&key)?.is_none_or(|before| *before != *row) {
                        self.tables.set(key, &row, at, true)?;
                    }
                    self.tables.remove_plain(key::removed_xattr(ino, xattr.name));
                }
                None => {
                    self.tables.remove(key, at)?;
                    let row = xattr.set.encode()?;
                    self.tables.set_plain(key::removed_xattr(ino, xattr.name), &row);
                }
            }
        }
        Ok(())
    }

    /// Makes all names of a directory agree.
    fn agree_names(
        &mut self,
        merged: &Merged,
        dir: FileId,
        at: Hlc,
        touched: &mut Touched,
    ) -> Result<(), VolumeError> {
        if !merged.file(dir).is_some_and(|file| file.is_dir()) {
            return Ok(());
        }
        let rows = self.entries(self.ino(dir))?;
        let mut names: BTreeSet<Name> = rows.into_iter().map(|(name, _)| name).collect();
        names.extend(merged.entries(dir).into_keys().cloned());
        names.iter().try_for_each(|name| self.agree_name(merged, dir, name, at, touched))
    }

    fn agree_name(
        &mut self,
        merged: &Merged,
        dir: FileId,
        name: &Name,
        at: Hlc,
        touched: &mut Touched,
    ) -> Result<(), VolumeError> {
        let ino = self.ino(dir);
        let (key, before) = (key::entry(ino, name), self.entry(ino, name)?);
        let binding = merged.binding(dir, name);
        let entry = binding.as_ref().map(|it| Entry {
            ino: self.ino(it.file),
            bound: it.put,
            bound_at: it.put_at,
            is_disputed: it.is_disputed,
        });
        let was_disputed = before.is_some_and(|entry| entry.is_disputed);
        let is_disputed = entry.is_some_and(|entry| entry.is_disputed);
        if was_disputed || is_disputed {
            let others = binding.map(|it| it.others).unwrap_or_default();
            self.note_others(ino, name, &others)?;
            touched.names.insert((ino, name.clone()));
        }
        if before == entry {
            return Ok(());
        }
        self.count_dispute(was_disputed, is_disputed);
        touched.names.insert((ino, name.clone()));
        match entry {
            Some(entry) => self.tables.set(key, &entry.encode()?, at, true),
            None => self.tables.remove(key, at),
        }
    }

    fn note_others(&mut self, dir: u64, name: &[u8], others: &[FileId]) -> Result<(), VolumeError> {
        let key = key::others(dir, name);
        if others.is_empty() {
            self.tables.remove_plain(key);
            return Ok(());
        }
        let inos: Vec<u64> = others.iter().map(|id| self.ino(*id)).collect();
        let row = inos.encode()?;
        self.tables.set_plain(key, &row);
        self.note_losers(dir, name, &inos)
    }

    /// Notes files that lost a name, so that their versions can be found there when the conflict has ended.
    fn note_losers(&mut self, dir: u64, name: &[u8], inos: &[u64]) -> Result<(), VolumeError> {
        let mut losers = self.losers(dir, name)?;
        let before = losers.len();
        losers.extend(inos.iter().filter(|ino| !losers.contains(ino)).copied().collect::<Vec<_>>());
        if losers.len() > before {
            losers.drain(..losers.len().saturating_sub(LOSERS_MAX));
            self.tables.set_plain(key::losers(dir, name), &losers.encode()?);
        }
        Ok(())
    }

    /// Notes the contents of a file that are not in its row, nor were.
    fn note_lost(
        &mut self,
        merged: &Merged,
        id: FileId,
        node: &Node,
        at: Hlc,
    ) -> Result<(), VolumeError> {
        let (ino, Some(file)) = (self.ino(id), merged.file(id)) else { return Ok(()) };
        let register = file.content();
        let siblings: BTreeSet<Dot> = file.siblings().map(|it| it.stamp.dot).collect();
        let mut noted = self.noted.take(ino);
        let all = register.heads().iter().chain(register.history());
        let is_new = |it: &&Version<Content>| {
            let is_sibling = siblings.contains(&it.stamp.dot);
            noted.get(&it.stamp.dot) != Some(&is_sibling)
        };
        let new: Vec<_> = all.filter(is_new).collect();
        let held: BTreeSet<Dot> =
            self.nodes_of(ino)?.into_iter().map(|held| held.value.written).collect();
        for it in new {
            let version = it.stamp.dot;
            let key = key::lost(ino, version);
            let is_sibling = siblings.contains(&version);
            let before = self.tables.get(&key)?.map(|row| Lost::decode(&row)).transpose()?;
            let is_known = version == node.written || held.contains(&version);
            if before.is_none() && is_known && !is_sibling {
                // It has a row of its own only as long as that holds.
                continue;
            }
            noted.insert(version, is_sibling);
            let lost = Lost {
                version,
                written_at: it.stamp.hlc,
                content: it.value,
                is_sibling,
                until: at,
            };
            if before.is_none_or(|before| before.is_sibling != is_sibling) {
                self.tables.set_plain(key, &lost.encode()?);
            }
        }
        self.noted.put(ino, noted);
        Ok(())
    }
}
