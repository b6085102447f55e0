//! The root of a walk: an overlay of the origin's tree (lower, read-only) and a memory file system
//! (upper, what the walk changes).
//!
//! It is made in two steps, since much of it is the same for every walk: [`prepare`] moves into an
//! empty root that holds all that can be mounted beforehand, [`enter`] lays the overlay over the
//! origin's tree as it is when the walk begins, and moves into that.
//!
//! System directories are bound from the lower mount where the walk may not change them: a fresh
//! overlay over all of them would cost every walk its cold look-ups.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::launcher::{Launch, Plan};
use super::sandbox::{Failure, at, path};

const NONE: Option<&str> = None;
/// Directories that a compile step reads and never changes.
const SYSTEM_DIRS: [&str; 9] =
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt"];
/// What root could change of the whole machine through `/proc`: the kernel checks there who owns a
/// file, not what its capabilities are.
const PROTECTED: [&str; 7] = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"];
const READ_ONLY: MsFlags = MsFlags::MS_REMOUNT.union(MsFlags::MS_BIND).union(MsFlags::MS_RDONLY);
const BIND: MsFlags = MsFlags::MS_BIND.union(MsFlags::MS_REC);
const NO_DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// What the agent reads when the walk has ended.
pub(super) struct Layers {
    pub(super) upper: OwnedFd,
    /// Files with several names that the walk has changed, if the kernel keeps account of them.
    pub(super) index: Option<OwnedFd>,
}

/// Moves into a root of the walk's own, with everything in it that does not depend on the walk.
/// Returns the file that says which process number was given last; not every kernel has it.
pub(super) fn prepare(plan: &Plan) -> Result<Option<File>, Failure> {
    let scratch = path(&plan.scratch);
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(at("make the mounts private"))?;
    let size = format!("size={},mode=0755", plan.upper_bytes_max);
    mount(Some("oswalk-upper"), scratch, Some("tmpfs"), NO_DEVICES, Some(size.as_str()))
        .map_err(at(format!("mount a tmpfs on {}", scratch.display())))?;
    for dir in ["upper", "work", "root", "lower", "proc", "dev"] {
        let dir = scratch.join(dir);
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&dir)
            .map_err(|error| Failure { stage: format!("make {}", dir.display()), error })?;
    }
    mount(Some(path(&plan.lower)), &scratch.join("lower"), NONE, MsFlags::MS_BIND, NONE)
        .map_err(at("bind the origin's tree"))?;
    let last_pid = prepare_proc(&scratch.join("proc"))?;
    prepare_dev(path(&plan.dev), &scratch.join("dev"))?;
    std::env::set_current_dir(scratch)
        .map_err(|error| Failure { stage: "enter the first root".into(), error })?;
    nix::unistd::pivot_root(".", ".").map_err(at("pivot the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(at("detach the machine's root"))?;
    Ok(last_pid)
}

fn prepare_proc(proc: &Path) -> Result<Option<File>, Failure> {
    mount(Some("proc"), proc, Some("proc"), NO_DEVICES | MsFlags::MS_NOEXEC, NONE)
        .map_err(at("mount /proc"))?;
    let last_pid = File::options().write(true).open(proc.join("sys/kernel/ns_last_pid")).ok();
    for name in PROTECTED {
        let path = proc.join(name);
        if !path.exists() {
            continue;
        }
        let failed = || at(format!("protect {}", path.display()));
        mount(Some(&path), &path, NONE, MsFlags::MS_BIND, NONE).map_err(failed())?;
        mount(NONE, &path, NONE, READ_ONLY, NONE).map_err(failed())?;
    }
    Ok(last_pid)
}

/// The devices are common to all walks: one may use them, not replace them.
fn prepare_dev(devices: &Path, dev: &Path) -> Result<(), Failure> {
    mount(Some(devices), dev, NONE, BIND, NONE).map_err(at("bind /dev"))?;
    mount(NONE, dev, NONE, READ_ONLY | MsFlags::MS_NOSUID, NONE)
        .map_err(at("make /dev read-only"))?;
    mount(Some("shm"), &dev.join("shm"), Some("tmpfs"), NO_DEVICES, Some("mode=1777"))
        .map_err(at("mount /dev/shm"))?;
    let terminals = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), no_exec, terminals)
        .map_err(at("mount /dev/pts"))
}

/// Lays the overlay over the origin's tree and makes it the root.
pub(super) fn enter(launch: &Launch) -> Result<Layers, Failure> {
    let spec = &launch.spec;
    let (lower, upper, root) = (Path::new("/lower"), Path::new("/upper"), Path::new("/root"));
    let upper_fd = OwnedFd::from(
        File::open(upper)
            .map_err(|error| Failure { stage: "open the upper layer".into(), error })?,
    );
    for dir in [path(&spec.cwd), Path::new("/tmp")] {
        prepare_dir(lower, upper, dir, launch.xattrs)
            .map_err(|error| Failure { stage: format!("prepare {}", dir.display()), error })?;
    }
    let layers = "lowerdir=/lower,upperdir=/upper,workdir=/work,\
                  redirect_dir=on,metacopy=off,index=on,xino=off,volatile";
    mount(Some("oswalk"), root, Some("overlay"), NO_DEVICES, Some(layers))
        .map_err(at("mount the overlay"))?;
    // A kernel that cannot index mounts all the same.
    let index = File::open("/work/index").ok().map(OwnedFd::from);
    if !spec.whole_tree {
        for dir in SYSTEM_DIRS {
            let (from, to) = (lower.join(dir), root.join(dir));
            // A symbolic link, as /bin mostly is, leads to a directory that is bound.
            if !std::fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
                continue;
            }
            mount(Some(&from), &to, NONE, BIND, NONE)
                .map_err(at(format!("bind {}", from.display())))?;
        }
    }
    for name in ["proc", "dev"] {
        let (from, to) = (Path::new("/").join(name), root.join(name));
        mount(Some(&from), &to, NONE, MsFlags::MS_MOVE, NONE)
            .map_err(at(format!("move /{name}")))?;
    }
    std::env::set_current_dir(root)
        .map_err(|error| Failure { stage: "enter the root".into(), error })?;
    // Not pivoted: to detach the old root makes the kernel wait for all its readers.
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).map_err(at("move the root"))?;
    nix::unistd::chroot(".").map_err(at("change the root"))?;
    nix::unistd::sethostname(OsStr::from_bytes(&spec.hostname)).map_err(at("set the host name"))?;
    Ok(Layers { upper: upper_fd, index })
}

/// Makes a directory in the upper layer, with those above it, as the overlay would when something is
/// made in it; the overlay asks the lower layer's agent several questions for each.
fn prepare_dir(lower: &Path, upper: &Path, dir: &Path, xattrs: bool) -> io::Result<()> {
    let (mut below, mut above) = (lower.to_owned(), upper.to_owned());
    for name in dir.components().skip(1) {
        below.push(name);
        above.push(name);
        // A symbolic link on the way: it leads to a directory that is asked for as it is needed.
        let Ok(metadata) = std::fs::symlink_metadata(&below) else { return Ok(()) };
        if !metadata.is_dir() {
            return Ok(());
        }
        match std::fs::DirBuilder::new().mode(metadata.mode() & 0o7777).create(&above) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        lchown(&above, Some(metadata.uid()), Some(metadata.gid()))?;
        if xattrs {
            let [below, above] = [&below, &above].map(File::open);
            packetfs::xattr::copy(&below?.into(), &above?.into())?;
        }
    }
    // Last, because what is made in a directory moves its time.
    for (above, below) in above.ancestors().zip(below.ancestors()) {
        if above == upper {
            break;
        }
        let metadata = std::fs::symlink_metadata(below)?;
        let time = |seconds, nanos| nix::sys::time::TimeSpec::new(seconds, nanos);
        let (atime, mtime) = (
            time(metadata.atime(), metadata.atime_nsec()),
            time(metadata.mtime(), metadata.mtime_nsec()),
        );
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, above, &atime, &mtime, flags)?;
    }
    Ok(())
}
