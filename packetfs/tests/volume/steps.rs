//! Random system calls, each done on two trees alike.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom,
    Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::dice::Dice;
use super::picture::SET_BEFORE;

/// Most open files of one trial.
const OPEN_MAX: usize = 8;
/// Few names, so that each is used often; also not UTF-8, and as long as a name may be.
const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"e", b"f", b"\xff\xfe", &[b'x'; 255]];
const NAMES_DIR: [&[u8]; 4] = [b"A", b"B", b"C", b"D"];
const ATTRS: [&str; 4] = ["user.a", "user.b", "user.long.name", "trusted.t"];
/// Some exceed a page, some a packet.
const SIZES: [u64; 10] = [0, 1, 100, 4095, 4096, 5000, 12_288, 70_000, 300_000, 1_000_000];
const BUFFER_BYTES: usize = 32 * 1024;

/// A path below a root.
pub(crate) type Name = PathBuf;

/// A system call.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Open(Name, OFlags, u32),
    Close(usize),
    Write(usize, u64, u64, u8),
    Append(usize, u64, u8),
    Read(usize, u64, usize),
    Truncate(usize, u64),
    Allocate(usize, FallocateFlags, u64, u64),
    Copy(usize, u64, usize, u64, usize),
    Seek(usize, u64, bool),
    Sync(usize, bool),
    FdStat(usize),
    FdMode(usize, u32),
    FdTimes(usize, i64),
    TruncatePath(Name, u64),
    Unlink(Name),
    RemoveDir(Name),
    MakeDir(Name, u32),
    MakeNode(Name, u32, u32),
    Symlink(Name, Vec<u8>),
    Link(Name, Name),
    Rename(Name, Name, RenameFlags),
    SetMode(Name, u32),
    SetOwner(Name, Option<u32>, Option<u32>),
    Times(Name, i64),
    SetXattr(Name, &'static str, usize, XattrFlags),
    GetXattr(Name, &'static str),
    RemoveXattr(Name, &'static str),
    /// Sets an access control list that says what a mode does, or also something of a mask.
    SetAcl(Name, u32, bool),
    List(Name),
    ListWhile(Name, Name),
    Target(Name),
    Stat(Name),
    ReadPath(Name),
}

fn name(dice: &mut Dice) -> Name {
    let mut path = PathBuf::new();
    for _ in 0..dice.pick(&[0, 0, 0, 1, 1, 2]) {
        path.push(OsStr::from_bytes(dice.pick(&NAMES_DIR)));
    }
    // Sometimes a directory where a file is meant, or the other way round.
    if dice.below(12) == 0 {
        path.push(OsStr::from_bytes(dice.pick(&NAMES_DIR)));
    } else {
        path.push(OsStr::from_bytes(dice.pick(&NAMES)));
    }
    path
}

fn dir(dice: &mut Dice) -> Name {
    let mut path = PathBuf::new();
    for _ in 0..=dice.pick(&[0, 0, 1, 1, 2]) {
        path.push(OsStr::from_bytes(dice.pick(&NAMES_DIR)));
    }
    if dice.below(20) == 0 { name(dice) } else { path }
}

fn any(dice: &mut Dice) -> Name {
    if dice.below(4) == 0 { dir(dice) } else { name(dice) }
}

fn mode(dice: &mut Dice) -> u32 {
    let bits = dice.pick(&[0o644, 0o755, 0o600, 0o777, 0o4755, 0o2755, 0o6711, 0o1777, 0, 0o2644]);
    u32::try_from(bits).unwrap_or(0)
}

fn flags(dice: &mut Dice) -> OFlags {
    let mut flags = dice.pick(&[OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR]);
    for (flag, one_in) in [
        (OFlags::CREATE, 2),
        (OFlags::EXCL, 8),
        (OFlags::TRUNC, 4),
        (OFlags::APPEND, 5),
        (OFlags::NOFOLLOW, 5),
        (OFlags::DIRECTORY, 30),
    ] {
        if dice.below(one_in) == 0 {
            flags |= flag;
        }
    }
    // Without it an open waits for the other end of a fifo.
    flags | OFlags::NONBLOCK
}

fn at(dice: &mut Dice) -> u64 {
    let size = dice.pick(&SIZES);
    if dice.below(2) == 0 { size } else { dice.below(size + 1) }
}

impl Step {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        let fd = dice.index(OPEN_MAX);
        match dice.below(64) {
            0..=8 => Self::Open(name(dice), flags(dice), mode(dice)),
            9..=13 => Self::Close(fd),
            14..=18 => Self::Write(fd, at(dice), at(dice), dice.pick(&[0, 1, 2, 3])),
            19..=20 => Self::Append(fd, at(dice), dice.pick(&[0, 1, 2, 3])),
            21..=22 => Self::Read(fd, at(dice), 1 + dice.index(70_000)),
            23..=24 => Self::Truncate(fd, at(dice)),
            25..=26 => Self::Allocate(fd, allocation(dice), at(dice), at(dice)),
            27..=28 => {
                Self::Copy(fd, at(dice), dice.index(OPEN_MAX), at(dice), dice.index(300_000))
            }
            29 => Self::Seek(fd, at(dice), dice.below(2) == 0),
            30 => Self::Sync(fd, dice.below(2) == 0),
            31 => Self::FdStat(fd),
            32 if dice.below(2) == 0 => Self::FdMode(fd, mode(dice)),
            32 => Self::FdTimes(fd, past(dice)),
            33 => Self::TruncatePath(name(dice), at(dice)),
            34..=37 => Self::Unlink(any(dice)),
            38 => Self::RemoveDir(dir(dice)),
            39..=41 => Self::MakeDir(dir(dice), mode(dice)),
            42 => Self::MakeNode(
                name(dice),
                dice.pick(&[0o010_000, 0o020_000, 0o060_000, 0o140_000, 0o100_000]),
                mode(dice),
            ),
            43 => Self::Symlink(
                name(dice),
                dice.pick(&[
                    b"a".to_vec(),
                    b"A/../b".to_vec(),
                    b"A".to_vec(),
                    vec![b'y'; 1000],
                    b"\xfe".to_vec(),
                ]),
            ),
            44..=45 => Self::Link(any(dice), name(dice)),
            46..=50 => {
                let both = if dice.below(3) == 0 {
                    (dir(dice), dir(dice))
                } else {
                    (any(dice), any(dice))
                };
                let flags = dice.pick(&[
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    RenameFlags::NOREPLACE,
                    RenameFlags::EXCHANGE,
                ]);
                Self::Rename(both.0, both.1, flags)
            }
            51 => Self::SetMode(any(dice), mode(dice)),
            52 => {
                let owner = |dice: &mut Dice| dice.pick(&[None, Some(0), Some(1), Some(1000)]);
                Self::SetOwner(any(dice), owner(dice), owner(dice))
            }
            53 => Self::Times(any(dice), past(dice)),
            54..=55 => {
                let flags = dice.pick(&[
                    XattrFlags::empty(),
                    XattrFlags::empty(),
                    XattrFlags::CREATE,
                    XattrFlags::REPLACE,
                ]);
                Self::SetXattr(any(dice), dice.pick(&ATTRS), dice.pick(&[0, 1, 20, 500]), flags)
            }
            56 if dice.below(2) == 0 => Self::SetAcl(any(dice), mode(dice), dice.below(2) == 0),
            56 => Self::GetXattr(any(dice), dice.pick(&ATTRS)),
            57 => Self::RemoveXattr(any(dice), dice.pick(&ATTRS)),
            58 => Self::List(dir(dice)),
            59 => Self::ListWhile(dir(dice), name(dice)),
            60 => Self::Target(any(dice)),
            61 => Self::Stat(any(dice)),
            _ => Self::ReadPath(name(dice)),
        }
    }
}

fn allocation(dice: &mut Dice) -> FallocateFlags {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    dice.pick(&[FallocateFlags::empty(), FallocateFlags::KEEP_SIZE, punch, punch])
}

fn past(dice: &mut Dice) -> i64 {
    let seconds = i64::try_from(dice.below(SET_BEFORE.unsigned_abs())).unwrap_or(0);
    if dice.below(8) == 0 { -seconds / 10 } else { seconds }
}

/// A tree with the files that a program has open in it.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    open: [Option<OwnedFd>; OPEN_MAX],
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: Default::default() }
    }

    pub(crate) fn close_all(&mut self) {
        self.open = Default::default();
    }

    fn at(&self, name: &Name) -> PathBuf {
        self.root.join(name)
    }

    fn fd(&self, slot: usize) -> Result<&OwnedFd> {
        self.open[slot].as_ref().ok_or(Errno::BADF)
    }

    /// Does a step. Returns what a program sees of it.
    pub(crate) fn run(&mut self, step: &Step) -> Result<String> {
        match step {
            Step::Open(name, flags, mode) => self.open(name, *flags, *mode),
            Step::Close(slot) => {
                self.open[*slot] = None;
                Ok(String::new())
            }
            Step::Write(slot, at, bytes, kind) => {
                count(rustix::io::pwrite(self.fd(*slot)?, &data(*bytes, *kind), *at))
            }
            Step::Append(slot, bytes, kind) => {
                count(rustix::io::write(self.fd(*slot)?, &data(*bytes, *kind)))
            }
            Step::Read(slot, at, bytes) => {
                let mut part = vec![0; *bytes];
                let count = rustix::io::pread(self.fd(*slot)?, &mut part[..], *at)?;
                Ok(told(&part[..count]))
            }
            Step::Truncate(slot, bytes) => done(rustix::fs::ftruncate(self.fd(*slot)?, *bytes)),
            Step::Allocate(slot, mode, at, bytes) => {
                done(rustix::fs::fallocate(self.fd(*slot)?, *mode, *at, *bytes))
            }
            Step::Copy(from, at, to, into, bytes) => self.copy((*from, *at), (*to, *into), *bytes),
            Step::Seek(slot, at, data) => self.seek(*slot, *at, *data),
            Step::Sync(slot, data) if *data => done(rustix::fs::fdatasync(self.fd(*slot)?)),
            Step::Sync(slot, _) => done(rustix::fs::fsync(self.fd(*slot)?)),
            Step::FdStat(slot) => stat(&rustix::fs::fstat(self.fd(*slot)?)?),
            Step::FdMode(slot, mode) => {
                done(rustix::fs::fchmod(self.fd(*slot)?, Mode::from_raw_mode(*mode)))
            }
            Step::FdTimes(slot, time) => done(rustix::fs::futimens(self.fd(*slot)?, &times(*time))),
            _ => self.run_named(step),
        }
    }

    fn run_named(&self, step: &Step) -> Result<String> {
        match step {
            Step::TruncatePath(name, bytes) => truncate(&self.at(name), *bytes),
            Step::Unlink(name) => done(rustix::fs::unlink(self.at(name))),
            Step::RemoveDir(name) => done(rustix::fs::rmdir(self.at(name))),
            Step::MakeDir(name, mode) => {
                done(rustix::fs::mkdir(self.at(name), Mode::from_raw_mode(*mode)))
            }
            Step::MakeNode(name, kind, mode) => {
                let mode = Mode::from_raw_mode(*mode);
                done(rustix::fs::mknodat(
                    CWD,
                    self.at(name),
                    FileType::from_raw_mode(*kind),
                    mode,
                    0x0103,
                ))
            }
            Step::Symlink(name, target) => {
                done(rustix::fs::symlink(target.as_slice(), self.at(name)))
            }
            Step::Link(name, new) => {
                done(rustix::fs::linkat(CWD, self.at(name), CWD, self.at(new), AtFlags::empty()))
            }
            Step::Rename(name, new, flags) => {
                done(rustix::fs::renameat_with(CWD, self.at(name), CWD, self.at(new), *flags))
            }
            Step::SetMode(name, mode) => {
                done(rustix::fs::chmod(self.at(name), Mode::from_raw_mode(*mode)))
            }
            Step::SetOwner(name, uid, gid) => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                done(rustix::fs::chownat(CWD, self.at(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW))
            }
            Step::Times(name, time) => {
                let path = self.at(name);
                rustix::fs::utimensat(CWD, &path, &times(*time), AtFlags::SYMLINK_NOFOLLOW)?;
                let stat = rustix::fs::lstat(&path)?;
                Ok(format!(
                    "{}.{} {}.{}",
                    stat.st_mtime, stat.st_mtime_nsec, stat.st_atime, stat.st_atime_nsec
                ))
            }
            Step::SetXattr(name, attr, bytes, flags) => {
                done(rustix::fs::lsetxattr(self.at(name), *attr, &data(*bytes as u64, 1), *flags))
            }
            Step::GetXattr(name, attr) => {
                let mut value = vec![0; 1000];
                let length = rustix::fs::lgetxattr(self.at(name), *attr, &mut value[..])?;
                Ok(told(&value[..length]))
            }
            Step::SetAcl(name, mode, has_mask) => {
                let flags = XattrFlags::empty();
                let value = acl(*mode, *has_mask);
                done(rustix::fs::lsetxattr(self.at(name), "system.posix_acl_access", &value, flags))
            }
            Step::RemoveXattr(name, attr) => done(rustix::fs::lremovexattr(self.at(name), *attr)),
            Step::List(name) => self.list(name, None),
            Step::ListWhile(name, removed) => self.list(name, Some(removed)),
            Step::Target(name) => {
                Ok(format!("{:?}", rustix::fs::readlink(self.at(name), Vec::new())?))
            }
            Step::Stat(name) => stat(&rustix::fs::lstat(self.at(name))?),
            Step::ReadPath(name) => self.read(name),
            _ => unreachable!("the others use open files"),
        }
    }

    fn open(&mut self, name: &Name, flags: OFlags, mode: u32) -> Result<String> {
        let path = self.at(name);
        if rustix::fs::stat(&path).is_ok_and(|it| !is_plain(it.st_mode)) {
            return Err(Errno::NXIO);
        }
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?;
        let slot = self.open.iter().position(Option::is_none).unwrap_or(0);
        self.open[slot] = Some(fd);
        Ok(String::new())
    }

    fn copy(&self, from: (usize, u64), to: (usize, u64), bytes: usize) -> Result<String> {
        let (mut at, mut into) = (from.1, to.1);
        let (source, target) = (self.fd(from.0)?, self.fd(to.0)?);
        count(rustix::fs::copy_file_range(source, Some(&mut at), target, Some(&mut into), bytes))
    }

    /// File systems have holes where they like, but only where there are zeros.
    fn seek(&self, slot: usize, at: u64, seeks_data: bool) -> Result<String> {
        let fd = self.fd(slot)?;
        let stat = rustix::fs::fstat(fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(String::new());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let offset = rustix::fs::tell(fd)?;
        if !seeks_data {
            let hole = rustix::fs::seek(fd, SeekFrom::Hole(at));
            rustix::fs::seek(fd, SeekFrom::Start(offset))?;
            let hole = hole?;
            assert!(hole >= at && hole <= size, "hole {hole} from {at} in {size}");
            return Ok(String::new());
        }
        let data = rustix::fs::seek(fd, SeekFrom::Data(at));
        rustix::fs::seek(fd, SeekFrom::Start(offset))?;
        let data = match data {
            Ok(data) => data,
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error),
        };
        let mut skipped = vec![0; usize::try_from(data.saturating_sub(at)).unwrap_or(0)];
        let is_read = rustix::io::pread(fd, &mut skipped[..], at);
        assert!(
            is_read.is_err() || skipped.iter().all(|byte| *byte == 0),
            "data in a hole: {at} to {data} of {size}"
        );
        Ok(String::new())
    }

    /// Lists names. One that is removed meanwhile may be missing.
    fn list(&self, name: &Name, removed: Option<&Name>) -> Result<String> {
        let fd =
            rustix::fs::open(self.at(name), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        let mut buffer = Vec::with_capacity(if removed.is_some() { 400 } else { BUFFER_BYTES });
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        let mut is_removed = false;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            names
                .push((entry.file_name().to_bytes().escape_ascii().to_string(), entry.file_type()));
            if let Some(removed) = removed.filter(|_| !is_removed) {
                is_removed = rustix::fs::unlink(self.at(removed)).is_ok();
            }
        }
        if let Some(last) = removed.and_then(|path| path.file_name()) {
            names.retain(|(name, _)| *name != last.as_bytes().escape_ascii().to_string());
        }
        names.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(format!("{names:?} {is_removed}"))
    }

    fn read(&self, name: &Name) -> Result<String> {
        let path = self.at(name);
        if rustix::fs::stat(&path).is_ok_and(|it| !is_plain(it.st_mode)) {
            return Err(Errno::NXIO);
        }
        let content = std::fs::read(path)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(told(&content))
    }
}

fn acl(mode: u32, has_mask: bool) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    let mut entry = |tag: u8, bits: u32| {
        value.extend([tag, 0, bits.to_le_bytes()[0] & 7, 0, 0xff, 0xff, 0xff, 0xff]);
    };
    entry(0x01, mode >> 6);
    entry(0x04, mode >> 3);
    if has_mask {
        entry(0x10, 5);
    }
    entry(0x20, mode);
    value
}

/// Devices are not opened by the test.
fn is_plain(mode: u32) -> bool {
    matches!(
        FileType::from_raw_mode(mode),
        FileType::RegularFile | FileType::Directory | FileType::Symlink
    )
}

fn truncate(path: &Path, bytes: u64) -> Result<String> {
    let path = path.to_owned();
    let failed = |errno| Errno::from_raw_os_error(errno as i32);
    nix::unistd::truncate(&path, i64::try_from(bytes).unwrap_or(0)).map_err(failed)?;
    Ok(String::new())
}

fn times(seconds: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: seconds / 2, tv_nsec: 7 },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 123_456_789 },
    }
}

/// What does not depend on the file system.
fn stat(stat: &rustix::fs::Stat) -> Result<String> {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let size = if is_dir { 0 } else { stat.st_size };
    let mtime = if stat.st_mtime < SET_BEFORE { stat.st_mtime } else { 0 };
    Ok(format!(
        "{:o} {}:{} links {} size {size} mtime {mtime} rdev {}",
        stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_rdev
    ))
}

fn done(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

fn count(result: Result<usize>) -> Result<String> {
    result.map(|count| count.to_string())
}

fn told(bytes: &[u8]) -> String {
    format!("{} bytes {}", bytes.len(), &blake3::hash(bytes).to_hex()[..8])
}

/// Returns zeros, or data that compresses well or hardly.
fn data(bytes: u64, kind: u8) -> Vec<u8> {
    let mut dice = Dice::of(bytes + u64::from(kind));
    let noise = |_| u8::try_from(dice.below(256)).unwrap_or(0);
    match kind {
        0 => vec![0; usize::try_from(bytes).unwrap_or(0)],
        1 => (0..bytes).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect(),
        _ => (0..bytes).map(noise).collect(),
    }
}
