//! `oswalk versions`, `choose` and `diff`: what the files of a mounted volume were. Everything is asked of the mount, so that the
//! kernel checks who may see it.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{fs, io};

use clap::Args;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde_json::json;

use crate::error::Failure;
use crate::{moment, say};

/// Where a mount shows what its files were.
const VERSIONS: &str = ".oswalk/versions";
const CHOOSE: &str = "user.oswalk.choose";
const DISMISS: &str = "user.oswalk.dismiss";
const LISTED: &str = "user.oswalk.versions";
/// Room for the attributes.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// List the versions of a file in a volume, also of a removed one, the newest first
#[derive(Debug, Args)]
pub(crate) struct Versions {
    /// The file
    file: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Give a file in a volume the content of one of its versions; the present content stays a version
#[derive(Debug, Args)]
pub(crate) struct Choose {
    /// The file
    file: PathBuf,
    /// The version's name, as 'oswalk versions' lists it
    version: String,
    /// Keep the present content, and end the conflict with this version; it stays among the versions
    #[arg(long)]
    dismiss: bool,
}

/// Compare two versions of a file in a volume, by 'diff -u'
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The file
    file: PathBuf,
    /// The name of the older version
    old: String,
    /// The name of the newer version; without it, the present content
    new: Option<String>,
}

/// A version as it is shown.
struct Version {
    name: String,
    bytes: u64,
    is_present: bool,
    /// Whether it lost against a concurrent one, and is neither chosen nor dismissed.
    is_conflict: bool,
}

pub(crate) fn versions(options: &Versions) -> Result<ExitCode, Failure> {
    let versions = list(&options.file)?;
    if options.json {
        let list: Vec<_> = versions
            .iter()
            .map(|it| {
                json!({
                    "version": it.name, "bytes": it.bytes, "present": it.is_present, "conflict": it.is_conflict
                })
            })
            .collect();
        say::out(format_args!("{}\n", json!(list)))?;
        return Ok(ExitCode::SUCCESS);
    }
    for Version { name, bytes, is_present, is_conflict } in versions {
        let present = if is_present { "  present" } else { "" };
        let conflict = if is_conflict { "  conflict" } else { "" };
        say::out(format_args!("{name}  {bytes:>12}{present}{conflict}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn choose(options: &Choose) -> Result<ExitCode, Failure> {
    let Choose { file, version, dismiss } = options;
    let shown = file.display();
    if *dismiss {
        set(file, DISMISS, version)?;
        say::out(format_args!("version {version} of {shown} is in conflict no longer\n"))?;
    } else {
        match file.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bring_back(file, version)?,
            _ => set(file, CHOOSE, version)?,
        }
        say::out(format_args!("{shown} has the content of version {version}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a removed file again, with the content, the permissions and the time of a version.
fn bring_back(file: &Path, version: &str) -> Result<(), Failure> {
    let shown = file.display();
    let failed = |error: io::Error| {
        Failure::new(format!("failed to bring {shown} back: {error}")).hint(
            "'oswalk versions' lists its versions; the directory in which it was must be there",
        )
    };
    let former = versions_dir(file)?.join(version);
    let mut from = fs::File::open(&former).map_err(failed)?;
    let found = from.metadata().map_err(failed)?;
    // Whoever makes it meanwhile keeps it.
    let mut options = fs::File::options();
    let mut to = options
        .write(true)
        .create_new(true)
        .mode(found.mode() & 0o777)
        .open(file)
        .map_err(failed)?;
    let copied = io::copy(&mut from, &mut to)
        .and_then(|_| to.set_permissions(fs::Permissions::from_mode(found.mode() & 0o777)))
        .and_then(|()| to.set_modified(found.modified()?));
    copied.map_err(|error| {
        // What is there of it is not the version.
        let _ = fs::remove_file(file);
        failed(error)
    })
}

/// Chooses the version that a file had at a moment, in milliseconds since 1970.
pub(crate) fn choose_at(file: &Path, at_ms: u64) -> Result<(), Failure> {
    let at = moment::text(at_ms);
    // The names begin with the time.
    let was = list(file)?
        .into_iter()
        .filter(|version| !version.is_conflict)
        .find(|version| version.name.split('@').next().is_some_and(|time| time <= at.as_str()));
    let version = was.ok_or_else(|| {
        Failure::new(format!("{} had no content at {at}", file.display()))
            .hint("'oswalk versions' lists the versions of a file")
    })?;
    if version.is_present { Ok(()) } else { set(file, CHOOSE, &version.name) }
}

/// Chooses or dismisses a version, by setting the attribute for it.
fn set(file: &Path, attribute: &str, version: &str) -> Result<(), Failure> {
    volume_of(file)?;
    let kind = file.symlink_metadata().map(|found| found.file_type()).ok();
    if let Some(kind) =
        kind.filter(|kind| kind.is_symlink() || kind.is_dir() && attribute == CHOOSE)
    {
        let what = if kind.is_dir() { "a directory" } else { "a symbolic link" };
        let shown = file.display();
        return Err(Failure::new(format!("{shown} is {what}, to which no content can be given"))
            .hint(format!(
                "the versions of that name are in {}: copy one elsewhere, or remove {shown}, which ends its conflicts, and copy it there",
                versions_dir(file)?.display()
            )));
    }
    setxattr(file, attribute, version.as_bytes(), XattrFlags::empty()).map_err(|error| {
        let hint = match error {
            rustix::io::Errno::INVAL if attribute == DISMISS => {
                "only a version that is still in conflict, and not the present content, can be dismissed: 'oswalk fs conflicts' lists them"
            }
            rustix::io::Errno::NOENT if file.symlink_metadata().is_err() => {
                "there is no such file now; 'oswalk restore FILE --at TIME' brings a removed one back"
            }
            rustix::io::Errno::NOENT => {
                "it has no version of that name: 'oswalk versions' lists those of a file"
            }
            rustix::io::Errno::ROFS => "it is mounted read-only",
            _ => "only who may read the version and write the file may choose it",
        };
        let what = if attribute == DISMISS { "dismiss" } else { "choose" };
        let shown = file.display();
        Failure::new(format!("failed to {what} version '{version}' of {shown}: {error}")).hint(hint)
    })
}

pub(crate) fn diff(options: &Diff) -> Result<ExitCode, Failure> {
    let dir = versions_dir(&options.file)?;
    let new = options.new.as_ref().map_or_else(|| options.file.clone(), |name| dir.join(name));
    let old = dir.join(&options.old);
    for file in [&old, &new] {
        let found = fs::symlink_metadata(file).map_err(|error| {
            Failure::new(format!("failed to look at {}: {error}", file.display())).hint(
                "'oswalk versions' lists the versions of a file; of one that is removed, name two",
            )
        })?;
        if found.is_symlink() {
            return Err(Failure::new(format!("{} is a symbolic link", file.display()))
                .hint("name two of the versions that 'oswalk versions' lists"));
        }
    }
    let status = Command::new("diff").arg("-u").args([&old, &new]).status();
    let status = status.map_err(|error| Failure::new(format!("failed to run 'diff': {error}")))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)))
}

fn list(file: &Path) -> Result<Vec<Version>, Failure> {
    let dir = versions_dir(file)?;
    let failed =
        |error| Failure::new(format!("failed to list the versions of {}: {error}", file.display()));
    let marks = marks(file);
    let mut versions = Vec::new();
    let entries = fs::read_dir(&dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(format!("the volume never had a file {}", file.display()))
                .hint("'oswalk log' lists what was done in the volume")
        }
        _ => failed(error),
    })?;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(Failure::new(format!(
                "{} is a directory, which has no versions",
                file.display()
            ))
            .hint("name a file in it, or look at what it had under .oswalk/at"));
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let is = |mark| marks.iter().any(|(it, words)| *it == name && words.contains(mark));
        let (is_present, is_conflict) = (is("present"), is("conflict"));
        versions.push(Version { name, bytes: metadata.len(), is_present, is_conflict });
    }
    versions.sort_by(|one, two| order(&two.name).cmp(&order(&one.name)));
    Ok(versions)
}

/// Returns what orders versions by their names: the time, and the number within a millisecond.
fn order(name: &str) -> (&str, u64, &str) {
    let (time, author) = name.split_once('@').unwrap_or((name, ""));
    let (author, count) = author.split_once('+').unwrap_or((author, ""));
    (time, count.parse().unwrap_or(0), author)
}

/// Returns the names of versions, with what the volume says of each.
fn marks(file: &Path) -> Vec<(String, String)> {
    let mut list = vec![0; XATTR_BYTES_MAX];
    let bytes = getxattr(file, LISTED, &mut list).unwrap_or(0);
    let text = String::from_utf8_lossy(list.get(..bytes).unwrap_or_default()).into_owned();
    let named = text.lines().filter_map(|line| line.split_once(' '));
    named.map(|(name, words)| (name.to_owned(), words.to_owned())).collect()
}

/// Returns the directory with the versions of a file.
fn versions_dir(file: &Path) -> Result<PathBuf, Failure> {
    let (root, path) = volume_of(file)?;
    Ok(root.join(VERSIONS).join(path))
}

/// Returns where the volume of a file is mounted, and the file's path in it. The file may have been removed, and directories
/// above it as well.
pub(crate) fn volume_of(file: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let failed = |error| Failure::new(format!("failed to look at {}: {error}", file.display()));
    let absolute = std::path::absolute(file).map_err(failed)?;
    if is_root(&absolute) {
        return Ok((absolute.canonicalize().map_err(failed)?, PathBuf::new()));
    }
    let there = absolute.ancestors().skip(1).find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let real = there.canonicalize().map_err(failed)?;
    let rest = absolute.strip_prefix(there).unwrap_or(Path::new(""));
    let device = fs::metadata(&real).map_err(failed)?.dev();
    let is_same = |dir: &&Path| fs::metadata(dir).is_ok_and(|it| it.dev() == device);
    let root = real.ancestors().take_while(is_same).last().unwrap_or(&real).to_owned();
    if !root.join(VERSIONS).is_dir() {
        return Err(Failure::new(format!("{} is not in a volume", file.display()))
            .hint("'oswalk mount' mounts one; its files have versions"));
    }
    let within = real.strip_prefix(&root).unwrap_or(Path::new("")).join(rest);
    Ok((root, within))
}

/// Tells whether a volume is mounted at a directory.
fn is_root(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|it| it.dev()).ok();
    let above = dir.canonicalize().ok().and_then(|real| device(real.parent()?));
    above != device(dir) && dir.join(VERSIONS).is_dir()
}
