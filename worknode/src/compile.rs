//! Reads compiler command lines: is this a compile step, which may walk, or something that must
//! stay (a link, a preprocessing run, a question to the tool, code for this very processor)?

use crate::policy::Verdict;
use crate::reason::Reason;

/// Decides from the arguments behind `argv[0]`, for a program that a rule calls a compiler.
///
/// `native_twin` says that every node has the origin's processor, so `-march=native` may walk.
///
/// # Errors
/// The reason why the command stays.
pub fn inspect<'a>(
    verdict: Verdict,
    arguments: impl Iterator<Item = &'a [u8]>,
    native_twin: bool,
) -> Result<(), Reason> {
    match verdict {
        Verdict::Walk => Ok(()),
        Verdict::Stay(reason) => Err(reason),
        Verdict::CompilerDriver => driver(arguments, native_twin),
        Verdict::Compiler => compiler_proper(arguments, native_twin),
        Verdict::Assembler => assembler(arguments),
        Verdict::Rustc => rustc(arguments, native_twin),
    }
}

fn driver<'a>(arguments: impl Iterator<Item = &'a [u8]>, native_twin: bool) -> Result<(), Reason> {
    let mut compiles = false;
    let mut takes_value = false;
    for argument in arguments {
        if is_trial(argument) {
            return Err(Reason::Probe);
        }
        // The value of an option is no option: `-o -E` names a file.
        if core::mem::take(&mut takes_value) {
            continue;
        }
        match argument {
            b"-c" | b"-S" => compiles = true,
            b"-E" | b"-M" | b"-MM" => return Err(Reason::Preprocess),
            b"-" | b"/dev/stdin" | b"/dev/fd/0" | b"/proc/self/fd/0" => return Err(Reason::Stdin),
            b"-v" | b"-V" | b"-###" | b"--version" | b"--help" | b"-dumpmachine"
            | b"-dumpversion" | b"-dumpfullversion" | b"-dumpspecs" | b"-qversion"
            | b"-version" => return Err(Reason::Probe),
            b"-o" | b"-I" | b"-D" | b"-U" | b"-MF" | b"-MT" | b"-MQ" | b"-include"
            | b"-isystem" | b"-iquote" | b"-idirafter" | b"-imacros" | b"-x" | b"-L" | b"-l"
            | b"-Xlinker" | b"-Xassembler" | b"-Xpreprocessor" | b"-Xclang" | b"-arch"
            | b"-target" => {
                takes_value = true;
            }
            _ if is_native(argument) && !native_twin => return Err(Reason::NativeCpu),
            _ if argument.starts_with(b"-print-") || argument.starts_with(b"--print-") => {
                return Err(Reason::Probe);
            }
            _ if argument.starts_with(b"--help=") => return Err(Reason::Probe),
            _ => {}
        }
    }
    if compiles { Ok(()) } else { Err(Reason::Link) }
}

fn compiler_proper<'a>(
    arguments: impl Iterator<Item = &'a [u8]>,
    native_twin: bool,
) -> Result<(), Reason> {
    for argument in arguments {
        match argument {
            b"-E" => return Err(Reason::Preprocess),
            b"-" => return Err(Reason::Stdin),
            b"-version" | b"--version" | b"--help" => return Err(Reason::Probe),
            _ if is_trial(argument) => return Err(Reason::Probe),
            _ if is_native(argument) && !native_twin => return Err(Reason::NativeCpu),
            _ => {}
        }
    }
    Ok(())
}

fn assembler<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Result<(), Reason> {
    let mut takes_value = false;
    let mut has_input = false;
    for argument in arguments {
        if core::mem::take(&mut takes_value) {
            continue;
        }
        match argument {
            b"-" | b"--" => return Err(Reason::Stdin),
            b"-v" | b"--version" | b"-version" | b"--help" => return Err(Reason::Probe),
            b"-o" | b"-I" | b"--defsym" | b"-MD" | b"--MD" | b"-f" | b"-l" => takes_value = true,
            // Its driver runs here too, since it links what comes of this, and it is little work.
            _ if is_drivers_own(argument) => return Err(Reason::Link),
            _ => has_input |= !argument.starts_with(b"-"),
        }
    }
    // `as` without a file reads standard input.
    if has_input { Ok(()) } else { Err(Reason::Stdin) }
}

fn rustc<'a>(arguments: impl Iterator<Item = &'a [u8]>, native_twin: bool) -> Result<(), Reason> {
    let mut has_input = false;
    for argument in arguments {
        match argument {
            b"-" => return Err(Reason::Stdin),
            b"-V" | b"-vV" | b"--version" | b"--help" | b"-h" | b"--print" | b"--explain" => {
                return Err(Reason::Probe);
            }
            b"target-cpu=native" | b"-Ctarget-cpu=native" if !native_twin => {
                return Err(Reason::NativeCpu);
            }
            _ if argument.starts_with(b"--print=") => return Err(Reason::Probe),
            _ => has_input |= argument.ends_with(b".rs"),
        }
    }
    if has_input { Ok(()) } else { Err(Reason::Probe) }
}

/// Is this a file of a configure script that finds out what the compiler can do? Those compiles are
/// tiny, one after the other, and their results are of use where they were asked for.
fn is_trial(argument: &[u8]) -> bool {
    let file = argument.rsplit(|&byte| byte == b'/').next().unwrap_or(argument);
    // Autoconf; Python's distutils.
    if file.starts_with(b"conftest.") || file.starts_with(b"_configtest.") {
        return true;
    }
    // CMake's try_compile; Meson.
    let dirs: [&[u8]; 4] = [b"CMakeScratch/", b"CMakeTmp/", b"/cmTC_", b"meson-private/"];
    dirs.iter().any(|dir| argument.windows(dir.len()).any(|window| window == *dir))
}

/// Is this the assembly that a compiler driver made for itself (`/tmp/ccXXXXXX.s`)?
fn is_drivers_own(argument: &[u8]) -> bool {
    let file = argument.rsplit(|&byte| byte == b'/').next().unwrap_or(argument);
    argument.starts_with(b"/")
        && file.len() == b"ccXXXXXX.s".len()
        && file.starts_with(b"cc")
        && file.ends_with(b".s")
}

fn is_native(argument: &[u8]) -> bool {
    matches!(argument, b"-march=native" | b"-mtune=native" | b"-mcpu=native")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(verdict: Verdict, line: &str) -> Result<(), Reason> {
        inspect(verdict, line.split_whitespace().map(str::as_bytes), false)
    }

    #[test]
    fn compiler_drivers() {
        for (line, expected) in [
            ("-O2 -c a.c -o a.o", Ok(())),
            ("-S a.c", Ok(())),
            ("-MD -MF a.d -c a.c", Ok(())),
            ("-o -E -c a.c", Ok(())),
            ("a.o b.o -o prog", Err(Reason::Link)),
            ("a.c -o prog", Err(Reason::Link)),
            ("", Err(Reason::Link)),
            ("-E a.c", Err(Reason::Preprocess)),
            ("-MM a.c", Err(Reason::Preprocess)),
            ("-x c -c - -o a.o", Err(Reason::Stdin)),
            ("--version", Err(Reason::Probe)),
            ("-print-file-name=libc.so", Err(Reason::Probe)),
            ("-march=native -c a.c", Err(Reason::NativeCpu)),
            ("-c -g -O2 conftest.c", Err(Reason::Probe)),
            ("-o conftest conftest.c", Err(Reason::Probe)),
            (
                "-o CMakeFiles/cmTC_0a1b2.dir/t.c.o -c /b/CMakeFiles/CMakeScratch/T/t.c",
                Err(Reason::Probe),
            ),
            (
                "/b/meson-private/tmpx1/testfile.c -o /b/meson-private/tmpx1/output.obj -c",
                Err(Reason::Probe),
            ),
            ("-c conftester.c", Ok(())),
        ] {
            assert_eq!(decide(Verdict::CompilerDriver, line), expected, "{line}");
        }
        let twin = inspect(
            Verdict::CompilerDriver,
            [b"-march=native".as_slice(), b"-c", b"a.c"].into_iter(),
            true,
        );
        assert_eq!(twin, Ok(()));
    }

    #[test]
    fn other_compilers() {
        assert_eq!(decide(Verdict::Compiler, "-quiet a.c -o /tmp/a.s"), Ok(()));
        assert_eq!(decide(Verdict::Compiler, "-E -quiet -v -"), Err(Reason::Preprocess));
        assert_eq!(decide(Verdict::Assembler, "--64 -o a.o /tmp/a.s"), Ok(()));
        assert_eq!(decide(Verdict::Assembler, "--64 -o a.o"), Err(Reason::Stdin));
        assert_eq!(decide(Verdict::Rustc, "--crate-name a src/lib.rs --emit=link"), Ok(()));
        assert_eq!(decide(Verdict::Rustc, "-vV"), Err(Reason::Probe));
        assert_eq!(decide(Verdict::Rustc, "- --crate-name ___ --print=cfg"), Err(Reason::Stdin));
    }
}
