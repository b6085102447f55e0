//! Runs the program at its origin, in this process.

use core::ffi::CStr;

use worknode::page::Page;
use worknode::policy::base_name;
use worknode::reason::Reason;
use worknode::tally;
use worknode::variables::WALK_ENTRY;

use crate::output;
use crate::process::Process;
use crate::signals::Signals;
use crate::sys;

/// Exit status when the program cannot be found, as in shells.
pub(crate) const NOT_FOUND: i32 = 127;
/// Exit status when the program cannot be executed, as in shells.
const NOT_EXECUTABLE: i32 = 126;

/// The program to execute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) process: Process,
    pub(crate) path: &'static CStr,
    /// Whether the programs that it executes stay, too.
    pub(crate) alone: bool,
}

impl Home {
    /// Executes the program in the state that the stub inherited. The stub's own descriptors are
    /// close-on-exec.
    pub(crate) fn run(self, signals: Option<Signals>) -> ! {
        if !self.alone {
            self.process.remove_variable(WALK_ENTRY);
        }
        if let Some(signals) = signals {
            signals.restore();
        }
        let mut error = self.process.execute(self.path);
        if error == sys::ENOEXEC {
            error = self.process.execute_by_shell(self.path);
        }
        let (code, why): (i32, &[u8]) = match error {
            sys::ENOENT => (NOT_FOUND, b": no such file or directory"),
            sys::EACCES => (NOT_EXECUTABLE, b": permission denied"),
            _ => (NOT_EXECUTABLE, b": the kernel cannot execute it"),
        };
        output::complain(&[b"failed to execute ", self.path.to_bytes(), why]);
        sys::exit(code)
    }
}

/// Counts a stay that the agent does not learn of.
pub(crate) fn count(page: &Page<'_>, path: &CStr, reason: Reason) {
    let words = CStr::from_bytes_until_nul(page.page_path()).ok().and_then(|page_path| {
        let fd = sys::open(page_path, sys::O_RDWR).ok()?;
        let words = sys::map_words(fd, page.page_bytes()?, page.tally_bytes());
        sys::close(fd);
        words
    });
    if let Some(words) = words {
        tally::count(words, base_name(path.to_bytes()), reason);
    }
}
