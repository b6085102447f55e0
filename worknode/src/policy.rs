//! The rules that decide which programs walk, and the built-in table of rules.
//!
//! A rule names programs by a shell pattern. A pattern with a `/` is matched against the whole path, any
//! other against the base name. The first matching rule decides.

use crate::reason::Reason;

/// What a rule decides about the programs that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Executes on a runner.
    Walk,
    /// Executes at the origin.
    Stay(Reason),
    /// A compiler driver of the C family: its arguments decide (see [`crate::command`]).
    CompilerDriver,
    /// A compiler proper (`cc1`, `cc1plus`), started by a driver that stayed.
    Compiler,
    /// An assembler.
    Assembler,
    /// `rustc`.
    Rustc,
    /// `nvcc`, a driver with its own options.
    Nvcc,
    /// Lies below a mounted volume: executes on a runner, unless it is a script of what starts others.
    Volume,
}

impl Verdict {
    /// Tells whether the program is a compiler, so that its command line decides whether it walks.
    #[must_use]
    pub fn compiles(self) -> bool {
        !matches!(self, Self::Walk | Self::Stay(_) | Self::Volume)
    }

    /// Returns the word that users read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Walk => "walk",
            Self::Stay(reason) => reason.name(),
            Self::CompilerDriver => "compiler",
            Self::Compiler => "compiler proper",
            Self::Assembler => "assembler",
            Self::Rustc => "rustc",
            Self::Nvcc => "nvcc",
            Self::Volume => "volume",
        }
    }

    /// Returns the encoding of the verdict in the policy page.
    #[must_use]
    pub fn encode(self) -> [u8; 2] {
        match self {
            Self::Walk => [1, 0],
            Self::Stay(reason) => [2, reason as u8],
            Self::CompilerDriver => [3, 0],
            Self::Compiler => [4, 0],
            Self::Assembler => [5, 0],
            Self::Rustc => [6, 0],
            Self::Nvcc => [7, 0],
            Self::Volume => [8, 0],
        }
    }

    /// Returns the verdict with this encoding.
    #[must_use]
    pub fn decode(bytes: [u8; 2]) -> Option<Self> {
        Some(match bytes[0] {
            1 => Self::Walk,
            2 => Self::Stay(Reason::from_u8(bytes[1])?),
            3 => Self::CompilerDriver,
            4 => Self::Compiler,
            5 => Self::Assembler,
            6 => Self::Rustc,
            7 => Self::Nvcc,
            8 => Self::Volume,
            _ => return None,
        })
    }
}

/// A pattern and the verdict on the programs that match it.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// The shell pattern.
    pub pattern: &'a [u8],
    /// The verdict on the programs that match.
    pub verdict: Verdict,
}

impl Rule<'_> {
    /// Tells whether the rule names the program at `path`.
    #[must_use]
    pub fn names(&self, path: &[u8]) -> bool {
        let subject = if self.pattern.contains(&b'/') { path } else { base_name(path) };
        crate::glob::matches(self.pattern, subject)
    }
}

/// Returns the pattern that names all below a directory.
#[cfg(feature = "std")]
#[must_use]
pub fn below(dir: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(dir.len() + 2);
    for &byte in dir {
        match byte {
            b'*' | b'?' | b'[' => pattern.extend([b'[', byte, b']']),
            _ => pattern.push(byte),
        }
    }
    pattern.extend_from_slice(b"/*");
    pattern
}

/// Returns the part of `path` after its last slash.
#[must_use]
pub fn base_name(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => &path[slash + 1..],
        None => path,
    }
}

/// Tells whether the program at `path` is a system program that never executes another, and so does not
/// need the preload library.
#[must_use]
pub fn executes_nothing(path: &[u8]) -> bool {
    match path.strip_prefix(b"/usr").unwrap_or(path) {
        [b'/', b'b', b'i', b'n', b'/', name @ ..] => matches!(
            name,
            b"[" | b"as"
                | b"basename"
                | b"cat"
                | b"chgrp"
                | b"chmod"
                | b"chown"
                | b"cksum"
                | b"cmp"
                | b"comm"
                | b"cp"
                | b"cut"
                | b"date"
                | b"dd"
                | b"dirname"
                | b"echo"
                | b"expr"
                | b"false"
                | b"grep"
                | b"head"
                | b"hostname"
                | b"id"
                | b"join"
                | b"ln"
                | b"logname"
                | b"ls"
                | b"md5sum"
                | b"mkdir"
                | b"mkfifo"
                | b"mktemp"
                | b"mv"
                | b"nl"
                | b"od"
                | b"paste"
                | b"printf"
                | b"pwd"
                | b"readlink"
                | b"realpath"
                | b"rm"
                | b"rmdir"
                | b"seq"
                | b"sha1sum"
                | b"sha256sum"
                | b"sleep"
                | b"stat"
                | b"sync"
                | b"tail"
                | b"tee"
                | b"test"
                | b"touch"
                | b"tr"
                | b"true"
                | b"truncate"
                | b"tty"
                | b"uname"
                | b"uniq"
                | b"wc"
                | b"whoami"
                | b"x86_64-linux-gnu-as"
                | b"yes"
        ),
        // Compilers proper, which execute nothing, except for plug-ins.
        [b'/', b'l', b'i', b'b', ..] => matches!(base_name(path), b"cc1" | b"cc1plus"),
        _ => false,
    }
}

/// The built-in rules. Rules from options and the policy file take precedence.
pub const BUILT_IN: &[(&str, Verdict)] = &[
    ("make", Verdict::Stay(Reason::Driver)),
    ("gmake", Verdict::Stay(Reason::Driver)),
    ("ninja", Verdict::Stay(Reason::Driver)),
    ("samu", Verdict::Stay(Reason::Driver)),
    ("cmake", Verdict::Stay(Reason::Driver)),
    ("ctest", Verdict::Stay(Reason::Driver)),
    ("meson", Verdict::Stay(Reason::Driver)),
    ("bazel", Verdict::Stay(Reason::Driver)),
    ("scons", Verdict::Stay(Reason::Driver)),
    ("cargo", Verdict::Stay(Reason::Driver)),
    ("cargo-*", Verdict::Stay(Reason::Driver)),
    ("xargs", Verdict::Stay(Reason::Driver)),
    ("parallel", Verdict::Stay(Reason::Driver)),
    ("env", Verdict::Stay(Reason::Driver)),
    ("nice", Verdict::Stay(Reason::Driver)),
    ("nohup", Verdict::Stay(Reason::Driver)),
    ("timeout", Verdict::Stay(Reason::Driver)),
    ("time", Verdict::Stay(Reason::Driver)),
    ("strace", Verdict::Stay(Reason::Driver)),
    ("gdb", Verdict::Stay(Reason::Driver)),
    ("dpkg-buildpackage", Verdict::Stay(Reason::Driver)),
    ("debuild", Verdict::Stay(Reason::Driver)),
    ("libtool", Verdict::Stay(Reason::Driver)),
    ("configure", Verdict::Stay(Reason::Driver)),
    ("config.status", Verdict::Stay(Reason::Driver)),
    ("oswalk", Verdict::Stay(Reason::Driver)),
    ("sh", Verdict::Stay(Reason::Shell)),
    ("dash", Verdict::Stay(Reason::Shell)),
    ("bash", Verdict::Stay(Reason::Shell)),
    ("zsh", Verdict::Stay(Reason::Shell)),
    ("ksh", Verdict::Stay(Reason::Shell)),
    ("fish", Verdict::Stay(Reason::Shell)),
    ("busybox", Verdict::Stay(Reason::Shell)),
    ("ccache", Verdict::Stay(Reason::Wrapper)),
    ("sccache", Verdict::Stay(Reason::Wrapper)),
    ("distcc", Verdict::Stay(Reason::Wrapper)),
    ("icecc", Verdict::Stay(Reason::Wrapper)),
    ("*/ccache/*", Verdict::Stay(Reason::Wrapper)),
    ("*/distcc/*", Verdict::Stay(Reason::Wrapper)),
    ("*/icecc/bin/*", Verdict::Stay(Reason::Wrapper)),
    ("*/bear/wrapper*", Verdict::Stay(Reason::Wrapper)),
    ("*/buildcache/bin/*", Verdict::Stay(Reason::Wrapper)),
    ("cc", Verdict::CompilerDriver),
    ("c++", Verdict::CompilerDriver),
    ("gcc", Verdict::CompilerDriver),
    ("g++", Verdict::CompilerDriver),
    ("gcc-[0-9]*", Verdict::CompilerDriver),
    ("g++-[0-9]*", Verdict::CompilerDriver),
    ("c89", Verdict::CompilerDriver),
    ("c99", Verdict::CompilerDriver),
    ("c89-gcc", Verdict::CompilerDriver),
    ("c99-gcc", Verdict::CompilerDriver),
    ("*-gcc", Verdict::CompilerDriver),
    ("*-g++", Verdict::CompilerDriver),
    ("*-gcc-[0-9]*", Verdict::CompilerDriver),
    ("*-g++-[0-9]*", Verdict::CompilerDriver),
    ("*-cc", Verdict::CompilerDriver),
    ("*-c++", Verdict::CompilerDriver),
    ("clang", Verdict::CompilerDriver),
    ("clang++", Verdict::CompilerDriver),
    ("clang-[0-9]*", Verdict::CompilerDriver),
    ("clang++-[0-9]*", Verdict::CompilerDriver),
    ("*-clang", Verdict::CompilerDriver),
    ("*-clang++", Verdict::CompilerDriver),
    ("*-clang-[0-9]*", Verdict::CompilerDriver),
    ("*-clang++-[0-9]*", Verdict::CompilerDriver),
    ("icx", Verdict::CompilerDriver),
    ("icpx", Verdict::CompilerDriver),
    ("f77", Verdict::CompilerDriver),
    ("f95", Verdict::CompilerDriver),
    ("gfortran", Verdict::CompilerDriver),
    ("gfortran-[0-9]*", Verdict::CompilerDriver),
    ("*-gfortran", Verdict::CompilerDriver),
    ("*-gfortran-[0-9]*", Verdict::CompilerDriver),
    ("flang", Verdict::CompilerDriver),
    ("flang-[0-9]*", Verdict::CompilerDriver),
    ("flang-new", Verdict::CompilerDriver),
    ("flang-new-[0-9]*", Verdict::CompilerDriver),
    ("ifx", Verdict::CompilerDriver),
    ("gdc", Verdict::CompilerDriver),
    ("gdc-[0-9]*", Verdict::CompilerDriver),
    ("gccgo", Verdict::CompilerDriver),
    ("gccgo-[0-9]*", Verdict::CompilerDriver),
    ("nvcc", Verdict::Nvcc),
    ("cc1", Verdict::Compiler),
    ("cc1plus", Verdict::Compiler),
    ("cc1obj", Verdict::Compiler),
    ("cc1objplus", Verdict::Compiler),
    ("f951", Verdict::Compiler),
    ("gnat1", Verdict::Compiler),
    ("d21", Verdict::Compiler),
    ("go1", Verdict::Compiler),
    ("as", Verdict::Assembler),
    ("*-as", Verdict::Assembler),
    ("nasm", Verdict::Assembler),
    ("yasm", Verdict::Assembler),
    ("rustc", Verdict::Rustc),
    ("clippy-driver", Verdict::Rustc),
    ("protoc", Verdict::Walk),
    ("ld", Verdict::Stay(Reason::Link)),
    ("ld.*", Verdict::Stay(Reason::Link)),
    ("*-ld", Verdict::Stay(Reason::Link)),
    ("*-ld.*", Verdict::Stay(Reason::Link)),
    ("collect2", Verdict::Stay(Reason::Link)),
    ("lld", Verdict::Stay(Reason::Link)),
    ("mold", Verdict::Stay(Reason::Link)),
    ("ar", Verdict::Stay(Reason::Link)),
    ("ranlib", Verdict::Stay(Reason::Link)),
    ("*-ar", Verdict::Stay(Reason::Link)),
    ("*-ranlib", Verdict::Stay(Reason::Link)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in(path: &str) -> Option<Verdict> {
        BUILT_IN
            .iter()
            .map(|&(pattern, verdict)| Rule { pattern: pattern.as_bytes(), verdict })
            .find(|rule| rule.names(path.as_bytes()))
            .map(|rule| rule.verdict)
    }

    #[test]
    fn built_in_table() {
        for path in ["/usr/bin/gcc", "cc", "/usr/bin/x86_64-linux-gnu-g++-12", "clang++-14"] {
            assert_eq!(built_in(path), Some(Verdict::CompilerDriver), "{path}");
        }
        for path in ["/usr/lib/ccache/gcc", "ccache"] {
            assert_eq!(built_in(path), Some(Verdict::Stay(Reason::Wrapper)), "{path}");
        }
        assert_eq!(built_in("/usr/bin/gcc-ar"), Some(Verdict::Stay(Reason::Link)));
        assert_eq!(built_in("/usr/lib/gcc/x86_64-linux-gnu/12/cc1"), Some(Verdict::Compiler));
        for path in ["f77", "x86_64-linux-gnu-gfortran-12", "aarch64-linux-gnu-clang++-14"] {
            assert_eq!(built_in(path), Some(Verdict::CompilerDriver), "{path}");
        }
        assert_eq!(built_in("/bin/true"), None);
    }

    #[test]
    fn a_pattern_names_all_below_a_directory() {
        let pattern = below(b"/mnt/a[1]*");
        let rule = Rule { pattern: &pattern, verdict: Verdict::Volume };
        assert!(rule.names(b"/mnt/a[1]*/b/c") && rule.names(b"/mnt/a[1]*/b"));
        assert!(!rule.names(b"/mnt/a1/b") && !rule.names(b"/mnt/a[1]*"));
    }

    #[test]
    fn only_system_programs_execute_nothing() {
        for path in
            ["/bin/rm", "/usr/bin/cat", "/usr/bin/[", "/usr/lib/gcc/x86_64-linux-gnu/12/cc1"]
        {
            assert!(executes_nothing(path.as_bytes()), "{path}");
        }
        for path in
            ["rm", "./rm", "/usr/local/bin/rm", "/usr/bin/sed", "/usr/bin/env", "/home/lib/cc1", ""]
        {
            assert!(!executes_nothing(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn verdicts_round_trip() {
        for &(_, verdict) in BUILT_IN {
            assert_eq!(Verdict::decode(verdict.encode()), Some(verdict));
        }
        assert_eq!(Verdict::decode([0, 0]), None);
        assert_eq!(Verdict::decode([2, 200]), None);
    }
}
