//! [unsafe] One call that executes a program: find the file, decide, act.
//!
//! The only unsafe operations pass the caller's pointers to the next function.
#![expect(unsafe_code, reason = "makes the real calls")]

use core::ffi::{CStr, c_char, c_int};

use worknode::page::Page;
use worknode::policy::{self, Verdict};
use worknode::reason::Reason;
use worknode::script::{self, DEPTH_MAX};

use crate::cluster::{self, Memory, Script};
use crate::environment::{self, Need, Replacement};
use crate::find::{self, Behind};
use crate::next::{self, Spawn};
use crate::path::PathBuffer;
use crate::response::{self, Files};
use crate::scratch;
use crate::session::{self, Session};
use crate::strings::Strings;
use crate::sys;
use crate::target::{self, Target};

/// A call as the program made it.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) how: How<'a>,
    pub(crate) argv: Strings<'a>,
    pub(crate) envp: Strings<'a>,
}

/// The function that was called, and its arguments that name the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How<'a> {
    Execve { path: &'a CStr },
    Execv { path: &'a CStr },
    Execvp { file: &'a CStr },
    Execvpe { file: &'a CStr },
    Execveat { directory: c_int, path: &'a CStr, flags: c_int },
    Fexecve { fd: c_int },
    Spawn { spawn: Spawn, path: &'a CStr },
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Make the real call, which will fail with the right error.
    Leave,
    Stay(Reason),
    Walk,
}

impl Call<'_> {
    /// Makes the call, or executes the stub instead.
    ///
    /// # Safety
    /// The arguments are valid for the function that `how` names.
    pub(crate) unsafe fn make(&self) -> c_int {
        let Some(session) = session::current() else { return self.original(None) };
        match self.how {
            How::Execve { path }
            | How::Execv { path }
            | How::Spawn { spawn: Spawn { search: false, .. }, path } => {
                self.act(&session, Behind::Path(path))
            }
            _ => self.search(&session),
        }
    }

    /// Finds the file and acts. Not inlined, so that calls with a path do not touch the pages of its
    /// buffer: in a process that was just forked, each page touched is a fault.
    #[inline(never)]
    fn search(&self, session: &Session) -> c_int {
        let mut buffer = PathBuffer::new();
        self.act(session, self.find(&mut buffer))
    }

    fn act(&self, session: &Session, behind: Behind<'_>) -> c_int {
        match behind {
            Behind::Path(path) if cluster::is_inside(path) => self.in_cluster(session, path),
            Behind::Path(path) => match decide(&session.page, path, self.argv, self.envp) {
                Decision::Leave => self.original(None),
                Decision::Stay(reason) => self.stay(session, path.to_bytes(), reason),
                Decision::Walk => self.walk(session, path),
            },
            Behind::Nowhere => {
                let name = self.argv.iter().next().unwrap_or(c"");
                self.stay(session, name.to_bytes(), Reason::Descriptor)
            }
            Behind::Error => self.original(None),
        }
    }

    /// Executes a program of the cluster's file system, which is not mounted here: it stays, since the stub would not find it.
    /// Not inlined, because of its buffers.
    #[inline(never)]
    fn in_cluster(&self, session: &Session, path: &CStr) -> c_int {
        let how = match self.how {
            How::Spawn { spawn, .. } => {
                How::Spawn { spawn: Spawn { search: false, ..spawn }, path }
            }
            _ => How::Execve { path },
        };
        let call = Call { how, argv: self.argv, envp: self.envp };
        if let Some(script) = cluster::script(path)
            && !cluster::script(script.interpreter())
                .is_some_and(|_| cluster::is_inside(script.interpreter()))
        {
            return call.interpret(&script, path).unwrap_or_else(|| next::fail(sys::E2BIG));
        }
        match decide(&session.page, path, self.argv, self.envp) {
            Decision::Leave => call.original(None),
            Decision::Stay(reason) => call.stay(session, path.to_bytes(), reason),
            Decision::Walk => call.stay(session, path.to_bytes(), Reason::NotExported),
        }
    }

    /// Executes the interpreter of a script, as the kernel would. Returns `None` if there are too many arguments.
    fn interpret(&self, script: &Script, path: &CStr) -> Option<c_int> {
        let interpreter = script.interpreter();
        let words = [Some(interpreter), script.argument(), Some(path)];
        let rest = self.argv.iter().skip(1);
        let count = words.iter().flatten().count() + self.argv.count() + 1;
        scratch::with(count, 0, |scratch| {
            let all = words.into_iter().flatten().chain(rest);
            scratch.pointers.iter_mut().zip(all).for_each(|(slot, word)| *slot = word.as_ptr());
            // SAFETY: the array ends with a null, and its strings live as long as this call.
            let argv = unsafe { Strings::new(scratch.pointers.as_ptr()) };
            let how = match self.how {
                How::Spawn { spawn, .. } => How::Spawn { spawn, path: interpreter },
                _ => How::Execve { path: interpreter },
            };
            // SAFETY: the interpreter's path, and arguments derived from the caller's (see `make`).
            unsafe { Call { how, argv, envp: self.envp }.make() }
        })
    }

    /// Finds a path that executes the same file from the same working directory.
    fn find<'b>(&'b self, buffer: &'b mut PathBuffer) -> Behind<'b> {
        const KNOWN_FLAGS: c_int = sys::AT_EMPTY_PATH | sys::AT_SYMLINK_NOFOLLOW;
        let path = match self.how {
            How::Execve { path } | How::Execv { path } => Some(path),
            How::Spawn { spawn: Spawn { search: false, .. }, path } => Some(path),
            How::Execvp { file } | How::Execvpe { file } | How::Spawn { path: file, .. } => {
                let search = session::environment().variable(b"PATH=");
                find::along_path(file, search, buffer)
            }
            How::Fexecve { fd } => return find::behind_descriptor(fd, buffer),
            How::Execveat { directory, path, flags }
                if path.is_empty() && flags == sys::AT_EMPTY_PATH && directory >= 0 =>
            {
                return find::behind_descriptor(directory, buffer);
            }
            // A flag newer than this library: the kernel decides.
            How::Execveat { flags, .. } if flags & !KNOWN_FLAGS != 0 => None,
            How::Execveat { directory, path, flags } => find::relative(directory, path, buffer)
                .filter(|path| flags & sys::AT_SYMLINK_NOFOLLOW == 0 || !sys::is_link(path)),
        };
        path.map_or(Behind::Error, Behind::Path)
    }

    fn stay(&self, session: &Session, path: &[u8], reason: Reason) -> c_int {
        // A call that fails is not counted. Only a spawn returns if it succeeds.
        if let How::Spawn { .. } = self.how {
            let result = self.execute_here(session, path, reason);
            if result == 0 {
                session.count(path, reason);
            }
            return result;
        }
        session.count(path, reason);
        self.execute_here(session, path, reason)
    }

    fn execute_here(&self, session: &Session, path: &[u8], reason: Reason) -> c_int {
        // A foreign loader would print a warning about the library. A program that executes nothing
        // does not need it, and loading it is the largest cost of a stay.
        let usable = reason != Reason::Foreign
            && (!policy::executes_nothing(path) || cluster::is_hidden())
            && session.is_reachable();
        let need = if usable { Need::Preload } else { Need::NoPreload };
        let original = |environment| self.original(environment);
        match environment::with(session, self.envp, need, &original) {
            // The added variables may have exceeded the kernel's limit: try without them.
            Some(result) if !self.is_too_big(result) => result,
            _ => self.original(None),
        }
    }

    fn walk(&self, session: &Session, path: &CStr) -> c_int {
        let stub = |environment| self.instead(session.stub(), environment);
        match environment::with(session, self.envp, Need::Walk(path), &stub) {
            Some(0) => 0,
            // There was no room for the environment, or the stub could not be executed.
            _ => self.stay(session, path.to_bytes(), Reason::ShimLimit),
        }
    }

    fn is_too_big(&self, result: c_int) -> bool {
        match self.how {
            How::Spawn { .. } => result == sys::E2BIG,
            _ => result == -1 && next::errno() == sys::E2BIG,
        }
    }

    /// Makes the original call, with the caller's environment or a replacement.
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "only one arm of the match runs")]
    fn original(&self, environment: Replacement) -> c_int {
        let argv = self.argv.as_ptr();
        let envp = environment.unwrap_or(self.envp.as_ptr());
        if let Some(result) = self.original_in_cluster(envp) {
            return result;
        }
        // SAFETY: the caller's arguments, or an environment derived from them (see `make`).
        unsafe {
            match self.how {
                How::Execv { path } if environment.is_none() => next::execv(path.as_ptr(), argv),
                How::Execve { path } | How::Execv { path } => {
                    next::execve(path.as_ptr(), argv, envp)
                }
                How::Execvp { file } if environment.is_none() => next::execvp(file.as_ptr(), argv),
                How::Execvp { file } | How::Execvpe { file } => {
                    next::execvpe(file.as_ptr(), argv, envp)
                }
                How::Execveat { directory, path, flags } => {
                    next::execveat(directory, path.as_ptr(), argv, envp, flags)
                }
                How::Fexecve { fd } => next::fexecve(fd, argv, envp),
                How::Spawn { spawn, path } => next::spawn(spawn, path.as_ptr(), argv, envp),
            }
        }
    }

    /// Makes the original call if its path leads to the cluster's file system, which is not mounted here.
    fn original_in_cluster(&self, envp: *const *const c_char) -> Option<c_int> {
        let (How::Execve { path } | How::Execv { path } | How::Spawn { path, .. }) = self.how
        else {
            return None;
        };
        let argv = self.argv.as_ptr();
        cluster::find_by(Memory::Stack, sys::AT_FDCWD, path, |directory, rest| {
            match self.how {
                How::Spawn { spawn, .. } => {
                    Memory::Stack.with(|[mut room]| {
                        let name = cluster::name(directory, rest, &mut room);
                        // SAFETY: the caller's arguments (see `make`).
                        unsafe { next::spawn(spawn, name.as_ptr(), argv, envp) }
                    })
                }
                // SAFETY: the caller's arguments (see `make`).
                _ => unsafe { next::execveat(directory, rest.as_ptr(), argv, envp, 0) },
            }
        })
    }

    /// Executes another program with the caller's arguments.
    fn instead(&self, program: &CStr, environment: Replacement) -> c_int {
        let (path, argv) = (program.as_ptr(), self.argv.as_ptr());
        let envp = environment.unwrap_or(self.envp.as_ptr());
        if let How::Spawn { spawn, .. } = self.how {
            let spawn = Spawn { search: false, ..spawn };
            // SAFETY: the caller's arguments, and an environment derived from them (see `make`).
            return unsafe { next::spawn(spawn, path, argv, envp) };
        }
        // SAFETY: likewise.
        unsafe { next::execve(path, argv, envp) }
    }
}

/// Decides by the rules and the kind of the file.
fn decide(page: &Page<'_>, path: &CStr, argv: Strings<'_>, envp: Strings<'_>) -> Decision {
    let by_rule = response::with_room(argv, |room| {
        let arguments = argv.iter().skip(1).map(CStr::to_bytes);
        page.decide(path.to_bytes(), arguments, &mut Files, room)
    });
    if let Err(reason) = by_rule
        && policy::executes_nothing(path.to_bytes())
    {
        // A system program that the built-in table knows: its file need not be examined.
        return if sys::may_execute(path) { Decision::Stay(reason) } else { Decision::Leave };
    }
    let target = target::look(path);
    let by_rule = match (by_rule, target) {
        (Err(_), Some(target @ (Target::Native | Target::Script))) if page.has_volumes() => {
            in_volume(page, path, target).unwrap_or(by_rule)
        }
        _ => by_rule,
    };
    match (by_rule, target) {
        (_, None) => Decision::Leave,
        (_, Some(Target::Privileged)) => Decision::Stay(Reason::Privileged),
        (_, Some(Target::Foreign)) => Decision::Stay(Reason::Foreign),
        (Err(reason), _) => Decision::Stay(reason),
        (Ok(()), Some(Target::Unreadable)) => Decision::Stay(Reason::NotExported),
        (Ok(()), Some(Target::Unknown)) => Decision::Stay(Reason::NotExecutable),
        (Ok(()), Some(target)) => {
            let reason = by_what_it_is(page, path, target, envp);
            reason.map_or(Decision::Walk, Decision::Stay)
        }
    }
}

/// Decides whether a program walks because its file lies below a mounted volume. Not inlined for the same reason as below.
#[inline(never)]
fn in_volume(page: &Page<'_>, path: &CStr, target: Target) -> Option<Result<(), Reason>> {
    let mut buffer = PathBuffer::new();
    match page.decide_in_volume(path.to_bytes(), find::real(path, &mut buffer)?)? {
        Ok(()) if target == Target::Script => interpreted(page, cluster::script(path)?, buffer),
        decision => Some(decision),
    }
}

/// Decides whether a script in a volume walks, by all that interpret it. `None` if one of them cannot be executed.
fn interpreted(
    page: &Page<'_>,
    mut script: Script,
    mut buffer: PathBuffer,
) -> Option<Result<(), Reason>> {
    for _ in 0..DEPTH_MAX {
        let path = script.interpreter();
        let argument = script.argument().map(CStr::to_bytes);
        let Some(program) = script::program(path.to_bytes(), argument) else {
            return Some(Err(Reason::Driver));
        };
        // A name that `env` finds is not followed: by that name it is known.
        let real = (program == path.to_bytes()).then(|| find::real(path, &mut buffer)).flatten();
        let names = [Some(program), real];
        if let Some(reason) = names.iter().flatten().find_map(|name| page.interprets_here(name)) {
            return Some(Err(reason));
        }
        script = match target::look(path)? {
            Target::Native => return Some(Ok(())),
            Target::Script => cluster::script(path)?,
            Target::Foreign => return Some(Err(Reason::Foreign)),
            Target::Privileged => return Some(Err(Reason::Privileged)),
            Target::Unreadable => return Some(Err(Reason::NotExported)),
            Target::Unknown => return None,
        };
    }
    None
}

/// Returns why a program that may walk by its name stays nonetheless. Not inlined, so that programs
/// that stay by their name do not pay for its stack frame.
#[inline(never)]
fn by_what_it_is(
    page: &Page<'_>,
    path: &CStr,
    target: Target,
    envp: Strings<'_>,
) -> Option<Reason> {
    if page.verdict(path.to_bytes()).is_some_and(Verdict::compiles) {
        if target == Target::Script {
            // The compiler walks when the script executes it.
            return Some(Reason::Wrapper);
        }
        let mut buffer = PathBuffer::new();
        if let Some(reason) = find::real(path, &mut buffer).and_then(|real| page.wraps(real)) {
            return Some(reason);
        }
    }
    if environment::talks_here(envp) {
        return Some(Reason::ForeignPreload);
    }
    environment::is_alone(envp).then_some(Reason::Alone)
}
