//! Paths that name the process's own streams.

/// Most components of a path that can name a stream.
const DEPTH_MAX: usize = 8;

/// Tells whether an absolute path names an inherited descriptor: `/dev/stdin`, `/dev/fd/0`,
/// `/proc/self/fd/0` or an equivalent spelling. `..` is resolved lexically.
#[must_use]
pub fn is_stream(path: &[u8]) -> bool {
    if !path.starts_with(b"/") {
        return false;
    }
    let mut parts: [&[u8]; DEPTH_MAX] = [b""; DEPTH_MAX];
    let mut depth = 0;
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => depth = usize::saturating_sub(depth, 1),
            _ => {
                if let Some(slot) = parts.get_mut(depth) {
                    *slot = part;
                }
                depth += 1;
            }
        }
    }
    match parts.get(..depth) {
        Some([b"dev", b"stdin" | b"stdout" | b"stderr"] | [b"dev", b"fd", ..]) => true,
        Some([b"proc", process @ ..]) => process.contains(&b"fd".as_slice()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_by_their_names() {
        for path in [
            "/dev/stdin",
            "//dev/stdin",
            "/dev/./stdin",
            "/dev/shm/../stdin",
            "/tmp/../dev//fd/0",
            "/dev/fd/63",
            "/dev/stdout",
            "/proc/self/fd/0",
            "/proc/thread-self/fd/3",
            "/proc/1/task/1/fd/0",
        ] {
            assert!(is_stream(path.as_bytes()), "{path}");
        }
        for path in
            ["/dev/null", "/dev/shm/stdin", "dev/stdin", "/home/dev/stdin", "/proc/cpuinfo", "-"]
        {
            assert!(!is_stream(path.as_bytes()), "{path}");
        }
        assert!(!is_stream(b"/a/b/c/d/e/f/g/h/i/dev/stdin"));
    }
}
