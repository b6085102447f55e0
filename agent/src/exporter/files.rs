//! Answers to questions about files: listings, contents and packets.

use std::time::Instant;

use nix::errno::Errno;
use packetfs::export::{self, read_packets};
use packetfs::identity::Owner;
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::{TreePath, join, split};
use packetfs::tree::{Entry, Listing, Names};
use packetfs::watch::ReaderId;

use super::long::{DIR_AT_ONCE_BYTES_MAX, Long, at_once};
use super::reader::{CLOSED_MAX, NOBODY};
use super::{Answered, State, is_linked, is_unseen};
use crate::wire::message::Answer;

/// Most packets that a reader is known to have. Beyond this, all are dropped, and sent again on request.
const SENT_MAX: usize = 500_000;

impl State {
    pub(super) fn list(
        &mut self,
        (reader, user): (ReaderId, u32),
        path: &TreePath,
    ) -> Result<Answered, Errno> {
        if !self.may_search(reader, path) {
            return self.list_closed(reader, path).map(Answered::Now);
        }
        // The kernel's directories and hidden ones are not watched, because they never change for a reader.
        let hides = self.exporter.hidden().hides_dir(path);
        if !hides {
            self.watcher.watch_dir(path, reader)?;
        }
        let opened = self.exporter.open_dir(path);
        // Without a watch nobody knows what changes meanwhile.
        if let Ok(dir) = &opened
            && dir.attr().bytes > DIR_AT_ONCE_BYTES_MAX
            && !self.watcher.is_blind()
        {
            return opened.map(|dir| Answered::Long(Long::listing(user, dir)));
        }
        let listed = opened.and_then(|dir| dir.read());
        let listed = match &listed {
            Ok(listing) if self.watch_files(path, listing.entries.iter()) => {
                // Read again, because they may have changed before they were watched.
                self.exporter.list(path)
            }
            Ok(listing) => {
                self.exporter.note_listed(path, &listing.entries);
                listed
            }
            Err(_) => listed,
        };
        if listed.is_err() && !hides {
            self.watcher.unwatch_dir(path, reader);
        }
        let answer = match listed {
            // Reading a hidden directory is refused, but its existence is not secret.
            Err(Errno::EACCES) if hides => {
                let (dir, name) = split(path).ok_or(Errno::EACCES)?;
                let attr = self.exporter.entry(dir, name).ok_or(Errno::ENOENT)?.attr;
                Answer::Listing(Listing { attr, entries: Vec::new(), names: Names::Hidden })
            }
            listed => {
                let mut listing = listed?;
                self.withhold(reader, path, listing.entries.iter_mut().collect());
                Answer::Listing(listing)
            }
        };
        Ok(Answered::Now(answer))
    }

    /// Tells whether one of a reader's users may look up names in a directory.
    pub(super) fn may_search(&mut self, reader: ReaderId, dir: &TreePath) -> bool {
        let users = self.readers.get(&reader).map_or(&[][..], |reader| &reader.users);
        let users = if users.is_empty() { std::slice::from_ref(&NOBODY) } else { users };
        users.iter().any(|user| self.exporter.may_search(user, dir) != Err(Errno::EACCES))
    }

    /// Answers with a directory's attributes alone, which every user may see.
    pub(super) fn list_closed(
        &mut self,
        number: ReaderId,
        path: &TreePath,
    ) -> Result<Answer, Errno> {
        match self.watcher.watch_dir(path, number) {
            // An agent without root may not watch it either. Whether it is closed is an event of the directory above.
            Err(Errno::EACCES) => {}
            watched => watched?,
        }
        let (attr, _) = self.exporter.entries(path, std::iter::empty());
        let attr = attr.ok_or(Errno::ENOENT)?;
        let Some(reader) = self.readers.get_mut(&number) else { return Err(Errno::EACCES) };
        if reader.closed.len() >= CLOSED_MAX {
            return Err(Errno::EACCES);
        }
        reader.closed.insert(path.clone());
        Ok(Answer::Listing(Listing { attr, entries: Vec::new(), names: Names::Closed }))
    }

    /// Watches the files of a directory that may change without an event for the directory: those with other hard links, and
    /// mount points. Returns whether any watch is new.
    pub(super) fn watch_files<'a>(
        &mut self,
        dir: &TreePath,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> bool {
        let mounts = self.exporter.hidden().mounts();
        let points = mounts.has_points_in(dir).then_some(&*mounts);
        let mut is_new = false;
        for entry in entries.filter(|entry| is_unseen(dir, entry, points)) {
            // Fails if the file has been removed again.
            is_new |= self.watcher.watch_file(&join(dir, &entry.name)).unwrap_or_default();
        }
        is_new
    }

    pub(super) fn content(
        &mut self,
        user: &Owner,
        number: ReaderId,
        path: &TreePath,
    ) -> Result<Answered, Errno> {
        let mut asked = self.look_at(user, path)?;
        if is_linked(asked.attr()) && self.watcher.watch_file(path)? {
            asked = self.look_at(user, path)?;
        }
        let mut exported = match asked {
            export::Asked::Known(exported) => exported,
            export::Asked::Unread(file) => match self.known_otherwise(user, path, &file)? {
                Some(exported) => exported,
                None => return Ok(Answered::Long(Long::content(user.uid, file))),
            },
        };
        let is_theirs = self.is_theirs(number, path);
        if let (Some(reader), [packet]) =
            (self.readers.get_mut(&number), exported.content.manifest.packets.as_slice())
        {
            if reader.sent.len() >= SENT_MAX {
                reader.sent.clear();
            }
            if !reader.sent.insert(packet.digest) {
                exported.inline = None;
            } else if exported.inline.is_some() {
                let now = Instant::now();
                let is_named = if is_theirs {
                    self.holders.name_itself(number, *packet, now)
                } else {
                    self.holders.name(number, *packet, now)
                };
                if is_named {
                    exported.inline = None;
                } else {
                    self.holders.note_sent(number, *packet);
                }
            }
        }
        Ok(Answered::Now(Answer::Content(exported.content, exported.inline)))
    }

    fn look_at(&mut self, user: &Owner, path: &TreePath) -> Result<export::Asked, Errno> {
        let (own, is_own) = (self.heard.own_volume(), self.heard.is_own(path));
        self.exporter.for_user(user, |files| at_once(files, path, true, is_own.then_some(own)))
    }

    /// Returns the content of a file of the agent's own volume, if that knows its packets.
    fn known_otherwise(
        &mut self,
        user: &Owner,
        path: &TreePath,
        file: &export::Unread,
    ) -> Result<Option<export::Exported>, Errno> {
        let known = self.heard.own_volume().manifest(file.attr());
        let Some(manifest) = known else { return Ok(None) };
        self.exporter.learn(file.version(), manifest);
        Ok(match self.look_at(user, path)? {
            export::Asked::Known(exported) => Some(exported),
            // It has changed meanwhile.
            export::Asked::Unread(_) => None,
        })
    }

    pub(super) fn packets(
        &mut self,
        (user, reader): (&Owner, ReaderId),
        path: &TreePath,
        wanted: &[(u64, PacketRef)],
        bytes_max: u64,
    ) -> Result<Answered, Errno> {
        let file = self.exporter.for_user(user, |files| files.open_file(path))?;
        let wanted = &self.without_held((user, reader), path, wanted);
        if wanted.is_empty() {
            return Ok(Answered::Now(Answer::Packets(Vec::new())));
        }
        let bytes: u64 = wanted.iter().map(|(_, packet)| u64::from(packet.bytes)).sum();
        // The volume's may have to be fetched, whatever the asker affords.
        if bytes > bytes_max || self.heard.is_own(path) {
            return Ok(Answered::Long(Long::packets(user.uid, file, wanted)?));
        }
        let packets = read_packets(&file, wanted);
        if packets.len() < wanted.len() {
            // The file has changed: the reader must get the change before it asks again.
            self.drain();
        }
        self.note_sent(reader, &packets);
        Ok(Answered::Now(Answer::Packets(packets)))
    }

    /// Names holders of packets of a file to a reader, and returns the packets for which there is none. Only of what the file
    /// has now, and the user may read.
    fn without_held(
        &mut self,
        (user, reader): (&Owner, ReaderId),
        path: &TreePath,
        wanted: &[(u64, PacketRef)],
    ) -> Vec<(u64, PacketRef)> {
        let mut here = wanted.to_vec();
        let is_theirs = self.is_theirs(reader, path);
        let mut packets = wanted.iter().map(|(_, packet)| packet);
        if !is_theirs && !self.holders.hold_any(reader, &mut packets) {
            return here;
        }
        let (own, is_own) = (self.heard.own_volume(), self.heard.is_own(path));
        let own = is_own.then_some(own);
        let known = self.exporter.for_user(user, |files| at_once(files, path, false, own));
        let Ok(export::Asked::Known(exported)) = known else { return here };
        let now = Instant::now();
        for placed in exported.content.manifest.covering(0, u64::MAX) {
            let holders = &mut self.holders;
            here.retain(|it| {
                let is_named = *it == placed
                    && if is_theirs {
                        holders.name_itself(reader, placed.1, now)
                    } else {
                        holders.name(reader, placed.1, now)
                    };
                !is_named
            });
        }
        here
    }

    /// Tells whether a file is in a volume that the reader has, too.
    pub(super) fn is_theirs(&self, reader: ReaderId, path: &TreePath) -> bool {
        self.heard.is_own(path) && self.heard.own_volume().is_shared_over(reader)
    }

    pub(super) fn note_sent(&mut self, reader: ReaderId, packets: &[(PacketRef, Packed)]) {
        packets.iter().for_each(|(packet, _)| self.holders.note_sent(reader, *packet));
    }
}
