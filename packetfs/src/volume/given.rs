//! Says of which packets a file consists, for whoever gives it to other nodes: what is in packets need not be read and split again.

use worknode::history::Content;

use super::model::Volume;
use super::names::time;
use crate::packet::Manifest;
use crate::tree::Attr;

impl Volume {
    /// Returns the packets of a version of a file, which was seen at a mount. `None` if the file is being written or not packets
    /// yet, if it is another version, or if that cannot be told without other nodes.
    #[must_use]
    pub fn manifest_of(&self, seen: &Attr) -> Option<Manifest> {
        let content = self.content_of(seen)?;
        self.shared.library.manifest_here(&content)
    }

    /// Tells whether a small file can be read without other nodes.
    #[must_use]
    pub fn is_here(&self, ino: u64) -> bool {
        let content = {
            let state = self.shared.lock();
            if state.uses.backing(ino).is_some() {
                return true;
            }
            state.tree.find(ino).ok().flatten().map(|node| node.content)
        };
        content.is_some_and(|content| self.shared.library.is_here(&content))
    }

    fn content_of(&self, seen: &Attr) -> Option<Content> {
        let state = self.shared.lock();
        let node = state.tree.find(seen.ino).ok()??;
        let times = (time(node.modified), time(node.changed));
        let is_seen = (node.content.bytes, times) == (seen.bytes, (seen.mtime, seen.ctime));
        let is_packets = node.is_file()
            && state.uses.backing(seen.ino).is_none()
            && !state.bases.contains_key(&seen.ino);
        (is_seen && is_packets).then_some(node.content)
    }
}
