//! Well-known programs that no rule names: why each stays, and which stay even with `--walk-all`.

use crate::policy::base_name;
use crate::reason::Reason;

/// Returns why the program at `path` stays, unless a rule of the user names it.
#[must_use]
pub fn stays(path: &[u8]) -> Option<Reason> {
    let name = core::str::from_utf8(base_name(path)).ok()?;
    let is_in = |names: &[&str]| names.binary_search(&name).is_ok();
    match () {
        () if is_in(STARTERS) => Some(Reason::Driver),
        () if is_in(WRAPPERS) => Some(Reason::Wrapper),
        () if is_in(ORIGIN_BOUND) || name == "chroot" => Some(Reason::NeedsOrigin),
        () => None,
    }
}

/// Returns why the program at `path` stays even with `--walk-all`: it does not work on a runner.
#[must_use]
pub fn stays_always(path: &[u8]) -> Option<Reason> {
    // Starters and chroot do work on a runner.
    stays(path).filter(|&reason| reason != Reason::Driver && base_name(path) != b"chroot")
}

/// Programs that start others. If one walked, the whole build would run on one node. All lists here are
/// sorted.
const STARTERS: &[&str] = &[
    "ant",
    "autoreconf",
    "b2",
    "bazelisk",
    "bjam",
    "buck",
    "buck2",
    "cabal",
    "catchsegv",
    "cgexec",
    "choom",
    "chronic",
    "chrt",
    "cpack",
    "csh",
    "dbus-run-session",
    "dh",
    "dtach",
    "dune",
    "entr",
    "expect",
    "flock",
    "gdbserver",
    "git",
    "go",
    "gradle",
    "gtimeout",
    "guix",
    "hg",
    "hyperfine",
    "i386",
    "ionice",
    "just",
    "linux32",
    "linux64",
    "lldb",
    "ltrace",
    "makepkg",
    "mix",
    "mksh",
    "mock",
    "muon",
    "mvn",
    "ninja-build",
    "nix",
    "nix-build",
    "node-gyp",
    "nox",
    "npm",
    "npx",
    "numactl",
    "opam",
    "pdksh",
    "perf",
    "pip",
    "pip3",
    "pnpm",
    "premake4",
    "premake5",
    "prlimit",
    "pytest",
    "qmake",
    "qmake6",
    "rake",
    "rbash",
    "rebar3",
    "redo",
    "rpmbuild",
    "rr",
    "run-parts",
    "samurai",
    "sbt",
    "screen",
    "script",
    "setarch",
    "setpriv",
    "stack",
    "stdbuf",
    "svn",
    "taskset",
    "tcsh",
    "tmux",
    "tox",
    "tup",
    "unbuffer",
    "valgrind",
    "waf",
    "watch",
    "x86_64",
    "xmake",
    "xvfb-run",
    "yarn",
];

/// Compiler wrappers, and programs that observe compilers through a server or a preloaded library.
const WRAPPERS: &[&str] = &[
    "analyze-build",
    "bear",
    "build-wrapper-linux-x86-64",
    "buildcache",
    "c++-analyzer",
    "cachepot",
    "ccc-analyzer",
    "compiledb",
    "cov-build",
    "distccd",
    "eatmydata",
    "fakechroot",
    "faked",
    "faked-sysv",
    "faked-tcp",
    "fakeroot",
    "fakeroot-sysv",
    "fakeroot-tcp",
    "faketime",
    "fbuild",
    "gomacc",
    "h5c++",
    "h5cc",
    "h5fc",
    "hipcc",
    "iceccd",
    "icerun",
    "intercept",
    "intercept-build",
    "intercept-c++",
    "intercept-cc",
    "mpic++",
    "mpicc",
    "mpicxx",
    "mpif77",
    "mpif90",
    "mpifort",
    "pseudo",
    "rewrapper",
    "scan-build",
    "scan-build-py",
];

/// Programs that need the origin's privileges, namespaces, processes or devices.
const ORIGIN_BOUND: &[&str] = &[
    "bpftool",
    "bpftrace",
    "buildah",
    "bwrap",
    "capsh",
    "chattr",
    "crun",
    "ctr",
    "dmesg",
    "doas",
    "docker",
    "firejail",
    "fuser",
    "htop",
    "insmod",
    "ip",
    "ip6tables",
    "ipcrm",
    "ipcs",
    "iptables",
    "journalctl",
    "kill",
    "killall",
    "loginctl",
    "losetup",
    "lsattr",
    "lsof",
    "machinectl",
    "modprobe",
    "mount",
    "nerdctl",
    "nft",
    "nsenter",
    "pgrep",
    "ping",
    "pkexec",
    "pkill",
    "podman",
    "ps",
    "rmmod",
    "runc",
    "runuser",
    "setsid",
    "su",
    "sudo",
    "sudoedit",
    "swapoff",
    "swapon",
    "sysctl",
    "systemctl",
    "systemd-nspawn",
    "systemd-run",
    "tc",
    "tcpdump",
    "top",
    "umount",
    "unshare",
];

/// File name prefixes of preloaded libraries that communicate with a process at the origin: those of
/// bear, intercept-build, pseudo, fakeroot and coverage tools.
const TALKERS: &[&[u8]] = &[
    b"libexec.so",
    b"libear.so",
    b"libscanbuild",
    b"libintercept",
    b"libpseudo",
    b"libfakeroot",
    b"libcapture",
];

/// Tells whether a value of `LD_PRELOAD` names a library that communicates with a process at the origin.
#[must_use]
pub fn talks_here(preload: &[u8]) -> bool {
    preload
        .split(|&byte| byte == b':' || byte == b' ')
        .any(|library| TALKERS.iter().any(|talker| base_name(library).starts_with(talker)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted() {
        for list in [STARTERS, WRAPPERS, ORIGIN_BOUND] {
            assert!(list.is_sorted());
        }
    }

    #[test]
    fn known_programs_stay() {
        assert_eq!(stays(b"/usr/bin/taskset"), Some(Reason::Driver));
        assert_eq!(stays(b"/usr/bin/bear"), Some(Reason::Wrapper));
        assert_eq!(stays(b"unshare"), Some(Reason::NeedsOrigin));
        assert_eq!(stays(b"/usr/bin/cat"), None);
        assert_eq!(stays_always(b"/usr/bin/taskset"), None);
        assert_eq!(stays_always(b"/usr/sbin/chroot"), None);
        assert_eq!(stays_always(b"/usr/bin/fakeroot"), Some(Reason::Wrapper));
    }

    #[test]
    fn libraries_that_talk_to_the_origin() {
        assert!(talks_here(b"/l/liboswalk_preload.so:/usr/lib/bear/libexec.so"));
        assert!(talks_here(b"libfakeroot-sysv.so"));
        assert!(!talks_here(b"/usr/lib/faketime/libfaketime.so.1 libeatmydata.so"));
        assert!(!talks_here(b""));
    }
}
