//! Answers look-ups: what a name refers to, and whether the kernel may cache it.

use super::answer::View;
use super::elsewhere;
use super::noted::Asker;
use super::source::{Lack, known};
use crate::mirror::{Answer, Mirror, Name, Node};
use crate::path::Bytes;
use crate::tree::{Attr, Kind, Xattr};
use crate::xattr::has_acl;

/// Names collected for one `readdir`: more than fit an answer.
const LISTED_MAX: usize = 1024;

/// The result of a look-up.
#[derive(Debug)]
pub(crate) struct Looked {
    /// The node and its attributes; `None` if the name is absent.
    pub(crate) found: Option<(Node, Attr)>,
    /// Whether the kernel may cache it.
    pub(crate) keep: bool,
}

impl View {
    /// Looks a name up. From then on the kernel holds a reference to the node in the answer. `xattrs` tells
    /// whether the mount shows extended attributes.
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
        let misses_acl = !xattrs && has_acl(mirror.xattrs(node));
        drop(mirror);
        if leads {
            self.counters.elsewhere.note(asker);
        }
        if misses {
            self.counters.missed.note(asker);
        }
        if misses_acl {
            self.counters.missed_acls.note(asker);
        }
        // Uncached, so that later look-ups are recorded, too.
        Ok(Looked { found: Some((node, attr)), keep: !leads && !misses })
    }

    /// Records that the kernel has dropped `count` references to a node.
    pub(crate) fn kernel_forgot(&self, node: Node, count: u64) {
        self.mirror().kernel_forgot(node, count);
    }

    /// Returns a node's attributes, and the inode number that programs see.
    pub(crate) fn attr(&self, node: Node) -> Result<(u64, Attr), Lack> {
        let mirror = self.mirror();
        let attr = known(mirror.attr(node))?;
        Ok((mirror.ino(node, &attr), attr))
    }

    /// Returns a symbolic link's target, or `None` if the node is not one.
    pub(crate) fn target(&self, node: Node) -> Option<Bytes> {
        self.mirror().target(node)
    }

    /// Lists the next names of a directory after `after`.
    pub(crate) fn list(&self, dir: Node, after: Node) -> Result<Vec<Name>, Lack> {
        known(self.mirror().list(dir, after, LISTED_MAX))
    }

    /// Returns a node's extended attributes.
    pub(crate) fn xattrs(&self, node: Node) -> Vec<Xattr> {
        self.mirror().xattrs(node).to_vec()
    }

    /// Records which process looked up a name in the runner's empty `/run`.
    fn note_elsewhere(&self, name: &[u8], asker: Asker) {
        if !elsewhere::is_of_libraries(name) {
            self.counters.elsewhere.note(asker);
        }
        if !elsewhere::is_of_services(name) {
            self.counters.elsewhere_in_files.note(asker);
        }
    }
}

/// Tells whether a node is a link that leads to files local to the runner.
fn leads_elsewhere(mirror: &Mirror, node: Node, attr: &Attr) -> bool {
    attr.kind == Kind::Symlink && elsewhere::is_runners(&mirror.path(node), &mirror.target(node))
}

/// Tells whether overlayfs would treat this as a whiteout. Access to it is refused, so that no walk creates
/// something else under its name.
fn is_whiteout(attr: &Attr) -> bool {
    attr.kind == Kind::Char && attr.rdev == 0
}
