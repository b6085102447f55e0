//! The mirrors on this runner: one for each origin whose walks it executes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use packetfs::owners::Owners;
use packetfs::store::Store;
use worknode::id::NodeId;
use worknode::principal::Principal;
use worknode::request::FuseCounts;
use worknode::spec::Fault;

use crate::admission::{Act, admit};
use crate::cluster::Cluster;
use crate::holders::Claims;
use crate::link::Link;
use crate::mirror::Mirror;
use crate::numbers;
use crate::runner::sandboxes::Sandboxes;
use crate::state::Dirs;
use crate::sys::launcher::Launcher;
use crate::sys::orders::Plan;
use crate::vital::Vital;
use crate::wire::frame::Frame;
use crate::wire::holding::Held;
use crate::wire::limits::TOLD_BYTES_MAX;
use crate::wire::{lists, message};

/// Most mirrors at once: enough for the people who share a cluster. Each has at least four threads and takes some ten
/// megabytes.
const MIRRORS_MAX: usize = 64;
/// Time without a link after which a mirror is unmounted. When the origin returns, everything has to be fetched again
/// anyway.
const ALONE_MAX: Duration = Duration::from_secs(600);

/// Memory limits of each walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalkMemory {
    /// For the files that it writes.
    pub(crate) upper_bytes: u64,
    /// For its processes.
    pub(crate) process_bytes: u64,
}

/// All mirrors by origin.
pub(crate) struct Mirrors {
    cluster: Rc<Cluster>,
    launcher: Rc<Launcher>,
    store: Arc<Store>,
    claims: Rc<Claims>,
    vital: Vital,
    dirs: Dirs,
    memory: WalkMemory,
    by_origin: RefCell<HashMap<NodeId, Rc<Mirror>>>,
    /// Sums of the counters of unmounted mirrors.
    ended: Cell<FuseCounts>,
}

impl Mirrors {
    pub(crate) fn new(
        cluster: Rc<Cluster>,
        launcher: Rc<Launcher>,
        (store, claims): (Arc<Store>, Rc<Claims>),
        vital: Vital,
        dirs: Dirs,
        memory: WalkMemory,
    ) -> Self {
        Self {
            cluster,
            launcher,
            store,
            claims,
            vital,
            dirs,
            memory,
            by_origin: RefCell::default(),
            ended: Cell::default(),
        }
    }

    /// Returns the mirror of the origin at the other end of a link, for an admitted walk. An origin that the broker does
    /// not list is refused.
    ///
    /// # Errors
    /// [`Fault::Busy`] if there are too many mirrors, else why it cannot be mounted.
    pub(crate) async fn of(&self, link: &Rc<Link>, who: &Principal) -> Result<Rc<Mirror>, Fault> {
        let is_known = || self.get(&link.peer).is_some() || self.cluster.lists(&link.peer);
        if !is_known() {
            // It may have joined just now.
            self.cluster.refresh().await;
        }
        let act = Act::Execute { peer: &link.peer, is_listed: is_known() };
        admit(who, act).map_err(|refusal| Fault::Sandbox(refusal.to_string()))?;
        if self.get(&link.peer).is_none() && !self.make_room() {
            return Err(Fault::Busy);
        }
        self.linked_or_mounted(link).map_err(|error| Fault::Sandbox(format!("{error:#}")))
    }

    /// Handles the answer to a question.
    pub(crate) fn take_answer(&self, link: &Link, frame: &Frame) {
        if let Some(mirror) = self.get(&link.peer)
            && mirror.awaits(frame.stream)
        {
            let answer = postcard::from_bytes(&frame.payload)
                .unwrap_or(message::Answer::Failed(libc::EPROTO));
            mirror.take_answer(frame.stream, answer);
            self.judge(&mirror, link);
        }
    }

    /// Shuts out an origin that has just sent data that does not match its digest.
    fn judge(&self, mirror: &Mirror, link: &Link) {
        if let Some(evidence) = mirror.take_evidence() {
            self.cluster.quarantine(&link.peer, evidence);
            link.close();
        }
    }

    /// Handles answers that an origin sends ahead of a walk.
    pub(crate) fn take_told(&self, link: &Link, told: Bytes) {
        if told.len() > TOLD_BYTES_MAX {
            tracing::warn!(peer = %link.peer, "ignored answers that were sent ahead: there are too many");
        } else if let Some(mirror) = self.fed_by(link) {
            tell(&mirror, &told);
            self.judge(&mirror, link);
        } else if self.cluster.lists(&link.peer) {
            // A mirror is mounted only for walks.
            link.keep_told(told);
        }
        // Without a mirror (a new or unlisted origin), the answers are dropped and requested later.
    }

    /// Claims packets that an origin does not send because other runners hold them.
    pub(crate) fn take_held(self: &Rc<Self>, link: &Link, payload: &[u8]) {
        // Otherwise the packets are requested when they are needed.
        if self.fed_by(link).is_none() && !self.cluster.lists(&link.peer) {
            return;
        }
        let Some(held) = Held::decode(payload) else {
            return tracing::warn!(peer = %link.peer, "ignored what other nodes hold: it cannot be decoded");
        };
        let (mirrors, origin) = (Rc::downgrade(self), link.peer.clone());
        self.claims.claim(&link.peer, held, move |digests| {
            let mirror = mirrors.upgrade().and_then(|mirrors| mirrors.get(&origin));
            mirror.iter().for_each(|mirror| mirror.take_claimed(digests));
        });
    }

    /// Handles changes of an origin's files.
    pub(crate) fn take_changes(&self, link: &Link, payload: &[u8]) {
        let mirror = self.fed_by(link);
        match (link.take_changes(payload, mirror.is_some()), mirror) {
            (Ok(changes), Some(mirror)) => mirror.take_changes(changes),
            // Answers sent ahead of the changes may be outdated.
            (Ok(_), None) => drop(link.take_told()),
            // Without these changes the mirror would be stale.
            (Err(_), _) => {
                tracing::error!(peer = %link.peer, "dropping the link: its changes cannot be decoded");
                link.close();
            }
        }
    }

    /// Handles the end of a link.
    pub(crate) fn end_link(&self, link: &Link) {
        if let Some(mirror) = self.fed_by(link) {
            mirror.unlink();
        }
    }

    /// Prepares for the next walk of the origin at the other end of a link.
    pub(crate) fn prepare_for(&self, link: &Link) {
        if let Some(mirror) = self.fed_by(link) {
            mirror.prepare(&self.launcher);
        }
    }

    /// Drops what no walk has needed for a long time.
    pub(crate) fn rest(&self) {
        self.by_origin.borrow().values().for_each(|mirror| mirror.rest());
        for (origin, since) in self.alone() {
            if since.elapsed() > ALONE_MAX {
                self.unmount(&origin);
            }
        }
    }

    /// Returns the bytes of packets that this node keeps.
    pub(crate) fn store_bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Returns the counters summed over all mirrors, including unmounted ones.
    pub(crate) fn fuse_counts(&self) -> FuseCounts {
        let mirrors = self.by_origin.borrow();
        mirrors.values().fold(self.ended.get(), |sum, mirror| add(sum, mirror.counts()))
    }

    fn get(&self, origin: &NodeId) -> Option<Rc<Mirror>> {
        self.by_origin.borrow().get(origin).cloned()
    }

    /// Returns the mirror that a link feeds.
    fn fed_by(&self, link: &Link) -> Option<Rc<Mirror>> {
        self.get(&link.peer).filter(|mirror| mirror.link_number() == Some(link.number))
    }

    fn linked_or_mounted(&self, link: &Rc<Link>) -> anyhow::Result<Rc<Mirror>> {
        let mirror = match self.get(&link.peer) {
            Some(mirror) if mirror.link_number() == Some(link.number) => return Ok(mirror),
            Some(mirror) => {
                mirror.relink(link);
                mirror
            }
            None => self.mount(link)?,
        };
        link.take_told().iter().for_each(|told| tell(&mirror, told));
        Ok(mirror)
    }

    fn mount(&self, link: &Rc<Link>) -> anyhow::Result<Rc<Mirror>> {
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let mounter = self.launcher.mounter()?;
        let owners = if mounter.is_some() { Owners::ONE } else { self.owners()? };
        let dev = self.dirs.dev.join(link.peer.as_str());
        std::fs::create_dir_all(&dev)?;
        // It is still there if the mirror could not be mounted.
        self.launcher.unmount(&dev);
        self.launcher.prepare_devices(&dev, owners.here(0))?;
        let sandboxes = |point: &Path| {
            Sandboxes::new(Plan {
                lower: bytes(point),
                scratch: bytes(&self.dirs.scratch),
                owners,
                dev: bytes(&dev),
                upper_bytes_max: self.memory.upper_bytes,
                memory_bytes_max: self.memory.process_bytes,
            })
        };
        let mirror = Mirror::mount(
            &self.dirs.lower,
            link,
            owners,
            mounter,
            (&self.store, &self.claims),
            &self.vital,
            sandboxes,
        )
        .with_context(|| format!("failed to mount the tree of {}", link.peer))?;
        self.by_origin.borrow_mut().insert(link.peer.clone(), Rc::clone(&mirror));
        Ok(mirror)
    }

    /// Returns numbers for the owners of another origin.
    fn owners(&self) -> anyhow::Result<Owners> {
        let taken: Vec<_> = self.by_origin.borrow().values().map(|mirror| mirror.owners).collect();
        Owners::new(&taken, &numbers::used()).context(
            "every range of numbers for the users of origins has a user of this machine in it: see docs/semantics.md",
        )
    }

    /// Makes room for another mirror if necessary. Returns false if there is none.
    fn make_room(&self) -> bool {
        if self.by_origin.borrow().len() < MIRRORS_MAX {
            return true;
        }
        let longest = longest_alone(self.alone().into_iter());
        longest.inspect(|origin| self.unmount(origin)).is_some()
    }

    /// Returns the mirrors without a link or walk, each with the time since when.
    fn alone(&self) -> Vec<(NodeId, Instant)> {
        let mirrors = self.by_origin.borrow();
        let alone = mirrors.iter().filter(|(_, mirror)| Rc::strong_count(mirror) == 1);
        alone.filter_map(|(origin, mirror)| Some((origin.clone(), mirror.alone_since()?))).collect()
    }

    fn unmount(&self, origin: &NodeId) {
        let Some(mirror) = self.by_origin.borrow_mut().remove(origin) else { return };
        self.ended.set(add(self.ended.get(), mirror.counts()));
        let points = mirror.points();
        // Drops the last reference.
        drop(mirror);
        self.launcher.unmount(&self.dirs.dev.join(origin.as_str()));
        for point in points {
            self.launcher.unmount(&point);
            // If something is still mounted there, the next mirror is mounted over it.
            let _ = std::fs::remove_dir(point);
        }
        tracing::info!(%origin, "unmounted the tree of a node that has gone");
    }
}

fn add(sum: FuseCounts, (requests, fetches): (u64, u64)) -> FuseCounts {
    FuseCounts { requests: sum.requests + requests, fetches: sum.fetches + fetches }
}

/// Returns the origin whose mirror has been without a link longest.
fn longest_alone(mirrors: impl Iterator<Item = (NodeId, Instant)>) -> Option<NodeId> {
    mirrors.min_by_key(|(_, since)| *since).map(|(origin, _)| origin)
}

fn tell(mirror: &Mirror, told: &[u8]) {
    match lists::told(told) {
        Some(told) => mirror.take_told(told),
        // The data is requested when it is needed.
        None => tracing::warn!("ignored answers that were sent ahead: they cannot be decoded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_without_a_link_for_longest_is_dropped_first() {
        let now = Instant::now();
        let at = |name: &str, seconds| {
            (name.parse().expect("a name"), now + Duration::from_secs(seconds))
        };
        let alone = [at("b", 20), at("a", 10), at("c", 30)];
        assert_eq!(longest_alone(alone.into_iter()), "a".parse().ok());
        assert_eq!(longest_alone(std::iter::empty()), None);
    }
}
