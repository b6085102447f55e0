//! The root of a walk: an overlay of the origin's tree (lower, read-only) and a tmpfs (upper, the walk's
//! changes).
//!
//! Consecutive walks share most of it. [`Root::prepare`] pivots into a base root with the common mounts.
//! [`Root::lay`] mounts a fresh overlay on top, which becomes the root of the next program, [`Root::suit`]
//! adapts it to the walk, and [`Root::take_away`] removes the overlay with all changes of the walk.
//!
//! System directories that the walk may not change are bind-mounted from the lower mount. In a fresh
//! overlay, every walk would pay for cold look-ups in them.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use packetfs::owners::Owners;

use super::above::{Above, Before};
use super::orders::{Failure, Launch, Plan, at, path};

const NONE: Option<&str> = None;
/// Directories that a compile step reads but never changes.
const SYSTEM_DIRS: [&str; 9] =
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt"];
/// Files of `/proc` that expose the machine's keys, memory and the like. They are empty for a walk.
const HIDDEN: [&str; 15] = [
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "pagetypeinfo",
    "sched_debug",
    "slabinfo",
    "timer_list",
    "vmallocinfo",
];
const READ_ONLY: MsFlags = MsFlags::MS_REMOUNT.union(MsFlags::MS_BIND).union(MsFlags::MS_RDONLY);
const BIND: MsFlags = MsFlags::MS_BIND.union(MsFlags::MS_REC);
const NO_DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// The mount point of the layers of one walk.
const LAYERS: &str = "/layers";
const UPPER: &str = "/layers/upper";
/// The message queues of walks, for checking whether there are any.
const QUEUES: &str = "/queues";
const SHM: &str = "/dev/shm";
/// The same file system under another name.
const MEMORY: &str = "/dev/oswalk";
const SHM_MODE: u32 = 0o1777;
const ROOT: u32 = 0;
/// The mode of the root of `/proc`, as the kernel sets it …
const PROC_MODE: u32 = 0o555;
/// … that of the root of a devpts …
const TERMINALS_MODE: u32 = 0o755;
/// … and that of `ptmx`, as a mount option.
const TERMINAL_MAKER_MODE: u32 = 0o666;
const TERMINALS: &str = "/dev/pts";
const TERMINAL_MAKER: &str = "/dev/pts/ptmx";
/// The group of terminals, `tty`.
const TERMINALS_GROUP: u32 = 5;

/// The base root that walks share.
pub(super) struct Root {
    upper_bytes_max: u64,
    pub(super) owners: Owners,
    /// The mount options of `/dev/shm`.
    shm: String,
    /// `ns_last_pid`, which sets the next pid; not every kernel has it.
    pub(super) last_pid: Option<File>,
}

/// The mounts of one walk.
pub(super) struct Layers {
    /// The overlay's root.
    pub(super) top: OwnedFd,
    /// The upper layer, which the agent reads when the walk has ended.
    pub(super) upper: OwnedFd,
    /// The overlay's index of files with several hard links, if the kernel supports it.
    pub(super) index: Option<OwnedFd>,
    /// Whether `/dev/shm` is covered.
    pub(super) covers_shm: Cell<bool>,
}

impl Layers {
    /// Tells whether the walk has left anything in `/dev/shm`, which is private to it.
    pub(super) fn have_files_left(&self) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = Dir::openat(&self.top, &MEMORY[1..], flags, Mode::empty());
        let is_name = |name: &[u8]| name != b"." && name != b"..";
        dir.is_ok_and(|mut dir| {
            dir.iter().flatten().any(|entry| is_name(entry.file_name().to_bytes()))
        })
    }
}

impl Layers {
    /// Covers `/dev/shm` with the origin's empty `/run` for a compile step, so that its look-ups there are recorded
    /// like those in `/run`. Its temporary files use the other name of the file system.
    fn cover_shm(&self) -> Result<(), Failure> {
        let run = Path::new("/lower/run");
        // Not every origin has a `/run`.
        if !std::fs::symlink_metadata(run).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        nix::unistd::fchdir(&self.top).map_err(at("enter the overlay"))?;
        mount(Some(run), &SHM[1..], NONE, MsFlags::MS_BIND, NONE).map_err(at("cover /dev/shm"))?;
        self.covers_shm.set(true);
        std::env::set_current_dir("/").map_err(at("go back to the first root"))
    }

    /// Tells whether the walk has left System V or POSIX IPC objects, which other processes at its origin would see.
    pub(super) fn have_ipc_left(&self) -> bool {
        let proc = openat(&self.top, "proc", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        proc.is_ok_and(|proc| {
            has_ipc(|name| {
                let file = openat(&proc, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
                let mut table = Vec::new();
                File::from(file).read_to_end(&mut table)?;
                Ok(table)
            })
        })
    }
}

impl Root {
    /// Pivots into a base root with the mounts that walks share.
    pub(super) fn prepare(plan: &Plan) -> Result<Self, Failure> {
        let scratch = path(&plan.scratch);
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .map_err(at("make the mounts private"))?;
        mount_memory(scratch, "mode=0755")?;
        for dir in ["root", "lower", "layers", "queues", "proc", "still", "dev"] {
            make_dir(&scratch.join(dir))?;
        }
        mount_queues(&scratch.join("queues"))?;
        let (owners, root) = (plan.owners, plan.owners.here(ROOT));
        let size = plan.upper_bytes_max;
        let shm = format!("size={size},mode={SHM_MODE:o},uid={root},gid={root}");
        mount(Some(path(&plan.lower)), &scratch.join("lower"), NONE, MsFlags::MS_BIND, NONE)
            .map_err(at("bind the origin's tree"))?;
        prepare_dev(path(&plan.dev), &scratch.join("dev"), &shm, owners)?;
        let last_pid = prepare_proc(scratch)?;
        std::env::set_current_dir(scratch).map_err(at("enter the first root"))?;
        nix::unistd::pivot_root(".", ".").map_err(at("pivot the root"))?;
        umount2(".", MntFlags::MNT_DETACH).map_err(at("detach the machine's root"))?;
        for name in [TERMINALS, TERMINAL_MAKER] {
            chown(name, Some(root), Some(root)).map_err(at(format!("chown {name}")))?;
        }
        Ok(Self { upper_bytes_max: plan.upper_bytes_max, owners, shm, last_pid })
    }

    /// Mounts a fresh overlay of the origin's tree on top of this root.
    pub(super) fn lay(&self) -> Result<Layers, Failure> {
        mount_memory(Path::new(LAYERS), &format!("size={},mode=0755", self.upper_bytes_max))?;
        for dir in [UPPER, "/layers/work"] {
            make_dir(Path::new(dir))?;
        }
        let root = Some(self.owners.here(ROOT));
        chown(UPPER, root, root).map_err(at("chown the upper layer"))?;
        let upper = OwnedFd::from(File::open(UPPER).map_err(at("open the upper layer"))?);
        let marks = if self.owners.are_one() {
            // Without root an overlay marks by users' attributes, and can neither rename directories of the lower layer nor
            // keep the names of a file together.
            "userxattr"
        } else {
            "redirect_dir=on,metacopy=off,index=on"
        };
        let layers = format!(
            "lowerdir=/lower,upperdir=/layers/upper,workdir=/layers/work,{marks},xino=off,volatile"
        );
        mount(Some("oswalk"), "/root", Some("overlay"), NO_DEVICES, Some(&*layers))
            .map_err(at("mount the overlay"))?;
        // A kernel without index support mounts the overlay nevertheless.
        let index = File::open("/layers/work/index").ok().map(OwnedFd::from);
        std::env::set_current_dir("/root").map_err(at("enter the overlay"))?;
        for (from, to) in [("/proc", "proc"), ("/dev", "dev")] {
            mount(Some(from), to, NONE, MsFlags::MS_MOVE, NONE)
                .map_err(at(format!("move {from}")))?;
        }
        // Moved over `/`, so that the kernel does not treat the program as chrooted.
        mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).map_err(at("move the overlay"))?;
        let top = OwnedFd::from(File::open(".").map_err(at("open the overlay"))?);
        std::env::set_current_dir("/").map_err(at("go back to the first root"))?;
        Ok(Layers { top, upper, index, covers_shm: Cell::new(false) })
    }

    /// Adapts the root to a walk.
    pub(super) fn suit(&self, launch: &Launch, layers: &Layers) -> Result<Before, Failure> {
        let spec = &launch.spec;
        let lower = Path::new("/lower");
        let (upper, owners, xattrs) = (Path::new(UPPER), self.owners, launch.xattrs);
        let above = Above { lower, upper, owners, xattrs };
        let before = above.prepare(&launch.ahead).map_err(at("prepare the upper layer"))?;
        if !spec.whole_tree {
            nix::unistd::fchdir(&layers.top).map_err(at("enter the overlay"))?;
            for dir in SYSTEM_DIRS {
                let from = lower.join(dir);
                // A symbolic link, as /bin usually is, leads to a directory that is bound.
                if !std::fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
                    continue;
                }
                mount(Some(&from), dir, NONE, BIND, NONE)
                    .map_err(at(format!("bind {}", from.display())))?;
            }
            std::env::set_current_dir("/").map_err(at("go back to the first root"))?;
        }
        if spec.compiles {
            layers.cover_shm()?;
        }
        nix::unistd::sethostname(OsStr::from_bytes(&spec.hostname))
            .map_err(at("set the host name"))?;
        Ok(before)
    }

    /// Tells whether the mounts that the next walk reuses are unmodified. To be called after
    /// [`Self::take_away`].
    pub(super) fn is_as_new(&self) -> bool {
        let is = |name: &str, mode, owner| {
            let metadata = std::fs::metadata(name);
            let is = metadata.map(|is| (is.mode() & 0o7777, is.uid(), is.gid()));
            is.is_ok_and(|is| is == (mode, owner, owner))
        };
        let root = self.owners.here(ROOT);
        is("/proc", PROC_MODE, ROOT)
            && is(TERMINALS, TERMINALS_MODE, root)
            && is(TERMINAL_MAKER, TERMINAL_MAKER_MODE, root)
    }

    /// Removes the mounts of one walk, after all its processes have ended.
    pub(super) fn take_away(&self, layers: Layers) -> Result<(), Failure> {
        nix::unistd::fchdir(&layers.top).map_err(at("enter the overlay"))?;
        for (from, to) in [("proc", "/proc"), ("dev", "/dev")] {
            mount(Some(from), to, NONE, MsFlags::MS_MOVE, NONE)
                .map_err(at(format!("move {to}")))?;
        }
        umount2(".", MntFlags::MNT_DETACH).map_err(at("detach the overlay"))?;
        std::env::set_current_dir("/").map_err(at("go back to the first root"))?;
        if layers.covers_shm.get() {
            umount2(SHM, MntFlags::MNT_DETACH).map_err(at("uncover /dev/shm"))?;
        }
        drop(layers);
        umount2(LAYERS, MntFlags::MNT_DETACH).map_err(at("detach the layers"))?;
        let shm = std::fs::metadata(SHM).map_err(at("look at /dev/shm"))?;
        let root = self.owners.here(ROOT);
        let is_fresh = (shm.mode() & 0o7777, shm.uid(), shm.gid()) == (SHM_MODE, root, root)
            && has_no_attributes(SHM)
            && std::fs::read_dir(SHM).is_ok_and(|mut entries| entries.next().is_none());
        if !is_fresh {
            for name in [SHM, MEMORY] {
                umount2(name, MntFlags::MNT_DETACH).map_err(at(format!("detach {name}")))?;
            }
            mount_shm(Path::new("/dev"), &self.shm)?;
        }
        if has_ipc(|name| std::fs::read(Path::new("/proc").join(name))) {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)
                .map_err(at("renew the IPC"))?;
            // Fails where the kernel has no message queues.
            let _ = umount2(QUEUES, MntFlags::MNT_DETACH);
            mount_queues(Path::new(QUEUES))?;
        }
        Ok(())
    }
}

/// Tells whether a file has no extended attributes and no access control list.
fn has_no_attributes(name: &str) -> bool {
    let names = File::open(name).and_then(|file| packetfs::xattr::list(&file.into()));
    names.is_ok_and(|names| names.is_empty())
}

fn mount_memory(on: &Path, options: &str) -> Result<(), Failure> {
    mount(Some("oswalk"), on, Some("tmpfs"), NO_DEVICES, Some(options))
        .map_err(at(format!("mount a tmpfs on {}", on.display())))
}

/// Mounts the tmpfs of `/dev/shm` under both of its names.
fn mount_shm(dev: &Path, options: &str) -> Result<(), Failure> {
    let memory = dev.join(&MEMORY["/dev/".len()..]);
    mount_memory(&memory, options)?;
    mount(Some(&memory), &dev.join("shm"), NONE, MsFlags::MS_BIND, NONE)
        .map_err(at("bind /dev/shm"))
}

fn mount_queues(on: &Path) -> Result<(), Failure> {
    let flags = NO_DEVICES | MsFlags::MS_NOEXEC;
    match mount(Some("mqueue"), on, Some("mqueue"), flags, NONE) {
        // The kernel has no message queues.
        Err(nix::errno::Errno::ENODEV) => Ok(()),
        result => result.map_err(at("mount the message queues")),
    }
}

/// Tells whether a walk has left shared memory segments, semaphores or message queues, which outlive
/// processes. `read` reads a file of `/proc`.
fn has_ipc(read: impl Fn(&str) -> io::Result<Vec<u8>>) -> bool {
    let is_empty = |dir: &str| std::fs::read_dir(dir).is_ok_and(|mut dir| dir.next().is_none());
    let has_rows = |name: &&str| {
        let table = read(name);
        // The first line is the header.
        table.is_ok_and(|table| table.iter().filter(|&&byte| byte == b'\n').count() > 1)
    };
    !is_empty(QUEUES) || ["sysvipc/shm", "sysvipc/sem", "sysvipc/msg"].iter().any(has_rows)
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().mode(0o755).create(dir);
    made.map_err(at(format!("make {}", dir.display())))
}

/// Mounts a `/proc` in which only the directories of other processes are writable; `/dev` must exist already. The
/// rest belongs to the machine, and root could change it: the kernel checks only the owner of a file, not
/// capabilities, and changes of mode and owner are visible to others.
fn prepare_proc(scratch: &Path) -> Result<Option<File>, Failure> {
    let (proc, still) = (scratch.join("proc"), scratch.join("still"));
    // Bind mounts from there are read-only, like all of this /dev.
    let null = scratch.join("dev/null");
    mount(Some("proc"), &proc, Some("proc"), NO_DEVICES | MsFlags::MS_NOEXEC, NONE)
        .map_err(at("mount /proc"))?;
    let last_pid = File::options().write(true).open(proc.join("sys/kernel/ns_last_pid")).ok();
    // Bind mounts from there are read-only, too.
    mount(Some(&proc), &still, NONE, MsFlags::MS_BIND, NONE).map_err(at("bind /proc"))?;
    let flags = READ_ONLY | NO_DEVICES | MsFlags::MS_NOEXEC;
    mount(NONE, &still, NONE, flags, NONE).map_err(at("make /proc read-only"))?;
    for entry in std::fs::read_dir(&still).map_err(at("list /proc"))? {
        let entry = entry.map_err(at("list /proc"))?;
        let name = entry.file_name();
        let is_process = name.as_bytes()[0].is_ascii_digit() && name != "1";
        let is_link = entry.file_type().map_err(at("list /proc"))?.is_symlink();
        if is_process || is_link {
            continue;
        }
        let is_hidden = HIDDEN.iter().any(|&hidden| name == hidden);
        let from = if is_hidden { null.clone() } else { entry.path() };
        mount(Some(&from), &proc.join(&name), NONE, MsFlags::MS_BIND, NONE)
            .map_err(at(format!("protect /proc/{}", name.display())))?;
    }
    umount2(&still, MntFlags::MNT_DETACH).map_err(at("detach the other /proc"))?;
    Ok(last_pid)
}

/// Mounts `/dev`, whose devices all walks share and may use but not replace.
fn prepare_dev(devices: &Path, dev: &Path, shm: &str, owners: Owners) -> Result<(), Failure> {
    mount(Some(devices), dev, NONE, BIND, NONE).map_err(at("bind /dev"))?;
    mount(NONE, dev, NONE, READ_ONLY | MsFlags::MS_NOSUID, NONE)
        .map_err(at("make /dev read-only"))?;
    mount_shm(dev, shm)?;
    let group = owners.here(TERMINALS_GROUP);
    let terminals = format!("newinstance,ptmxmode={TERMINAL_MAKER_MODE:o},mode=0620,gid={group}");
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), no_exec, Some(&*terminals))
        .map_err(at("mount /dev/pts"))
}
