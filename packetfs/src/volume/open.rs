//! Opens a volume, and brings it back after a crash.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use worknode::history::{Author, Clock};
use worknode::key::SecretKey;

use super::backing::{Backing, Name};
use super::dirs;
use super::error::VolumeError;
use super::exchange::at_once;
use super::exchange::foreign::Foreigners;
use super::exchange::prompt::Prompt;
use super::library::Library;
use super::model::{Shared, State, Volume};
use super::node::Base;
use super::row::Row;
use super::spares::Spares;
use super::tree::{Rest, Tree};
use super::{key, lease, translate, upkeep};
use crate::log::{BootId, Log};
use crate::store::Store;

/// The name of the shelf of the volume's own packets.
const SHELF: &str = "volume";
/// The file of the tables.
pub(super) const TABLES: &str = "tables.redb";

/// How a volume is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who makes the events.
    pub author: Author,
    /// Who signs them.
    pub signer: Option<SecretKey>,
    /// Whether the kernel may use backing files directly.
    pub may_pass: bool,
    /// Which boot of the machine it is; the kernel is asked if none is given.
    pub boot: Option<BootId>,
}

impl Volume {
    /// Opens the volume in a directory, which is made if necessary.
    ///
    /// # Errors
    /// The directory cannot be used, another agent uses it, or the log or the packets are damaged.
    pub fn open(dir: &Path, options: &Options) -> Result<Self, VolumeError> {
        for dir in [dir.to_owned(), dir.join("open"), dir.join("spare"), dir.join("log")] {
            dirs::make(&dir).map_err(VolumeError::io("create", &dir))?;
        }
        let boot = options.boot.map_or_else(BootId::current, Ok);
        let boot = boot.map_err(VolumeError::io("read the boot id for", dir))?;
        let mut tree = Tree::open(&dir.join(TABLES), options.author)?;
        let (signer, known) = (options.signer.clone(), tree.state.applied);
        let (log, recovered) = Log::open_known(&dir.join("log"), boot, signer, known)?;
        let applied = |author| tree.applied(author);
        let foreign = Foreigners::open(&dir.join("foreign"), boot, applied)?;
        let store = Arc::new(Store::open(&dir.join("packs"), u64::MAX)?);
        if foreign.all().is_empty() {
            replay(&log, &mut tree)?;
        }
        let clock = Clock::after(tree.state.hlc.max(recovered.hlc));
        let spare = dir.join("spare");
        let spares = Spares::open(spare.clone()).map_err(VolumeError::io("list", &spare))?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            author: options.author,
            may_pass: options.may_pass && has_leases(dir)?,
            log,
            cut: recovered.cut,
            library: Library::new(store.shelf(SHELF)),
            foreign,
            prompt: Prompt::default(),
            state: Mutex::new(State {
                bases: bases(&tree)?,
                tree,
                pending: super::pending::Pending::default(),
                merged: None,
                lacks_merged: false,
                uses: super::uses::Uses::default(),
                handles: super::handles::Handles::default(),
                readers: super::readers::Readers::default(),
                listeners: super::listener::Listeners::default(),
                clock,
                generation: 0,
                unclaimed: BTreeSet::new(),
                doomed: Vec::new(),
                unburied: Vec::new(),
                is_broken: false,
                is_closed: false,
                #[cfg(test)]
                skew: 0,
            }),
            queue: super::queue::Queue::default(),
            holds: super::holds::Holds::default(),
            bounds: super::bounds::Bounds::of_process(),
            mounts: super::told::Mounts::default(),
            spares,
            packets: std::sync::RwLock::default(),
            collecting: Mutex::default(),
            merging: Mutex::default(),
            settling: Mutex::default(),
            locks: super::locks::Locks::new(options.author),
            giving: super::giving::Giving::default(),
            room: super::room::Room::default(),
            closing: Condvar::new(),
        });
        let left = shared.left(recovered.has_rebooted)?;
        shared.lock().unclaimed = left.iter().map(|(name, _)| name.ino).collect();
        shared.replay_own()?;
        shared.hand_over_rest()?;
        shared.take_over(left)?;
        // What others were given before the agent was killed counts as durable again.
        shared.settle_log()?;
        let mut volume = Self { shared, threads: Vec::new() };
        volume.start("translate", translate::run)?;
        volume.start("upkeep", upkeep::run)?;
        volume.start("prompt", at_once::run)?;
        volume.start("write-back", upkeep::write_back)?;
        volume.start_locks()?;
        Ok(volume)
    }

    fn start_locks(&mut self) -> Result<(), VolumeError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("locks".to_owned());
        let thread = thread.spawn(move || super::locking::run(&shared));
        self.threads
            .push(thread.map_err(VolumeError::io("start the threads of", &self.shared.dir))?);
        Ok(())
    }

    fn start(&mut self, name: &str, run: fn(&Shared)) -> Result<(), VolumeError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared));
        self.threads
            .push(thread.map_err(VolumeError::io("start the threads of", &self.shared.dir))?);
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = self.shared.settle() {
            tracing::error!(%error, "failed to make the volume durable");
        }
        self.shared.lock().is_closed = true;
        self.shared.closing.notify_all();
        self.shared.queue.close();
        self.shared.prompt.close();
        self.shared.locks.close();
        self.shared.giving.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Returns what programs have changed of contents that others have replaced.
fn bases(tree: &Tree) -> Result<HashMap<u64, Base>, VolumeError> {
    let rows = tree.tables.all(&key::BASES)?.into_iter();
    rows.map(|(key, row)| Ok((key::number(&key).unwrap_or(0), Base::decode(&row)?))).collect()
}

/// Applies the events that the tables lack.
pub(super) fn replay(log: &Log, tree: &mut Tree) -> Result<(), VolumeError> {
    for event in log.read_from(tree.state.applied + 1)? {
        tree.apply(&event?)?;
    }
    Ok(())
}

/// Tells whether the kernel says who has a file of the volume open.
fn has_leases(dir: &Path) -> Result<bool, VolumeError> {
    let dir = dir.join("open");
    let probe = Backing::new_part(&dir, 0, 0).map_err(VolumeError::io("write to", &dir))?;
    probe.discard();
    Ok(lease::is_known(&probe.file))
}

impl Shared {
    /// Applies the own events that the tables lack, where others may come between them.
    fn replay_own(&self) -> Result<(), VolumeError> {
        let mut state = self.lock();
        let from = state.tree.state.applied + 1;
        let events: Vec<_> = self.log.read_from(from)?.collect::<Result<_, _>>()?;
        self.apply_in_order(&mut state, &events)
    }

    /// Finds the backing files of an earlier run that count, the earliest first, and removes the others.
    fn left(&self, was_booted: bool) -> Result<Vec<(Name, PathBuf)>, VolumeError> {
        let dir = self.open_dir();
        let failed = |source| VolumeError::io("list", &dir)(source);
        let applied = self.log.last().0;
        // After a power cut the content is what was made durable.
        let counts = |name: &Name| {
            !(was_booted && name.is_volatile) && name.done.is_none_or(|event| event > applied)
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().and_then(Name::parse);
            match name.filter(counts) {
                Some(name) => names.push((name, entry.path())),
                None => std::fs::remove_file(entry.path())
                    .map_err(VolumeError::io("delete", &entry.path()))?,
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Takes over the backing files of an earlier run, and removes those that nothing needs.
    fn take_over(&self, names: Vec<(Name, PathBuf)>) -> Result<(), VolumeError> {
        let mut state = self.lock();
        self.bury_orphans(&mut state)?;
        for (name, path) in names {
            state.generation = state.generation.max(name.generation);
            let Some(node) = state.tree.find(name.ino)?.filter(|node| node.is_file()) else {
                std::fs::remove_file(&path).map_err(VolumeError::io("delete", &path))?;
                continue;
            };
            let backing = Backing::open(path.clone()).map_err(VolumeError::io("open", &path))?;
            backing.revive().map_err(VolumeError::io("rename", &path))?;
            let backing = Arc::new(backing);
            let former = state.uses.of(name.ino).backing.replace(Arc::clone(&backing));
            if let Some(former) = former {
                self.queue.push_former(name.ino, former, node.written);
            }
            self.queue.push(name.ino, backing, false);
        }
        state.unclaimed.clear();
        state.end_bases_without_backing();
        Ok(())
    }

    /// Removes the files that have no name and that no program uses.
    pub(super) fn bury_orphans(&self, state: &mut State) -> Result<(), VolumeError> {
        let at = state.tree.state.hlc;
        for (row, _) in state.tree.tables.all(&key::ORPHANS)? {
            // What others have removed, and was news to them, comes back.
            let is_over =
                |ino: &u64| state.uses.get(*ino).is_none() && !state.bases.contains_key(ino);
            let ino = key::number(&row).filter(is_over);
            if let Some(ino) = ino {
                let rest = state.tree.bury(ino, at, &Rest::default())?;
                state.unburied.extend(rest.map(|rest| (ino, rest)));
            }
        }
        Ok(())
    }
}
