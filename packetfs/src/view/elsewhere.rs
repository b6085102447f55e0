//! Names and links that lead from the origin's tree to files that are local to each machine.

use crate::path::Bytes;

/// Names in `/run` that libraries look up in every program and can do without.
const OF_LIBRARIES: [&[u8]; 1] = [b"nscd"];
/// Names of services in `/run`: programs that look for them go on if they are absent.
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
/// Directories that are local to each runner. `/run` is not among them: look-ups in it are recorded anyway.
const OWN_DIRS: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Tells whether libraries look up this name in `/run` in any program.
pub(super) fn is_of_libraries(name: &[u8]) -> bool {
    OF_LIBRARIES.contains(&name)
}

/// Tells whether a service uses this name in `/run`.
pub(super) fn is_of_services(name: &[u8]) -> bool {
    OF_SERVICES.contains(&name)
}

/// Tells whether a link at a path may lead into a directory that is local to a runner, or to an ancestor of one.
/// `/dev/null` is excepted, because it is the same everywhere. A `..` after a name may lead anywhere.
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
    // No component is left of `/`, the ancestor of all of them. `/dev/shm` is local to a walk, too.
    below.first().is_none_or(|name| OWN_DIRS.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_paths_local_to_runners() {
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
