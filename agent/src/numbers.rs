//! The numbers of this machine's users and groups, and those that are set aside for their containers. The users of
//! origins get others.

use std::path::Path;

/// Returns the first and the last number in a line.
type InLine = fn(&str) -> Option<(u32, u32)>;

/// The files, each with how its lines are read.
const FILES: [(&str, InLine); 4] = [
    ("/etc/passwd", one_in_line),
    ("/etc/group", one_in_line),
    ("/etc/subuid", several_in_line),
    ("/etc/subgid", several_in_line),
];

/// Returns the first and the last of consecutive numbers.
pub(crate) fn used() -> Vec<(u32, u32)> {
    let read = |(file, in_line): (&str, InLine)| {
        let text = std::fs::read(Path::new(file)).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter_map(in_line).collect::<Vec<_>>()
    };
    FILES.into_iter().flat_map(read).collect()
}

/// Reads `name:password:number:…`.
fn one_in_line(line: &str) -> Option<(u32, u32)> {
    let number = line.split(':').nth(2)?.parse().ok()?;
    Some((number, number))
}

/// Reads `name:first:count`.
fn several_in_line(line: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':').skip(1);
    let first: u32 = fields.next()?.parse().ok()?;
    let count: u32 = fields.next()?.parse().ok()?;
    Some((first, first.saturating_add(count.checked_sub(1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        assert_eq!(one_in_line("ann:x:1000:1000:Ann:/home/ann:/bin/sh"), Some((1000, 1000)));
        assert_eq!(one_in_line("users:x:100:"), Some((100, 100)));
        assert_eq!(several_in_line("ann:100000:65536"), Some((100_000, 165_535)));
        assert_eq!(several_in_line("ann:4294967290:65536"), Some((4_294_967_290, u32::MAX)));
        for odd in ["", "+@netgroup", "ann:x", "ann:x:many", "ann:-1:-2"] {
            assert_eq!((one_in_line(odd), several_in_line(odd)), (None, None), "{odd}");
        }
        assert_eq!(several_in_line("ann:100000:0"), None);
        assert!(used().contains(&(0, 0)), "there is root");
    }
}
