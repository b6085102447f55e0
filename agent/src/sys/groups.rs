//! Control groups: they limit the memory and the number of processes of a sandbox. Version 2 is used where
//! the agent has its controllers, otherwise version 1. On a machine with neither, nothing is limited, and
//! the log says so.
//!
//! A sandbox is created in its group and all its processes stay there, so walks spend no time on it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// All walks together get all but this fraction of the machine's memory. What they pass to each other, or leave in a file that
/// another one has open, counts although the group of the walk that made it is gone.
const RESERVED_PART: u64 = 8;
/// The group of all sandboxes in version 2, beside that of the agent.
const WALKS: &str = "walks";
/// Most processes and threads of a walk: enough for a whole build on a large machine.
const TASKS_MAX: u32 = 4096;
/// The controllers in use.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// Longest control group file.
const FILE_BYTES_MAX: usize = 1024;
/// Prefix of the names of agents' groups; the pid follows.
const PREFIX: &str = "oswalk-";

/// A hierarchy in which sandboxes have groups.
#[derive(Debug)]
struct Hierarchy {
    /// The group that contains those of the sandboxes.
    base: PathBuf,
    /// `None` is version 2 with all controllers, else the one controller of a version 1 hierarchy.
    controller: Option<&'static str>,
}

/// The hierarchies in which sandboxes have groups.
#[derive(Debug)]
pub(super) struct Groups {
    hierarchies: Vec<Hierarchy>,
    /// Names of groups, each with its first process, which joins the group itself.
    made: Vec<(String, Pid)>,
    next: u64,
}

/// The group of one sandbox.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    /// The directory in version 2: processes can be created in it.
    pub(super) unified: Option<OwnedFd>,
    /// The files through which a process joins it in version 1.
    joined: Vec<PathBuf>,
    /// Files that count how often a limit was hit, each with the key before the number.
    counts: Vec<(PathBuf, &'static str)>,
}

/// Counts how often the limits of a group were hit.
#[derive(Debug)]
pub(super) struct Exceeded(Vec<(File, &'static str)>);

impl Groups {
    /// Finds the hierarchies that the agent with this pid can use on a machine with this memory.
    pub(super) fn find(agent: u32, memory_bytes: u64) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let name = format!("{PREFIX}{agent}");
        let unified = place(&own, &mounts, None).filter(|dir| has_controllers(dir));
        let unified = unified.and_then(|dir| {
            remove_abandoned(&dir);
            let base = dir.join(&name);
            let base = delegate(&dir, &base, agent).ok()?;
            Some(Hierarchy { base, controller: None })
        });
        let split = || {
            let places = CONTROLLERS.map(|name| Some((place(&own, &mounts, Some(name))?, name)));
            let make = |(dir, controller): (PathBuf, _)| {
                remove_abandoned(&dir);
                let base = dir.join(&name);
                std::fs::create_dir(&base).ok()?;
                Some(Hierarchy { base, controller: Some(controller) })
            };
            places.into_iter().flatten().filter_map(make).collect()
        };
        let hierarchies = unified.map_or_else(split, |unified| vec![unified]);
        if hierarchies.is_empty() {
            tracing::warn!(
                "no usable control groups: memory and processes of walks are not limited"
            );
        }
        let bytes_max = memory_bytes - memory_bytes / RESERVED_PART;
        for Hierarchy { base, controller } in &hierarchies {
            if controller.is_none_or(|only| only == "memory")
                && let Err(error) =
                    std::fs::write(base.join(bound(*controller)), bytes_max.to_string())
            {
                tracing::warn!(%error, "failed to bound the memory of all walks together");
            }
        }
        Self { hierarchies, made: Vec::new(), next: 0 }
    }

    /// Makes the group of a sandbox with this memory limit.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn make(&mut self, memory_bytes_max: u64) -> io::Result<Group> {
        let hierarchies = &self.hierarchies;
        self.made.retain(|(name, first)| {
            // A group is also empty before its first process has joined.
            if nix::sys::signal::kill(*first, None).is_ok() {
                return true;
            }
            let removed = hierarchies.iter().map(|at| std::fs::remove_dir(at.base.join(name)));
            removed.filter(Result::is_err).count() > 0
        });
        let name = self.next.to_string();
        self.next += 1;
        let mut group =
            Group { name: name.clone(), unified: None, joined: Vec::new(), counts: Vec::new() };
        for Hierarchy { base, controller } in hierarchies {
            let dir = base.join(&name);
            std::fs::create_dir_all(&dir)?;
            let uses = |name| controller.is_none_or(|only| only == name);
            let set = |file: &str, value: u64| std::fs::write(dir.join(file), value.to_string());
            if uses("pids") {
                set("pids.max", TASKS_MAX.into())?;
                group.counts.push((dir.join("pids.events"), "max"));
            }
            if uses("memory") {
                let count = match controller {
                    None => "memory.events",
                    Some(_) => "memory.oom_control",
                };
                set(bound(*controller), memory_bytes_max)?;
                group.counts.push((dir.join(count), "oom_kill"));
            }
            match controller {
                None => group.unified = Some(File::open(&dir)?.into()),
                Some(_) => group.joined.push(dir.join("cgroup.procs")),
            }
        }
        Ok(group)
    }

    /// Records the first process of a group.
    pub(super) fn note(&mut self, group: Group, first: Pid) {
        self.made.push((group.name, first));
    }
}

impl Group {
    /// Puts the calling process into the group, and returns the group's counters.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn join(self) -> io::Result<Exceeded> {
        for group in &self.joined {
            std::fs::write(group, "0")?;
        }
        let open = |(path, word): &(PathBuf, _)| match File::open(path) {
            Ok(file) => Some(Ok((file, *word))),
            // Old kernels do not count.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(error)),
        };
        Ok(Exceeded(self.counts.iter().filter_map(open).collect::<io::Result<_>>()?))
    }
}

impl Exceeded {
    /// Returns how often a process was killed for lack of memory or could not be created.
    pub(super) fn times(&self) -> u64 {
        let times = |(file, word): &(File, &str)| {
            let mut text = [0; FILE_BYTES_MAX];
            let bytes = file.read_at(&mut text, 0).unwrap_or(0);
            number(&String::from_utf8_lossy(&text[..bytes]), word)
        };
        self.0.iter().map(times).sum()
    }
}

/// Returns the file with the memory limit of a group.
fn bound(controller: Option<&'static str>) -> &'static str {
    match controller {
        None => "memory.max",
        Some(_) => "memory.limit_in_bytes",
    }
}

/// Returns the number after a key at the beginning of a line.
fn number(text: &str, word: &str) -> u64 {
    let of = |line: &str| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(of).unwrap_or(0)
}

/// Returns the directory of a process's group in version 2, or in the hierarchy of a version 1 controller.
/// `own` is its `/proc/self/cgroup`, `mounts` its `/proc/self/mountinfo`.
fn place(own: &str, mounts: &str, controller: Option<&str>) -> Option<PathBuf> {
    let group = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = match controller {
            None => controllers.is_empty(),
            Some(name) => controllers.split(',').any(|one| one == name),
        };
        is_it.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let (mut mount, mut kind) = (mount.split(' ').skip(3), kind.split(' '));
        let (root, point) = (mount.next()?, mount.next()?);
        let (kind, options) = (kind.next()?, kind.nth(1)?);
        let is_it = match controller {
            None => kind == "cgroup2",
            Some(name) => kind == "cgroup" && options.split(',').any(|one| one == name),
        };
        // A group outside the mount or the namespace is inaccessible.
        let below = Path::new(group).strip_prefix(root).ok()?;
        let is_below = !below.components().any(|part| part.as_os_str() == "..");
        (is_it && is_below).then(|| Path::new(OsStr::from_bytes(point.as_bytes())).join(below))
    })
}

/// Tells whether a version 2 group has all controllers available.
fn has_controllers(dir: &Path) -> bool {
    let list = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    CONTROLLERS.iter().all(|name| list.split_whitespace().any(|one| one == *name))
}

/// Enables the controllers for the groups in the agent's group, and returns the one for sandboxes. Only a group without
/// processes may do so, so the agent and the launcher, which calls this, move into a subgroup.
fn delegate(dir: &Path, base: &Path, agent: u32) -> io::Result<PathBuf> {
    let (own, walks) = (base.join("agent"), base.join(WALKS));
    std::fs::create_dir_all(&own)?;
    std::fs::create_dir_all(&walks)?;
    let move_to = |group: &Path| {
        [agent, std::process::id()]
            .iter()
            .try_for_each(|pid| std::fs::write(group.join("cgroup.procs"), pid.to_string()))
    };
    let give = |group: &Path| std::fs::write(group.join("cgroup.subtree_control"), "+memory +pids");
    let given = move_to(&own).and_then(|()| [dir, base, &walks].into_iter().try_for_each(give));
    if given.is_err() {
        // The agent's group has other processes: undo everything.
        move_to(dir)?;
        std::fs::remove_dir(&own)?;
        std::fs::remove_dir(&walks)?;
        std::fs::remove_dir(base)?;
    }
    given.map(|()| walks)
}

/// Removes the groups of agents that have ended. The kernel refuses to remove one in use.
fn remove_abandoned(dir: &Path) {
    let names = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in names(dir) {
        let name = entry.file_name();
        let agent = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if agent.is_some_and(|agent| !Path::new("/proc").join(agent.to_string()).exists()) {
            for group in names(&entry.path()) {
                // Those of sandboxes, in version 2.
                for group in names(&group.path()) {
                    let _ = std::fs::remove_dir(group.path());
                }
                let _ = std::fs::remove_dir(group.path());
            }
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
        35 31 0:32 / /v1/memory rw,relatime - cgroup cgroup rw,memory\n\
        39 31 0:36 /box /v1/pids rw,relatime - cgroup cgroup rw,pids\n";
    const OWN: &str = "8:pids:/box/in\n4:memory:/process\n0::/system.slice/oswalk.service\n";

    #[test]
    fn finds_the_group_of_this_process() {
        let found = |controller| place(OWN, MOUNTS, controller);
        let service = "/sys/fs/cgroup/system.slice/oswalk.service";
        assert_eq!(found(None), Some(service.into()));
        assert_eq!(found(Some("memory")), Some("/v1/memory/process".into()));
        assert_eq!(found(Some("pids")), Some("/v1/pids/in".into()));
        assert_eq!(found(Some("cpu")), None);
        assert_eq!(place("0::/../other\n", MOUNTS, None), None);
        assert_eq!(place("8:pids:/elsewhere\n", MOUNTS, Some("pids")), None);
        assert_eq!(place("", "", None), None);
    }

    #[test]
    fn counts_are_read() {
        let events = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 0\n";
        assert_eq!(number(events, "oom_kill"), 3);
        assert_eq!(number("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"), 1);
        assert_eq!(number("max 5\n", "max"), 5);
        assert_eq!(number("", "max"), 0);
    }
}
