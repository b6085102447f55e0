//! Mounts a mirror, read-only. The one room that names fuser.
//!
//! A mirror has a second mount where something has extended attributes or access control lists. The
//! first one shows none of them: it says so once, and costs no question more.
//!
//! The kernel may keep everything for ever: names, absent names, attributes, pages. `open` and
//! `opendir` are answered once, with `ENOSYS`, and never asked again. What changes is taken back by
//! [`Mount::invalidate`], from a thread of its own: a notification sent by a thread that also
//! answers requests can deadlock with the kernel.

mod elsewhere;
mod noted;
mod reply;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use fuser::{
    BackgroundSession, Config, Errno, FileHandle, FileType, Filesystem, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, Notifier, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr,
    Request, SessionACL,
};

use crate::change::Base;
use crate::mirror::{Answer, Invalidation, Marks, Mirror, Name, Need};
use crate::packet::{Digest, PacketRef};
use crate::store::Shelf;
use crate::tree::{Attr, Bytes, Kind, Time, Xattr};
use noted::Asker;
pub use noted::Noted;
use reply::{absent, file_attr, file_type};

/// The kernel keeps what it was told until it is told otherwise.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Read-ahead of a file, in bytes.
const READAHEAD_BYTES: u32 = 1024 * 1024;
/// Requests the kernel may have waiting.
const BACKGROUND_MAX: u16 = 64;
/// Loop threads: as many as CPUs, no more than this.
const THREADS_MAX: usize = 4;
/// How much of a large file is fetched ahead of what is read: all of a compiler.
const AHEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How often one request fetches something before it fails: a file that is written all the time
/// changes between the fetch of its manifest and that of its packets.
const FETCHES_MAX: u32 = 40;

/// The names of a directory are numbered as its files are, behind `.` and `..`.
const DOTS: u64 = 2;
/// Names that are looked for at a time: more than one answer holds.
const LISTED_MAX: usize = 1024;

/// What a request lacks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ask {
    /// A listing or a file's packets are not known.
    Need(Need),
    /// These packets of the file at a path are not in the store, each with its offset; those of
    /// the second list will be wanted soon.
    Packets(Bytes, Vec<(u64, PacketRef)>, Vec<(u64, PacketRef)>),
}

impl Ask {
    /// Returns the path that it is about, for the log.
    fn named(&self) -> String {
        let (Self::Need(Need::Listing(path) | Need::Content(path)) | Self::Packets(path, ..)) =
            self;
        path.escape_ascii().to_string()
    }
}

/// Called when what was asked for has arrived, or with the `errno` that came instead.
pub type Done = Box<dyn FnOnce(Result<(), i32>) + Send>;

/// Fetches what the mirror lacks. An answer is put into mirror or store before `done` is called.
pub trait Source: Send + Sync + 'static {
    /// Starts fetching; never blocks.
    fn fetch(&self, ask: Ask, done: Done);
}

/// Counts of what reached user space.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests of the kernel.
    pub requests: AtomicU64,
    /// Requests that had to fetch something.
    pub fetches: AtomicU64,
    /// Requests that failed because something could not be fetched.
    pub failures: Noted,
    /// Requests that found something whose extended attributes they were not shown.
    pub missed: Noted,
    /// Requests that were refused because they looked into a hidden directory or file.
    pub hidden: Noted,
    /// Requests that lead to what a runner has of its own: for names in its empty `/run`, and of links to
    /// its devices and processes.
    pub elsewhere: Noted,
    /// Those of them for names that no service of a machine has.
    pub elsewhere_in_files: Noted,
    /// Requests whose file turned out to be another one than the kernel still believed: what was read
    /// of it may fit to what was known before.
    pub torn: Noted,
}

/// A mounted mirror. Unmounts when dropped.
#[derive(Debug)]
pub struct Mount {
    /// Hold the mounts; dropping one unmounts.
    sessions: Mutex<Vec<BackgroundSession>>,
    notices: mpsc::Sender<Notice>,
    view: Arc<View>,
}

/// What the thread that talks to the kernel is told.
enum Notice {
    /// Have all mounts forget, then call.
    Forget(BTreeSet<Invalidation>, Box<dyn FnOnce() + Send>),
    /// There is a further mount.
    Mounted(Notifier),
}

/// What the handlers share.
struct View {
    mirror: Mutex<Mirror>,
    store: Shelf,
    source: Box<dyn Source>,
    counters: Counters,
    notices: mpsc::Sender<Notice>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Mount {
    /// Mounts a fresh mirror at `point`. Its thread that has the kernel forget is started by `spawn`:
    /// without it walks would see what is not so any more.
    ///
    /// # Errors
    /// `/dev/fuse` is missing or forbidden, or the mount fails.
    pub fn new(
        point: &Path,
        name: &str,
        store: Shelf,
        source: Box<dyn Source>,
        spawn: impl FnOnce(&'static str, Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (notices, receiver) = mpsc::channel();
        let view = Arc::new(View {
            mirror: Mutex::new(Mirror::new()),
            store,
            source,
            counters: Counters::default(),
            notices: notices.clone(),
        });
        spawn("fuse-notify", Box::new(move || notify(&receiver)))?;
        let mount = Self { sessions: Mutex::default(), notices, view };
        mount.mount(point, name, false)?;
        Ok(mount)
    }

    /// Mounts the mirror once more, at `point`, with the extended attributes of files.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn mount_with_xattrs(&self, point: &Path, name: &str) -> io::Result<()> {
        self.mount(point, name, true)
    }

    fn mount(&self, point: &Path, name: &str, xattrs: bool) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::FSName(format!("oswalk:{name}")),
            MountOption::Subtype("oswalk".into()),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        config.acl = SessionACL::All;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        config.n_threads = Some(cpus.min(THREADS_MAX));
        let handler = Handler { view: Arc::clone(&self.view), xattrs };
        let session = fuser::Session::new(handler, point, &config)?;
        // Before anybody looks at it.
        let _ = self.notices.send(Notice::Mounted(session.notifier()));
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.push(session.spawn()?);
        Ok(())
    }

    /// Runs `change` on the mirror and has the kernel forget what it returns. Then calls `done`,
    /// from another thread.
    pub fn update(
        &self,
        change: impl FnOnce(&mut Mirror) -> BTreeSet<Invalidation>,
        done: Box<dyn FnOnce() + Send>,
    ) {
        let forget = change(&mut self.view.mirror());
        self.invalidate(forget, done);
    }

    /// Has the kernel forget, then calls `done`.
    pub fn invalidate(&self, forget: BTreeSet<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        // The thread ends only with this mount.
        let _ = self.notices.send(Notice::Forget(forget, done));
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.view.counters
    }

    /// Returns what tells what a walk finds that begins now; from any thread.
    pub fn outset(&self) -> Outset {
        let view = Arc::clone(&self.view);
        let batches = view.mirror().begin();
        Outset { view, batches }
    }

    /// Tells whether anything that is known of the tree has extended attributes.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.view.mirror().marks()
    }

    /// Returns what gives the extended attributes of a path, from any thread.
    pub fn xattrs(&self) -> impl Fn(&[u8]) -> Vec<Xattr> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |path| {
            let mirror = view.mirror();
            mirror.node(path).map(|node| mirror.xattrs(node).to_vec()).unwrap_or_default()
        }
    }

    /// Returns what gives the attributes of what a path names, as far as they are known; from any thread.
    pub fn attrs(&self) -> impl Fn(&[u8]) -> Answer<Attr> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |path| view.mirror().attr_at(path)
    }

    /// Returns what gives the modification times since a moment that are known; from any thread.
    pub fn times_since(&self) -> impl Fn(Time) -> HashSet<Time> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |moment| view.mirror().times_since(moment)
    }

    /// Tells what must be fetched before a directory can be entered; nothing, if all is known.
    #[must_use]
    pub fn lacks(&self, dir: &[u8]) -> Option<Need> {
        self.view.mirror().lacks(dir)
    }

    /// Returns what gives the paths behind a number, from any thread.
    pub fn paths(&self) -> impl Fn(u64) -> Vec<Bytes> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |node| view.mirror().known_paths(node)
    }
}

fn notify(receiver: &mpsc::Receiver<Notice>) {
    let mut notifiers = Vec::new();
    while let Ok(notice) = receiver.recv() {
        match notice {
            Notice::Mounted(notifier) => notifiers.push(notifier),
            Notice::Forget(forget, done) => {
                for notifier in &notifiers {
                    forget.iter().for_each(|invalidation| invalidate(notifier, invalidation));
                }
                done();
            }
        }
    }
}

fn invalidate(notifier: &Notifier, invalidation: &Invalidation) {
    // ENOENT: the kernel did not know it.
    let _ = match invalidation {
        Invalidation::Entry(dir, name) => {
            notifier.inval_entry(INodeNo(*dir), OsStr::from_bytes(name))
        }
        Invalidation::Node(node) => notifier.inval_inode(INodeNo(*node), 0, 0),
    };
}

/// The tree as a walk found it, for as long as it may have seen what is gone by now.
pub struct Outset {
    view: Arc<View>,
    batches: u64,
}

impl std::fmt::Debug for Outset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outset").field("batches", &self.batches).finish_non_exhaustive()
    }
}

impl Outset {
    /// Returns what was found at a path, unless it has changed since.
    #[must_use]
    pub fn base(&self, path: &[u8]) -> Base {
        self.view.mirror().base_since(self.batches, path)
    }

    /// Returns the digest of what was found in a directory, unless that has changed since.
    #[must_use]
    pub fn contents(&self, path: &[u8]) -> Option<Digest> {
        self.view.mirror().contents_since(self.batches, path)
    }

    /// Tells whether the walk may have found a directory with this modification time, though it has
    /// another by now.
    #[must_use]
    pub fn had_time(&self, path: &[u8], time: Time) -> bool {
        self.view.mirror().had_time_since(self.batches, path, time)
    }
}

impl Drop for Outset {
    fn drop(&mut self) {
        let forget = self.view.mirror().end(self.batches);
        self.view.forget(forget);
    }
}

impl View {
    /// Has the kernel forget, some time.
    fn forget(&self, forget: BTreeSet<Invalidation>) {
        if !forget.is_empty() {
            // Without the thread there is no mount any more.
            let _ = self.notices.send(Notice::Forget(forget, Box::new(|| {})));
        }
    }

    /// Notes who looked for a name where a runner has nothing.
    fn note_elsewhere(&self, name: &[u8], asker: Asker) {
        if !elsewhere::is_of_libraries(name) {
            self.counters.elsewhere.note(asker);
        }
        if !elsewhere::is_of_services(name) {
            self.counters.elsewhere_in_files.note(asker);
        }
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        // The mirror is never left half changed: its methods do not panic between changes.
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with `attempt`, fetching what it lacks and trying again until it can.
    fn answer<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: impl Fn(&Self) -> Result<T, Lack> + Send + 'static,
        reply: impl FnOnce(Result<T, i32>, Asker) + Send + 'static,
        asker: Asker,
        fetches: u32,
    ) {
        match attempt(self) {
            Ok(value) => reply(Ok(value), asker),
            Err(Lack::Errno(errno)) => reply(Err(errno), asker),
            Err(Lack::Hidden) => {
                self.counters.hidden.note(asker);
                reply(Err(libc::EACCES), asker);
            }
            Err(Lack::Ask(ask)) if fetches == FETCHES_MAX => {
                tracing::warn!(
                    path = ask.named(),
                    ?asker,
                    "a request of a walk failed: what it needs has changed with every answer"
                );
                self.counters.failures.note(asker);
                reply(Err(libc::EIO), asker);
            }
            Err(Lack::Ask(ask)) => {
                if fetches == 0 {
                    self.counters.fetches.fetch_add(1, Ordering::Relaxed);
                }
                let (view, asker) = (Arc::clone(self), asker.looked_up());
                let path = ask.named();
                let done: Done = Box::new(move |result| match result {
                    Ok(()) => view.answer(attempt, reply, asker, fetches + 1),
                    // The origin does not show it.
                    Err(libc::EACCES) => {
                        view.counters.hidden.note(asker);
                        reply(Err(libc::EACCES), asker);
                    }
                    // It was removed meanwhile, as it may be between two calls natively; the change is on its way.
                    Err(libc::ENOENT) => reply(Err(libc::ENOENT), asker),
                    Err(errno) => {
                        tracing::warn!(
                            errno,
                            ?asker,
                            by = asker.program(),
                            path,
                            "a request of a walk failed"
                        );
                        view.counters.failures.note(asker);
                        reply(Err(errno), asker);
                    }
                });
                self.source.fetch(ask, done);
            }
        }
    }

    fn read(&self, node: u64, offset: u64, bytes: u64) -> Result<Vec<u8>, Lack> {
        let manifest = known(self.mirror().manifest(node))?;
        let end = offset.saturating_add(bytes).min(manifest.bytes());
        // Holes stay zeros.
        let mut data = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        let mut missing = Vec::new();
        for (at, packet) in manifest.covering(offset, end) {
            match self.store.get(packet) {
                Some(content) if missing.is_empty() => {
                    let clip = |position: u64| {
                        let within = position.saturating_sub(at).min(content.len() as u64);
                        usize::try_from(within).unwrap_or(0)
                    };
                    let content = &content[clip(offset)..clip(end)];
                    let from = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
                    let place = data.get_mut(from..).unwrap_or_default();
                    place.iter_mut().zip(content).for_each(|(byte, known)| *byte = *known);
                }
                Some(_) => {}
                None => missing.push((at, packet)),
            }
        }
        if missing.is_empty() {
            return Ok(data);
        }
        // Who reads one part of a large file soon reads the rest: fetch all of it that is missing.
        let rest = manifest.covering(end, end.saturating_add(AHEAD_BYTES_MAX));
        let ahead = rest.filter(|(_, packet)| !self.store.has(&packet.digest)).collect();
        Err(Lack::Ask(Ask::Packets(self.mirror().path(node), missing, ahead)))
    }
}

impl View {
    /// Returns where data or a hole begins.
    fn seek(&self, node: u64, from: u64, whence: i32) -> Result<u64, Lack> {
        let attr = known(self.mirror().attr(node))?;
        let found = if attr.blocks.saturating_mul(512) >= attr.bytes {
            // A file without holes need not be read for that.
            let at = if whence == libc::SEEK_DATA { from } else { attr.bytes };
            (from < attr.bytes).then_some(at)
        } else {
            let manifest = known(self.mirror().manifest(node))?;
            match whence {
                libc::SEEK_DATA => manifest.data_from(from),
                _ => manifest.hole_from(from),
            }
        };
        found.ok_or(Lack::Errno(libc::ENXIO))
    }
}

/// Why a request cannot be answered at once.
enum Lack {
    Ask(Ask),
    Errno(i32),
    Hidden,
}

fn known<T>(answer: Answer<T>) -> Result<T, Lack> {
    match answer {
        Answer::Known(value) => Ok(value),
        Answer::Absent => Err(Lack::Errno(libc::ENOENT)),
        Answer::Unknown(need) => Err(Lack::Ask(Ask::Need(need))),
        Answer::Hidden => Err(Lack::Hidden),
    }
}

/// Tells whether an overlay takes this for a name that is gone: it is refused, so that nobody makes another
/// thing in its place.
fn is_whiteout(attr: &Attr) -> bool {
    attr.kind == Kind::Char && attr.rdev == 0
}

struct Handler {
    view: Arc<View>,
    /// Extended attributes are shown.
    xattrs: bool,
}

impl Handler {
    fn count(&self) {
        self.view.counters.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Filesystem for Handler {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ABORT_ERROR,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ] {
            // A kernel without one of them is slower, not wrong.
            let _ = config.add_capabilities(capability);
        }
        if self.xattrs {
            // Without it the access control lists would be seen, and not be obeyed.
            let refused = |_| io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            config.add_capabilities(InitFlags::FUSE_POSIX_ACL).map_err(refused)?;
        }
        let _ = config.set_max_readahead(READAHEAD_BYTES);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count();
        let (name, xattrs) = (name.as_bytes().to_vec(), self.xattrs);
        let asker = Asker::of(request);
        self.view.answer(
            move |view| {
                let mut mirror = view.mirror();
                let (node, attr) = match mirror.lookup(parent.0, &name) {
                    Answer::Absent if mirror.is_of_services(parent.0) => {
                        drop(mirror);
                        view.note_elsewhere(&name, asker);
                        return Ok((absent(), Duration::ZERO));
                    }
                    // A node of number 0 makes the kernel remember that the name is absent.
                    Answer::Absent => {
                        view.forget(mirror.take_excess());
                        return Ok((absent(), FOR_EVER));
                    }
                    answer => known(answer)?,
                };
                if is_whiteout(&attr) {
                    return Err(Lack::Hidden);
                }
                let leads = attr.kind == Kind::Symlink
                    && elsewhere::is_runners(&mirror.path(node), &mirror.target(node));
                if leads {
                    view.counters.elsewhere.note(asker);
                }
                if xattrs || mirror.xattrs(node).is_empty() {
                    // Whoever finds a link next is noted, too.
                    let valid = if leads { Duration::ZERO } else { FOR_EVER };
                    return Ok((file_attr(node, &attr), valid));
                }
                drop(mirror);
                view.counters.missed.note(asker);
                // Whoever finds it next is noted, too.
                Ok((file_attr(node, &attr), Duration::ZERO))
            },
            |result, _| match result {
                Ok((attr, valid)) => {
                    // The number in this answer is the kernel's and ours. Another one for programs
                    // can only be given when the kernel asks for attributes.
                    let is_final = attr.kind == FileType::Directory;
                    let attr_valid = if is_final { valid } else { Duration::ZERO };
                    reply.entry_with_ttls(&attr_valid, &valid, &attr, Generation(0));
                }
                Err(errno) => reply.error(Errno::from_i32(errno)),
            },
            asker,
            0,
        );
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.count();
        self.view.answer(
            move |view| {
                let mirror = view.mirror();
                let attr = known(mirror.attr(ino.0))?;
                Ok(file_attr(mirror.ino(ino.0, &attr), &attr))
            },
            |result, _| match result {
                Ok(attr) => reply.attr(&FOR_EVER, &attr),
                Err(errno) => reply.error(Errno::from_i32(errno)),
            },
            Asker::of(request),
            0,
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.count();
        match self.view.mirror().target(ino.0) {
            Some(target) => reply.data(&target),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count();
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count();
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count();
        let view = Arc::clone(&self.view);
        let before = view.mirror().version(ino.0);
        self.view.answer(
            move |view| view.read(ino.0, offset, u64::from(size)),
            move |result, asker| {
                if view.mirror().version(ino.0) != before {
                    view.counters.torn.note(asker);
                }
                match result {
                    Ok(data) => reply.data(&data),
                    Err(errno) => reply.error(Errno::from_i32(errno)),
                }
            },
            Asker::of(request),
            0,
        );
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.count();
        self.view.answer(
            move |view| known(view.mirror().list(ino.0, offset.saturating_sub(DOTS), LISTED_MAX)),
            move |result, _| match result {
                Ok(names) => {
                    let dots =
                        [(&b"."[..], 1), (b"..", 2)].into_iter().filter(|&(_, at)| at > offset);
                    let dots =
                        dots.map(|(name, at)| (name.to_vec(), ino.0, FileType::Directory, at));
                    let names = names.into_iter().map(|Name { name, ino, place, attr }| {
                        (name, ino, file_type(attr.kind), place + DOTS)
                    });
                    for (name, ino, kind, at) in dots.chain(names) {
                        if reply.add(INodeNo(ino), at, kind, OsStr::from_bytes(&name)) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(errno) => reply.error(Errno::from_i32(errno)),
            },
            Asker::of(request),
            0,
        );
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.count();
        let from = u64::try_from(offset).unwrap_or(u64::MAX);
        self.view.answer(
            move |view| view.seek(ino.0, from, whence),
            |result, _| match result.map(i64::try_from) {
                Ok(Ok(at)) => reply.offset(at),
                Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
                Err(errno) => reply.error(Errno::from_i32(errno)),
            },
            Asker::of(request),
            0,
        );
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.count();
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.count();
        if self.xattrs {
            reply::xattr(reply, self.view.mirror().xattrs(ino.0), name.as_bytes(), size);
        } else {
            // The kernel does not ask again.
            reply.error(Errno::ENOSYS);
        }
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.count();
        if self.xattrs {
            reply::xattr_names(reply, self.view.mirror().xattrs(ino.0), size);
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.count();
        reply.error(Errno::ENOSYS);
    }
}
