//! `oswalk mount` and `oswalk umount`: the volume of this node as a file system.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use worknode::request::Request;

use crate::cluster::orders::ask;
use crate::error::Failure;
use crate::places::Places;
use crate::{moment, say, versions, work};

/// Where the volume is mounted, unless said otherwise.
pub(crate) const POINT: &str = "/cluster";

/// Mount the volume of this node: a file system that keeps all versions
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// An empty directory; it is made if its parent exists
    #[arg(default_value = POINT, value_name = "DIR")]
    point: PathBuf,
    /// Let nothing be changed there
    #[arg(long)]
    read_only: bool,
    /// Show the volume as it was at a time, such as 14:00, '2026-11-28 14:00', '2h ago' or yesterday; nothing can be changed there
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Unmount the volume; its content stays
#[derive(Debug, Args)]
pub(crate) struct Umount {
    /// Where it is mounted
    #[arg(default_value = POINT, value_name = "DIR")]
    point: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Returns the volume in which the current directory is, else the only one that is mounted.
pub(crate) fn usual() -> PathBuf {
    let here = versions::volume_of(Path::new(".")).ok().map(|(root, _)| root);
    let mounted = || only(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    here.or_else(mounted).unwrap_or_else(|| POINT.into())
}

/// Returns where a volume is mounted for writing, if that is one place.
fn only(mounts: &str) -> Option<PathBuf> {
    let point = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let is_ours = file_system.split(' ').nth(1) == Some("packetfs");
        // A name with a space or the like is written otherwise there.
        (is_ours && options.starts_with("rw") && !point.contains('\\')).then(|| point.into())
    };
    let mut points = mounts.lines().filter_map(point);
    points.next().filter(|_| points.next().is_none())
}

pub(crate) fn mount(options: &Mount, places: &Places) -> Result<ExitCode, Failure> {
    let point = resolved(&options.point)?;
    let shown = point.display().to_string();
    let at_ms = options.at.as_deref().map(moment::parse).transpose()?;
    let request = Request::Mount { point: bytes(point), read_only: options.read_only, at_ms };
    work::ask(places, "opening the volume", &request)?;
    let at = at_ms.map(moment::text);
    if options.json {
        say::json(&json!({ "mounted": shown, "at": at }))?;
    } else {
        let was = at.map(|at| format!(" as it was at {at}")).unwrap_or_default();
        say::out(format_args!("the volume is mounted at {shown}{was}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn umount(options: &Umount, places: &Places) -> Result<ExitCode, Failure> {
    let point = resolved(&options.point)?;
    let shown = point.display().to_string();
    ask(places, &Request::Unmount { point: bytes(point) })?;
    if options.json {
        say::json(&json!({ "unmounted": shown }))?;
    } else {
        say::out(format_args!("the volume is no longer mounted at {shown}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the absolute path without symbolic links of a directory. The last component may be absent, and is not looked at: it
/// may be a mount that does not answer.
fn resolved(point: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::new(format!("failed to look at {}: {error}", point.display()));
    let absolute = std::path::absolute(point).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let real = parent.canonicalize().map_err(|error| {
                Failure::new(format!("failed to look at {}: {error}", parent.display()))
                    .hint(format!("make it with 'mkdir -p {}'", parent.display()))
            })?;
            Ok(real.join(name))
        }
        _ => Ok(absolute),
    }
}

fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_mount_is_found() {
        let line = |point: &str, options: &str, source: &str| {
            format!("40 30 0:50 / {point} {options} shared:1 - fuse {source} rw,user_id=0\n")
        };
        let one = line("/a", "rw,noatime", "packetfs") + &line("/b", "rw", "sshfs");
        assert_eq!(only(&one), Some("/a".into()));
        assert_eq!(only(&(one.clone() + &line("/past", "ro", "packetfs"))), Some("/a".into()));
        assert_eq!(only(&(one + &line("/c", "rw", "packetfs"))), None);
        assert_eq!(only(""), None);
    }
}
