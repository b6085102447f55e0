//! A walk to send, with everything that was looked up in advance.

use std::sync::Arc;

use packetfs::commit::Scope;
use worknode::command::{Files, Role};
use worknode::reason::Reason;
use worknode::spec::WalkSpec;

use super::shared::Shared;
use super::vet;

/// A walk to send to a runner, and if that fails to the next.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) spec: Arc<WalkSpec>,
    pub(super) encoded: Vec<u8>,
    /// The files of a compile step, as its response files named them at the start.
    pub(super) files: Option<Arc<Files>>,
    /// Where it may make changes. Later commits, for example of a link or a response file of another walk, do not widen
    /// this.
    pub(super) scope: Scope,
}

impl Outgoing {
    /// Determines where a walk may make changes. Done before it gets a slot, because it could otherwise block the slot while
    /// a file system does not answer.
    ///
    /// # Errors
    /// Why the process must stay.
    pub(super) async fn prepare(
        shared: &Shared,
        spec: WalkSpec,
        files: Option<Files>,
    ) -> Result<Self, Reason> {
        let (spec, files) = (Arc::new(spec), files.map(Arc::new));
        let (asked, named, hidden) = (Arc::clone(&spec), files.clone(), Arc::clone(&shared.hidden));
        let uid = spec.principal.uid;
        let question = move |look| vet::scope(&asked, named.as_deref(), hidden.own_paths(), look);
        let scope = shared.looks.look(uid, question).await.map_err(|_| Reason::Directory)?;
        Ok(Self { encoded: spec.encode(), spec, files, scope })
    }

    /// Returns the output of a compile step as named in its command line.
    pub(super) fn output(&self) -> Option<&[u8]> {
        self.files.as_ref()?.of_roles(&[Role::Output]).next()
    }
}
