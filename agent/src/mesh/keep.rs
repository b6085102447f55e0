//! Fetches what this node is to keep for others, on a thread of its own with the lowest priority, one content at a time, and
//! counts conflicts.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use packetfs::progress::Progress;
use packetfs::volume::{Below, Volume, VolumeError, keepers};
use worknode::history::{Author, Summary};

use super::met::Met;
use super::names::Named;

/// Time between two looks at what is to be kept. A look without news costs little.
const PERIOD: Duration = Duration::from_secs(2);
/// Time after which all is looked at again, also without news: what was damaged or removed meanwhile is fetched again.
const REPEATED_AFTER: Duration = Duration::from_secs(10 * 60);
/// Time after which a content that nobody has is asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(20);
/// Most contents that are remembered to be here; beyond that they are looked at again.
const WHOLE_MAX: usize = 1 << 20;
/// The lowest priority of a thread.
const NICE: i32 = 19;

/// What the thread knows.
pub(super) struct Keeper {
    volume: Arc<OnceLock<Arc<Volume>>>,
    met: Arc<Met>,
    names: Arc<Named>,
    /// Paths in conflict, for others.
    conflicts: Arc<AtomicU64>,
    /// Contents that are here.
    whole: HashSet<[u8; 32]>,
    /// When these were forgotten last.
    forgotten: Instant,
    /// When all was looked at, and what was known then.
    looked: Option<(Instant, Summary, BTreeSet<Author>)>,
    /// Whether something could not be fetched.
    is_lacking: bool,
}

impl Keeper {
    pub(super) fn new(
        volume: Arc<OnceLock<Arc<Volume>>>,
        met: Arc<Met>,
        names: Arc<Named>,
        conflicts: Arc<AtomicU64>,
    ) -> Self {
        let (whole, looked, is_lacking) = (HashSet::new(), None, false);
        let forgotten = Instant::now();
        Self { volume, met, names, conflicts, whole, forgotten, looked, is_lacking }
    }

    /// Works until the agent ends.
    pub(super) fn run(mut self) {
        // Without the right to change it, the priority stays.
        let _ = rustix::process::nice(NICE);
        loop {
            std::thread::sleep(PERIOD);
            let Some(volume) = self.volume.get().cloned() else { continue };
            if let Err(error) = self.look(&volume) {
                tracing::error!(%error, "failed to keep contents for other nodes");
            }
        }
    }

    fn look(&mut self, volume: &Volume) -> Result<(), VolumeError> {
        let (now, summary) = (Instant::now(), volume.summary());
        let (names, authors) = (self.names.now(), volume.authors());
        let mut members = self.met.counted(names.members_of(&authors), now);
        members.insert(volume.author());
        let is_old = |since: Instant, age| now.saturating_duration_since(since) >= age;
        if is_old(self.forgotten, REPEATED_AFTER) || self.whole.len() > WHOLE_MAX {
            self.whole.clear();
            self.forgotten = now;
        } else if let Some((at, known, with)) = &self.looked {
            let is_due = self.is_lacking && is_old(*at, AGAIN_AFTER);
            if (known, with) == (&summary, &members) && !is_due {
                return Ok(());
            }
        }
        self.looked = Some((now, summary, members.clone()));
        self.is_lacking = false;
        if let Ok(conflicts) = volume.conflicts(b"") {
            self.conflicts.store(conflicts.len() as u64, Ordering::Relaxed);
        }
        let (mut contents, mut bytes) = (0_u64, 0);
        for (content, count) in volume.replicated()? {
            if self.is_kept_here(volume, &content, count, &members) {
                let fetched = volume.fetch(&content, &Progress::default())?;
                if fetched.is_whole {
                    self.whole.extend(content.digest());
                } else {
                    self.is_lacking = true;
                }
                contents += u64::from(fetched.fetched > 0);
                bytes += fetched.fetched;
            }
        }
        if contents > 0 {
            tracing::info!(contents, bytes, "contents of other nodes are kept here");
        }
        Ok(())
    }

    fn is_kept_here(
        &self,
        volume: &Volume,
        content: &Below,
        count: u32,
        members: &BTreeSet<Author>,
    ) -> bool {
        let Some(digest) = content.digest() else { return false };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let is_kept =
            || keepers(&digest, content.written.author, members, count).contains(&volume.author());
        !self.whole.contains(&digest) && is_kept()
    }
}
