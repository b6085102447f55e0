//! Predicts what a walk needs in its upper layer. Preparing it in advance saves FUSE requests for the origin's
//! tree.

use packetfs::mirror::Answer;
use packetfs::path::{Bytes, join, normal, split};
use packetfs::tree::{Attr, Kind};
use worknode::spec::WalkSpec;

use crate::compile;
use crate::sys::orders::Ahead;

/// Returns what to prepare; `attr_of` returns known attributes of a path in the origin's tree.
pub(super) fn of(spec: &WalkSpec, attr_of: impl Fn(&[u8]) -> Answer<Attr>) -> Ahead {
    let mut ahead = Ahead { dirs: vec![spec.cwd.clone()], ..Ahead::default() };
    // With TMPDIR set, a program is unlikely to use /tmp.
    if !spec.environment().any(|variable| variable.starts_with(b"TMPDIR=")) {
        ahead.dirs.push(b"/tmp".to_vec());
    }
    if spec.compiles {
        let outputs = compile::outputs(spec);
        let plain = outputs.iter().filter(|name| !compile::goes_up(name));
        for path in plain.map(|name| normal(&spec.cwd, name)) {
            let Some((dir, _)) = split(&path) else { continue };
            let is_dir = matches!(attr_of(dir), Answer::Known(attr) if attr.kind == Kind::Dir);
            if is_dir && attr_of(&path) == Answer::Absent {
                if !ahead.dirs.iter().any(|known| known == dir) {
                    ahead.dirs.push(dir.to_vec());
                }
                ahead.absent.push(path);
            }
        }
    }
    let mut known: Vec<(Bytes, Attr)> = Vec::new();
    for dir in &ahead.dirs {
        let mut path = b"/".to_vec();
        for name in dir.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            path = join(&path, name);
            if known.iter().any(|(there, _)| *there == path) {
                continue;
            }
            let Answer::Known(attr) = attr_of(&path) else { break };
            known.push((path.clone(), attr));
        }
    }
    ahead.known = known;
    ahead
}
