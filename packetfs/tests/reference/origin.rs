//! An origin with one runner, in one process: a thread exports this machine's files as an agent does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::errno::Errno;
use packetfs::commit::Committer;
use packetfs::export::{Exporter, Hidden, Own};
use packetfs::fuse::Mount;
use packetfs::mirror::{Mirror, Need};
use packetfs::owners::Owners;
use packetfs::packet::PacketRef;
use packetfs::path::{FileName, TreePath, join};
use packetfs::store::{Shelf, Store};
use packetfs::tree::{Attr, Change, Entry, Kind, Listing};
use packetfs::view::{Ask, Done, Source};
use packetfs::watch::{Drained, Watcher};

/// The one runner.
const RUNNER: u32 = 1;

enum Job {
    Fetch(Ask, Done),
    /// Reports changes to the runner, and calls back when its kernel has processed the invalidations.
    Drain(mpsc::Sender<()>),
    End,
}

/// The origin, and the mount of its files on its runner.
pub(crate) struct Origin {
    pub(crate) mount: Arc<Mount>,
    pub(crate) point: PathBuf,
    pub(crate) committer: Committer,
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

/// Passes fetches to the origin's thread.
struct Line(mpsc::Sender<Job>);

impl Source for Line {
    fn fetch(&self, ask: Ask, done: Done) {
        if let Err(mpsc::SendError(Job::Fetch(_, done))) = self.0.send(Job::Fetch(ask, done)) {
            done(Err(libc::EIO));
        }
    }
}

impl Origin {
    /// Mounts this machine's files; `scratch` is for the runner's own files.
    pub(crate) fn start(scratch: &Path) -> Self {
        let (jobs, jobs_rx) = mpsc::channel();
        let point = scratch.join("lower");
        fs::create_dir(&point).expect("writable");
        let store = Store::open(&scratch.join("store"), 1 << 30).expect("usable");
        let shelf = Arc::new(store).shelf("origin");
        let spawn = |_, run: Box<dyn FnOnce() + Send>| {
            std::thread::spawn(run);
            Ok(())
        };
        let plain = scratch.join("plain");
        fs::create_dir(&plain).expect("writable");
        let line = Box::new(Line(jobs.clone()));
        let mount =
            Mount::new((&plain, "origin"), Owners::UNSHIFTED, None, shelf.clone(), line, spawn);
        let mount = mount.expect("mountable");
        mount.mount_with_xattrs(&point, "origin").expect("mountable");
        let small = |mirror: &mut Mirror| {
            *mirror = Mirror::with_names_max(names_above(scratch) * 3 / 4);
            BTreeSet::new()
        };
        mount.update(small, Box::new(|| {}));
        let mount = Arc::new(mount);
        let shown = Shown::new(Arc::clone(&mount), shelf);
        let thread = std::thread::spawn(move || shown.serve(&jobs_rx));
        let committer = Committer::open(&scratch.join("journal")).expect("usable");
        Self { mount, point, committer, jobs, thread }
    }

    /// Reports changes to the runner, as before each walk.
    pub(crate) fn drain(&self) {
        let (done_tx, done_rx) = mpsc::channel();
        self.jobs.send(Job::Drain(done_tx)).expect("the thread serves");
        done_rx.recv().expect("the kernel forgets");
    }

    pub(crate) fn end(self) {
        self.jobs.send(Job::End).expect("the thread serves");
        self.thread.join().expect("it served");
    }
}

/// Returns how many names the directories above `dir` contain. A walk looks up all of them, and less than half as
/// many others.
fn names_above(dir: &Path) -> usize {
    let names = |dir: &Path| fs::read_dir(dir).map_or(0, Iterator::count);
    dir.ancestors().skip(1).map(names).sum()
}

/// The state of the origin's thread.
struct Shown {
    mount: Arc<Mount>,
    shelf: Shelf,
    exporter: Exporter,
    watcher: Watcher,
}

impl Shown {
    fn new(mount: Arc<Mount>, shelf: Shelf) -> Self {
        let exporter = Exporter::new(Arc::new(Hidden::new(Own::default())));
        Self { mount, shelf, exporter, watcher: Watcher::new().expect("there is inotify") }
    }

    fn serve(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Fetch(ask, done) => {
                    let result = self.fetch(ask);
                    done(result.map_err(|errno| errno as i32));
                }
                Job::Drain(done) => {
                    let changes = self.drain();
                    let done = Box::new(move || done.send(()).expect("somebody waits"));
                    self.mount.update(|mirror| mirror.apply(changes), done);
                }
                Job::End => return,
            }
        }
    }

    fn fetch(&mut self, ask: Ask) -> Result<(), Errno> {
        match ask {
            Ask::Need(Need::Listing(path)) => {
                let path = TreePath::new(path).expect("sound");
                let listing = self.list(&path)?;
                self.mount.update(|mirror| mirror.take_listing(&path, listing), Box::new(|| {}));
            }
            Ask::Need(Need::Content(path)) => {
                let path = TreePath::new(path).expect("sound");
                let content = self.exporter.content(&path, false)?.content;
                self.mount.update(|mirror| mirror.take_content(&path, content), Box::new(|| {}));
            }
            Ask::Packets(path, wanted, _) => {
                let path = TreePath::new(path).expect("sound");
                self.keep(&path, &wanted)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, path: &TreePath, wanted: &[(u64, PacketRef)]) -> Result<(), Errno> {
        for (packet, packed) in self.exporter.packets(path, wanted)? {
            self.shelf.put(packet, &packed).expect("the store is writable");
        }
        Ok(())
    }

    fn list(&mut self, path: &TreePath) -> Result<Listing, Errno> {
        self.watcher.watch_dir(path, RUNNER)?;
        let listing = self.exporter.list(path)?;
        self.watch_files(path, listing.entries.iter());
        // Listed again, because files may have changed before they were watched.
        self.exporter.list(path)
    }

    /// Watches the files that may change through other hard links.
    fn watch_files<'a>(&mut self, dir: &[u8], entries: impl Iterator<Item = &'a Entry>) {
        let is_linked = |attr: &Attr| attr.kind == Kind::File && attr.links > 1;
        for entry in entries.filter(|entry| is_linked(&entry.attr)) {
            let _ = self.watcher.watch_file(&join(dir, &entry.name));
        }
    }

    fn drain(&mut self) -> Vec<Change> {
        let Drained { names, forgotten, overflow } = self.watcher.drain(&BTreeSet::new());
        let sound = |path| TreePath::new(path).expect("sound");
        let mut changes = Vec::new();
        if overflow {
            changes.push(Change::Forget { dir: TreePath::root() });
        }
        changes.extend(forgotten.into_keys().map(|dir| Change::Forget { dir: sound(dir) }));
        for (dir, (_, names)) in names {
            let dir = sound(dir);
            let names: Vec<_> =
                names.into_iter().filter_map(|name| FileName::new(name).ok()).collect();
            let (_, entries) = self.exporter.entries(&dir, names.iter().cloned());
            self.watch_files(&dir, entries.iter().filter_map(|(_, entry)| entry.as_ref()));
            let (attr, names) = self.exporter.entries(&dir, names.into_iter());
            changes.push(Change::Names { dir, attr, names });
        }
        changes
    }
}
