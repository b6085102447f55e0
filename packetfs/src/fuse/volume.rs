//! Mounts a volume: the adapter between the kernel and [`crate::volume`].
//!
//! The kernel may cache names, attributes and pages for ever: every change comes through this mount. Only the attributes of a
//! file that the kernel writes directly expire at once. Changes that do not come through the mount are told to the kernel by a
//! thread of its own.

mod apart;
mod codec;
mod handler;
mod locks;
mod passed;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, SessionACL};
use worknode::history::Hlc;

use crate::volume::{Shown, Stale, Told, Volume};
use handler::Handler;

/// Its source in the list of mounts.
pub const SOURCE: &str = "packetfs";
/// Threads that answer requests. What waits for the disk has threads of its own. Each thread more makes a request slower, since
/// the one that is woken is seldom the one that ran last: a header is opened in 49 us with four, in 20 us with two.
const THREADS: usize = 2;
/// KiB that the kernel reads ahead.
const READ_AHEAD_KIB: &str = "1024";

/// A mounted volume. Unmounts when dropped.
pub struct VolumeMount {
    _session: BackgroundSession,
}

impl std::fmt::Debug for VolumeMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeMount").finish_non_exhaustive()
    }
}

impl VolumeMount {
    /// Mounts a volume at a directory.
    ///
    /// # Errors
    /// `/dev/fuse` is missing or forbidden, or the mount fails.
    pub fn new(volume: Arc<Volume>, point: &Path, is_read_only: bool) -> io::Result<Self> {
        let stale = volume.stale();
        // The root of one node is not that of another: devices and set-id bits that it has made have no effect elsewhere.
        let mut options = vec![MountOption::NoDev, MountOption::NoSuid];
        options.extend(is_read_only.then_some(MountOption::RO));
        let session = mount(Shown::live(volume), point, options)?;
        let notifier = session.notifier();
        // Not on a thread: a mount that somebody looks at while it is dropped stays.
        read_ahead(point);
        std::thread::Builder::new().name("stale".into()).spawn(move || tell(&notifier, &stale))?;
        Ok(Self { _session: session })
    }

    /// Mounts a volume as it was at a moment.
    ///
    /// # Errors
    /// The moment is not over yet or too long ago, `/dev/fuse` is missing or forbidden, or the mount fails.
    pub fn at(volume: Arc<Volume>, point: &Path, moment: Hlc) -> io::Result<Self> {
        let shown = Shown::at(volume, moment)?;
        let options = vec![MountOption::NoDev, MountOption::NoSuid, MountOption::RO];
        Ok(Self { _session: mount(shown, point, options)? })
    }
}

fn mount(shown: Shown, point: &Path, options: Vec<MountOption>) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(SOURCE.into()),
        MountOption::Subtype("oswalk".into()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
    ];
    config.mount_options.extend(options);
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    fuser::Session::new(Handler::new(Arc::new(shown)), point, &config)?.spawn()
}

/// Has the kernel read more at once than it does by itself: a packet is unpacked again for each request that needs a part of it.
fn read_ahead(point: &Path) {
    let device = std::fs::metadata(point).map(|data| data.dev());
    let set = device.and_then(|device| {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB)
    });
    if let Err(error) = set {
        tracing::debug!(%error, "large files are read in small parts");
    }
}

/// Has the kernel forget what is stale, until the volume is closed or the mount is gone.
fn tell(notifier: &Notifier, told: &Receiver<Told>) {
    for it in told {
        let told = match &it.stale {
            Stale::File(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
            Stale::Name(dir, name) => notifier.inval_entry(INodeNo(*dir), OsStr::from_bytes(name)),
            // The kernel holds the directory's lock during a look-up, and takes it here. There is no such name.
            Stale::Lookups(dir) => notifier.inval_entry(INodeNo(*dir), OsStr::new(".")),
            Stale::Mark(_) => Ok(()),
        };
        // The kernel does not know every file; then it has nothing to forget.
        if told.is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV)) {
            return;
        }
    }
}
