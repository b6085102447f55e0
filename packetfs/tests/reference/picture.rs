//! A snapshot of a tree as programs see it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::lgetxattr;

/// Times before it were set by an operation; later ones are times of writes.
const SET_BEFORE: i64 = 1_500_000_000;

/// A file as programs see it. Sizes, times and link counts of directories depend on the file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: &'static str,
    mode: u32,
    size: u64,
    links: u64,
    set_time: Option<(i64, i64)>,
    xattr: Vec<u8>,
    /// A digest, or a link's target.
    content: String,
}

/// Returns everything below a directory by relative path.
pub(crate) fn picture(dir: &Path) -> BTreeMap<String, Seen> {
    let mut all = BTreeMap::new();
    look(dir, "", &mut all);
    all
}

fn look(dir: &Path, above: &str, all: &mut BTreeMap<String, Seen>) {
    for entry in fs::read_dir(dir).expect("a directory can be listed") {
        let entry = entry.expect("its names can be read");
        let name = format!("{above}{}", entry.file_name().display());
        let seen = seen(&entry.path());
        if seen.kind == "dir" {
            look(&entry.path(), &format!("{name}/"), all);
        }
        all.insert(name, seen);
    }
}

fn seen(path: &Path) -> Seen {
    let meta = fs::symlink_metadata(path).expect("what is listed is there");
    let kind = match meta.file_type() {
        it if it.is_dir() => "dir",
        it if it.is_file() => "file",
        it if it.is_symlink() => "link",
        it if it.is_fifo() => "fifo",
        _ => "other",
    };
    let content = match kind {
        "file" => blake3::hash(&fs::read(path).expect("readable")).to_string(),
        "link" => fs::read_link(path).expect("readable").display().to_string(),
        _ => String::new(),
    };
    let mut value = [0; 64];
    let length = lgetxattr(path, "user.x", &mut value).unwrap_or(0);
    let is_dir = kind == "dir";
    let is_set = !is_dir && meta.mtime() < SET_BEFORE;
    Seen {
        kind,
        mode: meta.mode(),
        size: if is_dir { 0 } else { meta.size() },
        links: if is_dir { 0 } else { meta.nlink() },
        set_time: is_set.then(|| (meta.mtime(), meta.mtime_nsec())),
        xattr: value[..length].to_vec(),
        content,
    }
}
