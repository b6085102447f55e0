//! A program to execute: file, arguments and environment in the form that the kernel takes.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// A program that is not started yet.
#[derive(Debug)]
pub(crate) struct Program {
    file: CString,
    words: Vec<CString>,
    /// `NAME=value`.
    environment: Vec<CString>,
}

impl Program {
    /// Makes a program with these arguments, `argv[0]` included, and this process's environment.
    pub(crate) fn new(file: &Path, words: &[OsString]) -> io::Result<Self> {
        let text = |text: &OsStr| Ok::<_, io::Error>(CString::new(text.as_bytes())?);
        let words = words.iter().map(|word| text(word)).collect::<Result<_, _>>()?;
        let variables = std::env::vars_os().map(|(name, value)| variable(&name, &value));
        let environment = variables.collect::<Result<_, _>>()?;
        Ok(Self { file: text(file.as_os_str())?, words, environment })
    }

    /// Sets a variable, replacing one of the same name.
    pub(crate) fn set(&mut self, name: &str, value: &OsStr) -> io::Result<()> {
        let is_named = |variable: &CString| {
            let rest = variable.as_bytes().strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"="))
        };
        self.environment.retain(|variable| !is_named(variable));
        self.environment.push(variable(OsStr::new(name), value)?);
        Ok(())
    }

    pub(crate) fn file(&self) -> &CStr {
        &self.file
    }

    pub(crate) fn words(&self) -> &[CString] {
        &self.words
    }

    pub(crate) fn environment(&self) -> &[CString] {
        &self.environment
    }
}

fn variable(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut text = name.to_owned().into_vec();
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    Ok(CString::new(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_a_variable_replaces_it() {
        let mut program =
            Program::new(Path::new("/bin/true"), &["true".into(), "x".into()]).expect("no NUL");
        let before = program.environment().len();
        for value in ["1", "2=3"] {
            program.set("OSWALK_TEST_VARIABLE", OsStr::new(value)).expect("no NUL");
        }
        program.set("OSWALK_TEST", OsStr::new("")).expect("no NUL");
        let ours = &program.environment()[before..];
        assert_eq!(ours, [c"OSWALK_TEST_VARIABLE=2=3".to_owned(), c"OSWALK_TEST=".to_owned()]);
        assert!(program.set("OSWALK_TEST", OsStr::from_bytes(b"a\0b")).is_err());
    }
}
