//! The first line of a script, read as the kernel reads it, and the program that it leads to.

use core::ops::Range;

use crate::policy::base_name;

/// Bytes of a script that the kernel reads to find its first line.
pub const LINE_BYTES: usize = 256;

/// Scripts that may interpret each other, as for the kernel.
pub const DEPTH_MAX: usize = 5;

/// Where a script's first line has the interpreter and its argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The interpreter's path.
    pub interpreter: Range<usize>,
    /// Everything behind it, which the kernel passes as one argument.
    pub argument: Option<Range<usize>>,
}

/// Reads the first line from the beginning of a file. `None` if the kernel does not take it for a script.
#[must_use]
pub fn read(head: &[u8]) -> Option<Line> {
    let head = head.get(..LINE_BYTES).unwrap_or(head);
    let newline = head.strip_prefix(b"#!")?.iter().position(|&byte| byte == b'\n');
    let end = newline.map_or(head.len(), |at| at + 2);
    let start = (2..end).find(|&at| !is_blank(head[at]))?;
    let stop = (start..end).find(|&at| is_blank(head[at]) || head[at] == 0);
    if stop.is_none() && newline.is_none() && head.len() == LINE_BYTES {
        // The name may be longer than what was read.
        return None;
    }
    let name_end = stop.unwrap_or(end);
    if name_end == start {
        return None;
    }
    let behind = stop.filter(|&at| head[at] != 0).unwrap_or(end);
    let argument = (behind..end).find(|&at| !is_blank(head[at])).map(|from| {
        let to = (from..end).rfind(|&at| !is_blank(head[at])).unwrap_or(from) + 1;
        // The kernel passes a string, which ends at a NUL.
        from..(from..to).find(|&at| head[at] == 0).unwrap_or(to)
    });
    Some(Line { interpreter: start..name_end, argument })
}

/// Returns the program that a first line leads to, by path or name: the interpreter, or what `env` executes. `None` if
/// `env` gets options whose meaning is not known here.
#[must_use]
pub fn program<'a>(interpreter: &'a [u8], argument: Option<&'a [u8]>) -> Option<&'a [u8]> {
    if base_name(interpreter) != b"env" {
        return Some(interpreter);
    }
    let argument = argument?;
    let splits: [&[u8]; 4] = [b"-S", b"-vS", b"--split-string=", b"--split-string "];
    let Some(words) = splits.iter().find_map(|split| argument.strip_prefix(*split)) else {
        return (!argument.starts_with(b"-") && !argument.contains(&b'=')).then_some(argument);
    };
    let means_more = |byte: &u8| matches!(byte, b'$' | b'\\' | b'\'' | b'"' | b'#');
    let mut words = words.split(|&byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let word = words.find(|word| !word.contains(&b'=') && *word != b"-i")?;
    (!word.starts_with(b"-") && !word.iter().any(means_more)).then_some(word)
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(head: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
        let Line { interpreter, argument } = read(head)?;
        Some((&head[interpreter], argument.map(|at| &head[at])))
    }

    #[test]
    fn first_lines_are_read_as_by_the_kernel() {
        let sh: &[u8] = b"/bin/sh";
        assert_eq!(texts(b"#!/bin/sh\necho"), Some((sh, None)));
        assert_eq!(texts(b"#! \t/bin/sh -e  -u \t\nx"), Some((sh, Some(b"-e  -u".as_slice()))));
        assert_eq!(texts(b"#!/bin/sh"), Some((sh, None)));
        assert_eq!(texts(b"#!/bin/sh\r\n"), Some((b"/bin/sh\r".as_slice(), None)));
        assert_eq!(texts(b"#!/bin/sh -e\r\n"), Some((sh, Some(b"-e\r".as_slice()))));
        assert_eq!(texts(b"#!/bin/sh\0x -e\n"), Some((sh, None)));
        for none in [b"#!\n/bin/sh".as_slice(), b"#!  ", b"#!", b" #!/bin/sh\n", b"\x7fELF", b""] {
            assert_eq!(texts(none), None);
        }
        let long = [b"#!/".as_slice(), &[b'a'; LINE_BYTES]].concat();
        assert_eq!(texts(&long), None);
        let long = [b"#!/bin/sh ".as_slice(), &[b'a'; LINE_BYTES]].concat();
        let (name, argument) = texts(&long).expect("the name is whole");
        assert_eq!((name, argument.map(<[u8]>::len)), (sh, Some(LINE_BYTES - 10)));
    }

    #[test]
    fn what_env_executes_is_the_program() {
        let program = |interpreter: &'static str, argument: Option<&'static str>| {
            let found = program(interpreter.as_bytes(), argument.map(str::as_bytes));
            found.map(|name| core::str::from_utf8(name).expect("text"))
        };
        assert_eq!(program("/usr/bin/perl", Some("-w")), Some("/usr/bin/perl"));
        assert_eq!(program("/usr/bin/env", Some("python3")), Some("python3"));
        assert_eq!(program("/usr/bin/env", Some("-S python3 -u")), Some("python3"));
        assert_eq!(program("/usr/bin/env", Some("-vS -i A=1 bash -e")), Some("bash"));
        assert_eq!(program("env", Some("--split-string=sh -c x")), Some("sh"));
        for unknown in ["-u A sh", "-S -u A sh", "-S ${SHELL}", "-S 'sh'", "-S", "A=1"] {
            assert_eq!(program("/usr/bin/env", Some(unknown)), None, "{unknown}");
        }
        assert_eq!(program("/usr/bin/env", None), None);
    }
}
