//! A machine whose power can be cut: ext4 on a loop device on a file that keeps apart what was not flushed.
//!
//! At a cut, a random part of the sectors that were written since the last flush is on disk, and the others are not.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::dice::Dice;

const DISK_BYTES: usize = 512 * 1024 * 1024;
const SECTOR_BYTES: usize = 4096;
const FILE: INodeNo = INodeNo(2);
const FOR_EVER: Duration = Duration::from_secs(3600);

/// A machine with a disk.
pub(crate) struct Machine {
    dir: PathBuf,
    disk: Arc<Mutex<Disk>>,
    session: Option<BackgroundSession>,
    device: Option<String>,
}

struct Disk {
    durable: Vec<u8>,
    /// Sectors that were written since the last flush.
    unflushed: HashMap<usize, Vec<u8>>,
    has_power: bool,
    /// Counts starts of the machine. What a former one has left over writes nothing any more.
    starts: u64,
}

impl Machine {
    /// Starts a machine with an empty disk.
    pub(crate) fn new(scratch: &Path) -> Self {
        let dir = scratch.join("machine");
        for part in ["fuse", "ext4"] {
            fs::create_dir_all(dir.join(part)).expect("a writable directory");
        }
        let image = dir.join("image");
        fs::File::create(&image).and_then(|file| file.set_len(DISK_BYTES as u64)).expect("a file");
        run("mkfs.ext4", &["-q", &text(&image)]);
        let durable = fs::read(&image).expect("the image");
        fs::remove_file(&image).expect("the image is a file");
        let disk = Disk { durable, unflushed: HashMap::new(), has_power: true, starts: 0 };
        let mut machine =
            Self { dir, disk: Arc::new(Mutex::new(disk)), session: None, device: None };
        machine.plug_in();
        machine
    }

    /// Returns a directory on the disk.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("ext4/store")
    }

    /// Cuts the power: nothing is written any more.
    pub(crate) fn cut(&self) {
        lock(&self.disk).has_power = false;
    }

    /// Starts the machine again.
    pub(crate) fn start(&mut self, dice: &mut Dice) {
        self.unplug();
        let mut disk = lock(&self.disk);
        let mut unflushed: Vec<_> = std::mem::take(&mut disk.unflushed).into_iter().collect();
        unflushed.sort_unstable_by_key(|(sector, _)| *sector);
        let share = dice.below(101);
        unflushed.retain(|_| dice.below(100) < share);
        for (sector, bytes) in unflushed {
            let at = sector * SECTOR_BYTES;
            disk.durable[at..at + SECTOR_BYTES].copy_from_slice(&bytes);
        }
        disk.has_power = true;
        disk.starts += 1;
        drop(disk);
        self.plug_in();
    }

    fn plug_in(&mut self) {
        let at = self.dir.join("fuse");
        let config = Config::default();
        let session = fuser::Session::new(
            Served(Arc::clone(&self.disk), lock(&self.disk).starts),
            &at,
            &config,
        )
        .and_then(fuser::Session::spawn);
        self.session = Some(session.expect("a mount"));
        let device = run("losetup", &["-f", "--show", &text(&at.join("disk"))]).trim().to_owned();
        run("mount", &["-t", "ext4", &device, &text(&self.dir.join("ext4"))]);
        self.device = Some(device);
    }

    fn unplug(&mut self) {
        let Some(device) = self.device.take() else { return };
        let _ = Command::new("umount").arg(self.dir.join("ext4")).output();
        let _ = Command::new("umount").arg("-l").arg(self.dir.join("ext4")).output();
        run("losetup", &["-d", &device]);
        self.session = None;
        let _ = Command::new("umount").arg("-l").arg(self.dir.join("fuse")).output();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut();
        self.unplug();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("the program is installed");
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> String {
    path.to_str().expect("paths of tests are text").to_owned()
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    fn read(&self, at: usize, bytes: usize) -> Vec<u8> {
        let end = (at + bytes).min(DISK_BYTES);
        let mut part = Vec::with_capacity(bytes);
        let mut from = at;
        while from < end {
            let (sector, within) = (from / SECTOR_BYTES, from % SECTOR_BYTES);
            let to = (SECTOR_BYTES - within).min(end - from);
            match self.unflushed.get(&sector) {
                Some(bytes) => part.extend(&bytes[within..within + to]),
                None => part.extend(&self.durable[from..from + to]),
            }
            from += to;
        }
        part
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let (sector, within) = ((at + done) / SECTOR_BYTES, (at + done) % SECTOR_BYTES);
            let count = (SECTOR_BYTES - within).min(data.len() - done);
            let durable = &self.durable[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES];
            let bytes = self.unflushed.entry(sector).or_insert_with(|| durable.to_vec());
            bytes[within..within + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
    }

    fn flush(&mut self) {
        for (sector, bytes) in std::mem::take(&mut self.unflushed) {
            let at = sector * SECTOR_BYTES;
            self.durable[at..at + SECTOR_BYTES].copy_from_slice(&bytes);
        }
    }
}

/// The disk as a file, for one start of the machine.
struct Served(Arc<Mutex<Disk>>, u64);

fn attr(ino: INodeNo) -> FileAttr {
    let is_dir = ino == INodeNo::ROOT;
    FileAttr {
        ino,
        size: if is_dir { 0 } else { DISK_BYTES as u64 },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_dir { FileType::Directory } else { FileType::RegularFile },
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Served {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&FOR_EVER, &attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply.attr(&FOR_EVER, &attr(ino));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let at = usize::try_from(offset).unwrap_or(DISK_BYTES);
        reply.data(&lock(&self.0).read(at, size as usize));
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut disk = lock(&self.0);
        if !disk.has_power || disk.starts != self.1 {
            return reply.error(Errno::EIO);
        }
        disk.write(usize::try_from(offset).unwrap_or(DISK_BYTES), data);
        reply.written(u32::try_from(data.len()).unwrap_or(0));
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let mut disk = lock(&self.0);
        if !disk.has_power || disk.starts != self.1 {
            return reply.error(Errno::EIO);
        }
        disk.flush();
        reply.ok();
    }
}
