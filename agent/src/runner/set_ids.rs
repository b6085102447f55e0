//! Set-id bits that a walk of root's has lost. A write of root's leaves these bits, but one from within a user
//! namespace clears them as anybody's does.

use packetfs::change::{ChangeSet, Op, Placing};
use packetfs::mirror::Answer;
use packetfs::tree::Attr;

const SET_IDS: u32 = 0o6000;

/// Tells whether root may have lost set-id bits of a file by writing it, though a change of mode looks the same;
/// `attr_of` returns a file's attributes before the walk.
pub(super) fn are_lost(changes: &ChangeSet, attr_of: impl Fn(&[u8]) -> Answer<Attr>) -> bool {
    let is_lost = |op: &Op| match op {
        Op::File { path, meta, placing: Placing::Over { .. }, .. } => match attr_of(path) {
            // A change of owner clears them anyway.
            Answer::Known(was) if (was.uid, was.gid) == (meta.uid, meta.gid) => {
                was.mode & SET_IDS & !meta.mode != 0
            }
            _ => false,
        },
        _ => false,
    };
    changes.ops.iter().any(is_lost)
}

#[cfg(test)]
mod tests {
    use packetfs::change::Meta;
    use packetfs::packet::Manifest;
    use packetfs::tree::{Kind, Time};

    use super::*;

    #[test]
    fn only_what_a_write_may_have_cleared() {
        let time = Time { seconds: 0, nanos: 0 };
        let was = |mode, uid| Attr {
            kind: Kind::File,
            mode,
            uid,
            gid: 0,
            bytes: 0,
            blocks: 0,
            links: 1,
            rdev: 0,
            mtime: time,
            ctime: time,
            ino: 1,
            dev: 1,
        };
        let lost = |before: Answer<Attr>, mode, placing| {
            let (xattrs, without) = (Vec::new(), Vec::new());
            let meta = Meta { mode, uid: 0, gid: 0, mtime: None, xattrs, without };
            let path = "/f".parse().expect("sound");
            let op = Op::File { path, meta, manifest: Manifest::default(), placing };
            let changes = ChangeSet { ops: vec![op], ..ChangeSet::default() };
            are_lost(&changes, |_| before.clone())
        };
        let over = || Placing::Over { base: Some(was(0o755, 0).version()) };
        for bits in [0o4000, 0o2000, 0o6000] {
            assert!(lost(Answer::Known(was(0o755 | bits, 0)), 0o755, over()));
            assert!(!lost(Answer::Known(was(0o755 | bits, 0)), 0o755 | bits, over()));
            assert!(!lost(Answer::Known(was(0o755 | bits, 5)), 0o755, over()), "a new owner");
            assert!(!lost(Answer::Known(was(0o755 | bits, 0)), 0o755, Placing::Fresh));
            assert!(!lost(Answer::Absent, 0o755, over()));
        }
    }
}
