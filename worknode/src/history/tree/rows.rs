//! What tables keep of a tree: what is seen, and what the next event must name as its parents.

use super::super::event::{Dot, FileId, Name, Op};
use super::super::hlc::Hlc;
use super::super::register::Stamp;
use super::file::{File, Moments};
use super::model::{Tree, saw};
use super::names::Claim;

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The file.
    pub file: FileId,
    /// The event that put it there.
    pub put: Dot,
    /// Its moment.
    pub put_at: Hlc,
    /// Files that lost the name against a concurrent one.
    pub others: Vec<FileId>,
    /// Whether anything else says that it has the name, so that only [`Tree::plan`] knows the parents of the next event.
    pub is_disputed: bool,
}

/// What the next event that concerns a file must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The event that wrote the content.
    pub written: Option<Stamp>,
    /// The last event that set attributes.
    pub set: Option<Dot>,
    /// When.
    pub moments: Moments,
    /// Whether concurrent events concern it, so that only [`Tree::plan`] knows the parents of the next event.
    pub is_disputed: bool,
}

/// An extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its name.
    pub name: &'a Name,
    /// The event that set or removed it.
    pub set: Dot,
    /// The value; none if it was removed.
    pub value: Option<&'a [u8]>,
}

impl Tree {
    /// Returns all files that any event has made.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.keys().copied()
    }

    /// Returns what a name leads to.
    #[must_use]
    pub fn binding(&self, dir: FileId, name: &[u8]) -> Option<Binding> {
        let entry = self.entry(dir, name)?;
        let dirs = self.united(dir);
        let claims = dirs.iter().flat_map(|dir| self.names.at(*dir, name));
        let winner: &Claim = claims.clone().max()?;
        let (_, put) = self.links[&winner.link].state.put.as_ref()?;
        let is_disputed = claims.count() > 1;
        let Stamp { hlc: put_at, dot: put } = *put;
        Some(Binding { file: entry.file, put, put_at, others: entry.others, is_disputed })
    }

    /// Returns what the next event that concerns a file must know.
    #[must_use]
    pub fn standing(&self, id: FileId) -> Option<Standing> {
        let file = self.files.get(&id)?;
        let (set, is_linear) = self.last_set(file);
        let has_heads = file.content().heads().len() > 1
            || file.xattr_registers().values().any(|register| register.heads().len() > 1);
        let is_united = file.is_dir() && self.united(id).len() > 1;
        Some(Standing {
            written: file.present().map(|present| present.stamp),
            set,
            moments: file.moments(),
            is_disputed: has_heads || !is_linear || is_united || file.back.is_some(),
        })
    }

    /// Returns the extended attributes that a file has, or had.
    pub fn attributes<'a>(&self, file: &'a File) -> impl Iterator<Item = Attribute<'a>> {
        file.xattr_registers().iter().filter_map(|(name, register)| {
            let winner = register.winner()?;
            Some(Attribute { name, set: winner.stamp.dot, value: winner.value.as_deref() })
        })
    }

    /// Returns the last Set event of a file, and whether its author knew all others that count.
    fn last_set(&self, file: &File) -> (Option<Dot>, bool) {
        let is_set = |stamp: &Stamp| {
            self.events.get(stamp.dot).is_some_and(|event| matches!(event.op, Op::Set { .. }))
        };
        let heads: Vec<Stamp> = file.attr_heads().into_iter().filter(is_set).collect();
        let Some((last, others)) = heads.split_last() else { return (None, true) };
        let Some(event) = self.events.get(last.dot) else { return (None, true) };
        (Some(last.dot), others.iter().all(|other| saw(&self.events, event, *other)))
    }
}
