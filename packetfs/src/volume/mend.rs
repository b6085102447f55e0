//! Mends packets that a scrub has found to be damaged, from nodes that have them.

use std::collections::{HashMap, HashSet};
use std::io;

use worknode::history::Content;

use super::agree::Lost;
use super::error::VolumeError;
use super::key;
use super::model::Shared;
use super::node::Node;
use super::row::Row;
use crate::packet::{Digest, PacketRef};
use crate::progress::Progress;
use crate::store::{Damaged, Damages};

impl Shared {
    /// Mends what can be mended. Returns what remains damaged, and how many packets are intact again.
    pub(super) fn mend(
        &self,
        damaged: Vec<Damaged>,
        progress: &Progress,
    ) -> Result<(Vec<Damaged>, u64), VolumeError> {
        if damaged.is_empty() || !self.library.has_source() {
            return Ok((damaged, 0));
        }
        let damages = Damages::of(&damaged);
        let mut mended = HashSet::new();
        let mut seen = HashSet::new();
        let mut mend = |packet: PacketRef| -> Result<(), VolumeError> {
            if !seen.insert(packet.digest) {
                return Ok(());
            }
            for place in self.library.damaged_at(&packet, &damages) {
                if self.library.mend(packet, place)? {
                    mended.insert((place.path.clone(), place.from));
                }
            }
            Ok(())
        };
        for content in self.contents_ever()? {
            if progress.is_cancelled() {
                return Err(VolumeError::Cancelled);
            }
            let Some(packet) = content.packet else { continue };
            mend(PacketRef { digest: Digest(packet.digest), bytes: packet.bytes })?;
            if packet.is_list && self.library.has(&content) {
                // Nobody has the list if that fails.
                let _ = self
                    .library
                    .each_packet(&content, |packet| mend(packet).map_err(io::Error::other));
            }
        }
        let is_mended = |it: &Damaged| mended.contains(&(it.path.clone(), it.from));
        let rest: Vec<_> = damaged.iter().filter(|it| !is_mended(it)).cloned().collect();
        let healed = (damaged.len() - rest.len()) as u64;
        if healed > 0 {
            tracing::warn!(healed, "damaged packets were fetched again from other nodes");
        }
        Ok((rest, healed))
    }

    /// Returns all contents that files have or had, or that lost.
    fn contents_ever(&self) -> Result<Vec<Content>, VolumeError> {
        let mut contents = HashMap::new();
        let mut add = |content: Content| {
            if let Some(packet) = content.packet {
                contents.insert((packet.digest, packet.bytes, packet.is_list), content);
            }
        };
        for prefix in [key::NODES.to_vec(), key::past_prefix(&key::NODES)] {
            self.each(&prefix, |_, row| {
                add(Node::decode(&row.value)?.content);
                Ok(())
            })?;
        }
        self.each(&key::ALL_LOST, |_, row| {
            add(Lost::decode(&row.value)?.content);
            Ok(())
        })?;
        Ok(contents.into_values().collect())
    }
}
