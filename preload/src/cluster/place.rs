//! Where a path leads: below the mount point of the volume, out of it again, or elsewhere. Pure.

use core::ffi::CStr;

use crate::path::PathBuffer;

/// Where a path leads, as far as its text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a, 'p> {
    Elsewhere,
    /// It is relative, and begins with `..`.
    Upwards,
    /// To this path below the mount point, which may lead out again by `..`. If the path is relative, `above` is the
    /// directory to which it has to be relative.
    Below {
        above: Option<&'p [u8]>,
        rest: &'a CStr,
    },
}

/// Returns where a path leads. The mount point is absolute, and has no doubled slashes and no dots.
pub(crate) fn of<'a, 'p>(path: &'a CStr, point: &'p [u8]) -> Place<'a, 'p> {
    let all = path.to_bytes_with_nul();
    if let [b'/', ..] = all {
        let rest = below(all, point);
        return rest.map_or(Place::Elsewhere, |rest| Place::Below { above: None, rest });
    }
    if let [b'.', b'.', b'/' | 0, ..] = all {
        return Place::Upwards;
    }
    let slashes = (0..point.len()).filter(|&at| point.get(at) == Some(&b'/'));
    for at in slashes {
        let (above, names) = point.split_at(at);
        if let Some(rest) = below(all, names) {
            return Place::Below { above: Some(above), rest };
        }
    }
    Place::Elsewhere
}

/// Returns what follows some names in a path, without slashes before it.
fn below<'a>(all: &'a [u8], names: &[u8]) -> Option<&'a CStr> {
    let mut at = 0;
    for wanted in names.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        at = after_nothing(all, at);
        let end = at + wanted.len();
        if all.get(at..end)? != wanted || !matches!(all.get(end), Some(b'/' | 0)) {
            return None;
        }
        at = end;
    }
    while all.get(at) == Some(&b'/') {
        at += 1;
    }
    CStr::from_bytes_with_nul(all.get(at..)?).ok()
}

/// Returns where the next name begins, after slashes and single dots.
fn after_nothing(all: &[u8], mut at: usize) -> usize {
    loop {
        match (all.get(at), all.get(at + 1)) {
            (Some(b'/'), _) => at += 1,
            (Some(b'.'), Some(b'/')) => at += 2,
            _ => return at,
        }
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Tells whether a path that starts so many directories below a root leads out of it. `..` is counted by the text, as if there
/// were no symbolic links.
fn sinks(depth: usize, path: &[u8]) -> bool {
    let mut depth = Some(depth);
    for name in names(path) {
        depth = match (depth, name) {
            (None, _) => return true,
            (Some(depth), b"..") => depth.checked_sub(1),
            (Some(depth), _) => Some(depth + 1),
        };
    }
    depth.is_none()
}

/// Tells whether a path relative to a root leads out of it.
pub(crate) fn leaves(path: &[u8]) -> bool {
    sinks(0, path)
}

/// Tells whether a relative path leads out of the mount if the working directory is at `inside` below its root.
pub(crate) fn leaves_from(inside: &[u8], path: &[u8]) -> bool {
    sinks(names(inside).count(), path)
}

/// Writes the path that the parts form, one below the other, with `..` taken by the text. Returns `None` if it is too long.
pub(crate) fn resolve<'b, B: AsRef<[u8]> + AsMut<[u8]>>(
    parts: &[&[u8]],
    buffer: &'b mut PathBuffer<B>,
) -> Option<&'b CStr> {
    buffer.join(&[b""])?;
    for name in parts.iter().flat_map(|part| names(part)) {
        match name {
            b".." => buffer.cut_name(),
            name => buffer.push(&[b"/", name])?,
        }
    }
    if buffer.is_empty() || parts.last().is_some_and(|last| last.ends_with(b"/")) {
        buffer.push(&[b"/"])?;
    }
    buffer.path()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_mount_point() {
        let rest = |path, point| match of(path, point) {
            Place::Below { above: None, rest } => rest.to_str().expect("text"),
            Place::Below { .. } => "relative",
            Place::Elsewhere => "elsewhere",
            Place::Upwards => "upwards",
        };
        for (path, expected) in [
            (c"/cluster", ""),
            (c"/cluster/", ""),
            (c"/cluster/f", "f"),
            (c"/cluster//f", "f"),
            (c"//cluster///a/b/", "a/b/"),
            (c"/./cluster/./f", "./f"),
            (c"/cluster/a/../b", "a/../b"),
            (c"/cluster/..f", "..f"),
            (c"/cluster/../etc/passwd", "../etc/passwd"),
            (c"/clusters", "elsewhere"),
            (c"/cluste", "elsewhere"),
            (c"/cluster.d/f", "elsewhere"),
            (c"/a/cluster", "elsewhere"),
            (c"cluster/f", "relative"),
            (c"..", "upwards"),
            (c"../cluster", "upwards"),
            (c"..cluster", "elsewhere"),
            (c".", "elsewhere"),
            (c"", "elsewhere"),
            (c"/", "elsewhere"),
        ] {
            assert_eq!(rest(path, b"/cluster"), expected, "{path:?}");
        }
        assert_eq!(rest(c"/mnt//oswalk/f", b"/mnt/oswalk"), "f");
        assert_eq!(rest(c"/mnt/f", b"/mnt/oswalk"), "elsewhere");
    }

    #[test]
    fn relative_paths_name_what_they_are_relative_to() {
        let below = |above: &'static [u8], rest| Place::Below { above: Some(above), rest };
        assert_eq!(of(c"cluster/f", b"/cluster"), below(b"", c"f"));
        assert_eq!(of(c"./cluster", b"/cluster"), below(b"", c""));
        assert_eq!(of(c"oswalk/f", b"/mnt/oswalk"), below(b"/mnt", c"f"));
        assert_eq!(of(c"mnt/oswalk/f", b"/mnt/oswalk"), below(b"", c"f"));
        assert_eq!(of(c"mnt/f", b"/mnt/oswalk"), Place::Elsewhere);
    }

    #[test]
    fn paths_that_lead_out() {
        for (path, expected) in [
            ("a/..", false),
            ("a/../b", false),
            ("", false),
            ("..", true),
            ("../etc", true),
            ("a/../../cluster/f", true),
            ("./..", true),
        ] {
            assert_eq!(leaves(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn paths_that_leave_are_resolved_by_their_text() {
        let resolved = |parts: &[&[u8]]| {
            let mut buffer = PathBuffer::new();
            resolve(parts, &mut buffer).expect("short").to_str().expect("text").to_owned()
        };
        assert_eq!(resolved(&[b"/cluster", b"../etc/passwd"]), "/etc/passwd");
        assert_eq!(resolved(&[b"/cluster", b"a/../../cluster//f"]), "/cluster/f");
        assert_eq!(resolved(&[b"/cluster", b"../.."]), "/");
        assert_eq!(resolved(&[b"/mnt/cluster", b"/a/b", b"../../../x/"]), "/mnt/x/");
        let long = [b'x'; 5000];
        assert_eq!(resolve(&[b"/cluster", &long], &mut PathBuffer::new()), None);
    }

    #[test]
    fn relative_paths_leave_from_where_they_start() {
        assert!(!leaves_from(b"/a/b", b"../../f"));
        assert!(leaves_from(b"/a/b", b"../../../f"));
        assert!(leaves_from(b"/", b".."));
        assert!(!leaves_from(b"/a", b".."));
    }
}
