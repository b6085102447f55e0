//! How many nodes are to keep the contents in a directory. An extended attribute says so; that of the nearest directory counts.

use std::collections::{HashMap, HashSet};

use nix::errno::Errno;

use super::below::Below;
use super::error::VolumeError;
use super::key::{self, REPLICAS};
use super::model::Volume;
use super::names::Caller;
use super::node::ROOT;
use super::node::Xattr;
use super::past::{components, told};
use super::row::Row;
use crate::packet::Digest;

/// Most nodes that can be asked for.
pub const REPLICAS_MAX: u32 = 64;

impl Volume {
    /// Says how many nodes are to keep what is in a directory, or that it is as the directory above says.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EINVAL` if it is none or more than [`REPLICAS_MAX`], or the volume does not work.
    pub fn set_replicas(&self, path: &[u8], count: Option<u32>) -> Result<(), Errno> {
        if count.is_some_and(|count| count == 0 || count > REPLICAS_MAX) {
            return Err(Errno::EINVAL);
        }
        let ino = {
            let state = self.shared.lock();
            let ino = state.walk(path)?;
            state.dir(ino)?;
            ino
        };
        let value = count.map(|count| count.to_string().into_bytes());
        match self.set_xattr(ino, REPLICAS, value.as_deref(), 0, Caller { uid: 0, gid: 0 }) {
            Err(Errno::ENODATA) => Ok(()),
            set => set,
        }
    }

    /// Returns how many nodes are to keep what is at a path, and the directory that says so; none if none does.
    ///
    /// # Errors
    /// `ENOENT`, or the volume does not work.
    pub fn replicas(&self, path: &[u8]) -> Result<(u32, Option<Vec<u8>>), Errno> {
        let state = self.shared.lock();
        state.walk(path)?;
        let (mut ino, mut at, mut found) = (ROOT, Vec::new(), (1, None));
        let mut names = components(path);
        loop {
            let count = told(state.tree.xattr(ino, REPLICAS))?.and_then(|it| decode(&it));
            found = count.map_or(found, |count| (count, Some(at.clone())));
            let Some(name) = names.next() else { return Ok(found) };
            ino = state.child(ino, name)?.ok_or(Errno::ENOENT)?.ino;
            at = [at.as_slice(), b"/", name].concat();
        }
    }

    /// Returns the contents that more than one node is to keep, and how many are. What programs are writing is not among them.
    ///
    /// # Errors
    /// The volume does not work.
    pub fn replicated(&self) -> Result<Vec<(Below, u32)>, VolumeError> {
        let mut tops = HashMap::new();
        let name = key::xattr(0, REPLICAS)[9..].to_vec();
        self.shared.each(&key::XATTRS, |_, row| {
            if row.key.get(9..) == Some(&name)
                && let (Some(ino), Some(count)) =
                    (key::number(&row.key), decode(&Xattr::decode(&row.value)?))
            {
                tops.insert(ino, count);
            }
            Ok(())
        })?;
        let mut found = HashMap::new();
        let mut seen = HashSet::new();
        for (&top, &count) in tops.iter().filter(|(_, count)| **count > 1) {
            let path = self.shared.lock().tree.path(top)?.unwrap_or_default();
            let mut rest = vec![(top, path)];
            while let Some((ino, path)) = rest.pop() {
                if !seen.insert((ino, count)) {
                    continue;
                }
                // Each directory by itself, so that programs are not kept waiting.
                let state = self.shared.lock();
                let Some(node) = state.tree.find(ino)? else { continue };
                if node.is_dir() {
                    let names = state.tree.entries(ino)?.into_iter();
                    let others = names.filter(|(_, entry)| !tops.contains_key(&entry.ino));
                    let child = |name: &[u8]| [path.as_slice(), b"/", name].concat();
                    rest.extend(others.map(|(name, entry)| (entry.ino, child(&name))));
                } else if let Some(packet) = node.content.packet.filter(|_| node.is_file()) {
                    let content = Below { path, written: node.written, content: node.content };
                    // Of a content that several directories have, the most count.
                    let key = (Digest(packet.digest), packet.bytes, packet.is_list);
                    let known = found.entry(key).or_insert((content, count));
                    known.1 = known.1.max(count);
                }
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
        Ok(found)
    }
}

fn decode(xattr: &Xattr) -> Option<u32> {
    std::str::from_utf8(&xattr.value)
        .ok()?
        .parse()
        .ok()
        .filter(|count| (1..=REPLICAS_MAX).contains(count))
}
