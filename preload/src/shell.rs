//! `system` and `popen`. libc starts their shell with the program's environment, bypassing the hooks.
//! The shell stays anyway. If the environment lacks the session's variables, the command is replaced
//! by one that sets them and executes the shell again.

use core::ffi::{CStr, c_char, c_int};

use worknode::reason::Reason;

use crate::environment;
use crate::scratch::{self, Scratch};
use crate::session::{self, Session};

/// Longest single argument that Linux accepts (`MAX_ARG_STRLEN`).
const COMMAND_BYTES_MAX: usize = 128 * 1024;

/// Calls `start` with the command to pass to libc.
pub(crate) fn with_command(command: Option<&CStr>, start: &mut dyn FnMut(*const c_char)) {
    let original = command.map_or(core::ptr::null(), CStr::as_ptr);
    let (Some(command), Some(session)) = (command, session::current()) else {
        return start(original);
    };
    session.count(b"sh", Reason::Shell);
    let complete = environment::is_complete(&session, session::environment());
    if complete || !session.is_reachable() {
        return start(original);
    }
    let mut measure = Line { room: &mut [], length: 0 };
    measure.write(&session, command);
    let bytes = measure.length + 1;
    let mut run = |scratch: Scratch<'_>| -> c_int {
        Line { room: scratch.text, length: 0 }.write(&session, command);
        start(scratch.text.as_ptr().cast());
        0
    };
    if bytes > COMMAND_BYTES_MAX || scratch::with(0, bytes, &mut run).is_none() {
        start(original);
    }
}

/// A command line that is written; where there is no room, its length is only measured.
struct Line<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl Line<'_> {
    fn write(&mut self, session: &Session, command: &CStr) {
        self.append(b"LD_PRELOAD='");
        let list = environment::preload_list(session, session::environment());
        list.iter().for_each(|part| self.quote(part));
        self.append(b"' OSWALK_PAGE='");
        self.quote(session.page_path());
        if session::environment().variable(b"OSWALK_PAGE=").is_none() {
            self.append(b"' OSWALK_ADDED='1");
        }
        self.append(b"' exec /bin/sh -c '");
        self.quote(command.to_bytes());
        self.append(b"'");
    }

    /// Appends text that stands between single quotes.
    fn quote(&mut self, text: &[u8]) {
        for (index, part) in text.split(|&byte| byte == b'\'').enumerate() {
            self.append(if index == 0 { b"" } else { b"'\\''" });
            self.append(part);
        }
    }

    fn append(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        if let Some(room) = self.room.get_mut(self.length..end) {
            room.copy_from_slice(part);
        }
        self.length = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes() {
        let mut room = [0; 64];
        let mut line = Line { room: &mut room, length: 0 };
        line.quote(b"echo 'it''s'");
        let length = line.length;
        assert_eq!(&room[..length], br"echo '\''it'\'''\''s'\''");
    }
}
