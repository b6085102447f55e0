//! Scripts in the volume. Their interpreters would be given a name of this process's descriptor, which is closed by then:
//! the interpreter is executed instead, with the script's path.

use core::ffi::{CStr, c_int};

use worknode::script::{self, LINE_BYTES, Line};

use crate::sys;

/// The interpreter that a script's first line names, and its argument.
#[derive(Debug)]
pub(crate) struct Script {
    line: [u8; LINE_BYTES + 1],
    interpreter: (usize, usize),
    argument: Option<(usize, usize)>,
}

impl Script {
    pub(crate) fn interpreter(&self) -> &CStr {
        self.text(self.interpreter)
    }

    pub(crate) fn argument(&self) -> Option<&CStr> {
        self.argument.map(|at| self.text(at))
    }

    fn text(&self, (start, end): (usize, usize)) -> &CStr {
        let text = self.line.get(start..=end).unwrap_or(b"\0");
        CStr::from_bytes_with_nul(text).unwrap_or(c"")
    }
}

/// Returns the interpreter of the file behind a descriptor, if it is a script.
pub(super) fn read_from(fd: c_int) -> Option<Script> {
    let mut line = [0; LINE_BYTES + 1];
    let length = sys::read_at(fd, &mut line[..LINE_BYTES], 0);
    read(line, length.ok()?)
}

fn read(mut line: [u8; LINE_BYTES + 1], length: usize) -> Option<Script> {
    let Line { interpreter, argument } = script::read(line.get(..length)?)?;
    line[interpreter.end] = 0;
    let argument = argument.map(|at| (at.start, at.end));
    if let Some((_, end)) = argument {
        line[end] = 0;
    }
    Some(Script { line, interpreter: (interpreter.start, interpreter.end), argument })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        let read = |text: &str| {
            let mut line = [0; LINE_BYTES + 1];
            line[..text.len()].copy_from_slice(text.as_bytes());
            let script = read(line, text.len())?;
            let argument = script.argument().map(CStr::to_owned);
            Some((script.interpreter().to_owned(), argument))
        };
        let found = |name: &CStr, argument: Option<&CStr>| {
            Some((name.to_owned(), argument.map(CStr::to_owned)))
        };
        assert_eq!(read("#!/bin/sh\necho"), found(c"/bin/sh", None));
        assert_eq!(
            read("#! /usr/bin/env  python3 -u \nx"),
            found(c"/usr/bin/env", Some(c"python3 -u"))
        );
        assert_eq!(read("#!/bin/sh"), found(c"/bin/sh", None));
        assert_eq!(read("#!/bin/sh -e"), found(c"/bin/sh", Some(c"-e")));
        assert_eq!(read("#!\nx"), None);
        assert_eq!(read("#!  "), None);
        assert_eq!(read("\x7fELF"), None);
    }
}
