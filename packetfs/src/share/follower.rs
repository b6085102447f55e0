//! A share between two comparisons.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::known::Known;
use super::links::Links;
use super::returns::Returns;
use super::rules::Rules;
use super::source::Source;
use super::tries::Tries;
use crate::export::Hidden;
use crate::identity::Owner;
use crate::path::Bytes;
use crate::volume::Volume;
use crate::watch::Watcher;

/// Directories are made durable for no longer at once.
const SYNC_MAX: Duration = Duration::from_secs(1);

/// Why a share does not work.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The directory cannot be read.
    #[error("failed to read {}: {source}", String::from_utf8_lossy(path))]
    Source {
        /// The directory.
        path: Bytes,
        /// The cause.
        source: io::Error,
    },
    /// Another directory has its path.
    #[error(
        "{} is another directory than before, because its disk is not mounted or it was moved: bring it back, or share it again after 'oswalk share --stop NAME'",
        String::from_utf8_lossy(path)
    )]
    Other {
        /// The directory.
        path: Bytes,
    },
    /// All its files are gone.
    #[error(
        "{} is suddenly empty, and nothing is removed from the volume: bring its files back, or share it again after 'oswalk share --stop NAME'",
        String::from_utf8_lossy(path)
    )]
    Empty {
        /// The directory.
        path: Bytes,
    },
    /// The directory cannot be written.
    #[error(
        "failed to write to {}, and what has changed in the volume waits: {source}",
        String::from_utf8_lossy(path)
    )]
    Target {
        /// The directory.
        path: Bytes,
        /// The cause.
        source: io::Error,
    },
    /// Others have removed all of it from the volume.
    #[error(
        "{0} was removed from the volume, and nothing is removed from the directory: bring it back with 'oswalk restore', or share it again after 'oswalk share --stop {0}'",
        String::from_utf8_lossy(name)
    )]
    Removed {
        /// Its path in the volume.
        name: Bytes,
    },
    /// It is to end before its time.
    #[error("it is to end")]
    Cancelled,
    /// The volume does not work.
    #[error("failed to change the volume: {0}")]
    Volume(Errno),
    /// The kernel does not watch.
    #[error("failed to watch the directory: {0}")]
    Watch(Errno),
}

/// What is shared, and with whose rights.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The directory, without symbolic links in its path.
    pub dir: PathBuf,
    /// The user whose rights count; this process's if there is none.
    pub owner: Option<Owner>,
    /// Its path in the volume: names, without a slash at the start.
    pub name: Bytes,
    /// Whether what others change in the volume is written to the directory.
    pub writes: bool,
}

/// A shared directory.
#[derive(Debug)]
pub struct Share {
    pub(super) source: Source,
    pub(super) name: Bytes,
    pub(super) volume: Arc<Volume>,
    pub(super) hidden: Arc<Hidden>,
    pub(super) rules: Rules,
    pub(super) known: Known,
    /// Files with several names.
    pub(super) links: Links,
    pub(super) watcher: Watcher,
    /// Directories with files that changed when they were read.
    pub(super) unsure: BTreeSet<Bytes>,
    /// Files that it could not get on with.
    pub(super) tries: Tries,
    /// What a share that writes its directory knows of the volume.
    pub(super) returns: Option<Returns>,
    pub(super) cancel: Arc<AtomicBool>,
}

impl Share {
    /// Makes a share. `known` is what [`Share::known`] has returned in an earlier run.
    ///
    /// # Errors
    /// The kernel does not watch.
    pub fn new(
        plan: Plan,
        volume: Arc<Volume>,
        hidden: Arc<Hidden>,
        known: Option<&[u8]>,
    ) -> Result<Self, ShareError> {
        let mut known = known.and_then(Known::decode).unwrap_or_default();
        let returns = if plan.writes {
            known.keep_common();
            let listener = volume.listen().map_err(|error| {
                ShareError::Watch(error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))
            })?;
            Some(Returns::new(listener))
        } else {
            known.forget_seens();
            None
        };
        Ok(Self {
            rules: Rules::new(&plan.dir, plan.writes),
            source: Source::new(&plan.dir, plan.owner),
            name: plan.name,
            volume,
            hidden,
            known,
            links: Links::default(),
            watcher: Watcher::new().map_err(ShareError::Watch)?,
            unsure: BTreeSet::new(),
            tries: Tries::default(),
            returns,
            cancel: Arc::default(),
        })
    }

    /// Forgets what was taken over if the directory is another one now or is empty, or if its name is gone from the volume. The
    /// user has shared it again, and what is on either side stays.
    pub fn accept_top(&mut self) {
        let is_empty = || self.source.list(b"", &self.cancel).is_ok_and(|(_, all)| all.is_empty());
        let is_gone = || self.find_dir(b"").is_ok_and(|found| found.is_none());
        if is_empty() || is_gone() || self.check_top().is_err() {
            self.known = Known::default();
        }
    }

    /// Returns what was taken over, for the next run. It is right only for a volume that has made it durable.
    #[must_use]
    pub fn known(&self) -> Vec<u8> {
        self.known.encode()
    }

    /// Makes what was written to the directory durable, as far as that takes no long time: other programs use the disk, too. Returns
    /// whether all is durable. After a power cut, what is noted as known would otherwise be a change.
    ///
    /// # Errors
    /// The disk does not work.
    pub fn sync(&mut self) -> io::Result<bool> {
        let Some(returns) = &mut self.returns else { return Ok(true) };
        let begin = Instant::now();
        // Contents are durable before they get their names.
        while let Some(dir) = returns.unsynced.first() {
            self.source.sync_dir(dir)?;
            returns.unsynced.pop_first();
            if begin.elapsed() > SYNC_MAX {
                break;
            }
        }
        Ok(returns.unsynced.is_empty())
    }

    /// Returns descriptors that are readable when something has changed: in the directory, and in the volume if the directory is
    /// written.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn changes(&self) -> io::Result<Vec<OwnedFd>> {
        let queue = self.returns.as_ref().map(|returns| returns.listener.queue());
        let queues = std::iter::once(self.watcher.queue()).chain(queue);
        queues.collect()
    }

    /// Returns what ends a round before its time when it is set. The share is of no use then.
    #[must_use]
    pub fn cancel(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// Fails if the share is to end.
    pub(super) fn go_on(&self) -> Result<(), ShareError> {
        if self.cancel.load(Ordering::Relaxed) { Err(ShareError::Cancelled) } else { Ok(()) }
    }

    /// Returns the time until something is tried again that was in vain, if anything is.
    #[must_use]
    pub fn next_try(&self) -> Option<Duration> {
        self.tries.next(Instant::now())
    }

    /// Returns whether the kernel has no watches left for some directories, so that all changes there have to be looked for.
    #[must_use]
    pub fn lacks_watches(&self) -> bool {
        self.watcher.lacks_watches()
    }

    /// Returns whether files changed while they were read, so that they must be looked at again soon.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        !self.unsure.is_empty()
    }
}
