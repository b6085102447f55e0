//! Answers requests for file content and for holes.

use super::answer::View;
use super::noted::Asker;
use super::source::{Ask, Lack, known};
use crate::mirror::Node;
use crate::tree::Version;

/// Most bytes of a file that are fetched ahead of a read: enough for all of a compiler.
const AHEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl View {
    /// Returns the version of a file, if known.
    pub(crate) fn version(&self, node: Node) -> Option<Version> {
        self.mirror().version(node)
    }

    /// Records that a process has read a file whose version has changed since it was looked up.
    pub(crate) fn note_torn(&self, node: Node, before: Option<Version>, asker: Asker) {
        if self.version(node) != before {
            self.counters.torn.note(asker);
        }
    }

    /// Reads a file.
    pub(crate) fn read(&self, node: Node, offset: u64, bytes: u64) -> Result<Vec<u8>, Lack> {
        let manifest = known(self.mirror().manifest(node))?;
        let end = offset.saturating_add(bytes).min(manifest.bytes());
        // Holes read as zeros.
        let mut data = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        let mut missing = Vec::new();
        for (at, packet) in manifest.covering(offset, end) {
            match self.store.get(packet) {
                Some(content) if missing.is_empty() => {
                    let clip = |position: u64| {
                        let within = position.saturating_sub(at).min(content.len() as u64);
                        usize::try_from(within).unwrap_or(0)
                    };
                    let content = &content[clip(offset)..clip(end)];
                    let from = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
                    let place = data.get_mut(from..).unwrap_or_default();
                    place.iter_mut().zip(content).for_each(|(byte, known)| *byte = *known);
                }
                Some(_) => {}
                None => missing.push((at, packet)),
            }
        }
        if missing.is_empty() {
            return Ok(data);
        }
        // A process that reads part of a large file soon reads the rest: fetch all that is missing.
        let rest = manifest.covering(end, end.saturating_add(AHEAD_BYTES_MAX));
        let ahead = rest.filter(|(_, packet)| !self.store.has(&packet.digest)).collect();
        Err(Lack::Ask(Ask::Packets(self.mirror().path(node), missing, ahead)))
    }

    /// Returns where data or a hole begins.
    pub(crate) fn seek(&self, node: Node, from: u64, whence: i32) -> Result<u64, Lack> {
        let attr = known(self.mirror().attr(node))?;
        let found = if attr.blocks.saturating_mul(512) >= attr.bytes {
            // A file without holes needs no manifest.
            let at = if whence == libc::SEEK_DATA { from } else { attr.bytes };
            (from < attr.bytes).then_some(at)
        } else {
            let manifest = known(self.mirror().manifest(node))?;
            match whence {
                libc::SEEK_DATA => manifest.data_from(from),
                _ => manifest.hole_from(from),
            }
        };
        found.ok_or(Lack::Errno(libc::ENXIO))
    }
}
