//! The kinds of program whose command lines are parsed.

use crate::policy::{BUILT_IN, Rule, Verdict, base_name};

/// A kind of program whose command lines are parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// A compiler driver: gcc, clang, gfortran and programs with the same options.
    Driver,
    /// One of gcc's compilers proper: `cc1`, `cc1plus`, `f951` …
    Proper,
    /// GNU `as`.
    Gas,
    /// `nasm`, or `yasm`, which has nearly the same options.
    Nasm,
    /// `rustc`.
    Rustc,
    /// `nvcc`.
    Nvcc,
}

impl Tool {
    /// Returns the tool at `path` if a rule's verdict says that the program is one.
    #[must_use]
    pub fn of(verdict: Verdict, path: &[u8]) -> Option<Self> {
        match verdict {
            Verdict::Walk | Verdict::Stay(_) | Verdict::Volume => None,
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

    /// Returns the tool at `path` according to the built-in rules.
    #[must_use]
    pub fn named(path: &[u8]) -> Option<Self> {
        let mut rules = BUILT_IN
            .iter()
            .map(|&(pattern, verdict)| Rule { pattern: pattern.as_bytes(), verdict });
        Self::of(rules.find(|rule| rule.names(path))?.verdict, path)
    }
}
