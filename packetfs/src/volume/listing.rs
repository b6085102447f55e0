//! Lists an open directory a page at a time, so that nothing is as long as the directory.
//!
//! A position counts the entries before it. Where each page begins is remembered by the name before it, so that a program may
//! go back. A name that is made or removed meanwhile is listed or not.

use nix::errno::Errno;

use super::changes::failed;
use super::error::VolumeError;
use super::handles::{DirEntry, Handle, Listing, Page};
use super::key::{self, Key};
use super::model::{Shared, State, Volume};
use super::names::kind_of;
use super::node::Entry;
use super::row::Row;
use crate::tree;

/// Rows of a page: a millisecond's work.
pub(super) const PAGE_ROWS: usize = 256;

impl Volume {
    /// Opens a directory.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENFILE` if the user has too many files open, or the volume does not work.
    pub fn open_dir(&self, ino: u64, uid: u32) -> Result<u64, Errno> {
        let mut state = self.shared.lock();
        state.dir(ino)?;
        self.shared.may_open(&state, uid)?;
        state.uses.of(ino).opens += 1;
        Ok(state.handles.add(Handle::Dir { ino, uid, listing: Listing::new() }))
    }

    /// Returns entries of an open directory at a position; none at the end.
    ///
    /// # Errors
    /// `EBADF`, or the volume does not work.
    pub fn read_dir(&self, handle: u64, position: u64) -> Result<Page, Errno> {
        let mut position = position;
        if position == 0 {
            *listing(&mut self.shared.lock(), handle)?.1 = Listing::new();
        }
        loop {
            // Others have their turn between pages of which nothing is left.
            let mut state = self.shared.lock();
            let (ino, listing) = listing(&mut state, handle)?;
            let number = listing.page_of(position);
            let next = listing.begins.get(number + 1).cloned();
            let is_end = next.is_none() && listing.is_whole;
            if let Some((last, page)) = &listing.last
                && *last == number
                && (position < page.end() || is_end)
            {
                return Ok(page.clone());
            }
            let (first, after) = listing.begins[number].clone();
            let mut page = state.page(ino, first, after.as_ref())?;
            let (_, listing) = self::listing(&mut state, handle)?;
            match &next {
                // Positions behind this page stay what they are.
                Some((end, until)) => page.end_at(*end, until.as_ref()),
                None => {
                    listing.is_whole = page.next.is_none();
                    let behind = page.next.take().map(|next| (page.end(), Some(next)));
                    listing.begins.extend(behind);
                }
            }
            let page = page.finish();
            listing.last = Some((number, page.clone()));
            if position < page.end() || next.is_none() && listing.is_whole {
                return Ok(page);
            }
            // What is missing of the page was removed.
            position = next.map_or(position, |(end, _)| end.max(position));
        }
    }

    /// Closes a directory.
    pub fn close_dir(&self, handle: u64) {
        let mut state = self.shared.lock();
        let Some(Handle::Dir { ino, .. }) = state.handles.remove(handle) else { return };
        let it = state.uses.of(ino);
        it.opens = it.opens.saturating_sub(1);
        self.shared.end_use(&mut state, ino);
    }

    /// Returns the entries of a directory in the order of their names.
    ///
    /// # Errors
    /// `ENOTDIR`, or the volume does not work.
    pub fn list(&self, dir: u64) -> Result<Vec<DirEntry>, Errno> {
        let mut entries = Vec::new();
        let mut after = None;
        loop {
            let page = self.shared.lock().page(dir, entries.len() as u64, after.as_ref())?;
            entries.extend(page.rows.into_iter().map(|(_, entry)| entry));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(entries),
            }
        }
    }
}

fn listing(state: &mut State, handle: u64) -> Result<(u64, &mut Listing), Errno> {
    match state.handles.open.get_mut(&handle) {
        Some(Handle::Dir { ino, listing, .. }) => Ok((*ino, listing)),
        _ => Err(Errno::EBADF),
    }
}

impl Shared {
    /// Checks that a user may open another file or directory.
    pub(super) fn may_open(&self, state: &State, uid: u32) -> Result<(), Errno> {
        if self.bounds.allow_open(&state.handles, uid) { Ok(()) } else { Err(Errno::ENFILE) }
    }
}

/// A page that is being read.
struct Rows {
    first: u64,
    /// The entries with their keys; those of the dots are empty.
    rows: Vec<(Key, DirEntry)>,
    /// The key after which there may be more.
    next: Option<Key>,
}

impl Rows {
    fn end(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    /// Leaves out what is not before a position and a key.
    fn end_at(&mut self, end: u64, until: Option<&Key>) {
        self.rows.retain(|(key, _)| until.is_none_or(|until| key <= until));
        self.rows.truncate(usize::try_from(end - self.first).unwrap_or(usize::MAX));
    }

    fn finish(self) -> Page {
        Page { first: self.first, entries: self.rows.into_iter().map(|(_, entry)| entry).collect() }
    }
}

impl State {
    /// Returns entries of a directory after a key. The dots come first.
    fn page(&self, dir: u64, first: u64, after: Option<&Key>) -> Result<Rows, Errno> {
        let told = |error: VolumeError| failed(&error);
        let node = self.dir(dir)?;
        let mut rows = Vec::new();
        if after.is_none() {
            for (name, ino) in [(b".".as_slice(), dir), (b"..", node.parent)] {
                let entry = DirEntry { name: name.to_vec(), ino, kind: tree::Kind::Dir };
                rows.push((Key::new(), entry));
            }
        }
        let (found, next) =
            self.tree.tables.some(&key::entries(dir), after, PAGE_ROWS).map_err(told)?;
        for row in found {
            let ino = Entry::decode(&row.value).map_err(told)?.ino;
            let kind = kind_of(&self.node(ino)?.kind);
            let name = key::name(&row.key).to_vec();
            rows.push((row.key, DirEntry { name, ino, kind }));
        }
        Ok(Rows { first, rows, next })
    }
}
