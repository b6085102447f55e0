//! The offsets of a file's packets and holes.

use super::{Hole, Manifest, PacketRef};

impl Manifest {
    /// Returns all packets, each with its offset in the file.
    pub(super) fn placed(&self) -> impl Iterator<Item = (u64, PacketRef)> + use<'_> {
        let mut holes = self.holes.iter().peekable();
        let mut offset = 0_u64;
        self.packets.iter().map(move |&packet| {
            while let Some(hole) = holes.next_if(|hole| hole.at == offset && hole.bytes > 0) {
                offset = hole.end();
            }
            let at = offset;
            offset = offset.saturating_add(u64::from(packet.bytes));
            (at, packet)
        })
    }

    /// Returns the first offset from `from` on that has content, or `None` if only a hole follows.
    #[must_use]
    pub fn data_from(&self, from: u64) -> Option<u64> {
        let at = self.hole_over(from).map_or(from, Hole::end);
        (at < self.bytes()).then_some(at)
    }

    /// Returns the first offset from `from` on that is in a hole; the end of the file counts as one.
    #[must_use]
    pub fn hole_from(&self, from: u64) -> Option<u64> {
        if from >= self.bytes() {
            return None;
        }
        if self.hole_over(from).is_some() {
            return Some(from);
        }
        let next = self.holes.get(self.holes_up_to(from));
        Some(next.map_or(self.bytes(), |hole| hole.at))
    }

    fn hole_over(&self, offset: u64) -> Option<&Hole> {
        let last = self.holes_up_to(offset).checked_sub(1)?;
        self.holes.get(last).filter(|hole| offset < hole.end())
    }

    /// Returns how many holes begin at or before this offset. They are sorted by offset.
    fn holes_up_to(&self, offset: u64) -> usize {
        self.holes.partition_point(|hole| hole.at <= offset)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::packet;

    /// Returns the manifest of a file with these parts, and the bytes that were read for it.
    fn manifest_of(bytes: u64, parts: &[(u64, &[u8])]) -> (Manifest, u64) {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(bytes).expect("sparse files are possible");
        for (at, part) in parts {
            file.write_all_at(part, *at).expect("writable");
        }
        let blocks = file.metadata().expect("it is open").blocks();
        let mut read = 0;
        let manifest = packet::split_file(&file, bytes, blocks, |_, piece| {
            read += piece.len() as u64;
        });
        (manifest.expect("readable"), read)
    }

    #[test]
    fn holes_have_no_packets() {
        const TERABYTE: u64 = 1 << 40;
        let (manifest, read) = manifest_of(TERABYTE, &[(TERABYTE / 2, b"x")]);
        assert_eq!(
            (manifest.bytes(), manifest.packets.len(), manifest.holes.len()),
            (TERABYTE, 1, 2)
        );
        assert!(read <= 65_536, "{read} bytes were read");
        let (at, packet) = manifest.covering(0, TERABYTE).next().expect("one packet");
        assert!(at <= TERABYTE / 2 && at + u64::from(packet.bytes) > TERABYTE / 2);
        assert_eq!(manifest.covering(0, 1000).count(), 0);
        assert_eq!((manifest.data_from(0), manifest.hole_from(0)), (Some(at), Some(0)));
        let after = at + u64::from(packet.bytes);
        assert_eq!((manifest.hole_from(at), manifest.data_from(after)), (Some(after), None));
        assert_eq!(manifest.hole_from(TERABYTE), None);
    }

    #[test]
    fn a_file_without_data_has_no_packets() {
        let (manifest, read) = manifest_of(10_000_000, &[]);
        assert_eq!((manifest.packets.len(), manifest.bytes(), read), (0, 10_000_000, 0));
        assert_eq!(manifest_of(0, &[]).0, Manifest::default());
        let (whole, _) = manifest_of(5, &[(0, b"hello")]);
        assert_eq!((whole.packets.len(), whole.holes.len()), (1, 0));
    }

    #[test]
    fn malformed_holes_are_harmless() {
        let hole = |at, bytes| Hole { at, bytes };
        let holes = vec![hole(0, u64::MAX), hole(u64::MAX, u64::MAX), hole(7, 0)];
        let manifest = Manifest { holes, ..Manifest::of(b"hello") };
        assert_eq!(manifest.bytes(), u64::MAX);
        assert!(manifest.covering(0, u64::MAX).count() <= 1);
        assert_eq!(manifest.data_from(3), None);
    }
}
