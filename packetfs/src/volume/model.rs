//! An open volume, and what its threads share.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use worknode::history::{self, Author, Clock};

use super::bounds::Bounds;
use super::exchange::foreign::Foreigners;
use super::exchange::prompt::Prompt;
use super::giving::Giving;
use super::handles::Handles;
use super::holds::Holds;
use super::library::Library;
use super::listener::Listeners;
use super::locks::Locks;
use super::node::Base;
use super::pending::Pending;
use super::queue::Queue;
use super::readers::Readers;
use super::room::Room;
use super::spares::Spares;
use super::told::Mounts;
use super::tree::{Rest, Tree};
use super::uses::Uses;
use crate::log::{Cut, Log};

/// An open volume. It is closed when dropped.
#[derive(Debug)]
pub struct Volume {
    pub(super) shared: Arc<Shared>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

/// What all threads of a volume share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) author: Author,
    /// Whether the kernel may use backing files directly.
    pub(super) may_pass: bool,
    pub(super) log: Log,
    /// What was cut off from the log when the volume was opened.
    pub(super) cut: Option<Cut>,
    pub(super) library: Library,
    pub(super) foreign: Foreigners,
    pub(super) prompt: Prompt,
    pub(super) state: Mutex<State>,
    pub(super) queue: Queue,
    pub(super) holds: Holds,
    pub(super) bounds: Bounds,
    pub(super) mounts: Mounts,
    pub(super) spares: Spares,
    /// Held for reading from when packets are stored until an event refers to them; for writing while packets of a pack are
    /// removed.
    pub(super) packets: RwLock<()>,
    /// Held while garbage is looked for and removed.
    pub(super) collecting: Mutex<()>,
    /// Held while the merged tree is made without the lock.
    pub(super) merging: Mutex<()>,
    /// Held while changes are made durable and the tables written.
    pub(super) settling: Mutex<()>,
    pub(super) locks: Locks,
    pub(super) giving: Giving,
    pub(super) room: Room,
    /// Told when the volume is closed.
    pub(super) closing: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    /// Events that wait for others.
    pub(super) pending: Pending,
    /// The tree that all events make, while it is needed.
    pub(super) merged: Option<Merged>,
    /// What waits can be applied only with that.
    pub(super) lacks_merged: bool,
    /// Of files that programs have changed since another node did: what they have changed.
    pub(super) bases: HashMap<u64, Base>,
    pub(super) uses: Uses,
    pub(super) handles: Handles,
    pub(super) readers: Readers,
    /// Who hears of changes.
    pub(super) listeners: Listeners,
    pub(super) clock: Clock,
    /// The next generation of a backing file.
    pub(super) generation: u64,
    /// Files with backing files of an earlier run, until these are taken over.
    pub(super) unclaimed: BTreeSet<u64>,
    /// Backing files to be removed after the next barrier.
    pub(super) doomed: Vec<PathBuf>,
    /// Removed files of which rows are left.
    pub(super) unburied: Vec<(u64, Rest)>,
    /// An event is in the log but not in the tables: nothing works until the volume is opened again.
    pub(super) is_broken: bool,
    pub(super) is_closed: bool,
    /// How far the clock is ahead.
    #[cfg(test)]
    pub(super) skew: worknode::history::Nanos,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic leaves at worst the tables behind the log, and then the volume is broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all packets until this is dropped.
    pub(super) fn keep_packets(&self) -> RwLockReadGuard<'_, ()> {
        self.packets.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The merged tree: see `merged`.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) tree: history::Tree,
    pub(super) used: Instant,
}
