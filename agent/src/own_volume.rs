//! The agent's own volume, as exporter and committer meet it below a mount: what changes there without an event of inotify.
//!
//! volume --`Feed`--> exporter

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use packetfs::packet::{Manifest, PacketRef};
use packetfs::tree::Attr;
use packetfs::volume::{Below, Feed, News, Volume};
use worknode::id::NodeId;

use crate::mesh::{Answer, Mesh};

/// Contents up to this size come with their events, so that all nodes have them.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// The volume, once it is open, and the mounts that show it as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnVolume(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    mesh: Option<Mesh>,
    opened: Option<Opened>,
    /// The file systems of the mounts.
    devices: BTreeMap<PathBuf, u64>,
}

#[derive(Debug)]
struct Opened {
    feed: Arc<Feed>,
    /// It is closed when its mounts and shares have ended.
    volume: Weak<Volume>,
}

impl OwnVolume {
    /// Returns the volume of an agent with this mesh. It is not open yet.
    pub(crate) fn new(mesh: Mesh) -> Self {
        Self(Arc::new(Mutex::new(Inner { mesh: Some(mesh), ..Inner::default() })))
    }

    /// Tells whether a link leads to a node whose volume has what this one has, or fetches it.
    pub(crate) fn is_shared_over(&self, link: u32) -> bool {
        self.lock().mesh.as_ref().is_some_and(|mesh| mesh.leads_to_volume(link))
    }

    /// Notes that the volume is open.
    pub(crate) fn open(&self, volume: &Arc<Volume>) {
        let (feed, volume) = (volume.feed(), Arc::downgrade(volume));
        self.lock().opened = Some(Opened { feed, volume });
    }

    /// Notes a mount. What was read there before has to be read again: its changes were not noted.
    pub(crate) fn mounted(&self, point: &Path, device: u64) {
        let mut inner = self.lock();
        inner.devices.insert(point.to_owned(), device);
        if let Some(opened) = &inner.opened {
            opened.feed.note_all();
        }
    }

    /// Notes that a mount has ended.
    pub(crate) fn unmounted(&self, point: &Path) {
        self.lock().devices.remove(point);
    }

    /// Tells whether a mount, by its point and device, is one of it.
    pub(crate) fn is_at(&self, point: &[u8], device: u64) -> bool {
        let point = Path::new(OsStr::from_bytes(point));
        self.lock().devices.get(point) == Some(&device)
    }

    /// Returns where it is mounted as it is.
    pub(crate) fn points(&self) -> Vec<PathBuf> {
        self.lock().devices.keys().cloned().collect()
    }

    /// Tells whether nothing has changed since the last call of [`Self::news`].
    pub(crate) fn is_quiet(&self) -> bool {
        let inner = self.lock();
        inner.devices.is_empty() || inner.opened.as_ref().is_none_or(|it| it.feed.is_quiet())
    }

    /// Returns the packets of a version of one of its files, if it is in packets.
    pub(crate) fn manifest(&self, seen: &Attr) -> Option<Manifest> {
        self.shown_at(seen.dev)?.manifest_of(seen)
    }

    /// Tells whether a small file of it can be read without other nodes.
    pub(crate) fn is_here(&self, seen: &Attr) -> bool {
        self.shown_at(seen.dev).is_some_and(|volume| volume.is_here(seen.ino))
    }

    /// Returns the contents of files that are packets, each once, as far as they are large.
    pub(crate) fn contents(&self, paths: &[Vec<u8>]) -> Vec<Below> {
        let Some(volume) = self.opened() else { return Vec::new() };
        let is_large = |content: &Below| content.bytes() > SMALL_BYTES_MAX;
        let found = paths.iter().filter_map(|path| volume.content_at(path)).filter(is_large);
        let by_digest = found.filter_map(|content| Some((content.digest()?, content)));
        by_digest.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// Returns some packets of a content, evenly spread over it, and which of them are here. None if nobody has their list.
    pub(crate) fn packets_of(
        &self,
        content: &Below,
        count_max: usize,
    ) -> Option<(Vec<PacketRef>, Vec<bool>)> {
        let volume = self.opened()?;
        let all = volume.packets_of(content).ok()?;
        let step = all.len().div_ceil(count_max).max(1);
        let packets: Vec<_> = all.into_iter().step_by(step).collect();
        let here = volume.has(&packets);
        Some((packets, here))
    }

    /// Asks all linked nodes which of a few packets they have. Blocks for a bounded time.
    pub(crate) fn probe(
        &self,
        packets: &[PacketRef],
        patience: Duration,
    ) -> BTreeMap<NodeId, Answer> {
        let mesh = self.lock().mesh.clone();
        mesh.map(|mesh| mesh.probe(packets, &BTreeSet::new(), patience)).unwrap_or_default()
    }

    fn opened(&self) -> Option<Arc<Volume>> {
        self.lock().opened.as_ref()?.volume.upgrade()
    }

    fn shown_at(&self, device: u64) -> Option<Arc<Volume>> {
        let inner = self.lock();
        let is_shown = inner.devices.values().any(|it| *it == device);
        inner.opened.as_ref().filter(|_| is_shown)?.volume.upgrade()
    }

    /// Takes what has changed, and returns it with the file systems that show it.
    pub(crate) fn news(&self) -> (Vec<u64>, News) {
        let (devices, volume) = {
            let inner = self.lock();
            let devices: Vec<_> = inner.devices.values().copied().collect();
            (devices, inner.opened.as_ref().and_then(|it| it.volume.upgrade()))
        };
        let is_shown = !devices.is_empty();
        let news = volume.filter(|_| is_shown).map(|volume| volume.news());
        (devices, news.unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves a state that is right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
