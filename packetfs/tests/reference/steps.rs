//! Random operations on a few names.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, lremovexattr, lsetxattr, utimensat,
};

/// Few names, so that each changes often.
const NAMES: [&str; 12] =
    ["a", "b", "c", "d1", "d2", "d1/a", "d1/b", "d1/e", "d1/e/a", "d2/a", "d2/e", "d2/e/b"];
/// Some exceed a packet.
const SIZES: [u64; 5] = [0, 1, 100, 5000, 200_000];

/// A seeded random number generator.
pub(crate) struct Dice {
    pub(crate) seed: u64,
    state: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// Returns a number below `bound` (splitmix64).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        let at = self.below(list.len() as u64);
        list[usize::try_from(at).expect("below a length")]
    }
}

/// An operation on names in a tree.
#[derive(Debug)]
pub(crate) enum Step {
    Create(&'static str, u64),
    Write(&'static str, u64, u64),
    Append(&'static str, u64),
    Truncate(&'static str, u64),
    MakeDir(&'static str),
    RemoveDir(&'static str),
    Rename(&'static str, &'static str),
    Link(&'static str, &'static str),
    Symlink(&'static str, &'static str),
    Unlink(&'static str),
    Mode(&'static str, u32),
    Times(&'static str, i64),
    SetXattr(&'static str, u64),
    RemoveXattr(&'static str),
}

impl Step {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        let (name, other, size) = (dice.of(&NAMES), dice.of(&NAMES), dice.of(&SIZES));
        match dice.below(20) {
            0..3 => Self::Create(name, size),
            3 => Self::Write(name, dice.below(6000), size),
            4 | 5 => Self::Append(name, size),
            6 => Self::Truncate(name, dice.of(&SIZES)),
            7..10 => Self::MakeDir(name),
            10 => Self::RemoveDir(name),
            11..13 => Self::Rename(name, other),
            13 | 14 => Self::Link(name, other),
            15 => Self::Symlink(name, other),
            16 => Self::Unlink(name),
            17 => Self::Mode(name, dice.of(&[0o600, 0o644, 0o755, 0o700])),
            18 => {
                Self::Times(name, i64::try_from(1_000_000_000 + dice.below(1000)).expect("small"))
            }
            _ if dice.below(3) == 0 => Self::RemoveXattr(name),
            _ => Self::SetXattr(name, dice.below(100)),
        }
    }

    /// Performs it in a tree; returns the errno if it fails.
    pub(crate) fn run(&self, tree: &Path) -> Result<(), Option<i32>> {
        self.act(&|name| tree.join(name)).map_err(|error| error.raw_os_error())
    }

    fn act(&self, at: &dyn Fn(&str) -> PathBuf) -> io::Result<()> {
        match *self {
            Self::Create(name, size) => fs::write(at(name), content(size)),
            Self::Write(name, offset, size) => {
                File::options().write(true).open(at(name))?.write_all_at(&content(size), offset)
            }
            Self::Append(name, size) => {
                File::options().append(true).open(at(name))?.write_all(&content(size))
            }
            Self::Truncate(name, size) => File::options().write(true).open(at(name))?.set_len(size),
            Self::MakeDir(name) => fs::create_dir(at(name)),
            Self::RemoveDir(name) => fs::remove_dir(at(name)),
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            // Runners are not told of further hard links to symbolic links, and treat them as changed.
            Self::Link(from, to) => fs::hard_link(real(at(from))?, at(to)),
            Self::Symlink(target, name) => symlink(target, at(name)),
            Self::Unlink(name) => fs::remove_file(at(name)),
            Self::Mode(name, mode) => {
                // A symbolic link would redirect it to another name.
                let path = real(at(name))?;
                fs::set_permissions(path, Permissions::from_mode(mode))
            }
            Self::Times(name, seconds) => {
                let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
                let times = Timestamps { last_access: time, last_modification: time };
                Ok(utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            Self::SetXattr(name, value) => {
                let path = real(at(name))?;
                let value = value.to_string();
                Ok(lsetxattr(path, "user.x", value.as_bytes(), XattrFlags::empty())?)
            }
            Self::RemoveXattr(name) => Ok(lremovexattr(real(at(name))?, "user.x")?),
        }
    }
}

/// Returns a path unless it names a symbolic link.
fn real(path: PathBuf) -> io::Result<PathBuf> {
    let is_link = fs::symlink_metadata(&path)?.is_symlink();
    if is_link { Err(io::Error::from_raw_os_error(libc::ELOOP)) } else { Ok(path) }
}

fn content(size: u64) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at * at % 251).expect("below 251")).collect()
}
