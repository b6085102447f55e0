//! Passes the kernel's requests to the view, and encodes its answers for the kernel.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::reply::{absent, file_attr, file_type, xattr, xattr_names};
use crate::mirror::{Name, Node};
use crate::owners::Owners;
use crate::tree::{Attr, Kind};
use crate::view::{Asker, Lack, Looked, View};

/// Cache lifetime: until invalidated.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Read-ahead of a file, in bytes.
const READAHEAD_BYTES: u32 = 1024 * 1024;
/// Most background requests that the kernel may have pending.
const BACKGROUND_MAX: u16 = 64;
/// Directory offsets are the inode numbers of the entries; `.` and `..` precede them.
const DOTS: u64 = 2;

/// Answers the requests of one mount.
pub(super) struct Handler {
    pub(super) view: Arc<View>,
    pub(super) owners: Owners,
    /// Whether extended attributes are shown.
    pub(super) xattrs: bool,
}

impl Handler {
    fn count(&self) {
        self.view.counters.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn answer<T: Send + 'static>(
        &self,
        request: &Request,
        attempt: impl Fn(&View) -> Result<T, Lack> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>, Asker) + Send + 'static,
    ) {
        let reply = |result: Result<T, i32>, asker| reply(result.map_err(Errno::from_i32), asker);
        self.view.answer(Asker::of(request.pid()), attempt, reply);
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
            // A kernel without one of them is slower, but correct.
            let _ = config.add_capabilities(capability);
        }
        if self.xattrs {
            // Without it the kernel would show access control lists but not enforce them.
            let refused = |_| io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            config.add_capabilities(InitFlags::FUSE_POSIX_ACL).map_err(refused)?;
        }
        let _ = config.set_max_readahead(READAHEAD_BYTES);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count();
        let (name, xattrs, asker) =
            (name.as_bytes().to_vec(), self.xattrs, Asker::of(request.pid()));
        let owners = self.owners;
        self.answer(
            request,
            move |view| view.lookup(parent.0, &name, xattrs, asker),
            move |result, _| match result {
                Ok(looked) => reply_entry(reply, &looked, owners),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.view.kernel_forgot(ino.0, nlookup);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.count();
        let owners = self.owners;
        self.answer(
            request,
            move |view| view.attr(ino.0),
            move |result, _| match result {
                Ok((shown, attr)) => reply.attr(&FOR_EVER, &file_attr(shown, &attr, owners)),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.count();
        match self.view.target(ino.0) {
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
        let before = view.version(ino.0);
        self.answer(
            request,
            move |view| view.read(ino.0, offset, u64::from(size)),
            move |result, asker| {
                view.note_torn(ino.0, before, asker);
                match result {
                    Ok(data) => reply.data(&data),
                    Err(errno) => reply.error(errno),
                }
            },
        );
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.count();
        self.answer(
            request,
            move |view| view.list(ino.0, offset.saturating_sub(DOTS)),
            move |result, _| match result {
                Ok(names) => reply_names(reply, ino.0, offset, names),
                Err(errno) => reply.error(errno),
            },
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
        self.answer(
            request,
            move |view| view.seek(ino.0, from, whence),
            |result, _| match result.map(i64::try_from) {
                Ok(Ok(at)) => reply.offset(at),
                Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
                Err(errno) => reply.error(errno),
            },
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
            xattr(reply, &self.view.xattrs(ino.0), name.as_bytes(), size, self.owners);
        } else {
            // The kernel will not ask again.
            reply.error(Errno::ENOSYS);
        }
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.count();
        if self.xattrs {
            xattr_names(reply, &self.view.xattrs(ino.0), size);
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

/// Answers a look-up. Node number 0 makes the kernel cache that the name is absent.
fn reply_entry(reply: ReplyEntry, looked: &Looked, owners: Owners) {
    let valid = if looked.keep { FOR_EVER } else { Duration::ZERO };
    // This answer carries the node number that kernel and mirror share. Programs see the inode number of a
    // `getattr`, which the kernel requests because attributes are valid here for directories only.
    let is_dir = |(_, attr): &(Node, Attr)| attr.kind == Kind::Dir;
    let attr_valid = if looked.found.as_ref().is_some_and(is_dir) { valid } else { Duration::ZERO };
    let attr = looked.found.as_ref();
    let attr = attr.map_or_else(|| absent(owners), |(node, attr)| file_attr(*node, attr, owners));
    reply.entry_with_ttls(&attr_valid, &valid, &attr, Generation(0));
}

/// Answers with as many names as fit.
fn reply_names(mut reply: ReplyDirectory, dir: Node, offset: u64, names: Vec<Name>) {
    let dots = [(&b"."[..], 1), (b"..", 2)].into_iter().filter(|&(_, at)| at > offset);
    let dots = dots.map(|(name, at)| (name.to_vec(), dir, FileType::Directory, at));
    let names = names
        .into_iter()
        .map(|Name { name, ino, place, attr }| (name, ino, file_type(attr.kind), place + DOTS));
    for (name, ino, kind, at) in dots.chain(names) {
        if reply.add(INodeNo(ino), at, kind, OsStr::from_bytes(&name)) {
            break;
        }
    }
    reply.ok();
}
