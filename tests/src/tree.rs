//! The files that a command leaves behind, and how they are compared. The system tests use it, and so does
//! `oswalk-compare` for `scripts/identical` and `scripts/quickstart`.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{OFlags, lgetxattr, llistxattr};

/// Times closer to each other than this are unordered: the kernel's clock ticks every 4 ms.
const TICK_NS: i128 = 10_000_000;
/// 2020-01-01: an earlier time was set by a program, and must be equal.
const LONG_AGO_NS: i128 = 1_577_836_800 * 1_000_000_000;

/// The inodes of the files below a directory. The files are held open, so that their inode numbers are
/// not reused.
#[derive(Debug, Default)]
pub struct Before {
    inodes: BTreeMap<PathBuf, (u64, u64)>,
    _held: Vec<File>,
}

impl Before {
    /// Notes the inodes of what is below a directory now.
    ///
    /// # Errors
    /// A file cannot be examined.
    pub fn of(dir: &Path) -> Result<Self, String> {
        let mut inodes = BTreeMap::new();
        let mut held = Vec::new();
        for path in below(dir)? {
            let is = fs::symlink_metadata(&path).map_err(|error| failed(&path, &error))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let open =
                OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
            held.push(open.map_err(|error| failed(&path, &error))?);
            inodes.insert(path, (is.dev(), is.ino()));
        }
        Ok(Self { inodes, _held: held })
    }
}

/// The files below a directory.
#[derive(Debug, Default)]
pub struct Tree {
    /// The description of each file, by its path.
    lines: BTreeMap<PathBuf, String>,
    mtimes: BTreeMap<PathBuf, i128>,
}

impl Tree {
    /// Describes the files below `dir`, and whether they still have the inodes of `before`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(dir: &Path, before: &Before) -> Result<Self, String> {
        let mut tree = Self::default();
        let mut links: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
        for path in below(dir)? {
            let is = fs::symlink_metadata(&path).map_err(|error| failed(&path, &error))?;
            let name = path.strip_prefix(dir).expect("is below").to_owned();
            let id = (is.dev(), is.ino());
            let mut line = format!("{:o} {}:{}", is.mode(), is.uid(), is.gid());
            match is.file_type() {
                kind if kind.is_file() => {
                    let bytes = fs::read(&path).map_err(|error| failed(&path, &error))?;
                    let digest = blake3::hash(&bytes).to_hex();
                    let holes = if is.blocks() * 512 < is.size() / 2 { " sparse" } else { "" };
                    line += &format!(
                        " {} bytes {}{holes} {} links",
                        is.size(),
                        &digest[..16],
                        is.nlink()
                    );
                    if is.nlink() > 1 {
                        let first = links.entry(id).or_insert_with(|| name.clone());
                        line += &format!(" as {}", first.display());
                    }
                }
                kind if kind.is_symlink() => {
                    let target = fs::read_link(&path).map_err(|error| failed(&path, &error))?;
                    line += &format!(" -> {}", target.as_os_str().as_bytes().escape_ascii());
                }
                kind if kind.is_fifo() => line += " fifo",
                _ => {}
            }
            line += &attributes(&path);
            if let Some(was) = before.inodes.get(&path) {
                line += if *was == id { ", the same inode" } else { ", another inode" };
            }
            let mtime = i128::from(is.mtime()) * 1_000_000_000 + i128::from(is.mtime_nsec());
            if mtime < LONG_AGO_NS {
                line += &format!(" mtime {mtime}");
            }
            tree.lines.insert(name.clone(), line);
            // The mtime of a directory is that of the commit, slightly later than natively.
            if !is.is_dir() {
                tree.mtimes.insert(name, mtime);
            }
        }
        Ok(tree)
    }

    /// Returns the differences from the walked tree.
    #[must_use]
    pub fn differences(&self, walked: &Self) -> Vec<String> {
        let mut differences = self.different_files(walked);
        differences.extend(self.misordered(walked));
        differences
    }

    /// Returns the files that differ in the walked tree.
    #[must_use]
    pub fn different_files(&self, walked: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let all: std::collections::BTreeSet<_> =
            self.lines.keys().chain(walked.lines.keys()).collect();
        for name in all {
            let line =
                |tree: &Self| tree.lines.get(name).cloned().unwrap_or_else(|| "(none)".into());
            let (native, walked) = (line(self), line(walked));
            if native != walked {
                let name = name.as_os_str().as_bytes().escape_ascii();
                differences.push(format!("{name}\n  native: {native}\n  walked: {walked}"));
            }
        }
        differences
    }

    /// Returns two files whose mtimes are ordered differently, which would make `make` rebuild one.
    fn misordered(&self, walked: &Self) -> Option<String> {
        let mut common: Vec<_> = self
            .mtimes
            .iter()
            .filter_map(|(name, &native)| Some((native, *walked.mtimes.get(name)?, name)))
            .collect();
        common.sort_unstable();
        // Among the files that are older by more than a tick, the newest in the walked tree.
        let mut newest: Option<(i128, &PathBuf)> = None;
        let mut older = common.iter().peekable();
        common.iter().find_map(|(native, walked, name)| {
            while let Some((_, walked, name)) = older.next_if(|older| native - older.0 > TICK_NS) {
                newest = newest.max(Some((*walked, *name)));
            }
            let (_, older) = newest.filter(|(time, _)| time > walked)?;
            let (older, newer) = (older.display(), name.display());
            Some(format!("natively {older} is older than {newer}, walked it is newer"))
        })
    }

    /// Returns a file whose mtime is outside the run, by the origin's clock.
    #[must_use]
    pub fn off_the_clock(&self, began: SystemTime) -> Option<String> {
        let ns = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos().cast_signed())
        };
        let (from, to) = (ns(began) - TICK_NS, ns(SystemTime::now()));
        // A time of a whole second was set by a program such as tar.
        let set = |time: &i128| *time < LONG_AGO_NS || time % 1_000_000_000 == 0;
        let off = |time: &i128| !set(time) && !(from..=to).contains(time);
        let (name, time) = self.mtimes.iter().find(|(_, time)| off(time))?;
        Some(format!("{} has mtime {time}, the run was from {from} to {to}", name.display()))
    }
}

/// Returns a directory and all paths below it, sorted.
fn below(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut paths = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        if !fs::symlink_metadata(&path).map_err(|error| failed(&path, &error))?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).map_err(|error| failed(&path, &error))? {
            paths.push(entry.map_err(|error| failed(&path, &error))?.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Returns the extended attributes of the `user` namespace, as text.
fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let bytes = llistxattr(path, &mut names).unwrap_or(0);
    let mut names: Vec<_> =
        names[..bytes].split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 4096];
        let name = CString::new(name).expect("was split at zeros");
        let bytes = lgetxattr(path, &name, &mut value).unwrap_or(0);
        text += &format!(" {}={}", name.to_string_lossy(), value[..bytes].escape_ascii());
    }
    text
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
