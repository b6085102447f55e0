//! Answers about names: what they stand for, and how long the kernel may keep them.

use super::answer::View;
use super::elsewhere;
use super::noted::Asker;
use super::source::{Lack, known};
use crate::mirror::{Answer, Mirror, Name, Node};
use crate::path::Bytes;
use crate::tree::{Attr, Kind, Xattr};

/// Names that are looked for at a time: more than one answer holds.
const LISTED_MAX: usize = 1024;

/// What a name stands for.
#[derive(Debug)]
pub(crate) struct Looked {
    /// Nothing if the name is absent.
    pub(crate) found: Option<(Node, Attr)>,
    /// The kernel may keep it; otherwise it asks each time.
    pub(crate) keep: bool,
}

impl View {
    /// Looks a name up. From then on the kernel knows the number in the answer. `xattrs` tells whether it
    /// is shown extended attributes.
    pub(crate) fn lookup(
        &self,
        dir: Node,
        name: &[u8],
        xattrs: bool,
        asker: Asker,
    ) -> Result<Looked, Lack> {
        let mut mirror = self.mirror();
        let (node, attr) = match mirror.lookup(dir, name) {
            Answer::Absent if mirror.is_of_services(dir) => {
                drop(mirror);
                self.note_elsewhere(name, asker);
                return Ok(Looked { found: None, keep: false });
            }
            Answer::Absent => {
                self.forget(mirror.take_excess());
                return Ok(Looked { found: None, keep: true });
            }
            answer => known(answer)?,
        };
        if is_whiteout(&attr) {
            return Err(Lack::Hidden);
        }
        mirror.tell(node);
        let leads = leads_elsewhere(&mirror, node, &attr);
        let misses = !xattrs && !mirror.xattrs(node).is_empty();
        drop(mirror);
        if leads {
            self.counters.elsewhere.note(asker);
        }
        if misses {
            self.counters.missed.note(asker);
        }
        // Whoever finds one of these next is noted, too.
        Ok(Looked { found: Some((node, attr)), keep: !leads && !misses })
    }

    /// Notes that the kernel has forgotten a number that it was told `count` times.
    pub(crate) fn kernel_forgot(&self, node: Node, count: u64) {
        self.mirror().kernel_forgot(node, count);
    }

    /// Returns the attributes of a number, and the inode number that is shown.
    pub(crate) fn attr(&self, node: Node) -> Result<(u64, Attr), Lack> {
        let mirror = self.mirror();
        let attr = known(mirror.attr(node))?;
        Ok((mirror.ino(node, &attr), attr))
    }

    /// Returns where a symbolic link points; nothing if it is none.
    pub(crate) fn target(&self, node: Node) -> Option<Bytes> {
        self.mirror().target(node)
    }

    /// Lists names of a directory whose places are behind `after`: as many as an answer holds.
    pub(crate) fn list(&self, dir: Node, after: Node) -> Result<Vec<Name>, Lack> {
        known(self.mirror().list(dir, after, LISTED_MAX))
    }

    /// Returns the extended attributes of a number.
    pub(crate) fn xattrs(&self, node: Node) -> Vec<Xattr> {
        self.mirror().xattrs(node).to_vec()
    }

    /// Notes who looked for a name where a runner has nothing.
    fn note_elsewhere(&self, name: &[u8], asker: Asker) {
        if !elsewhere::is_of_libraries(name) {
            self.counters.elsewhere.note(asker);
        }
        if !elsewhere::is_of_services(name) {
            self.counters.elsewhere_in_files.note(asker);
        }
    }
}

/// Tells whether a link leads to what a runner has of its own.
fn leads_elsewhere(mirror: &Mirror, node: Node, attr: &Attr) -> bool {
    attr.kind == Kind::Symlink && elsewhere::is_runners(&mirror.path(node), &mirror.target(node))
}

/// Tells whether an overlay takes this for a name that is gone: it is refused, so that nobody makes another
/// thing in its place.
fn is_whiteout(attr: &Attr) -> bool {
    attr.kind == Kind::Char && attr.rdev == 0
}
