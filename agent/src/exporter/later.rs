//! Answers questions for which something large was read on another thread (`long`).

use std::collections::BTreeSet;

use nix::errno::Errno;
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::{FileName, TreePath};
use packetfs::tree::Listing;
use packetfs::watch::ReaderId;

use super::long::{Done, Long, READS_PER_QUESTION_MAX, Read, Running};
use super::{Asked, Job, State, failed, is_unseen};
use crate::wire::message::{Answer, Ask};

impl State {
    /// Has a file read for a question, now or when it is the user's turn.
    pub(super) fn read(&mut self, mut asked: Asked, long: Long) {
        if asked.reads >= READS_PER_QUESTION_MAX {
            return self.send_answer(&asked, &Answer::Failed(libc::EAGAIN));
        }
        if let Some(running) = self.reads.same(&long) {
            asked.reads += 1;
            return running.same.push(asked);
        }
        if !self.reads.has_room(long.user) {
            return self.reads.wait(long.user, asked);
        }
        asked.reads += 1;
        // It keeps the exporter alive for as long as it reads.
        let Some(jobs_tx) = self.jobs_tx.upgrade() else { return };
        let version = long.version();
        // Fails if the agent is ending.
        let tell = move |done| drop(jobs_tx.send(Job::Read(done)));
        match self.reads.start(asked, long, tell) {
            Ok(()) => version.iter().for_each(|version| self.exporter.begin(*version)),
            Err(asked) => self.send_answer(&asked, &Answer::Failed(libc::EACCES)),
        }
    }

    /// Answers the questions for which a file has been read, and goes on with those that wait.
    pub(super) fn take_read(&mut self, done: Done) {
        if matches!(done.read, Read::Listing(_)) {
            // What has changed since it was begun.
            self.drain();
        }
        let Some(Running { asked, same, changed, .. }) = self.reads.end(&done) else { return };
        match done.read {
            Read::Content(version, manifest) => {
                let failed = manifest.as_ref().err().copied();
                self.exporter.end(version, manifest.ok());
                for asked in std::iter::once(asked).chain(same) {
                    self.take_question_again(asked, failed);
                }
            }
            // Its link has ended.
            Read::Packets(_) | Read::Listing(_) if !self.readers.contains_key(&asked.reader) => {}
            Read::Packets(packets) => self.answer_packets(&asked, packets),
            Read::Listing(_) if changed.is_other => self.take_question(asked),
            Read::Listing(listing) => self.answer_listing(&asked, listing, changed.names),
        }
        while let Some(asked) = self.reads.next() {
            self.take_question_again(asked, None);
        }
    }

    /// Takes a question whose file may be known now. One that could not be read is the walk's to find out, at the origin.
    fn take_question_again(&mut self, asked: Asked, failed: Option<Errno>) {
        match failed {
            // Its link has ended.
            _ if !self.readers.contains_key(&asked.reader) => {}
            None | Some(Errno::EAGAIN) => self.take_question(asked),
            Some(_) => self.send_answer(&asked, &Answer::Failed(libc::EACCES)),
        }
    }

    fn answer_listing(
        &mut self,
        asked: &Asked,
        listing: Result<Listing, Errno>,
        names: BTreeSet<FileName>,
    ) {
        let Ask::Listing(dir) = &asked.question.ask else { return };
        if self.exporter.hidden().hides_dir(dir) {
            return self.send_answer(asked, &Answer::Failed(libc::EACCES));
        }
        let answer = match listing {
            Ok(listing) => self.finish(asked.reader, dir, listing, names),
            Err(errno) => {
                self.watcher.unwatch_dir(dir, asked.reader);
                failed(errno)
            }
        };
        self.send_answer(asked, &answer);
    }

    /// Brings a listing up to date.
    fn finish(
        &mut self,
        reader: ReaderId,
        dir: &TreePath,
        mut listing: Listing,
        mut names: BTreeSet<FileName>,
    ) -> Answer {
        self.exporter.note_listed(dir, &listing.entries);
        if self.watch_files(dir, listing.entries.iter()) {
            // They may have changed before they were watched.
            let mounts = self.exporter.hidden().mounts();
            let points = mounts.has_points_in(dir).then_some(&*mounts);
            let unseen = listing.entries.iter().filter(|entry| is_unseen(dir, entry, points));
            names.extend(unseen.map(|entry| entry.name.clone()));
        }
        if !names.is_empty() {
            listing.entries.retain(|entry| !names.contains(&entry.name));
            let (attr, now) = self.exporter.entries(dir, names.into_iter());
            listing.attr = attr.unwrap_or(listing.attr);
            let now: Vec<_> = now.into_iter().filter_map(|(_, entry)| entry).collect();
            self.watch_files(dir, now.iter());
            listing.entries.extend(now);
        }
        self.withhold(reader, dir, listing.entries.iter_mut().collect());
        Answer::Listing(listing)
    }

    fn answer_packets(&mut self, asked: &Asked, packets: Vec<(PacketRef, Packed)>) {
        let Ask::Packets(path, wanted) = &asked.question.ask else { return };
        // More may be hidden than when it was opened.
        if self.exporter.hidden().hides(path) {
            return self.send_answer(asked, &Answer::Failed(libc::EACCES));
        }
        if packets.len() < wanted.len() {
            // Unless others hold the rest, the file has changed: the reader must get the change before it asks again.
            self.drain();
        }
        self.note_sent(asked.reader, &packets);
        self.send_answer(asked, &Answer::Packets(packets));
    }
}
