//! The environment of a walk.

use worknode::spec::{Bytes, strings};

/// Where a compile step puts temporary files, unless it is told: nobody else has names there that it
/// would have to look up.
const TEMPORARY: &[u8] = b"TMPDIR=/dev/shm\0";

/// Returns the environment as it is shipped: without secrets, and for a compile step without a
/// jobserver, and with a place for temporary files.
pub(super) fn shipped(env: &[u8], compiles: bool) -> Bytes {
    let mut shipped = Vec::with_capacity(env.len());
    for variable in strings(env).filter(|variable| !is_secret(variable)) {
        if compiles {
            shipped.extend(without_jobserver(variable));
        } else {
            shipped.extend(variable);
        }
        shipped.push(0);
    }
    let told = |variable: &[u8]| {
        [b"TMPDIR=".as_slice(), b"TMP=", b"TEMP="].iter().any(|name| variable.starts_with(name))
    };
    if compiles && !strings(env).any(told) {
        shipped.extend(TEMPORARY);
    }
    shipped
}

/// Tells whether a variable gives access to something else than files.
fn is_secret(variable: &[u8]) -> bool {
    const NAMES: [&[u8]; 5] = [
        b"SSH_AUTH_SOCK",
        b"GPG_AGENT_INFO",
        b"SSH_AGENT_PID",
        b"DBUS_SESSION_BUS_ADDRESS",
        b"XAUTHORITY",
    ];
    const PREFIXES: [&[u8]; 3] = [b"AWS_", b"AZURE_", b"GOOGLE_APPLICATION_"];
    const SUFFIXES: [&[u8]; 5] = [b"_TOKEN", b"_PASSWORD", b"_SECRET", b"_SECRET_KEY", b"_API_KEY"];
    let name = variable.split(|&byte| byte == b'=').next().unwrap_or_default();
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Takes the jobserver's descriptors out of make's flags: they lead to the origin's make.
fn without_jobserver(variable: &[u8]) -> Bytes {
    const NAMES: [&[u8]; 3] = [b"MAKEFLAGS=", b"MFLAGS=", b"CARGO_MAKEFLAGS="];
    if !NAMES.iter().any(|name| variable.starts_with(name)) {
        return variable.to_vec();
    }
    let words = variable.split(|&byte| byte == b' ');
    let other = |word: &&[u8]| {
        let flag = word.rsplit(|&byte| byte == b'=').nth(1).unwrap_or_default();
        !flag.ends_with(b"--jobserver-auth") && !flag.ends_with(b"--jobserver-fds")
    };
    words.filter(other).collect::<Vec<_>>().join(&b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_travel() {
        let env = b"PATH=/bin\0SSH_AUTH_SOCK=/x\0AWS_KEY=1\0GITHUB_TOKEN=2\0A=b=c\0".as_slice();
        assert_eq!(shipped(env, false), b"PATH=/bin\0A=b=c\0");
    }

    #[test]
    fn compile_steps_have_no_jobserver() {
        let env = b"MAKEFLAGS= -j4 --jobserver-auth=3,4 -- A=1\0CARGO_MAKEFLAGS=-j --jobserver-fds=6,7 --jobserver-auth=6,7\0";
        let expected = b"MAKEFLAGS= -j4 -- A=1\0CARGO_MAKEFLAGS=-j\0".as_slice();
        assert_eq!(shipped(env, true), [expected, TEMPORARY].concat());
        assert_eq!(shipped(env, false), env);
    }

    #[test]
    fn compile_steps_keep_the_place_for_temporary_files_that_they_are_given() {
        for env in [b"TMPDIR=/x\0".as_slice(), b"A=1\0TEMP=/x\0"] {
            assert_eq!(shipped(env, true), env);
        }
        assert_eq!(shipped(b"", false), b"");
    }
}
