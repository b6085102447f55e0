//! Turns a stub's hello into the walk's spec, or returns why the process must stay.

mod compiler;
mod configs;
mod descriptors;
mod environment;
pub(super) mod explain;
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
use crate::door::Caller;
use crate::session::{Claims, Session, Wishes};
use crate::sys::view::View;
use environment::Reader;
pub(super) use parsed::Hello;
use parsed::Size;
use places::Step;
pub(super) use places::named_path;

/// Why a process stays.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) reason: Reason,
    /// The name of the withheld variable.
    pub(super) variable: Option<String>,
}

/// Returns what is known of a program if it is a compile step.
fn step(session: &Session, path: &[u8], argv: &[u8], env: &[u8]) -> Option<Step> {
    let verdict = session.verdict(path).filter(|verdict| verdict.compiles())?;
    let tool = Tool::of(verdict, path)?;
    let reader = environment::reader(base_name(path), strings(argv).skip(1), env);
    Some(Step { tool, reader })
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
        session.may_judge(&self.path) && session.verdict(&self.path).is_some_and(Verdict::compiles)
    }

    /// Makes the spec, and finds the files of a compile step.
    ///
    /// # Errors
    /// Why the process must stay.
    pub(super) async fn spec(
        self,
        shared: &Shared,
        session: &Session,
        (pid, caller): (u32, Caller),
        who: Principal,
    ) -> Result<(WalkSpec, Option<Files>), Stay> {
        let (uid, compiles) = (who.uid, self.compiles(session));
        // fakeroot's daemon holds the owners of files, and programs query it through System V IPC.
        if self.has_variable(b"FAKEROOTKEY=") {
            return Err(Reason::Ipc.into());
        }
        if View::of(pid).ok().as_ref() != Some(&shared.view) {
            return Err(Reason::OtherMounts.into());
        }
        if !shared.rights.are_those_of(pid, who.uid) {
            return Err(Reason::NeedsOrigin.into());
        }
        let claims = Claims::of(&self.head).checked(pid).ok_or(Reason::NeedsOrigin)?;
        let size = self.size(session.wishes.bytes());
        if size == Size::TooLarge || !session.may_judge(&self.path) {
            return Err(Reason::ShimLimit.into());
        }
        let step = self.step(session);
        let hello = Arc::new(self);
        let (asked, hidden) = (Arc::clone(&hello), Arc::clone(&shared.hidden));
        let wishes = Arc::clone(&session.wishes);
        let question = move |look| {
            let found = asked.look_around(pid, step, &hidden, look)?;
            Ok(found.map_err(Stay::from).and_then(|(places, fds)| {
                let env = asked.environment(&wishes, compiles, places.reader)?;
                Ok((places, fds, env))
            }))
        };
        let found = match size {
            Size::Large => shared.looks.look_apart(uid, question).await,
            _ => shared.looks.look(uid, question).await,
        };
        // It fails if the working directory was deleted, or if a file system does not answer.
        let (places, fds, env) = found.unwrap_or(Err(Reason::Directory.into()))?;
        // All of this was read by the pid, which another process may have got meanwhile.
        if !caller.is_still(pid, uid) {
            return Err(Reason::NeedsOrigin.into());
        }
        // No thread has it any more that has answered.
        let hello = Arc::unwrap_or_clone(hello);
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
            nice: claims.nice,
            blocked: hello.head.blocked,
            ignored: hello.head.ignored,
            rlimits: claims.rlimits,
            fds,
            terminal,
            whole_tree: uid == 0 && places.writes_system,
            compiles,
            offline: session.offline,
        };
        Ok((spec, places.files))
    }

    /// Tells whether there is a variable that begins so.
    fn has_variable(&self, name: &[u8]) -> bool {
        let begins = |at: usize| at == 0 || self.env[at - 1] == 0;
        memchr::memmem::find_iter(&self.env, name).any(begins)
    }

    /// Returns what is known of a compile step.
    fn step(&self, session: &Session) -> Option<Step> {
        step(session, &self.path, &self.argv, &self.env)
    }

    /// Returns the environment of the walk.
    fn environment(&self, wishes: &Wishes, compiles: bool, reader: Reader) -> Result<Bytes, Stay> {
        let shipped = environment::shipped(&self.env, compiles, reader, wishes);
        shipped.map_err(|name| Stay { reason: Reason::SecretVariable, variable: Some(name) })
    }
}
