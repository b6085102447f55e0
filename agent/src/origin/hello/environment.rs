//! The environment of a walk.

use std::borrow::Cow;

use worknode::glob;
use worknode::request::VariableFate;
use worknode::spec::{Bytes, strings};

use super::variables::{self, Travel, is_for_compilers, parts, travel};
use crate::session::Wishes;

/// Default directory for temporary files of a compile step. It is private to the walk, so look-ups need no requests.
const TEMPORARY: &[u8] = b"TMPDIR=/dev/oswalk\0";
/// The tmpfs of a walk, as users name it and as compile steps see it.
const MEMORY: [&[u8]; 2] = [b"/dev/shm", b"/dev/oswalk"];

/// Variables that name the directory for temporary files.
const TEMPORARY_NAMES: [&[u8]; 3] = [b"TMPDIR=", b"TMP=", b"TEMP="];
/// Variables in which make passes its flags on.
const MAKE_FLAGS: [&[u8]; 3] = [b"MAKEFLAGS", b"MFLAGS", b"CARGO_MAKEFLAGS"];

/// Which variables a program may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Only those that compilers read.
    Compiler,
    /// Any.
    Anything,
}

/// Options by which a compiler runs something that may read any variable: plug-ins, specs with `getenv`, other tools, or
/// options that are unknown here.
const OPENINGS: [&[u8]; 12] = [
    b"-fplugin",
    b"-fpass-plugin",
    b"-load",
    b"-specs",
    b"--specs",
    b"-wrapper",
    b"--config",
    b"-B",
    b"--prefix",
    b"--gcc-toolchain",
    b"--gcc-install-dir",
    b"@",
];
/// Variables with the same effect.
const OPENING_VARIABLES: [&[u8]; 6] = [
    b"LD_PRELOAD=",
    b"LD_AUDIT=",
    b"COMPILER_PATH=",
    b"GCC_EXEC_PREFIX=",
    b"CCC_OVERRIDE_OPTIONS=",
    b"CLANG_CONFIG_FILE",
];
/// Endings of the names of gcc's and clang's programs, without a version.
const COMPILERS: [&[u8]; 15] = [
    b"gcc",
    b"g++",
    b"cc",
    b"c++",
    b"c89",
    b"c99",
    b"clang",
    b"clang++",
    b"gfortran",
    b"cc1",
    b"cc1plus",
    b"cc1obj",
    b"f951",
    b"as",
    b"f95",
];

/// Returns which variables a compile step may read, provided that the program is what its name says.
pub(super) fn reader<'a>(
    name: &[u8],
    mut arguments: impl Iterator<Item = &'a [u8]>,
    env: &[u8],
) -> Reader {
    let is_compiler = || {
        let version = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        let unversioned =
            &name[..name.len() - name.iter().rev().take_while(|byte| version(byte)).count()];
        let last = |name: &'_ [u8]| {
            COMPILERS.contains(&name.rsplit(|&byte| byte == b'-').next().unwrap_or(name))
        };
        last(name) || last(unversioned)
    };
    let opens = |word: &[u8]| OPENINGS.iter().any(|opening| word.starts_with(opening));
    let opens_by_variable =
        |variable: &[u8]| OPENING_VARIABLES.iter().any(|opening| variable.starts_with(opening));
    if is_compiler() && !arguments.any(opens) && !strings(env).any(opens_by_variable) {
        Reader::Compiler
    } else {
        Reader::Anything
    }
}

/// Decides what happens to a variable.
pub(super) fn fate(variable: &[u8], reader: Reader, wishes: &Wishes) -> VariableFate {
    let (name, _) = parts(variable);
    if variables::is_own(name) {
        VariableFate::Own
    } else if is_named(&wishes.without, name) {
        VariableFate::Without
    } else if is_named(&wishes.pass, name) {
        VariableFate::Passed
    } else if reader == Reader::Compiler && !is_for_compilers(name) {
        VariableFate::NotForCompilers
    } else {
        match travel(variable) {
            Travel::Goes => VariableFate::Travels,
            Travel::Local => VariableFate::Local,
            Travel::Secret => VariableFate::Secret,
        }
    }
}

fn is_named(patterns: &[String], name: &[u8]) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern.as_bytes(), name))
}

/// Returns the environment to send. A compile step's has no jobserver, and names a directory for temporary files.
///
/// # Errors
/// The name of a withheld variable that the program may read.
pub(super) fn shipped(
    env: &[u8],
    compiles: bool,
    reader: Reader,
    wishes: &Wishes,
) -> Result<Bytes, String> {
    let mut shipped = Vec::with_capacity(env.len());
    for variable in strings(env) {
        let (name, _) = parts(variable);
        let goes = match fate(variable, reader, wishes) {
            VariableFate::Secret => return Err(String::from_utf8_lossy(name).into_owned()),
            fate => fate.travels(),
        };
        if !goes {
            continue;
        }
        let variable = match in_memory(variable).filter(|_| compiles) {
            Some(variable) => variable.into(),
            None if compiles => without_jobserver(variable),
            None => variable.into(),
        };
        let variable = if MAKE_FLAGS.contains(&name) {
            let of_its_own = |definition: &[u8]| match travel(definition) {
                _ if reader == Reader::Compiler => Ok(false),
                _ if is_named(&wishes.without, parts(definition).0) => Ok(false),
                _ if is_named(&wishes.pass, parts(definition).0) => Ok(true),
                Travel::Secret => Err(String::from_utf8_lossy(parts(definition).0).into_owned()),
                Travel::Goes | Travel::Local => Ok(true),
            };
            with_definitions(&variable, of_its_own)?.into()
        } else {
            variable
        };
        shipped.extend_from_slice(&variable);
        shipped.push(0);
    }
    let told = |variable: &[u8]| TEMPORARY_NAMES.iter().any(|name| variable.starts_with(name));
    if compiles && !strings(env).any(told) {
        shipped.extend(TEMPORARY);
    }
    Ok(shipped)
}

/// Rewrites a variable that puts temporary files into `/dev/shm` to the other name of that directory.
fn in_memory(variable: &[u8]) -> Option<Bytes> {
    let [from, to] = MEMORY;
    let name = TEMPORARY_NAMES.iter().find(|name| variable.starts_with(name))?;
    let value = &variable[name.len()..];
    (value.strip_suffix(b"/").unwrap_or(value) == from).then(|| [name, to].concat())
}

/// Removes the jobserver's descriptors, which belong to the origin's make, from make's flags.
fn without_jobserver(variable: &[u8]) -> Cow<'_, [u8]> {
    if !MAKE_FLAGS.contains(&parts(variable).0) {
        return variable.into();
    }
    let words = variable.split(|&byte| byte == b' ');
    let other = |word: &&[u8]| {
        let flag = word.rsplit(|&byte| byte == b'=').nth(1).unwrap_or_default();
        !flag.ends_with(b"--jobserver-auth") && !flag.ends_with(b"--jobserver-fds")
    };
    words.filter(other).collect::<Vec<_>>().join(&b' ').into()
}

/// Removes variable definitions for which `keeps` is false from make's flags. Make passes on definitions from its command
/// line (`make TOKEN=x`).
fn with_definitions(
    flags: &[u8],
    keeps: impl Fn(&[u8]) -> Result<bool, String>,
) -> Result<Bytes, String> {
    const MARK: &[u8] = b"-- ";
    let Some(at) = flags.windows(MARK.len()).position(|window| window == MARK) else {
        return Ok(flags.to_vec());
    };
    let mut kept = flags[..at].to_vec();
    let definitions = flags[at + MARK.len()..].split(|&byte| byte == b' ');
    // Spaces within a value are escaped by a backslash.
    let mut is_within = false;
    let mut keeps_it = true;
    let mut mark = MARK.trim_ascii_end();
    for piece in definitions {
        if !is_within {
            keeps_it = keeps(piece)?;
        }
        is_within = piece.ends_with(b"\\");
        if keeps_it {
            kept.extend_from_slice(mark);
            kept.push(b' ');
            kept.extend_from_slice(piece);
            mark = b"";
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(env: &[u8], compiles: bool) -> Bytes {
        shipped(env, compiles, Reader::Anything, &Wishes::default()).expect("nothing is secret")
    }

    #[test]
    fn secrets_do_not_travel() {
        let env =
            b"PATH=/bin\0SSH_AUTH_SOCK=/x\0OSWALK_BROKER=y\0CFLAGS=1\0GITHUB_TOKEN=2\0A=b=c\0"
                .as_slice();
        let ship = |reader, pass: &[&str], without: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            shipped(env, false, reader, &Wishes { pass: list(pass), without: list(without) })
        };
        assert_eq!(ship(Reader::Anything, &[], &[]), Err("GITHUB_TOKEN".to_owned()));
        let text = |bytes: &[u8]| Ok(bytes.to_vec());
        assert_eq!(ship(Reader::Compiler, &[], &[]), text(b"PATH=/bin\0"));
        assert_eq!(ship(Reader::Compiler, &["A"], &[]), text(b"PATH=/bin\0A=b=c\0"));
        assert_eq!(
            ship(Reader::Anything, &[], &["GITHUB_*"]),
            text(b"PATH=/bin\0CFLAGS=1\0A=b=c\0")
        );
        assert_eq!(
            ship(Reader::Anything, &["*_TOKEN", "OSWALK_*"], &["CFLAGS"]),
            text(b"PATH=/bin\0GITHUB_TOKEN=2\0A=b=c\0")
        );
    }

    #[test]
    fn readers_by_program_and_options() {
        let tell = |line: &str, env: &[u8]| {
            let mut words = line.split(' ').map(str::as_bytes);
            let name = words.next().unwrap_or_default();
            reader(name, words, env)
        };
        for line in [
            "gcc -c a.c",
            "x86_64-linux-gnu-g++-12 -c a.cc",
            "clang-14 -c a.c",
            "cc1 a.c -o a.s",
            "as a.s",
        ] {
            assert_eq!(tell(line, b""), Reader::Compiler, "{line}");
            assert_eq!(tell(line, b"LD_PRELOAD=/x.so\0"), Reader::Anything, "{line}");
        }
        for line in [
            "rustc a.rs",
            "nvcc -c a.cu",
            "mycc -c a.c",
            "gcc -fplugin=x.so -c a.c",
            "gcc @args",
            "gcc -specs=x -c a.c",
            "gcc --prefix=tools/ -c a.c",
            "clang --gcc-toolchain=/opt/gcc -c a.c",
        ] {
            assert_eq!(tell(line, b""), Reader::Anything, "{line}");
        }
    }

    #[test]
    fn compile_steps_have_no_jobserver() {
        let env = b"MAKEFLAGS= -j4 --jobserver-auth=3,4 -- A=1\0CARGO_MAKEFLAGS=-j --jobserver-fds=6,7 --jobserver-auth=6,7\0";
        let expected = b"MAKEFLAGS= -j4 -- A=1\0CARGO_MAKEFLAGS=-j\0".as_slice();
        assert_eq!(any(env, true), [expected, TEMPORARY].concat());
        assert_eq!(any(env, false), env);
    }

    #[test]
    fn secrets_do_not_travel_in_the_flags_of_make() {
        let env = b"MAKEFLAGS= -j4 -- A=1\\ x DEPLOY_TOKEN=ghp\\ y B=2\0".as_slice();
        let ship = |reader, without: &[&str]| {
            let without = without.iter().map(|&name| name.to_owned()).collect();
            shipped(env, false, reader, &Wishes { pass: Vec::new(), without })
        };
        assert_eq!(ship(Reader::Compiler, &[]), Ok(b"MAKEFLAGS= -j4 \0".to_vec()));
        assert_eq!(ship(Reader::Anything, &[]), Err("DEPLOY_TOKEN".to_owned()));
        let kept = b"MAKEFLAGS= -j4 -- A=1\\ x B=2\0".to_vec();
        assert_eq!(ship(Reader::Anything, &["DEPLOY_TOKEN"]), Ok(kept));
    }

    #[test]
    fn compile_steps_keep_the_place_for_temporary_files_that_they_are_given() {
        for env in [b"TMPDIR=/x\0".as_slice(), b"A=1\0TEMP=/x\0"] {
            assert_eq!(any(env, true), env);
        }
        assert_eq!(any(b"", false), b"");
        assert_eq!(
            any(b"TMPDIR=/dev/shm/\0TMP=/dev/shm\0", true),
            b"TMPDIR=/dev/oswalk\0TMP=/dev/oswalk\0"
        );
        assert_eq!(any(b"TMPDIR=/dev/shm\0", false), b"TMPDIR=/dev/shm\0");
    }
}
