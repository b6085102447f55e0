//! What a tree looks like, so that two can be compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};

/// Times before this were set by a test, and no write has changed them since.
pub(crate) const SET_BEFORE: i64 = 1_500_000_000;
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Returns what each path is, as text.
pub(crate) fn picture(root: &Path) -> BTreeMap<String, String> {
    let mut picture = Picture { root, seen: HashMap::new(), all: BTreeMap::new() };
    picture.add(root);
    picture.all
}

struct Picture<'a> {
    root: &'a Path,
    /// The first name of each file that has several.
    seen: HashMap<u64, String>,
    all: BTreeMap<String, String>,
}

impl Picture<'_> {
    fn add(&mut self, path: &Path) {
        let name = path.strip_prefix(self.root).expect("below the root").as_os_str().as_bytes();
        let name = name.escape_ascii().to_string();
        let told = self.tell(path, &name).unwrap_or_else(|error| format!("failed: {error}"));
        self.all.insert(name, told);
        if path.symlink_metadata().is_ok_and(|it| it.is_dir())
            && let Ok(entries) = fs::read_dir(path)
        {
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort_unstable();
            paths.iter().for_each(|path| self.add(path));
        }
    }

    fn tell(&mut self, path: &Path, name: &str) -> std::io::Result<String> {
        let it = fs::symlink_metadata(path)?;
        let mut told = format!("{:o} {}:{} links {}", it.mode(), it.uid(), it.gid(), it.nlink());
        if it.mtime() < SET_BEFORE {
            let _ = write!(told, " mtime {}.{}", it.mtime(), it.mtime_nsec());
        }
        if it.is_symlink() {
            let _ =
                write!(told, " -> {}", fs::read_link(path)?.as_os_str().as_bytes().escape_ascii());
        }
        if it.is_file() {
            let content = fs::read(path)?;
            let digest = blake3::hash(&content).to_hex();
            let _ = write!(told, " {} bytes, {} read, {}", it.len(), content.len(), &digest[..16]);
        }
        if it.file_type().is_char_device() || it.file_type().is_block_device() {
            let _ = write!(told, " device {}", it.rdev());
        }
        if it.nlink() > 1 && !it.is_dir() {
            let first = self.seen.entry(it.ino()).or_insert_with(|| name.to_owned());
            let _ = write!(told, " same as {first}");
        }
        for (name, value) in xattrs(path)? {
            let _ = write!(told, " {name}={}", blake3::hash(&value).to_hex().split_at(8).0);
        }
        Ok(told)
    }
}

fn xattrs(path: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; VALUE_BYTES_MAX];
    let length = llistxattr(path, &mut names[..])?;
    let mut all = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; VALUE_BYTES_MAX];
        let name = CString::new(name).expect("split at zeros");
        let length = lgetxattr(path, &name, &mut value[..])?;
        value.truncate(length);
        all.insert(name.to_string_lossy().into_owned(), value);
    }
    Ok(all)
}
