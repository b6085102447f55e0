//! Scripts in the volume. Their interpreters would be given a name of this process's descriptor, which is closed by then:
//! the interpreter is executed instead, with the script's path.

use core::ffi::{CStr, c_int};

use crate::sys;

/// Bytes of a script's first line that count, as for the kernel.
const LINE_BYTES: usize = 256;

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
    let head = line.get(..length)?.strip_prefix(b"#!")?;
    let end = 2 + head.iter().position(|&byte| byte == b'\n').unwrap_or(head.len());
    let is_blank = |byte: u8| byte == b' ' || byte == b'\t';
    let start = (2..end).find(|&at| !is_blank(line[at]))?;
    let name_end = (start..end).find(|&at| is_blank(line[at])).unwrap_or(end);
    let argument = (name_end..end).find(|&at| !is_blank(line[at])).map(|from| {
        let to = (from..end).rfind(|&at| !is_blank(line[at])).unwrap_or(from);
        (from, to + 1)
    });
    line[name_end] = 0;
    if let Some((_, to)) = argument {
        line[to] = 0;
    }
    Some(Script { line, interpreter: (start, name_end), argument })
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
