//! Passes the kernel's requests to the volume, and encodes its answers.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use worknode::history::{Attrs, Kind};

use super::apart::{DISK, LONG, Threads};
use super::codec::{answer, answer_count, attr_of, cached, caller, nanos};
use super::locks::{self, Locked, Wanted};
use super::passed::Passed;
use crate::fuse::reply::{absent, bytes, file_type};
use crate::owners::Owners;
use crate::volume::{Caller, Found, Io, Make, Moving, Opened, Shown, is_long};

/// Cache lifetime: until the kernel changes it.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
const READAHEAD_BYTES: u32 = 1024 * 1024;
/// Most background requests that the kernel may have pending: more than all users may have answered at once, so that what one of
/// them waits for keeps no other waiting.
const BACKGROUND_MAX: u16 = 1024;
const GENERATION: Generation = Generation(0);
/// Backing files are on a file system that is not stacked on another.
const STACK_DEPTH: u32 = 1;

/// Answers the requests of one mount.
#[derive(Clone)]
pub(super) struct Handler {
    volume: Arc<Shown>,
    passed: Passed,
    /// Open files by which locks were asked for.
    locked: Arc<Locked>,
    /// Requests that wait for the disk or for other nodes.
    apart: Threads,
    /// Requests whose time depends on what users have made.
    long: Threads,
    /// Programs can map files that the kernel does not cache.
    may_bypass_cache: bool,
}

impl Handler {
    pub(super) fn new(volume: Arc<Shown>) -> Self {
        Self {
            locked: Arc::new(Locked::new(Arc::clone(&volume))),
            volume,
            passed: Passed::default(),
            apart: Threads::new(DISK),
            long: Threads::new(LONG),
            may_bypass_cache: false,
        }
    }

    /// Answers a request, on a thread of its own if it may wait for the disk or for other nodes.
    fn apart_if(
        &self,
        waits: bool,
        request: &Request,
        answer: impl FnOnce(&Self) + Send + 'static,
    ) {
        self.on(&self.apart, waits, request, answer);
    }

    /// Answers a request, on a thread of its own if its time may depend on what users have made.
    fn long_if(
        &self,
        is_long: bool,
        request: &Request,
        answer: impl FnOnce(&Self) + Send + 'static,
    ) {
        self.on(&self.long, is_long, request, answer);
    }

    fn on(
        &self,
        threads: &Threads,
        is_long: bool,
        request: &Request,
        answer: impl FnOnce(&Self) + Send + 'static,
    ) {
        if !is_long {
            return answer(self);
        }
        let handler = self.clone();
        threads.run(request.uid(), move || answer(&handler));
    }

    /// The kernel tells of each descriptor that is closed, whose process loses its locks of `fcntl` then. Those of a file that is
    /// open for reading, or was opened while no other node was linked, end when all its descriptors are closed: so files are
    /// opened and closed as fast as without locks.
    fn closing(&self, flags: i32) -> FopenFlags {
        let is_told = flags & libc::O_ACCMODE != libc::O_RDONLY && !self.volume.is_alone();
        if is_told { FopenFlags::empty() } else { FopenFlags::FOPEN_NOFLUSH }
    }

    fn answer_open(
        &self,
        ino: INodeNo,
        flags: OpenFlags,
        opened: Result<Opened, Errno>,
        reply: ReplyOpen,
    ) {
        let Opened { handle, io } = match opened {
            Ok(opened) => opened,
            Err(error) => return reply.error(error),
        };
        match io {
            Io::Asks { keep, caches } => {
                let caching = cached(keep, caches || !self.may_bypass_cache);
                reply.opened(FileHandle(handle), caching | self.closing(flags.0))
            }
            Io::Through(file) => {
                match self.passed.pass(ino.0, &file, |file| reply.open_backing(file)) {
                    Ok(id) => {
                        reply.opened_passthrough(FileHandle(handle), self.closing(flags.0), &id)
                    }
                    Err(error) => {
                        self.volume.close_file(handle);
                        reply.error(error.into());
                    }
                }
            }
        }
    }

    fn create_at(
        &self,
        name: (u64, &[u8]),
        mode: (u32, u32),
        flags: i32,
        caller: Caller,
        reply: ReplyCreate,
    ) {
        let created = self.ask(|volume| {
            volume.relieve();
            volume.create(name, mode, flags, caller)
        });
        let (found, Opened { handle, io }) = match created {
            Ok(created) => created,
            Err(error) => return reply.error(error),
        };
        let attr = attr_of(&found);
        match io {
            Io::Asks { keep, .. } => reply.created(
                &self.volume.attr_lifetime(&found),
                &attr,
                GENERATION,
                FileHandle(handle),
                cached(keep, true) | self.closing(flags),
            ),
            Io::Through(file) => {
                match self.passed.pass(found.attr.ino, &file, |file| reply.open_backing(file)) {
                    Ok(id) => reply.created_passthrough(
                        &FOR_EVER,
                        &attr,
                        GENERATION,
                        FileHandle(handle),
                        self.closing(flags),
                        &id,
                    ),
                    Err(error) => {
                        self.volume.close_file(handle);
                        reply.error(error.into());
                    }
                }
            }
        }
    }

    /// Asks the volume. A panic is an error of this request, and the mount stays.
    fn ask<T>(
        &self,
        what: impl FnOnce(&Shown) -> Result<T, nix::errno::Errno>,
    ) -> Result<T, Errno> {
        let asked = catch_unwind(AssertUnwindSafe(|| what(&self.volume)));
        asked
            .unwrap_or_else(|_| {
                tracing::error!(
                    "a file system operation panicked: this is a bug, please report it"
                );
                Err(nix::errno::Errno::EIO)
            })
            .map_err(|errno| Errno::from_i32(errno as i32))
    }

    fn entry(&self, reply: ReplyEntry, dir: INodeNo, found: Result<Found, Errno>) {
        match found {
            Ok(found) => {
                let lifetime = self.volume.attr_lifetime(&found);
                let of_name = self.volume.name_lifetime(dir.0);
                reply.entry_with_ttls(&lifetime, &of_name, &attr_of(&found), GENERATION);
            }
            Err(error) => reply.error(error),
        }
    }

    fn answer_attr(&self, reply: ReplyAttr, found: Result<Found, Errno>) {
        match found {
            Ok(found) => reply.attr(&self.volume.attr_lifetime(&found), &attr_of(&found)),
            Err(error) => reply.error(error),
        }
    }
}

impl Filesystem for Handler {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_ABORT_ERROR,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_POSIX_ACL,
            // A default access control list is in place of the umask.
            InitFlags::FUSE_DONT_MASK,
        ] {
            // A kernel without one of them is slower, but correct.
            let _ = config.add_capabilities(capability);
        }
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() {
            let _ = config.set_max_stack_depth(STACK_DEPTH);
        }
        self.may_bypass_cache =
            config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
        if self.volume.is_live() {
            // The past does not change: there the kernel's own locks do.
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_LOCKS);
            let _ = config.add_capabilities(InitFlags::FUSE_FLOCK_LOCKS);
        }
        let _ = config.set_max_readahead(READAHEAD_BYTES);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (name, uid) = (name.as_bytes().to_vec(), request.uid());
        self.long_if(self.volume.is_past(parent.0), request, move |handler| {
            match handler.ask(|volume| volume.lookup(parent.0, &name, uid)) {
                // The kernel remembers that the name is absent.
                Err(error) if error.code() == libc::ENOENT => {
                    let lifetime = handler.volume.name_lifetime(parent.0);
                    reply.entry(&lifetime, &absent(Owners::UNSHIFTED), GENERATION);
                }
                found => handler.entry(reply, parent, found),
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        let _ = self.ask(|volume| {
            volume.forget(ino.0, lookups);
            Ok(())
        });
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        self.long_if(self.volume.is_past(ino.0), request, move |handler| {
            handler.answer_attr(reply, handler.ask(|volume| volume.attr(ino.0)));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _flagged: Option<SystemTime>,
        _saved: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mode = mode.map(|mode| mode & 0o7777);
        let attrs =
            Attrs { mode, uid, gid, accessed: accessed.map(nanos), modified: modified.map(nanos) };
        let caller = caller(request);
        let answer = move |handler: &Self| {
            handler.answer_attr(
                reply,
                handler.ask(|volume| volume.set_attr(ino.0, attrs, size, caller)),
            );
        };
        let is_slow = size.is_some() && self.volume.is_slow_to_change(ino.0, size);
        self.apart_if(is_slow, request, answer);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.ask(|volume| volume.target(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::Char(rdev.into()),
            libc::S_IFBLK => Kind::Block(rdev.into()),
            _ => Kind::File,
        };
        let make = Make { kind, mode, umask };
        self.entry(
            reply,
            parent,
            self.ask(|volume| volume.make(parent.0, name.as_bytes(), make, caller(request))),
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let make = Make { kind: Kind::Dir, mode, umask };
        self.entry(
            reply,
            parent,
            self.ask(|volume| volume.make(parent.0, name.as_bytes(), make, caller(request))),
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let kind = Kind::Symlink(target.as_os_str().as_bytes().to_vec());
        let make = Make { kind, mode: 0o777, umask: 0 };
        self.entry(
            reply,
            parent,
            self.ask(|volume| volume.make(parent.0, name.as_bytes(), make, caller(request))),
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.entry(reply, parent, self.ask(|volume| volume.link(ino.0, parent.0, name.as_bytes())));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (name, caller) = (name.as_bytes(), caller(request));
        answer(reply, self.ask(|volume| volume.remove(parent.0, name, false, caller)));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (name, caller) = (name.as_bytes(), caller(request));
        answer(reply, self.ask(|volume| volume.remove(parent.0, name, true, caller)));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            flags if flags.is_empty() => Moving::Replace,
            RenameFlags::RENAME_NOREPLACE => Moving::New,
            RenameFlags::RENAME_EXCHANGE => Moving::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let (name, new) = (name.as_bytes().to_vec(), new.as_bytes().to_vec());
        let is_slow = self.volume.is_slow_to_move(parent.0, &name);
        self.apart_if(is_slow, request, move |handler| {
            let (from, to) = ((parent.0, name.as_slice()), (to.0, new.as_slice()));
            answer(reply, handler.ask(|volume| volume.rename(from, to, how)));
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        let answer = move |handler: &Self| {
            let opened = handler.ask(|volume| volume.open_file(ino.0, flags.0, caller));
            handler.answer_open(ino, flags, opened, reply);
        };
        if self.volume.is_past(ino.0) {
            return self.long_if(true, request, answer);
        }
        // The content of a large file is copied before it can be written, and removed if it is not wanted.
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        let truncates = flags.0 & libc::O_TRUNC != 0;
        let size = truncates.then_some(0);
        let is_slow = (writes || truncates) && self.volume.is_slow_to_change(ino.0, size);
        self.apart_if(is_slow, request, answer);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        let has_to_help = self.volume.has_too_much_closed();
        self.apart_if(has_to_help, request, move |handler| {
            handler.create_at((parent.0, &name), (mode, umask), flags, caller, reply);
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = size as usize;
        match self.ask(|volume| volume.read_here(ino.0, offset, size)) {
            Ok(Some(data)) => return reply.data(&data),
            Ok(None) => {}
            Err(error) => return reply.error(error),
        }
        self.apart_if(true, request, move |handler| {
            match handler.ask(|volume| volume.read(ino.0, offset, size)) {
                Ok(data) => reply.data(&data),
                Err(error) => reply.error(error),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let strips = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        answer_count(
            reply,
            self.ask(|volume| volume.write(ino.0, offset, data, strips).map(|count| count as u64)),
        );
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if !self.volume.is_live() {
            // The kernel never asks again.
            return reply.error(Errno::ENOSYS);
        }
        self.volume.note_closing(ino.0);
        self.volume.note_flush(ino.0, owner.0, request.uid());
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.passed.unpass(ino.0);
        answer(
            reply,
            self.ask(|volume| {
                volume.release(ino.0, handle.0);
                self.locked.end(handle.0);
                Ok(())
            }),
        );
    }

    fn getlk(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let wanted = Wanted { ino, handle: handle.0, owner, start, end, kind, pid };
        locks::test(&self.volume, request, wanted, reply);
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let wanted = Wanted { ino, handle: handle.0, owner, start, end, kind, pid };
        locks::set(&self.locked, request, &wanted, sleep, reply);
    }

    fn fsync(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.apart_if(true, request, move |handler| {
            answer(reply, handler.ask(|volume| volume.sync_file(ino.0)));
        });
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = match self.volume.name_lifetime(ino.0) {
            Duration::ZERO => FopenFlags::empty(),
            _ => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
        };
        let uid = request.uid();
        self.long_if(self.volume.is_past(ino.0), request, move |handler| {
            match handler.ask(|volume| volume.open_dir(ino.0, uid)) {
                Ok(handle) => reply.opened(FileHandle(handle), flags),
                Err(error) => reply.error(error),
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let page = match self.ask(|volume| volume.read_dir(handle.0, offset)) {
            Ok(page) => page,
            Err(error) => return reply.error(error),
        };
        for (entry, next) in page.from(offset) {
            let name = OsStr::from_bytes(&entry.name);
            if reply.add(INodeNo(entry.ino), next, file_type(entry.kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let uid = request.uid();
        self.long_if(self.volume.is_past(ino.0), request, move |handler| {
            let page = match handler.ask(|volume| volume.read_dir(handle.0, offset)) {
                Ok(page) => page,
                Err(error) => return reply.error(error),
            };
            for (entry, next) in page.from(offset) {
                let is_dots = entry.name == b"." || entry.name == b"..";
                let found = handler.ask(|volume| match is_dots {
                    true => volume.attr(entry.ino),
                    false => volume.lookup(ino.0, &entry.name, uid),
                });
                // A name that was removed meanwhile is left out.
                let Ok(found) = found else { continue };
                let name = OsStr::from_bytes(&entry.name);
                if reply.add(
                    INodeNo(found.attr.ino),
                    next,
                    name,
                    &handler.volume.attr_lifetime(&found),
                    &attr_of(&found),
                    GENERATION,
                ) {
                    if !is_dots {
                        handler.volume.forget(found.attr.ino, 1);
                    }
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        answer(
            reply,
            self.ask(|volume| {
                volume.close_dir(handle.0);
                Ok(())
            }),
        );
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.apart_if(true, request, move |handler| {
            answer(reply, handler.ask(|volume| volume.sync_file(ino.0)));
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.ask(|volume| volume.space()) {
            Ok((space, files)) => {
                let size = u32::try_from(space.f_bsize).unwrap_or(4096);
                let free = space.f_ffree;
                reply.statfs(
                    space.f_blocks,
                    space.f_bfree,
                    space.f_bavail,
                    files + free,
                    free,
                    size,
                    255,
                    size,
                );
            }
            Err(error) => reply.error(error),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let is_long = is_long(name.as_bytes());
        let (name, value, caller) = (name.as_bytes().to_vec(), value.to_vec(), caller(request));
        self.long_if(is_long, request, move |handler| {
            let (name, value) = (name.as_slice(), Some(value.as_slice()));
            answer(
                reply,
                handler.ask(|volume| volume.set_xattr(ino.0, name, value, flags, caller)),
            );
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let is_long = is_long(name.as_bytes()) || self.volume.is_past(ino.0);
        let name = name.as_bytes().to_vec();
        self.long_if(is_long, request, move |handler| {
            match handler.ask(|volume| volume.xattr(ino.0, &name)) {
                Ok(value) => bytes(reply, &value, size),
                Err(error) => ReplyXattr::error(reply, error),
            }
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.long_if(self.volume.is_past(ino.0), request, move |handler| {
            match handler.ask(|volume| volume.xattrs(ino.0)) {
                Ok(names) => {
                    let list: Vec<_> =
                        names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect();
                    bytes(reply, &list, size);
                }
                Err(error) => reply.error(error),
            }
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let caller = caller(request);
        answer(reply, self.ask(|volume| volume.set_xattr(ino.0, name.as_bytes(), None, 0, caller)));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.apart_if(true, request, move |handler| {
            let mode = mode.cast_unsigned();
            answer(reply, handler.ask(|volume| volume.allocate(ino.0, mode, offset, length)));
        });
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let from = u64::try_from(offset).map_err(|_| nix::errno::Errno::ENXIO);
        let is_slow = self.volume.is_past(ino.0) || self.volume.is_slow_to_seek(ino.0);
        self.apart_if(is_slow, request, move |handler| {
            match handler.ask(|volume| volume.seek(ino.0, from?, whence)) {
                Ok(at) => reply.offset(at.cast_signed()),
                Err(error) => reply.error(error),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((from.0, from_offset), (to.0, to_offset));
        self.apart_if(true, request, move |handler| {
            answer_count(reply, handler.ask(|volume| volume.copy(from, to, length)));
        });
    }
}
