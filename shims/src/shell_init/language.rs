//! The languages of shells: how each is started, and how it is told to export variables.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::ValueEnum;
use worknode::variables;

use crate::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(super) fn script(self) -> &'static str {
        match self {
            Self::Bash => include_str!("init.bash"),
            Self::Zsh => include_str!("init.zsh"),
            Self::Fish => include_str!("init.fish"),
        }
    }

    /// Returns commands that export the session's variables.
    pub(super) fn assignments(self, session: &Session) -> OsString {
        let variables = session.variables();
        let page = variables.iter().find(|(name, _)| *name == variables::PAGE);
        let page = page.map(|(_, page)| (variables::SHELL_PAGE, page.clone()));
        let all = variables.iter().cloned().chain(page);
        all.map(|(name, value)| self.assignment(name, &value)).collect()
    }

    fn assignment(self, name: &str, value: &OsStr) -> OsString {
        let mut line = OsString::from(match self {
            Self::Fish => format!("set -gx {name} "),
            Self::Bash | Self::Zsh => format!("export {name}="),
        });
        line.push(self.quoted(value));
        line.push(";\n");
        line
    }

    /// Returns a word of the shell's language that stands for these bytes.
    pub(super) fn quoted(self, text: &OsStr) -> OsString {
        let mut word = vec![b'\''];
        for &byte in text.as_bytes() {
            match (self, byte) {
                (Self::Fish, b'\'' | b'\\') => word.extend([b'\\', byte]),
                (_, b'\'') => word.extend(b"'\\''"),
                _ => word.push(byte),
            }
        }
        word.push(b'\'');
        OsString::from_vec(word)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }

    /// Returns the file that a new shell reads.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Bash => "~/.bashrc",
            Self::Zsh => "~/.zshrc",
            Self::Fish => "~/.config/fish/config.fish",
        }
    }

    /// Returns the line that belongs there.
    pub(super) fn line(self) -> &'static str {
        match self {
            Self::Bash => "eval \"$(oswalk shell-init bash)\"",
            Self::Zsh => "eval \"$(oswalk shell-init zsh)\"",
            Self::Fish => "oswalk shell-init fish | source",
        }
    }

    /// Returns the option by which a shell reads none of the user's files.
    pub(super) fn without_files(self) -> &'static str {
        match self {
            Self::Bash => "--norc",
            Self::Zsh => "-f",
            Self::Fish => "--no-config",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn shells_read_what_was_quoted() {
        let odd = OsStr::from_bytes(b"a'b\\c $x \"`\n\xff!");
        for (shell, program) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")]
        {
            let mut script = shell.assignment("OSWALK_TEST", odd);
            script.push("env -0");
            let output = Command::new(program).arg("-c").arg(script).output();
            // A machine without this shell has nothing to try.
            let Ok(output) = output else { continue };
            let mut variables = output.stdout.split(|&byte| byte == 0);
            let value = variables.find_map(|it| it.strip_prefix(b"OSWALK_TEST="));
            assert_eq!(value, Some(odd.as_bytes()), "{program}: {output:?}");
        }
    }
}
