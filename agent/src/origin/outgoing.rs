//! A walk as it is sent, and what was looked up before.

use std::sync::Arc;

use packetfs::commit::Scope;
use worknode::command::{Files, Role};
use worknode::reason::Reason;
use worknode::spec::WalkSpec;

use super::shared::Shared;
use super::vet;

/// A walk as it is sent, to one runner or, if that fails, to the next.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) spec: Arc<WalkSpec>,
    pub(super) encoded: Vec<u8>,
    /// Those of a compile step, as its files of arguments named them when it came in.
    pub(super) files: Option<Arc<Files>>,
    /// Where it may change something. Whatever is committed later, a link or a file of arguments of another
    /// walk among it, widens nothing.
    pub(super) scope: Scope,
}

impl Outgoing {
    /// Looks up where a walk may change something, before it waits for a slot: a file system that does not answer
    /// would keep that from others.
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

    /// Returns the file that a compile step makes, as its command line has it.
    pub(super) fn output(&self) -> Option<&[u8]> {
        self.files.as_ref()?.of_roles(&[Role::Output]).next()
    }
}
