//! Attributes that users give to files (`user.*`). As with content, a reader is told those of a file only if one of the users
//! whose walks it executes may read the file.

use packetfs::identity::Owner;
use packetfs::path::{TreePath, join};
use packetfs::tree::{Change, Entry};
use packetfs::watch::ReaderId;

use super::State;
use super::reader::NOBODY;

/// How their names begin.
const OF_USERS: &[u8] = b"user.";

impl State {
    /// Withholds from a reader the attributes of files that none of its users may read. They are told once another user comes.
    pub(super) fn withhold(&mut self, number: ReaderId, dir: &TreePath, entries: Vec<&mut Entry>) {
        let mut entries: Vec<_> = entries.into_iter().filter(|entry| has_any(entry)).collect();
        let Some(reader) = self.readers.get(&number) else { return };
        if entries.is_empty() {
            return;
        }
        let users = reader.users.clone();
        for user in if users.is_empty() { std::slice::from_ref(&NOBODY) } else { &users } {
            self.retain_unread(user, dir, &mut entries);
        }
        if entries.is_empty() {
            return;
        }
        entries.into_iter().for_each(|entry| entry.xattrs.retain(|(name, _)| !is_of_users(name)));
        if let Some(reader) = self.readers.get_mut(&number) {
            reader.withheld.insert(dir.clone());
        }
    }

    /// Withholds attributes from a change for a reader.
    pub(super) fn withhold_in(&mut self, number: ReaderId, change: &mut Change) {
        if let Change::Names { dir, names, .. } = change {
            let entries = names.iter_mut().filter_map(|(_, entry)| entry.as_mut()).collect();
            self.withhold(number, &dir.clone(), entries);
        }
    }

    /// Keeps the entries that a user may not read: all, if the user's rights cannot be had.
    fn retain_unread(&mut self, user: &Owner, dir: &TreePath, entries: &mut Vec<&mut Entry>) {
        let reads = self.exporter.for_user(user, |files| {
            let reads = |entry: &&mut Entry| files.may_read(&join(dir, &entry.name), &entry.attr);
            Ok(entries.iter().map(reads).collect::<Vec<_>>())
        });
        if let Ok(reads) = reads {
            let mut reads = reads.into_iter();
            entries.retain(|_| reads.next() == Some(false));
        }
    }
}

fn has_any(entry: &Entry) -> bool {
    entry.xattrs.iter().any(|(name, _)| is_of_users(name))
}

fn is_of_users(name: &[u8]) -> bool {
    name.starts_with(OF_USERS)
}
