//! What a node shows of a world: its tree, and all contents that its files have or had.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};

const VALUE_BYTES_MAX: usize = 4096;

/// Returns what each path below a directory is, as text.
pub(crate) fn picture(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let name = path.strip_prefix(root).expect("is below").display().to_string();
        let told = tell(&path, &name, &mut names);
        if path.symlink_metadata().is_ok_and(|it| it.is_dir()) {
            // From the last to the first, so that the first name of a file is told first.
            let mut entries: Vec<_> =
                fs::read_dir(&path).into_iter().flatten().flatten().map(|it| it.path()).collect();
            entries.sort_unstable_by(|a, b| b.cmp(a));
            paths.append(&mut entries);
        }
        all.insert(name, told.unwrap_or_else(|error| format!("failed: {error}")));
    }
    all
}

fn tell(path: &Path, name: &str, names: &mut BTreeMap<u64, String>) -> io::Result<String> {
    let it = fs::symlink_metadata(path)?;
    let mut told = format!("{:o} {}:{} links {}", it.mode(), it.uid(), it.gid(), it.nlink());
    if it.is_symlink() {
        let _ = write!(told, " -> {}", fs::read_link(path)?.display());
    }
    if it.is_file() {
        let content = fs::read(path)?;
        let digest = blake3::hash(&content).to_hex();
        let _ = write!(told, " {} of {} bytes, {}", content.len(), it.len(), &digest[..16]);
        let _ = write!(told, " of {}.{:09}", it.mtime(), it.mtime_nsec());
        if it.nlink() > 1 {
            let first = names.entry(it.ino()).or_insert_with(|| name.to_owned());
            let _ = write!(told, " same as {first}");
        }
    }
    let mut list = vec![0; VALUE_BYTES_MAX];
    let length = llistxattr(path, &mut list[..])?;
    let mut values = BTreeMap::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; VALUE_BYTES_MAX];
        let length = lgetxattr(path, name, &mut value[..])?;
        values.insert(name.escape_ascii().to_string(), value[..length].escape_ascii().to_string());
    }
    let _ = write!(told, " {values:?}");
    Ok(told)
}

/// Returns the digest of each content that files of a directory have or had, with one of its paths.
///
/// Directories that were in each other by turns are so for ever in what looks back. So paths are only as deep as programs write.
pub(crate) fn contents(
    root: &Path,
    name: &str,
    depth_max: usize,
) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    let mut paths = vec![(root.join(".oswalk/versions").join(name), 0), (root.join(name), 0)];
    while let Some((path, depth)) = paths.pop() {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let it = match fs::symlink_metadata(&path) {
            // A directory that was in itself by turns.
            Err(error) if is_loop(&error) => continue,

            it => it.map_err(failed)?,
        };
        if it.is_dir() && depth <= depth_max {
            let entries = match fs::read_dir(&path) {
                Err(error) if is_loop(&error) => continue,
                entries => entries.map_err(failed)?,
            };
            for entry in entries {
                paths.push((entry.map_err(failed)?.path(), depth + 1));
            }
        } else if it.is_file() {
            let content = fs::read(&path).map_err(failed)?;
            all.insert(blake3::hash(&content).to_hex().to_string(), path.display().to_string());
        }
    }
    Ok(all)
}

fn is_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}
