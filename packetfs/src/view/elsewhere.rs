//! What leads away from the origin's files to what each machine has of its own.

use crate::path::Bytes;

/// Names in `/run` that libraries look up in every program, and do without.
const OF_LIBRARIES: [&[u8]; 1] = [b"nscd"];
/// Names in `/run` that services have: who asks for them gets no answer, and goes on.
const OF_SERVICES: [&[u8]; 10] = [
    b"nscd",
    b"systemd",
    b"dbus",
    b"udev",
    b"utmp",
    b"lock",
    b"mount",
    b"initctl",
    b"resolvconf",
    b"NetworkManager",
];
/// Directories that runners have of their own. A name in `/run` is noticed when it is looked up there.
const OWN_DIRS: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Tells whether a library looks this name up in `/run`, whatever the program does.
pub(super) fn is_of_libraries(name: &[u8]) -> bool {
    OF_LIBRARIES.contains(&name)
}

/// Tells whether a service has this name in `/run`.
pub(super) fn is_of_services(name: &[u8]) -> bool {
    OF_SERVICES.contains(&name)
}

/// Tells whether a link at a path may lead into a directory that a runner has of its own, or above it; not to the device
/// that is the same everywhere. What is behind a `..` that follows a name may be anywhere.
pub(super) fn is_runners(path: &[u8], target: &Option<Bytes>) -> bool {
    let Some(target) = target else { return false };
    let mut is_certain = true;
    let mut depth = if target.starts_with(b"/") {
        0
    } else {
        path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).count().saturating_sub(1)
    };
    let mut below: Vec<&[u8]> = Vec::new();
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if below.is_empty() => depth = depth.saturating_sub(1),
            b".." => {
                below.clear();
                is_certain = false;
            }
            name => below.push(name),
        }
    }
    if is_certain && depth > 0 || below == [b"dev".as_slice(), b"null"] {
        return false;
    }
    // `/shm` is the root's link to all of them, `/dev/shm` is another place of a walk's own.
    below.first().is_none_or(|name| OWN_DIRS.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_what_runners_have() {
        let leads = |path: &str, target: &str| {
            is_runners(path.as_bytes(), &Some(target.as_bytes().to_vec()))
        };
        for (path, target) in [
            ("/w/in.h", "/dev/stdin"),
            ("/w/in.h", "/dev/shm/g/in.h"),
            ("/w/in.h", "../dev/shm/g"),
            ("/w/one/in.h", "../../proc/version"),
            ("/w/in.h", "//sys/./x"),
            ("/w/root", "/"),
            ("/w/one/in.h", "sub/../dev/x"),
            ("/etc/mtab", "../proc/self/mounts"),
        ] {
            assert!(leads(path, target), "{path} {target}");
        }
        for (path, target) in [
            ("/w/in.h", "/usr/include/in.h"),
            ("/w/in.h", "dev/in.h"),
            ("/w/one/in.h", "../dev/in.h"),
            ("/w/null", "/dev/null"),
            ("/w/one/two", ".."),
            ("/var/run", "/run"),
            ("/bin", "usr/bin"),
        ] {
            assert!(!leads(path, target), "{path} {target}");
        }
    }
}
