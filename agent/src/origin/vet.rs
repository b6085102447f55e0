//! Determines the scope of a walk's changes by its kind, so that a runner cannot change more than the walk itself could
//! have.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use nix::errno::Errno;
use packetfs::change::{ChangeSet, Op};
use packetfs::commit::Scope;
use packetfs::export::Hidden;
use packetfs::path::{Bytes, TreePath, above, join, normal, split};
use worknode::capability::{Capability, Lack, Right};
use worknode::command::{Files, Role, Tool, environment};
use worknode::said::Said;
use worknode::spec::{FdKind, WalkSpec};

use super::hello::named_path;
use crate::installed::SYSTEM_DIRS;
use crate::look::{Look, Resolved};

/// A kind of walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A compile step of any user.
    CompileStep,
    /// A compile step whose command line writes into a system directory.
    SystemCompileStep,
    /// Any other program of root.
    Whole,
    /// Any other program of another user.
    Ordinary,
}

/// What a kind of walk may change, within its user's permissions and except hidden files.
struct Permit {
    kind: Kind,
    /// Only where its command line and its environment say that it writes.
    only_named: bool,
    /// In the system's directories.
    system: bool,
    /// Set-id programs.
    set_id: bool,
}

#[rustfmt::skip]
const PERMITS: [Permit; 4] = [
    Permit { kind: Kind::CompileStep,       only_named: true,  system: false, set_id: false },
    Permit { kind: Kind::SystemCompileStep, only_named: true,  system: true,  set_id: false },
    Permit { kind: Kind::Whole,             only_named: false, system: true,  set_id: true },
    Permit { kind: Kind::Ordinary,          only_named: false, system: false, set_id: true },
];

/// Returns the scope of a walk, with symbolic links as they are now. To be called once, before the walk is sent. `files` are
/// those of a compile step; `private` are the agent's own directories.
///
/// # Errors
/// `EAGAIN`: it cannot be told at once.
pub(super) fn scope(
    spec: &WalkSpec,
    files: Option<&Files>,
    private: &[Bytes],
    look: Look,
) -> Result<Scope, Errno> {
    let kind = match (spec.compiles, spec.whole_tree) {
        (true, false) => Kind::CompileStep,
        (true, true) => Kind::SystemCompileStep,
        (false, true) => Kind::Whole,
        (false, false) => Kind::Ordinary,
    };
    let permit = PERMITS.iter().find(|permit| permit.kind == kind).expect("all kinds are listed");
    let system = SYSTEM_DIRS.iter().filter(|_| !permit.system).copied();
    let closed = private.iter().map(Vec::as_slice).chain(system);
    let only_below = files.filter(|_| permit.only_named).map(|files| written(spec, files, look));
    let only_below = only_below.transpose()?;
    Ok(Scope {
        only_below: only_below
            .into_iter()
            .flatten()
            .filter_map(|it| TreePath::new(it).ok())
            .collect(),
        closed: closed.filter_map(|path| path.try_into().ok()).collect(),
        set_id: permit.set_id,
    })
}

/// Removes changes that write hidden files, and returns their paths. Changes that move or remove them stay and are refused.
pub(super) fn leave_out_hidden(changes: &mut ChangeSet, hidden: &Hidden) -> Vec<TreePath> {
    // A runner may name a million of them.
    let mut left_out = HashSet::new();
    changes.ops.retain(|op| match op {
        Op::File { path, .. } | Op::Symlink { path, .. } | Op::Special { path, .. }
            if hidden.hides(path) =>
        {
            left_out.insert(path.clone());
            false
        }
        _ => true,
    });
    changes.found.retain(|(path, _)| !left_out.contains(path));
    left_out.into_iter().collect()
}

/// Refuses changes of hidden files, and renames that would reveal them.
pub(super) fn changes(changes: &ChangeSet, hidden: &Hidden) -> anyhow::Result<()> {
    let found = changes.found.iter().map(|(path, _)| path);
    for path in changes.ops.iter().flat_map(paths).chain(found) {
        let shown = String::from_utf8_lossy(path);
        anyhow::ensure!(!hidden.hides(path), "the runner changed {shown}, which is not exported");
    }
    for op in &changes.ops {
        if let Op::Rename { from, to } = op {
            anyhow::ensure!(
                hidden.may_be_renamed(from, to),
                "the runner renamed {}, which would reveal files that are not exported",
                String::from_utf8_lossy(from)
            );
        }
    }
    Ok(())
}

/// Refuses changes that the session's token does not allow.
pub(super) fn allowed(changes: &ChangeSet, capability: &Capability) -> Result<(), Lack> {
    let may_write = capability.bounds.rights.is_some_and(|rights| rights.has(Right::Write));
    match changed(changes).find(|path| !may_write || !capability.bounds.covers(path)) {
        None => Ok(()),
        Some(_) if !may_write => Err(Lack::Right(Right::Write)),
        Some(path) => Err(Lack::Path(Said::of_bytes(path))),
    }
}

/// Filters the file offsets that a runner reports to plausible ones: of files that the walk had open for reading, and not
/// beyond their end.
///
/// # Errors
/// `EAGAIN`: it cannot be told at once.
pub(super) fn offsets(
    spec: &WalkSpec,
    claimed: &[(u32, u64)],
    look: Look,
) -> Result<Vec<(u16, u64)>, Errno> {
    let mut sound = Vec::new();
    for &(fd, offset) in claimed {
        let known = spec.fds.iter().find(|known| known.fd == fd).map(|known| &known.kind);
        let Some(FdKind::File { path, offset: begin }) = known else { continue };
        let bytes = match look.bytes(path) {
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            bytes => bytes.unwrap_or(0),
        };
        let fd = u16::try_from(fd).ok().filter(|_| offset <= bytes.max(*begin));
        sound.extend(fd.map(|fd| (fd, offset)));
    }
    Ok(sound)
}

/// Returns the changed paths.
pub(super) fn changed(changes: &ChangeSet) -> impl Iterator<Item = &[u8]> {
    changes.ops.iter().flat_map(paths).map(|path| &**path)
}

/// Returns all paths that a commit looks at.
pub(crate) fn concerned(changes: &ChangeSet) -> impl Iterator<Item = &[u8]> {
    let found = changes.found.iter().map(|(path, _)| path);
    let emptied = changes.emptied.iter().map(|(path, _)| path);
    changed(changes).chain(found.chain(emptied).map(|path| &**path))
}

fn paths(op: &Op) -> Vec<&TreePath> {
    match op {
        Op::Rename { from, to } => vec![from, to],
        Op::Link { path, to } => vec![path, to],
        Op::Remove { path }
        | Op::Dir { path, .. }
        | Op::File { path, .. }
        | Op::Symlink { path, .. }
        | Op::Special { path, .. } => vec![path],
    }
}

/// Returns the directories in which a compile step writes: its working directory and those of its outputs, both as named and
/// with links resolved. A directory that another step creates meanwhile is at the named path.
fn written(spec: &WalkSpec, files: &Files, look: Look) -> Result<Vec<Bytes>, Errno> {
    let Written { dirs, outputs } = Written::named(spec, files);
    let mut written = Vec::new();
    let mut places = BTreeMap::new();
    for dir in dirs {
        let place = made_at(&dir, look)?;
        written.extend(place.clone());
        written.push(dir.clone());
        places.insert(dir, place);
    }
    for path in outputs {
        let there =
            split(&path).and_then(|(dir, name)| Some(join(places.get(dir)?.as_ref()?, name)));
        // An output that is a link is written to its target; any other in its directory.
        if let Some(there) = there
            && look.link(&there)?.is_some()
        {
            written.extend(made_at(&path, look)?);
        }
    }
    written.sort_unstable();
    written.dedup();
    Ok(written)
}

/// What a compile step writes, by the names that it uses.
struct Written {
    /// With those that its outputs are in.
    dirs: BTreeSet<Bytes>,
    outputs: BTreeSet<Bytes>,
}

impl Written {
    fn named(spec: &WalkSpec, files: &Files) -> Self {
        let tool = Tool::named(&spec.path).unwrap_or(Tool::Driver);
        let dirs = BTreeSet::from([spec.cwd.clone()]);
        let mut named = Self { dirs, outputs: BTreeSet::new() };
        files.paths.iter().for_each(|(role, name)| named.take(spec, *role, name));
        // Reasons to stay were handled with the hello.
        let mut take = |role, name: &[u8]| named.take(spec, role, name);
        let _ = environment::read(tool, spec.environment(), &mut take);
        let dirs = named.outputs.iter().filter_map(|path| Some(split(path)?.0.to_vec()));
        named.dirs.extend(dirs);
        named
    }

    fn take(&mut self, spec: &WalkSpec, role: Role, name: &[u8]) {
        let path = || normal(b"/", &named_path(&spec.cwd, name));
        let is_output = matches!(role, Role::Output | Role::Rules | Role::SideOutput);
        // An unknown value may be a file or a directory.
        if is_output || role == Role::Unknown {
            self.outputs.insert(path());
        }
        if role == Role::Unknown || role.is_written() && !is_output {
            self.dirs.insert(path());
        }
    }
}

/// The kernel's limit of symbolic links.
const LINKS_MAX: usize = 40;

/// Returns the real path of a file that may not exist yet: a link may be dangling, and directories may be missing.
fn made_at(path: &[u8], look: Look) -> Result<Option<Bytes>, Errno> {
    let mut path = path.to_vec();
    for _ in 0..LINKS_MAX {
        if let Some(found) = real(&path, look)? {
            return Ok(Some(found));
        }
        let Some((dir, there)) = nearest(&path, look)? else { return Ok(None) };
        let Some(missing) = path.strip_prefix(dir) else { return Ok(None) };
        let missing = missing.strip_prefix(b"/").unwrap_or(missing);
        let first = missing.split(|&byte| byte == b'/').next().unwrap_or_default();
        let Some(target) = look.link(&join(&there, first))? else {
            return Ok(Some(join(&there, missing)));
        };
        path = [normal(&there, &target).as_slice(), &missing[first.len()..]].concat();
    }
    Ok(None)
}

/// Returns the nearest existing ancestor of a path, as named and with links resolved.
fn nearest(path: &[u8], look: Look) -> Result<Option<(&[u8], Bytes)>, Errno> {
    for dir in above(path) {
        if let Some(there) = real(if dir.is_empty() { b"/" } else { dir }, look)? {
            return Ok(Some((dir, there)));
        }
    }
    Ok(None)
}

/// Returns where a path leads.
fn real(path: &[u8], look: Look) -> Result<Option<Bytes>, Errno> {
    match look.resolve(path)? {
        Resolved::At(found) => Ok(Some(found.path)),
        Resolved::Nothing | Resolved::Stream => Ok(None),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::sync::Arc;

    use super::*;
    use crate::compile;
    use crate::origin::outgoing::Outgoing;
    use packetfs::change::{Meta, Placing};
    use packetfs::export::Own;
    use packetfs::identity::Owner;
    use worknode::id::{SessionId, WalkId};
    use worknode::principal::Principal;
    use worknode::spec::FdSpec;

    pub(in crate::origin) fn spec(uid: u32, whole_tree: bool) -> WalkSpec {
        WalkSpec {
            walk: WalkId { session: SessionId(1), number: 1 },
            path: Vec::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: Vec::new(),
            hostname: Vec::new(),
            principal: Principal {
                node: "o".parse().expect("a sound name"),
                uid,
                gid: uid,
                groups: Vec::new(),
            },
            pid: 2,
            umask: 0,
            nice: 0,
            blocked: 0,
            ignored: 0,
            rlimits: Vec::new(),
            fds: Vec::new(),
            terminal: None,
            whole_tree,
            compiles: false,
            offline: false,
        }
    }

    fn owner(spec: &WalkSpec) -> Owner {
        let who = &spec.principal;
        Owner { uid: who.uid, gid: who.gid, groups: who.groups.clone() }
    }

    /// Returns a walk as it is sent.
    fn sent(spec: WalkSpec, private: &[Bytes]) -> Outgoing {
        let (arguments, look) = (spec.arguments().skip(1), Look::Waiting);
        let files = compile::files(Tool::Driver, arguments, &spec.cwd, look);
        let files = spec.compiles.then(|| Arc::new(files.expect("it may wait")));
        let scope = scope(&spec, files.as_deref(), private, look).expect("it may wait");
        Outgoing { encoded: spec.encode(), spec: Arc::new(spec), files, scope }
    }

    fn may(spec: &WalkSpec, path: &str) -> bool {
        let uid = spec.principal.uid;
        let (xattrs, without) = (Vec::new(), Vec::new());
        let meta = Meta { mode: 0o644, uid, gid: uid, mtime: None, xattrs, without };
        let path = path.parse().expect("a sound path");
        let (manifest, placing) = (Default::default(), Placing::Fresh);
        may_all(spec, vec![Op::File { path, meta, manifest, placing }])
    }

    fn may_all(spec: &WalkSpec, ops: Vec<Op>) -> bool {
        let paths = vec![b"/srv/state".to_vec(), b"/run/oswalk-1-2".to_vec()];
        let hidden = Hidden::new(Own { paths, words: Vec::new() });
        let set = ChangeSet { ops, ..ChangeSet::default() };
        let sent = sent(spec.clone(), hidden.own_paths());
        changes(&set, &hidden).is_ok() && sent.scope.check(&owner(spec), &set).is_ok()
    }

    #[test]
    fn only_what_the_walk_could_do() {
        assert!(may(&spec(1000, false), "/home/u/a.o"));
        for bad in [
            "/home/u/.ssh/authorized_keys",
            "/usr/bin/gcc",
            "/srv/state/secret",
            "/run/oswalk-1-2/0123456789abcdef",
            "/dev/shm/x",
        ] {
            assert!(!may(&spec(1000, false), bad), "{bad}");
        }
        assert!(may(&spec(0, true), "/usr/local/bin/x"));
        assert!(!may(&spec(0, true), "/srv/state/journal"));
        let rename = |from: &str, to: &str| {
            let (from, to) = (from.parse().expect("sound"), to.parse().expect("sound"));
            may_all(&spec(0, true), vec![Op::Rename { from, to }])
        };
        for (from, to) in [("/home/u/.docker", "/home/u/d"), ("/srv", "/s"), ("/home/u/.ssh", "/x")]
        {
            assert!(!rename(from, to), "{from}");
        }
        assert!(rename("/home/u/a", "/home/u/b"));
    }

    #[test]
    fn a_compile_step_writes_where_its_command_line_says() {
        let real = tempfile::tempdir().expect("a directory");
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(real.path(), dir.path().join("link")).expect("writable");
        let at = |dir: &tempfile::TempDir, name: &str| format!("{}/{name}", dir.path().display());
        let steps = WalkSpec {
            path: b"/usr/bin/gcc".to_vec(),
            argv: b"gcc\0-c\0a.c\0-o\0/out/a.o\0-MD\0-MF\0/deps/a.d\0".to_vec(),
            env: b"TMPDIR=/scratch\0".to_vec(),
            cwd: b"/work/src".to_vec(),
            compiles: true,
            offline: false,
            ..spec(0, false)
        };
        for good in ["/work/src/a.o", "/out/a.o", "/deps/a.d", "/scratch/cc1.s"] {
            assert!(may(&steps, good), "{good}");
        }
        for bad in ["/work/other/x", "/root/.bashrc", "/usr/lib/x", "/outer/x", "/x"] {
            assert!(!may(&steps, bad), "{bad}");
        }
        let cwd = dir.path().as_os_str().as_bytes().to_vec();
        let linked = WalkSpec { argv: b"gcc\0-c\0a.c\0-o\0link/a.o\0".to_vec(), cwd, ..steps };
        assert!(may(&linked, &at(&dir, "a.o")) && may(&linked, &at(&real, "a.o")));
        let nowhere = real.path().join("nothing yet");
        std::os::unix::fs::symlink(&nowhere, dir.path().join("b.o")).expect("writable");
        let argv = b"gcc\0-c\0a.c\0-o\0b.o\0".to_vec();
        let linked = WalkSpec { argv, ..linked };
        assert!(may(&linked, &at(&real, "nothing yet")) && !may(&linked, &at(&real, "another")));
        // Directories that a step beside this one may make, behind a link.
        let argv = b"gcc\0-c\0a.c\0-o\0link/x/y/a.o\0".to_vec();
        let linked = WalkSpec { argv, ..linked };
        assert!(may(&linked, &at(&real, "x/y/a.o")) && !may(&linked, &at(&real, "x/a.o")));
    }

    #[test]
    fn what_is_committed_after_a_compile_step_was_sent_widens_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let [home, work] = ["home", "work"].map(|name| root.path().join(name));
        [&home, &work].into_iter().for_each(|dir| std::fs::create_dir(dir).expect("writable"));
        std::fs::write(work.join("args"), "-c b.c -o b.o").expect("writable");
        let step = |argv: &[u8]| WalkSpec {
            path: b"/usr/bin/gcc".to_vec(),
            argv: argv.to_vec(),
            cwd: work.as_os_str().as_bytes().to_vec(),
            compiles: true,
            offline: false,
            ..spec(0, false)
        };
        let steps = [step(b"gcc\0-c\0b.c\0-o\0b.o\0"), step(b"gcc\0@args\0")];
        let sent = steps.map(|step| sent(step, &[]));
        std::os::unix::fs::symlink(home.join("x"), work.join("b.o")).expect("writable");
        std::fs::write(work.join("args"), "-c b.c -o /x.o").expect("writable");
        for Outgoing { scope, .. } in sent {
            let below = |path: &TreePath| path.starts_with(work.as_os_str().as_bytes());
            assert!(scope.only_below.iter().all(below), "{scope:?}");
        }
    }

    #[test]
    fn only_files_that_are_read_are_sought_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("input");
        std::fs::write(&path, b"0123456789").expect("writable");
        let path = path.into_os_string().into_encoded_bytes();
        let fds = vec![
            FdSpec { fd: 0, kind: FdKind::File { path, offset: 2 } },
            FdSpec { fd: 1, kind: FdKind::Output },
            FdSpec { fd: 3, kind: FdKind::Input },
        ];
        let spec = WalkSpec { fds, ..spec(0, false) };
        let claimed = [(0, 10), (0, 11), (0, u64::MAX), (1, 0), (3, 0), (7, 0)];
        assert_eq!(offsets(&spec, &claimed, Look::Waiting), Ok(vec![(0, 10)]));
    }
}
