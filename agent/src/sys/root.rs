//! The root of a walk: an overlay of the origin's tree (lower, read-only) and a memory file system
//! (upper, what the walk changes).
//!
//! Much of it is the same for every walk, and serves one after the other: [`Root::prepare`] moves into
//! an empty root that holds what they have in common, [`Root::lay`] lays a fresh overlay over it, which
//! is the root of the next program, [`Root::suit`] does what depends on the walk, and
//! [`Root::take_away`] takes the overlay away again, with all that the walk has changed.
//!
//! System directories are bound from the lower mount where the walk may not change them: a fresh
//! overlay over all of them would cost every walk its cold look-ups.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::above::{Above, Before};
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

/// The mount under the layers of one walk.
const LAYERS: &str = "/layers";
const UPPER: &str = "/layers/upper";
/// The message queues of walks, to see whether there are any.
const QUEUES: &str = "/queues";
const SHM: &str = "/dev/shm";
const SHM_MODE: u32 = 0o1777;

/// The root that walks have in common.
pub(super) struct Root {
    upper_bytes_max: u64,
    /// How `/dev/shm` is mounted.
    shm: String,
    /// The file that says which process number was given last; not every kernel has it.
    pub(super) last_pid: Option<File>,
}

/// What is one walk's own.
pub(super) struct Layers {
    /// The overlay's root.
    pub(super) top: OwnedFd,
    /// What the agent reads when the walk has ended …
    pub(super) upper: OwnedFd,
    /// … and files with several names that the walk has changed, if the kernel keeps account of them.
    pub(super) index: Option<OwnedFd>,
}

impl Root {
    /// Moves into a root with everything in it that walks have in common.
    pub(super) fn prepare(plan: &Plan) -> Result<Self, Failure> {
        let scratch = path(&plan.scratch);
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .map_err(at("make the mounts private"))?;
        mount_memory(scratch, "mode=0755")?;
        for dir in ["root", "lower", "layers", "queues", "proc", "dev"] {
            make_dir(&scratch.join(dir))?;
        }
        mount_queues(&scratch.join("queues"))?;
        let shm = format!("size={},mode={SHM_MODE:o}", plan.upper_bytes_max);
        mount(Some(path(&plan.lower)), &scratch.join("lower"), NONE, MsFlags::MS_BIND, NONE)
            .map_err(at("bind the origin's tree"))?;
        let last_pid = prepare_proc(&scratch.join("proc"))?;
        prepare_dev(path(&plan.dev), &scratch.join("dev"), &shm)?;
        std::env::set_current_dir(scratch).map_err(at("enter the first root"))?;
        nix::unistd::pivot_root(".", ".").map_err(at("pivot the root"))?;
        umount2(".", MntFlags::MNT_DETACH).map_err(at("detach the machine's root"))?;
        Ok(Self { upper_bytes_max: plan.upper_bytes_max, shm, last_pid })
    }

    /// Lays a fresh overlay over the origin's tree, on top of this root.
    pub(super) fn lay(&self) -> Result<Layers, Failure> {
        mount_memory(Path::new(LAYERS), &format!("size={},mode=0755", self.upper_bytes_max))?;
        for dir in [UPPER, "/layers/work"] {
            make_dir(Path::new(dir))?;
        }
        let upper = OwnedFd::from(File::open(UPPER).map_err(at("open the upper layer"))?);
        let layers = "lowerdir=/lower,upperdir=/layers/upper,workdir=/layers/work,\
                      redirect_dir=on,metacopy=off,index=on,xino=off,volatile";
        mount(Some("oswalk"), "/root", Some("overlay"), NO_DEVICES, Some(layers))
            .map_err(at("mount the overlay"))?;
        // A kernel that cannot index mounts all the same.
        let index = File::open("/layers/work/index").ok().map(OwnedFd::from);
        std::env::set_current_dir("/root").map_err(at("enter the overlay"))?;
        for (from, to) in [("/proc", "proc"), ("/dev", "dev")] {
            mount(Some(from), to, NONE, MsFlags::MS_MOVE, NONE)
                .map_err(at(format!("move {from}")))?;
        }
        // Over this root, so that for the kernel the program's root is not a changed one.
        mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).map_err(at("move the overlay"))?;
        let top = OwnedFd::from(File::open(".").map_err(at("open the overlay"))?);
        std::env::set_current_dir("/").map_err(at("go back to the first root"))?;
        Ok(Layers { top, upper, index })
    }

    /// Suits the root to a walk.
    pub(super) fn suit(launch: &Launch, layers: &Layers) -> Result<Before, Failure> {
        let spec = &launch.spec;
        let lower = Path::new("/lower");
        let above = Above { lower, upper: Path::new(UPPER), xattrs: launch.xattrs };
        let before = above.prepare(&launch.ahead).map_err(at("prepare the upper layer"))?;
        if !spec.whole_tree {
            nix::unistd::fchdir(&layers.top).map_err(at("enter the overlay"))?;
            for dir in SYSTEM_DIRS {
                let from = lower.join(dir);
                // A symbolic link, as /bin mostly is, leads to a directory that is bound.
                if !std::fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
                    continue;
                }
                mount(Some(&from), dir, NONE, BIND, NONE)
                    .map_err(at(format!("bind {}", from.display())))?;
            }
            std::env::set_current_dir("/").map_err(at("go back to the first root"))?;
        }
        nix::unistd::sethostname(OsStr::from_bytes(&spec.hostname))
            .map_err(at("set the host name"))?;
        Ok(before)
    }

    /// Takes away all that was one walk's own. None of its processes is left.
    pub(super) fn take_away(&self, layers: Layers) -> Result<(), Failure> {
        nix::unistd::fchdir(&layers.top).map_err(at("enter the overlay"))?;
        for (from, to) in [("proc", "/proc"), ("dev", "/dev")] {
            mount(Some(from), to, NONE, MsFlags::MS_MOVE, NONE)
                .map_err(at(format!("move {to}")))?;
        }
        umount2(".", MntFlags::MNT_DETACH).map_err(at("detach the overlay"))?;
        std::env::set_current_dir("/").map_err(at("go back to the first root"))?;
        drop(layers);
        umount2(LAYERS, MntFlags::MNT_DETACH).map_err(at("detach the layers"))?;
        let shm = std::fs::metadata(SHM).map_err(at("look at /dev/shm"))?;
        let is_fresh = (shm.mode() & 0o7777, shm.uid(), shm.gid()) == (SHM_MODE, 0, 0)
            && std::fs::read_dir(SHM).is_ok_and(|mut entries| entries.next().is_none());
        if !is_fresh {
            umount2(SHM, MntFlags::MNT_DETACH).map_err(at("detach /dev/shm"))?;
            mount_memory(Path::new(SHM), &self.shm)?;
        }
        if has_ipc() {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)
                .map_err(at("renew the IPC"))?;
            // Not mounted where the kernel has none.
            let _ = umount2(QUEUES, MntFlags::MNT_DETACH);
            mount_queues(Path::new(QUEUES))?;
        }
        Ok(())
    }
}

fn mount_memory(on: &Path, options: &str) -> Result<(), Failure> {
    mount(Some("oswalk"), on, Some("tmpfs"), NO_DEVICES, Some(options))
        .map_err(at(format!("mount a tmpfs on {}", on.display())))
}

fn mount_queues(on: &Path) -> Result<(), Failure> {
    let flags = NO_DEVICES | MsFlags::MS_NOEXEC;
    match mount(Some("mqueue"), on, Some("mqueue"), flags, NONE) {
        // A kernel without queues.
        Err(nix::errno::Errno::ENODEV) => Ok(()),
        result => result.map_err(at("mount the message queues")),
    }
}

/// Tells whether a walk has left segments, semaphores or queues: they outlive processes.
fn has_ipc() -> bool {
    let is_empty = |dir: &str| std::fs::read_dir(dir).is_ok_and(|mut dir| dir.next().is_none());
    let has_rows = |name: &&str| {
        let table = std::fs::read(Path::new("/proc/sysvipc").join(name));
        // The first line says what is in the columns.
        table.is_ok_and(|table| table.iter().filter(|&&byte| byte == b'\n').count() > 1)
    };
    !is_empty(QUEUES) || ["shm", "sem", "msg"].iter().any(has_rows)
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().mode(0o755).create(dir);
    made.map_err(at(format!("make {}", dir.display())))
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
fn prepare_dev(devices: &Path, dev: &Path, shm: &str) -> Result<(), Failure> {
    mount(Some(devices), dev, NONE, BIND, NONE).map_err(at("bind /dev"))?;
    mount(NONE, dev, NONE, READ_ONLY | MsFlags::MS_NOSUID, NONE)
        .map_err(at("make /dev read-only"))?;
    mount_memory(&dev.join("shm"), shm)?;
    let terminals = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), no_exec, terminals)
        .map_err(at("mount /dev/pts"))
}
