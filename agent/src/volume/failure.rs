//! What the user is told when the volume does not work: the cause once, and the remedy.

use std::error::Error;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use packetfs::volume::VolumeError;
use worknode::request::VolumePlace;

/// Returns the message for a volume that does not work.
pub(super) fn of_volume(error: VolumeError) -> anyhow::Error {
    let said = chain(&error);
    match remedy(&error) {
        Some(remedy) => anyhow::anyhow!("{said}: {remedy}"),
        None => anyhow::anyhow!("{said}"),
    }
}

/// Returns a path as users know it.
pub(super) fn shown(place: &VolumePlace) -> String {
    Path::new(OsStr::from_bytes(&place.point))
        .join(OsStr::from_bytes(&place.path))
        .display()
        .to_string()
}

/// Returns the message for a mount that failed.
pub(super) fn of_mount(point: &Path, error: &io::Error) -> anyhow::Error {
    let shown = point.display();
    let remedy = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
            "the kernel offers no FUSE here, so load it with 'modprobe fuse', or give the container /dev/fuse"
        }
        Some(Errno::EPERM | Errno::EACCES) => {
            "/dev/fuse or mounting is forbidden here; 'oswalk doctor' says what is missing"
        }
        _ => "'oswalk doctor' says whether FUSE works here",
    };
    anyhow::anyhow!("failed to mount at {shown}: {error}: {remedy}")
}

/// Returns an error with its causes, each named once.
fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said += &format!(": {text}");
        }
        cause = error.source();
    }
    said
}

fn remedy(error: &VolumeError) -> Option<&'static str> {
    let said = chain(error);
    if said.contains("already open") {
        return Some("another agent uses this volume, stop that one first");
    }
    match Errno::from_raw(error.os_error()?) {
        Errno::ENOSPC | Errno::EDQUOT => Some(
            "nothing is lost; free space on that disk, then try again; with some MiB free, 'oswalk fs gc --keep 1h,0h,0d' gives up the past",
        ),
        Errno::EROFS => Some("nothing is lost; mount that disk for writing, then try again"),
        Errno::EIO => Some("the disk fails; 'dmesg' says more, and a backup helps"),
        Errno::EACCES | Errno::EPERM => Some("the agent may not use it; check owner and mode"),
        Errno::EEXIST => Some("name a directory that does not exist yet"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_named_once_and_with_a_remedy() {
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = VolumeError::Io { action: "create", path: "/s/open".into(), source };
        let said = of_volume(error).to_string();
        assert_eq!(
            said,
            "failed to create /s/open: No space left on device (os error 28): nothing is lost; free space on that disk, \
             then try again; with some MiB free, 'oswalk fs gc --keep 1h,0h,0d' gives up the past"
        );
        assert_eq!(of_volume(VolumeError::Cancelled).to_string(), "the work was cancelled");
    }
}
