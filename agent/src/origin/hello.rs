//! Turns a stub's hello into the walk's spec, or returns why the process must stay.

mod compiler;
mod configs;
mod descriptors;
mod environment;
mod parsed;
mod places;
mod variables;

use std::sync::Arc;

use worknode::command::{Files, Tool};
use worknode::policy::{Verdict, base_name};
use worknode::principal::Principal;
use worknode::reason::Reason;
use worknode::spec::{Bytes, FdKind, TerminalSpec, WalkSpec, strings};

use super::shared::Shared;
use crate::session::Session;
use crate::sys::view::View;
use environment::Reader;
pub(super) use parsed::Hello;
use places::Step;
pub(super) use places::named_path;

/// Why a process stays.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) reason: Reason,
    /// The name of the withheld variable.
    pub(super) variable: Option<String>,
}

impl From<Reason> for Stay {
    fn from(reason: Reason) -> Self {
        Self { reason, variable: None }
    }
}

impl Hello {
    /// Returns the program's base name, for the report.
    pub(super) fn argv0(&self) -> String {
        String::from_utf8_lossy(base_name(&self.path)).into_owned()
    }

    /// Tells whether the program is a compile step.
    pub(super) fn compiles(&self, session: &Session) -> bool {
        session.verdict(&self.path).is_some_and(Verdict::compiles)
    }

    /// Makes the spec, and finds the files of a compile step.
    ///
    /// # Errors
    /// Why the process must stay.
    pub(super) async fn spec(
        self,
        shared: &Shared,
        session: &Session,
        pid: u32,
        who: Principal,
    ) -> Result<(WalkSpec, Option<Files>), Stay> {
        let (uid, compiles) = (who.uid, self.compiles(session));
        // fakeroot's daemon holds the owners of files, and programs query it through System V IPC.
        if strings(&self.env).any(|variable| variable.starts_with(b"FAKEROOTKEY=")) {
            return Err(Reason::Ipc.into());
        }
        if View::of(pid).ok().as_ref() != Some(&shared.view) {
            return Err(Reason::OtherMounts.into());
        }
        if !shared.rights.are_those_of(pid, who.uid) {
            return Err(Reason::NeedsOrigin.into());
        }
        let step = self.step(session);
        let hello = Arc::new(self);
        let (asked, hidden) = (Arc::clone(&hello), Arc::clone(&shared.hidden));
        let question = move |look| asked.look_around(pid, step, &hidden, look);
        let found = shared.looks.look(who.uid, question).await;
        // It fails if the working directory was deleted, or if a file system does not answer.
        let (places, fds) = found.unwrap_or(Err(Reason::Directory))?;
        // No thread has it any more that has answered.
        let hello = Arc::unwrap_or_clone(hello);
        let env = hello.environment(session, compiles, places.reader)?;
        let terminal = fds.iter().any(|fd| fd.kind == FdKind::Terminal).then(|| TerminalSpec {
            termios: hello.head.termios.to_vec(),
            window: hello.head.window,
            reads: !compiles,
        });
        let spec = WalkSpec {
            walk: session.next_walk(),
            path: hello.path,
            argv: hello.argv,
            env,
            cwd: hello.cwd,
            hostname: shared.hostname.clone(),
            principal: who,
            pid,
            umask: hello.head.umask,
            nice: hello.head.nice,
            blocked: hello.head.blocked,
            ignored: hello.head.ignored,
            rlimits: hello.head.rlimits.to_vec(),
            fds,
            terminal,
            whole_tree: uid == 0 && places.writes_system,
            compiles,
        };
        Ok((spec, places.files))
    }

    /// Returns what is known of a compile step.
    fn step(&self, session: &Session) -> Option<Step> {
        let verdict = session.verdict(&self.path).filter(|verdict| verdict.compiles())?;
        let tool = Tool::of(verdict, &self.path)?;
        let (name, arguments) = (base_name(&self.path), strings(&self.argv).skip(1));
        let reader = environment::reader(name, arguments, &self.env);
        Some(Step { tool, reader })
    }

    /// Returns the environment of the walk.
    fn environment(
        &self,
        session: &Session,
        compiles: bool,
        reader: Reader,
    ) -> Result<Bytes, Stay> {
        let shipped = environment::shipped(&self.env, compiles, reader, &session.wishes);
        shipped.map_err(|name| Stay { reason: Reason::SecretVariable, variable: Some(name) })
    }
}
