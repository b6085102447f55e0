//! A walk's root: the overlay is mounted and its changes are read as the agent does it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::time::{ClockId, clock_gettime};
use packetfs::commit::{Commit, CommitError, Scope};
use packetfs::identity::Owner;
use packetfs::mirror::Answer;
use packetfs::owners::Owners;
use packetfs::packet::Packed;
use packetfs::tree::{Attr, Time};
use packetfs::upper::{self, Reading};
use packetfs::view::Outset;

use crate::origin::Origin;

/// A running walk.
pub(crate) struct Walk {
    outset: Outset,
    began: Time,
    root: PathBuf,
    layers: PathBuf,
    upper: OwnedFd,
    index: OwnedFd,
}

impl Walk {
    pub(crate) fn begin(origin: &Origin, scratch: &Path) -> Self {
        origin.drain();
        let tick = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).expect("there is a clock");
        let nanos = u32::try_from(tick.tv_nsec()).expect("less than a second");
        let began = Time { seconds: tick.tv_sec(), nanos };
        let outset = origin.mount.outset();
        let (root, layers) = (scratch.join("root"), scratch.join("layers"));
        for dir in [&root, &layers] {
            fs::create_dir_all(dir).expect("writable");
        }
        mount(Some("tmpfs"), &layers, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("root may");
        let [upper, work] = ["upper", "work"].map(|name| layers.join(name));
        for dir in [&upper, &work] {
            fs::create_dir(dir).expect("writable");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=on,metacopy=off,index=on,xino=off,volatile",
            origin.point.display(),
            upper.display(),
            work.display()
        );
        mount(Some("oswalk"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("the kernel has overlays");
        let open = |path: &Path| OwnedFd::from(File::open(path).expect("it was made"));
        let (upper, index) = (open(&upper), open(&work.join("index")));
        Self { outset, began, root, layers, upper, index }
    }

    /// Returns the path at which the walk sees a path of the origin.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").expect("absolute"))
    }

    /// Ends the walk, and commits its changes.
    pub(crate) fn commit(self, origin: &Origin) -> Result<(), CommitError> {
        umount2(&self.root, MntFlags::MNT_DETACH).expect("it is mounted");
        let mut packets = HashMap::new();
        let mount = &origin.mount;
        let (attrs, paths, xattrs) = (mount.attrs(), mount.paths(), mount.xattrs());
        let shown = mount.times_since()(self.began);
        let lower_attr = |path: &[u8]| match attrs(path) {
            Answer::Known(attr) => Some(attr),
            Answer::Absent => None,
            Answer::Unknown(_) | Answer::Hidden | Answer::Closed => {
                let path = std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path));
                nix::sys::stat::lstat(&origin.point.join(path)).ok().map(|stat| Attr::of(&stat))
            }
        };
        let mut reading = Reading {
            owners: Owners::UNSHIFTED,
            began: self.began,
            ended: Time::of(SystemTime::now()),
            lower_attr: &lower_attr,
            lower_paths: &paths,
            base: &|path| self.outset.base(path),
            contents: &|path| self.outset.contents(path),
            had_time: &|path, time| self.outset.had_time(path, time),
            lower_xattrs: &xattrs,
            is_shown: &|time| shown.contains(&time),
            absent: &[],
            packet: &mut |packet, content| drop(packets.insert(packet, Packed::pack(content))),
        };
        let changes = upper::read(&self.upper, Some(&self.index), &mut reading).expect("readable");
        let commit = Commit {
            owner: Owner { uid: 0, gid: 0, groups: Vec::new() },
            scope: Scope::default(),
            changes,
            packets: packets.into_iter().collect(),
            last_wins: false,
            began: self.began,
        };
        umount2(&self.layers, MntFlags::MNT_DETACH).expect("it is mounted");
        origin.committer.commit(&commit).map(drop)
    }
}
