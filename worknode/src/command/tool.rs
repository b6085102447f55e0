//! Which language of options a program speaks.

use crate::policy::{BUILT_IN, Rule, Verdict, base_name};

/// A kind of program whose command lines are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// A compiler driver: gcc, clang, gfortran and those that take their options.
    Driver,
    /// A compiler proper of gcc: `cc1`, `cc1plus`, `f951` …
    Proper,
    /// GNU `as`.
    Gas,
    /// `nasm`, and `yasm`, which takes the same options but for a few.
    Nasm,
    /// `rustc`.
    Rustc,
    /// `nvcc`.
    Nvcc,
}

impl Tool {
    /// Returns the tool that the program at `path` is, if a rule's verdict says that it is one.
    #[must_use]
    pub fn of(verdict: Verdict, path: &[u8]) -> Option<Self> {
        match verdict {
            Verdict::Walk | Verdict::Stay(_) => None,
            Verdict::CompilerDriver => Some(Self::Driver),
            Verdict::Compiler => Some(Self::Proper),
            Verdict::Assembler => match base_name(path) {
                b"nasm" | b"yasm" => Some(Self::Nasm),
                _ => Some(Self::Gas),
            },
            Verdict::Rustc => Some(Self::Rustc),
            Verdict::Nvcc => Some(Self::Nvcc),
        }
    }

    /// Returns the tool that the built-in table takes the program at `path` for.
    #[must_use]
    pub fn named(path: &[u8]) -> Option<Self> {
        let mut rules = BUILT_IN
            .iter()
            .map(|&(pattern, verdict)| Rule { pattern: pattern.as_bytes(), verdict });
        Self::of(rules.find(|rule| rule.names(path))?.verdict, path)
    }
}
