//! The contents below a path: their packets, which of them are here, and fetching those that are not.

use std::collections::HashSet;
use std::io;

use nix::errno::Errno;
use worknode::history::{Content, Dot};

use super::error::VolumeError;
use super::model::{Shared, Volume};
use super::past::{components, told};
use crate::packet::PacketRef;
use crate::progress::Progress;

/// Packets that are fetched between two looks at whether the work is to end: as many as are asked for at once.
const FETCHED_AT_ONCE: usize = 32;
/// Most files that are named because nobody has all of them.
const NAMED_MAX: usize = 20;

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// The path of the file.
    pub path: Vec<u8>,
    /// The event that wrote the content.
    pub written: Dot,
    pub(super) content: Content,
}

impl Below {
    /// Returns the size of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.content.bytes
    }

    /// Returns what distinguishes the content from all others; none if it has no packets.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.content.packet.map(|packet| packet.digest)
    }
}

/// What was fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefetched {
    /// Files below the path.
    pub files: u64,
    /// Bytes of their packets.
    pub bytes: u64,
    /// Bytes that were not here, and are now.
    pub fetched: u64,
    /// Files of which nobody who is linked has all.
    pub lacking: u64,
    /// The paths of the first of them.
    pub named: Vec<Vec<u8>>,
}

/// What one content took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of its packets.
    pub bytes: u64,
    /// Bytes that were not here.
    pub fetched: u64,
    /// Whether all of it is here now.
    pub is_whole: bool,
}

impl Volume {
    /// Returns the contents of the files at a path and below it, each file once. What programs have written until now is made
    /// packets before.
    ///
    /// # Errors
    /// `ENOENT`, or the volume does not work.
    pub fn below(&self, path: &[u8]) -> Result<Vec<Below>, Errno> {
        let top = self.shared.lock().walk(path)?;
        let mut found = Vec::new();
        let (mut seen, mut rest) = (HashSet::new(), vec![(top, absolute(path))]);
        while let Some((ino, path)) = rest.pop() {
            if !seen.insert(ino) {
                continue;
            }
            self.shared.catch_up(ino)?;
            // Each directory by itself, so that programs are not kept waiting.
            let state = self.shared.lock();
            let Some(node) = told(state.tree.find(ino))? else { continue };
            if node.is_dir() {
                let names = told(state.tree.entries(ino))?.into_iter().rev();
                let child = |name: &[u8]| [path.as_slice(), b"/", name].concat();
                rest.extend(names.map(|(name, entry)| (entry.ino, child(&name))));
            } else if node.is_file() {
                found.push(Below { path, written: node.written, content: node.content });
            }
        }
        Ok(found)
    }

    /// Returns the content of the file at a path. `None` if there is none, or it is not packets at present.
    #[must_use]
    pub fn content_at(&self, path: &[u8]) -> Option<Below> {
        let state = self.shared.lock();
        let ino = state.walk(path).ok()?;
        let node = state.tree.find(ino).ok()??;
        let is_packets = node.is_file() && state.uses.backing(ino).is_none();
        let (path, written) = (absolute(path), node.written);
        is_packets.then_some(Below { path, written, content: node.content })
    }

    /// Returns the packets that the bytes of a content are in. A list of them is fetched if it is not here.
    ///
    /// # Errors
    /// Nobody has the list.
    pub fn packets_of(&self, below: &Below) -> io::Result<Vec<PacketRef>> {
        Ok(self.shared.library.manifest(&below.content)?.packets.clone())
    }

    /// Tells of each packet whether it is here.
    #[must_use]
    pub fn has(&self, packets: &[PacketRef]) -> Vec<bool> {
        packets.iter().map(|packet| self.shared.library.has_packet(packet)).collect()
    }

    /// Fetches all contents at a path and below it. What is here already is not fetched again.
    ///
    /// # Errors
    /// There is no such path, the disk is full, or it was cancelled.
    pub fn prefetch(&self, path: &[u8], progress: &Progress) -> Result<Prefetched, VolumeError> {
        let below = self.below(path).map_err(|errno| {
            let path = String::from_utf8_lossy(path).into_owned();
            VolumeError::io("look at", path.as_ref())(errno.into())
        })?;
        progress.expect(below.iter().map(Below::bytes).sum());
        let mut all = Prefetched { files: below.len() as u64, ..Prefetched::default() };
        for content in below {
            let Fetched { bytes, fetched, is_whole } = self.fetch(&content, progress)?;
            all.bytes += bytes;
            all.fetched += fetched;
            if !is_whole {
                all.lacking += 1;
                if all.named.len() < NAMED_MAX {
                    all.named.push(content.path);
                }
            }
        }
        Ok(all)
    }

    /// Fetches what is not here of a content.
    ///
    /// # Errors
    /// The disk is full, or it was cancelled.
    pub fn fetch(&self, content: &Below, progress: &Progress) -> Result<Fetched, VolumeError> {
        self.shared.fetch(&content.content, progress)
    }
}

impl Shared {
    fn fetch(&self, content: &Content, progress: &Progress) -> Result<Fetched, VolumeError> {
        let failed = VolumeError::io("store packets in", &self.dir);
        let Ok(manifest) = self.library.manifest(content) else {
            progress.add(content.bytes);
            return Ok(Fetched { bytes: 0, fetched: 0, is_whole: false });
        };
        {
            // Garbage that is being looked for is not what comes now.
            let _kept = self.keep_packets();
            self.lock().readers.note(*content);
        }
        let bytes =
            |packets: &[PacketRef]| packets.iter().map(|it| u64::from(it.bytes)).sum::<u64>();
        let is_here = |packet: &&PacketRef| self.library.has_packet(packet);
        let missing: Vec<_> = manifest.packets.iter().filter(|it| !is_here(it)).copied().collect();
        let all = bytes(&manifest.packets);
        // Holes are nobody's.
        progress.add(content.bytes.saturating_sub(bytes(&missing)));
        let mut stored = Ok(());
        for part in missing.chunks(FETCHED_AT_ONCE) {
            if progress.is_cancelled() {
                return Err(VolumeError::Cancelled);
            }
            stored = stored.and_then(|()| self.library.fetch_missing(part));
            progress.add(bytes(part));
        }
        stored.map_err(failed)?;
        let absent: Vec<_> = missing.iter().filter(|it| !is_here(it)).copied().collect();
        let fetched = bytes(&missing) - bytes(&absent);
        let is_whole = absent.is_empty() && self.library.has(content);
        Ok(Fetched { bytes: all, fetched, is_whole })
    }
}

/// Returns a path as others are shown: it begins with a slash, and that of the root is empty.
fn absolute(path: &[u8]) -> Vec<u8> {
    components(path).flat_map(|name| [b"/", name].concat()).collect()
}
