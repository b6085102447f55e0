//! Removes what nobody needs: former values that the policy does not keep, and packets that nothing refers to.
//!
//! All events so far are durable before anything is removed: after a crash nothing older becomes present again. Packets are
//! removed only after the rows that referred to them.

mod alive;
mod retention;

use std::sync::PoisonError;

use nix::errno::Errno;
use worknode::history::Hlc;

use super::agree::Lost;
use super::changes::{ms, now};
use super::error::VolumeError;
use super::key::{self, PIN};
use super::model::{Shared, Volume};
use super::names::Caller;
use super::node::Node;
use super::row::Row;
use super::tree::Tree;
use crate::store::Dead;
use alive::Needs;

pub(super) use retention::Kept;
pub use retention::Policy;

/// What was removed, or could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Garbage {
    /// Former values: names, attributes, contents.
    pub values: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes of packs.
    pub bytes: u64,
}

/// A volume in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeStat {
    /// Files, directories not included.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Bytes of the files' contents.
    pub bytes: u64,
    /// Files of which all of the past is kept.
    pub pinned_files: u64,
    /// Bytes of their present contents.
    pub pinned_bytes: u64,
    /// Files whose content is not in packets yet.
    pub unpacked: u64,
    /// Former values: names, attributes, contents.
    pub former: u64,
    /// Packets, also those that nobody needs.
    pub packets: u64,
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Segments of the log.
    pub log_segments: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// What could be removed.
    pub garbage: Garbage,
}

impl Volume {
    /// Removes what the policy does not keep. Programs go on meanwhile.
    ///
    /// # Errors
    /// A list of packets is damaged, or the disk fails. No packet is removed then.
    pub fn gc(&self, policy: &Policy) -> Result<Garbage, VolumeError> {
        let shared = &self.shared;
        let _alone = shared.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let needs = shared.needs(policy)?;
        shared.lock().tree.note_kept(needs.kept)?;
        let mut values = 0;
        shared.each(&key::PASTS, |state, row| {
            if !needs.has(&row) {
                state.tree.tables.remove_plain(row.key);
                values += 1;
            }
            Ok(())
        })?;
        shared.each(&key::ALL_LOST, |state, row| {
            let lost = Lost::decode(&row.value)?;
            let is_needed = lost.is_sibling
                || lost.until > needs.settled
                || needs.pinned.contains(&key::number(&row.key).unwrap_or(0))
                || needs.kept.needs(lost.written_at, lost.until);
            if !is_needed {
                state.tree.tables.remove_plain(row.key);
                values += 1;
            }
            Ok(())
        })?;
        shared.settle()?;
        shared.lock().readers.begin();
        let swept = shared.sweep(&needs);
        shared.lock().readers.end();
        let swept = swept?;
        Ok(Garbage { values, packets: swept.packets, bytes: swept.bytes })
    }

    /// Keeps all of the past of a file, or of all files in a directory, or does so no longer.
    ///
    /// # Errors
    /// `ENOENT`, or the volume does not work.
    pub fn pin(&self, path: &[u8], is_pinned: bool) -> Result<(), Errno> {
        let ino = self.shared.lock().walk(path)?;
        match self.set_xattr(ino, PIN, is_pinned.then_some(b""), 0, Caller { uid: 0, gid: 0 }) {
            Err(Errno::ENODATA) => Ok(()),
            set => set,
        }
    }

    /// Counts what the volume has. Takes as long as removing garbage.
    ///
    /// # Errors
    /// A list of packets is damaged, or the disk fails.
    pub fn stat(&self, policy: &Policy) -> Result<VolumeStat, VolumeError> {
        let shared = &self.shared;
        let _kept = shared.keep_packets();
        // Nothing is removed, so nothing has to be durable: a full disk is counted, too.
        let settled = shared.lock().tree.state.hlc;
        let needs = shared.needs_of(policy, settled)?;
        let mut stat = VolumeStat::default();
        shared.each(&key::NODES, |_, row| {
            let node = Node::decode(&row.value)?;
            if node.is_dir() {
                stat.directories += 1;
                return Ok(());
            }
            stat.files += 1;
            stat.bytes += node.content.bytes;
            if key::number(&row.key).is_some_and(|ino| needs.pinned.contains(&ino)) {
                stat.pinned_files += 1;
                stat.pinned_bytes += node.content.bytes;
            }
            Ok(())
        })?;
        shared.each(&key::PASTS, |_, row| {
            stat.former += 1;
            stat.garbage.values += u64::from(!needs.has(&row));
            Ok(())
        })?;
        stat.unpacked =
            shared.lock().uses.backed().filter(|(_, it, _)| it.is_dirty()).count() as u64;
        let survey = shared.library.survey(&shared.alive(&needs)?.packets)?;
        (stat.packets, stat.packs, stat.pack_bytes) = (survey.packets, survey.packs, survey.bytes);
        (stat.garbage.packets, stat.garbage.bytes) = (survey.dead.packets, survey.dead.bytes);
        (stat.log_segments, stat.log_bytes) = shared.log_size()?;
        Ok(stat)
    }
}

impl Shared {
    /// Removes packets that nothing refers to, a pack at a time: whoever stores others waits for one pack at most.
    fn sweep(&self, needs: &Needs) -> Result<Dead, VolumeError> {
        let mut alive = self.alive(needs)?;
        let mut keys = self.library.keys(&alive.take());
        let mut swept = Dead::default();
        self.library.forget_manifests();
        for pack in self.library.packs() {
            let _alone = self.packets.write().unwrap_or_else(PoisonError::into_inner);
            let news = self.lock().readers.news();
            news.iter().try_for_each(|content| alive.add(self, content))?;
            keys.extend(self.library.keys(&alive.take()));
            let dead = self.library.sweep_pack(pack, &keys)?;
            swept.packets += dead.packets;
            swept.bytes += dead.bytes;
        }
        Ok(swept)
    }

    fn needs(&self, policy: &Policy) -> Result<Needs, VolumeError> {
        let settled = self.lock().tree.state.hlc;
        self.settle()?;
        self.needs_of(policy, settled)
    }

    fn needs_of(&self, policy: &Policy, settled: Hlc) -> Result<Needs, VolumeError> {
        let kept = self.lock().tree.kept()?.and(Kept::of(policy, ms(now())));
        Needs::new(self, kept, settled)
    }

    fn log_size(&self) -> Result<(u64, u64), VolumeError> {
        let dir = self.dir.join("log");
        let failed = |source| VolumeError::io("list", &dir)(source);
        let (mut segments, mut bytes) = (0, 0);
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().ends_with(b".log") {
                segments += 1;
                bytes += entry.metadata().map_err(failed)?.len();
            }
        }
        Ok((segments, bytes))
    }
}

impl Tree {
    /// Returns which moments are still known.
    pub(super) fn kept(&self) -> Result<Kept, VolumeError> {
        match self.tables.get(&key::kept())? {
            Some(row) => Kept::decode(&row),
            None => Ok(Kept::default()),
        }
    }

    fn note_kept(&mut self, kept: Kept) -> Result<(), VolumeError> {
        let row = kept.encode()?;
        self.tables.set_plain(key::kept(), &row);
        Ok(())
    }

    /// Returns the last moment up to a moment at which the tree is still known.
    ///
    /// # Errors
    /// `ENOENT` if it is not over yet, or too long ago.
    pub(super) fn kept_moment(&self, moment: Hlc) -> Result<Hlc, Errno> {
        if moment.ms() >= ms(now()) {
            return Err(Errno::ENOENT);
        }
        super::past::told(self.kept())?.last(moment).ok_or(Errno::ENOENT)
    }
}
