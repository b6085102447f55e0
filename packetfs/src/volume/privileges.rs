//! Programs lose the privileges of their file when it is written, truncated, or given to another owner: set-id bits and file
//! capabilities. The kernel leaves that to a FUSE file system, since it would ask for the capabilities at each write.

use nix::errno::Errno;
use worknode::history::{Attrs, Op};

use super::changes::failed;
use super::model::{Shared, State};
use super::node::Node;
use super::tree::parent;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_MAY_EXECUTE: u32 = 0o010;
/// The extended attribute with the capabilities of a program.
const CAPABILITIES: &[u8] = b"security.capability";

/// Returns a mode without the bits that give a program its owner's or group's privileges. Without the right to execute, the bit
/// of the group has another meaning.
fn without_set_id(mode: u32) -> u32 {
    let group = if mode & GROUP_MAY_EXECUTE == 0 { 0 } else { SET_GID };
    mode & !(SET_UID | group)
}

impl Shared {
    /// Takes the privileges of a file away, if it has any.
    pub(super) fn strip(&self, state: &mut State, ino: u64) -> Result<(), Errno> {
        let node = state.node(ino)?;
        let mode = without_set_id(node.permissions.mode);
        if !node.is_dir() && mode != node.permissions.mode {
            let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
            self.emit(state, Op::Set { file: node.id, attrs }, parent(node.set))?;
        }
        self.strip_capabilities(state, ino, &node)
    }

    /// Returns what a change of attributes sets: a change of the owner takes the privileges away.
    pub(super) fn strip_for(
        &self,
        state: &mut State,
        ino: u64,
        node: &Node,
        attrs: Attrs,
    ) -> Result<Attrs, Errno> {
        let is_given = attrs.uid.is_some() || attrs.gid.is_some();
        if !is_given || node.is_dir() {
            return Ok(attrs);
        }
        self.strip_capabilities(state, ino, node)?;
        let mode = without_set_id(node.permissions.mode);
        let has_set_id = mode != node.permissions.mode;
        Ok(Attrs { mode: attrs.mode.or(has_set_id.then_some(mode)), ..attrs })
    }

    fn strip_capabilities(&self, state: &mut State, ino: u64, node: &Node) -> Result<(), Errno> {
        if !node.has_xattrs {
            return Ok(());
        }
        let found = state.tree.xattr(ino, CAPABILITIES).map_err(|error| failed(&error))?;
        let Some(xattr) = found else { return Ok(()) };
        let op = Op::Xattr { file: node.id, name: CAPABILITIES.to_vec(), value: None };
        self.emit(state, op, parent(xattr.set))?;
        Ok(())
    }
}

impl State {
    /// Tells whether a write takes privileges of a file away.
    pub(super) fn has_privileges(&self, ino: u64) -> bool {
        let Ok(node) = self.node(ino) else { return true };
        let has_capabilities = || !matches!(self.tree.xattr(ino, CAPABILITIES), Ok(None));
        without_set_id(node.permissions.mode) != node.permissions.mode
            || node.has_xattrs && has_capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::without_set_id;

    #[test]
    fn the_bit_of_a_group_that_may_not_execute_stays() {
        assert_eq!(without_set_id(0o6755), 0o755);
        assert_eq!(without_set_id(0o2745), 0o2745);
        assert_eq!(without_set_id(0o4600), 0o600);
    }
}
