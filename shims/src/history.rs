//! `oswalk log` and `oswalk restore`: what was done in a mounted volume, and back to what was.

use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use worknode::request::{VolumePlace, VolumeRecord, VolumeReply, VolumeRequest};

use crate::cluster::orders::{failed, unexpected};
use crate::door::Door;
use crate::error::Failure;
use crate::places::Places;
use crate::versions::{self, volume_of};
use crate::{moment, say, work};

/// Where a mount shows what it was.
const MOMENTS: &str = ".oswalk/at";

/// Show what was done on this node at a path in a volume and below it, the latest first; for the agent's user and root
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The file or directory, which may be removed [default: all of the volume in which the current directory is, or of the only
    /// one that is mounted]
    path: Option<PathBuf>,
    /// Most lines
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 1000)]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Make a file or a directory in a volume what it was; what it was until now can be restored as well
///
/// Names that were made since are removed, and contents, modes, owners and times are set. A user other than the agent's
/// restores single files: the content, if that user may read the former one and write the file.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The file or directory, which may be removed
    path: PathBuf,
    /// The time, such as 14:00, '2026-11-28 14:00', '2h ago' or yesterday
    #[arg(long, value_name = "TIME")]
    at: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn log(options: &Log, places: &Places) -> Result<ExitCode, Failure> {
    let path = options.path.clone().unwrap_or_else(crate::mount::usual);
    let request = VolumeRequest::Log { place: place(&path)?, limit: options.limit };
    let VolumeReply::Log(records) = work::of_volume(places, "reading the log", request)? else {
        return Err(unexpected());
    };
    if options.json {
        say::json(&records)?;
    } else {
        say::out(lines(&records))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(records: &[VolumeRecord]) -> String {
    let line = |VolumeRecord { time, author, node, path, what, .. }: &VolumeRecord| {
        let author = node.as_ref().unwrap_or(author);
        let path = worknode::said::escape(path, usize::MAX);
        format!("{time}  {author}  {path}  {}\n", worknode::said::escape(what, usize::MAX))
    };
    records.iter().map(line).collect()
}

pub(crate) fn restore(options: &Restore, places: &Places) -> Result<ExitCode, Failure> {
    let at_ms = moment::parse(&options.at)?;
    let (path, shown) = (&options.path, options.path.display());
    if !Door::open(&places.door()).map_err(failed)?.is_own() {
        restore_file(path, at_ms)?;
        say::out(format_args!("{shown} has the content that it had\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = VolumeRequest::Restore { place: place(path)?, at_ms };
    let VolumeReply::Restored(done) = work::of_volume(places, "restoring", request)? else {
        return Err(unexpected());
    };
    if options.json {
        say::json(&done)?;
    } else {
        say::out(format_args!(
            "{shown} is what it was: {} names made or moved, {} removed, {} files changed\n",
            done.placed, done.removed, done.changed
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a path as the agent knows it.
pub(crate) fn place(path: &Path) -> Result<VolumePlace, Failure> {
    let (root, within) = volume_of(path)?;
    Ok(VolumePlace {
        point: root.as_os_str().as_bytes().to_vec(),
        path: within.as_os_str().as_bytes().to_vec(),
    })
}

/// Restores the content of a file through the mount, where the kernel checks what this user may do.
fn restore_file(file: &Path, at_ms: u64) -> Result<(), Failure> {
    let (root, within) = volume_of(file)?;
    let former = root.join(MOMENTS).join(moment::text(at_ms)).join(within);
    let found = fs::symlink_metadata(&former).map_err(|error| {
        Failure::new(format!("failed to look at {}: {error}", former.display())).hint(
            "the time must be over and not too long ago, and the file must have been there: \
             'oswalk versions' lists what there is",
        )
    })?;
    if !found.is_file() {
        return Err(Failure::new(format!(
            "{} was not a file, and only root or the agent's user restores anything else",
            file.display()
        ))
        .hint(format!(
            "copy what you need: cp -a '{}' '{}'",
            former.display(),
            file.display()
        )));
    }
    if fs::symlink_metadata(file).is_ok() {
        return versions::choose_at(file, at_ms);
    }
    let copied = fs::copy(&former, file).and_then(|_| {
        let times = FileTimes::new().set_modified(found.modified()?);
        File::options().write(true).open(file)?.set_times(times)
    });
    copied.map_err(|error| {
        Failure::new(format!("failed to restore {}: {error}", file.display()))
            .hint("only who may read the former file and write to its directory can restore it")
    })
}
