//! Looks at what a runner says a walk has changed, before anything of it is applied: a runner is
//! believed no more than the walk itself could have done.

use packetfs::change::{ChangeSet, Meta, Op};
use packetfs::export::Hidden;
use packetfs::tree::{Kind, is_within};
use worknode::spec::WalkSpec;

use super::hello::SYSTEM_DIRS;

/// Refuses changes that the walk could not have made.
pub(super) fn changes(changes: &ChangeSet, spec: &WalkSpec, hidden: &Hidden) -> anyhow::Result<()> {
    for (path, _) in &changes.found {
        anyhow::ensure!(
            !hidden.hides(path),
            "the runner says what is at {}, which is not exported",
            String::from_utf8_lossy(path)
        );
    }
    for op in &changes.ops {
        let paths: &[&[u8]] = match op {
            Op::Rename { from, to } => &[from, to],
            Op::Link { path, to } => &[path, to],
            Op::Remove { path }
            | Op::Dir { path, .. }
            | Op::File { path, .. }
            | Op::Symlink { path, .. }
            | Op::Special { path, .. } => &[path],
        };
        if let Op::Rename { from, to } = op {
            anyhow::ensure!(
                hidden.may_be_renamed(from, to),
                "the runner renamed {}, which would show what is not exported",
                String::from_utf8_lossy(from)
            );
        }
        for path in paths {
            let shown = String::from_utf8_lossy(path);
            let own_or_secret = hidden.hides(path);
            anyhow::ensure!(!own_or_secret, "the runner changed {shown}, which is not exported");
            let system = SYSTEM_DIRS.iter().any(|dir| is_within(path, dir));
            anyhow::ensure!(
                spec.whole_tree || !system || matches!(op, Op::Dir { replaces: false, .. }),
                "the runner changed {shown}, which this walk could not"
            );
        }
        let device = matches!(op, Op::Special { kind: Kind::Char | Kind::Block, .. });
        anyhow::ensure!(!device, "the runner made a device");
        if let Some(meta) = meta(op) {
            let own = meta.uid == spec.credentials.uid || matches!(op, Op::Dir { .. });
            anyhow::ensure!(
                spec.credentials.uid == 0 || own,
                "the runner gave a file to user {}",
                meta.uid
            );
        }
    }
    Ok(())
}

fn meta(op: &Op) -> Option<&Meta> {
    match op {
        Op::Dir { meta, .. }
        | Op::File { meta, .. }
        | Op::Symlink { meta, .. }
        | Op::Special { meta, .. } => Some(meta),
        Op::Rename { .. } | Op::Remove { .. } | Op::Link { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packetfs::change::Placing;
    use packetfs::export::Own;
    use worknode::id::{SessionId, WalkId};
    use worknode::spec::Credentials;

    fn spec(uid: u32, whole_tree: bool) -> WalkSpec {
        WalkSpec {
            walk: WalkId { session: SessionId(1), number: 1 },
            origin: "o".parse().expect("a sound name"),
            path: Vec::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: Vec::new(),
            hostname: Vec::new(),
            credentials: Credentials { uid, gid: uid, groups: Vec::new() },
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
        }
    }

    fn file(path: &str, uid: u32) -> ChangeSet {
        let meta = Meta {
            mode: 0o644,
            uid,
            gid: uid,
            mtime: None,
            xattrs: Vec::new(),
            without: Vec::new(),
        };
        let path = path.parse().expect("a sound path");
        let op = Op::File { path, meta, manifest: Default::default(), placing: Placing::Fresh };
        ChangeSet { ops: vec![op], ..ChangeSet::default() }
    }

    #[test]
    fn only_what_the_walk_could_do() {
        let paths = vec![b"/srv/state".to_vec(), b"/run/oswalk-1-2".to_vec()];
        let hidden = Hidden::new(Own { paths, words: Vec::new() });
        let vet = |set: &ChangeSet, spec: &WalkSpec| changes(set, spec, &hidden).is_ok();
        assert!(vet(&file("/home/u/a.o", 1000), &spec(1000, false)));
        for bad in [
            "/home/u/.ssh/authorized_keys",
            "/usr/bin/gcc",
            "/srv/state/secret",
            "/run/oswalk-1-2/0123456789abcdef",
        ] {
            assert!(!vet(&file(bad, 1000), &spec(1000, false)), "{bad}");
        }
        assert!(!vet(&file("/home/u/a.o", 0), &spec(1000, false)));
        assert!(vet(&file("/usr/local/bin/x", 0), &spec(0, true)));
        let rename = |from: &str, to: &str| {
            let (from, to) = (from.parse().expect("sound"), to.parse().expect("sound"));
            ChangeSet { ops: vec![Op::Rename { from, to }], ..ChangeSet::default() }
        };
        for (from, to) in [("/home/u/.docker", "/home/u/d"), ("/srv", "/s"), ("/home/u/.ssh", "/x")]
        {
            assert!(!vet(&rename(from, to), &spec(0, true)), "{from}");
        }
        assert!(vet(&rename("/home/u/a", "/home/u/b"), &spec(0, true)));
    }
}
