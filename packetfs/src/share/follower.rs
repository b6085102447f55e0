//! A share between two comparisons.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

use super::known::Known;
use super::rules::Rules;
use super::source::Source;
use crate::export::Hidden;
use crate::identity::Owner;
use crate::path::Bytes;
use crate::volume::Volume;
use crate::watch::Watcher;

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
    pub(super) watcher: Watcher,
    /// Directories with files that changed when they were read.
    pub(super) unsure: Vec<Bytes>,
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
        Ok(Self {
            rules: Rules::new(&plan.dir),
            source: Source::new(&plan.dir, plan.owner),
            name: plan.name,
            volume,
            hidden,
            known: known.and_then(Known::decode).unwrap_or_default(),
            watcher: Watcher::new().map_err(ShareError::Watch)?,
            unsure: Vec::new(),
        })
    }

    /// Forgets what was taken over if the directory is another one now or is empty. The user has shared it again, and what is
    /// in the volume stays.
    pub fn accept_top(&mut self) {
        if self.check_top().is_err() || self.source.list(b"").is_ok_and(|(_, all)| all.is_empty()) {
            self.known = Known::default();
        }
    }

    /// Returns what was taken over, for the next run. It is right only for a volume that has made it durable.
    #[must_use]
    pub fn known(&self) -> Vec<u8> {
        self.known.encode()
    }

    /// Returns a descriptor that is readable when something has changed.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn changes(&self) -> io::Result<OwnedFd> {
        self.watcher.queue()
    }

    /// Returns whether files changed while they were read, so that they must be looked at again soon.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        !self.unsure.is_empty()
    }
}
