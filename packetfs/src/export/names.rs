//! Matches paths against the lists in [`secrets`](super::secrets).

use std::collections::HashMap;
use std::sync::LazyLock;

use super::secrets;
use crate::path::{Bytes, is_within};

/// The lists, prepared once.
static LISTS: LazyLock<Lists> = LazyLock::new(|| Lists {
    dirs: List::new(secrets::DIRS),
    files: List::new(secrets::FILES),
    keys: List::new(secrets::KEYS),
    shown: List::new(secrets::SHOWN),
    published: List::new(secrets::PUBLISHED),
});

struct Lists {
    dirs: List,
    files: List,
    keys: List,
    shown: List,
    published: List,
}

/// Lines, indexed by their last name.
struct List {
    literal: HashMap<&'static [u8], Vec<Line>>,
    /// Bit sets of the lengths of literal last names, by their first byte. They rule out most names quickly.
    lengths: [u64; 256],
    patterns: Vec<Line>,
}

/// A line of a list, with its names in reverse order.
struct Line {
    names: Vec<&'static [u8]>,
    from_root: bool,
}

/// A path split at its slashes, in lower case because some file systems ignore case.
#[derive(Debug)]
pub(super) struct Cut {
    text: Bytes,
    ends: Vec<usize>,
}

/// Tells whether a path is a hidden directory or below one.
pub(super) fn hides_dir(path: &[u8]) -> bool {
    is_in_dir(&Cut::new(path))
}

/// Tells whether a path is hidden, as a file or with its directory.
pub(super) fn hides(path: &[u8]) -> bool {
    let cut = Cut::new(path);
    is_in_dir(&cut) || hides_file(&cut)
}

fn is_in_dir(cut: &Cut) -> bool {
    (1..=cut.len()).any(|names| LISTS.dirs.finds(cut, names))
}

/// Returns a predicate for hidden names in a directory that is not hidden itself.
pub(super) fn hider(dir: &[u8]) -> impl FnMut(&[u8]) -> bool {
    let mut cut = Cut::new(dir);
    move |name| {
        cut.push(name);
        let hidden = LISTS.dirs.finds(&cut, cut.len()) || hides_file(&cut);
        cut.pop();
        hidden
    }
}

fn hides_file(cut: &Cut) -> bool {
    let Lists { files, keys, shown, .. } = &*LISTS;
    let last = cut.len();
    let listed = files.finds(cut, last) || keys.finds(cut, last) && !is_public(cut);
    listed && !shown.finds(cut, last)
}

/// Tells whether a path is in a directory of installed or published files.
pub(super) fn is_public_path(path: &[u8]) -> bool {
    is_public(&Cut::new(path))
}

fn is_public(cut: &Cut) -> bool {
    let within = |dirs: &[&str]| dirs.iter().any(|dir| is_within(&cut.text, dir.as_bytes()));
    (within(secrets::INSTALLED) && !within(secrets::NOT_INSTALLED))
        || (1..=cut.len()).any(|names| LISTS.published.finds(cut, names))
}

/// Tells whether something below a directory is hidden because of the directory's name.
pub(super) fn holds(path: &[u8]) -> bool {
    let cut = Cut::new(path);
    LISTS.hiding().any(|line| line.parts().any(|part| line.ends_with(&cut, cut.len(), part)))
}

/// Tells whether everything hidden below `from` would also be hidden below `to`.
pub(super) fn survives(from: &[u8], to: &[u8]) -> bool {
    let (from, to) = (Cut::new(from), Cut::new(to));
    let kept = |line: &Line| {
        line.parts().all(|part| {
            !line.ends_with(&from, from.len(), part) || line.ends_with(&to, to.len(), part)
        })
    };
    LISTS.hiding().all(kept) && (is_public(&from) || !is_public(&to))
}

/// Returns the paths relative to a home that contain no pattern.
pub(super) fn in_home() -> impl Iterator<Item = &'static str> {
    let all = secrets::DIRS.iter().chain(secrets::FILES);
    all.copied().filter(|line| line.starts_with('.') && !line.contains('*'))
}

impl Lists {
    fn hiding(&self) -> impl Iterator<Item = &Line> {
        [&self.dirs, &self.files, &self.keys]
            .into_iter()
            .flat_map(|list| list.literal.values().flatten().chain(&list.patterns))
    }
}

impl List {
    fn new(lines: &'static [&'static str]) -> Self {
        let mut list = Self { literal: HashMap::new(), lengths: [0; 256], patterns: Vec::new() };
        for line in lines {
            let names = line.trim_start_matches('/').rsplit('/').map(str::as_bytes).collect();
            let line = Line { names, from_root: line.starts_with('/') };
            if line.names[0].contains(&b'*') {
                list.patterns.push(line);
            } else {
                let last = line.names[0];
                list.lengths[usize::from(last[0])] |= length_bit(last);
                list.literal.entry(last).or_default().push(line);
            }
        }
        list
    }

    /// Tells whether the first `names` names of a path match a line.
    fn finds(&self, cut: &Cut, names: usize) -> bool {
        let Some((last, &first)) = cut.name(names).and_then(|last| Some((last, last.first()?)))
        else {
            return false;
        };
        let may_be_literal = self.lengths[usize::from(first)] & length_bit(last) != 0;
        let literal = may_be_literal.then(|| self.literal.get(last)).flatten();
        let mut literal = literal.into_iter().flatten();
        let mut patterns = self.patterns.iter().filter(|line| fits(line.names[0], last));
        literal.any(|line| line.ends_with(cut, names, 0))
            || patterns.any(|line| line.ends_with(cut, names, 0))
    }
}

impl Line {
    /// Tells whether the first `names` names of a path end with the line without its last `skipped` names.
    fn ends_with(&self, cut: &Cut, names: usize, skipped: usize) -> bool {
        let own = &self.names[skipped..];
        let long_enough = if self.from_root { names == own.len() } else { names >= own.len() };
        long_enough
            && own.iter().enumerate().all(|(back, pattern)| {
                cut.name(names - back).is_some_and(|name| fits(pattern, name))
            })
    }

    /// Returns how many names can be skipped so that a beginning of the line remains.
    fn parts(&self) -> impl Iterator<Item = usize> {
        1..self.names.len()
    }
}

impl Cut {
    fn new(path: &[u8]) -> Self {
        let text = path.to_ascii_lowercase();
        let slashes = text.iter().enumerate().skip(1).filter(|&(_, &byte)| byte == b'/');
        let mut ends: Vec<usize> = slashes.map(|(at, _)| at).collect();
        if text.len() > 1 {
            ends.push(text.len());
        }
        Self { text, ends }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the name with this number, counted from 1.
    fn name(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends.get(number.checked_sub(1)?)?;
        let start = number.checked_sub(2).map_or(1, |before| self.ends[before] + 1);
        self.text.get(start..end)
    }

    fn push(&mut self, name: &[u8]) {
        if !self.text.ends_with(b"/") {
            self.text.push(b'/');
        }
        self.text.extend(name.iter().map(u8::to_ascii_lowercase));
        self.ends.push(self.text.len());
    }

    fn pop(&mut self) {
        self.ends.pop();
        self.text.truncate(self.ends.last().copied().unwrap_or(1));
    }
}

/// Returns the bit of a name's length. All longer names share the last bit.
fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

/// Tells whether a name matches a pattern, in which `*` matches any bytes.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    // The first or last byte rules out most patterns.
    let differs = |one: Option<&u8>, other: Option<&u8>| one != Some(&b'*') && one != other;
    if differs(pattern.first(), name.first()) || differs(pattern.last(), name.last()) {
        return false;
    }
    let Some(star) = pattern.iter().position(|&byte| byte == b'*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(&pattern[..star]) else { return false };
    let after = &pattern[star + 1..];
    if after.contains(&b'*') {
        (0..=rest.len()).any(|at| fits(after, &rest[at..]))
    } else {
        rest.ends_with(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each in a home, a project or the system; see [`secrets`].
    const HIDDEN: &[&str] = &[
        "/home/u/.ssh",
        "/home/u/.ssh/id_ed25519",
        "/home/u/.SSH/id_rsa",
        "/home/u/backup/.ssh.bak/x",
        "/home/u/ssh/id_rsa",
        "/root/.gnupg/x",
        "/etc/shadow",
        "/etc/shadow-",
        "/srv/chroot/etc/shadow",
        "/etc/security/opasswd",
        "/etc/ssl/private/x.key",
        "/etc/letsencrypt/live/x/privkey.pem",
        "/etc/NetworkManager/system-connections/home.nmconnection",
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/sudoers",
        "/var/backups/shadow.bak",
        "/home/u/.config/gcloud/creds",
        "/home/u/.config/rclone/rclone.conf",
        "/home/u/.docker/config.json",
        "/home/u/.config/containers/auth.json",
        "/home/u/.netrc",
        "/home/u/.netrc.gpg",
        "/home/u/.m2/settings.xml",
        "/home/u/.gradle/gradle.properties",
        "/home/u/.cargo/credentials.toml",
        "/home/u/.bash_history",
        "/home/u/.python_history",
        "/home/u/.psql_history",
        "/home/u/.mozilla/firefox/p.default/cookies.sqlite",
        "/home/u/.config/google-chrome/Default/Cookies",
        "/home/u/.Xauthority",
        "/home/u/p/.env",
        "/home/u/p/.env.production",
        "/home/u/p/tls.key",
        "/home/u/p/Key.PEM",
        "/home/u/p/keys.jks",
        "/home/u/p/service-account.json",
        "/home/u/rails/config/master.key",
        "/home/u/.config/oswalk/policy.toml",
        "/usr/local/etc/x/tls.key",
    ];
    const SHOWN: &[&str] = &[
        "/",
        "/home/u",
        "/home/u/.config",
        "/home/u/.docker",
        "/home/u/.docker/cli-plugins/x",
        "/home/u/.cargo/config.toml",
        "/home/u/.cargo/registry/src/x/key.pem",
        "/home/u/p/.env.example",
        "/home/u/p/.env/bin/python",
        "/home/u/p/node_modules/x/.env",
        "/home/u/p/env.c",
        "/home/u/p/key.c",
        "/home/u/p/id_rsa.pub",
        "/home/u/p/shadow",
        "/home/u/src/gcloud/x.c",
        "/home/u/src/config.json",
        "/home/u/v/lib/python3/site-packages/certifi/cacert.pem",
        "/usr/include/shadow.h",
        "/usr/share/keyrings/a",
        "/usr/lib/x/key.pem",
        "/etc/passwd",
        "/etc/ssl/certs/ca.pem",
        "/etc/ssl/certs/a.pem",
        "/etc/ssh/sshd_config",
    ];

    #[test]
    fn secrets_are_found_by_name() {
        for path in HIDDEN {
            assert!(hides(path.as_bytes()), "{path}");
        }
        for path in SHOWN {
            assert!(!hides(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn directories_and_paths_agree_on_what_is_hidden() {
        for path in HIDDEN.iter().chain(SHOWN) {
            let Some((dir, name)) = crate::path::split(path.as_bytes()) else { continue };
            if !hides_dir(dir) {
                assert_eq!(hider(dir)(name), hides(path.as_bytes()), "{path}");
            }
        }
        let mut hides = hider(b"/home/u");
        assert!(hides(b".ssh") && !hides(b"x") && hides(b".netrc") && !hides(b".docker"));
    }

    #[test]
    fn files_hidden_by_location_cannot_be_moved_away() {
        for (from, to) in [
            ("/home/u/.docker", "/home/u/d"),
            ("/home/u/.config", "/home/u/cfg"),
            ("/home/u/.cargo", "/home/u/c"),
            ("/etc/ssl", "/tmp/ssl"),
            ("/srv/x/etc", "/srv/x/e"),
            ("/var/lib", "/var/l"),
            ("/var", "/v"),
            ("/home/u/p", "/home/u/node_modules/p"),
        ] {
            assert!(!survives(from.as_bytes(), to.as_bytes()), "{from} {to}");
        }
        for (from, to) in [
            ("/home/u/p", "/home/u/q"),
            ("/home/u", "/home/v"),
            ("/home/u/.config", "/home/v/.config"),
            ("/home/u/node_modules/a", "/home/u/node_modules/b"),
            ("/home/u/a.o.tmp", "/home/u/a.o"),
        ] {
            assert!(survives(from.as_bytes(), to.as_bytes()), "{from} {to}");
        }
    }

    #[test]
    fn lines_are_in_lower_case_and_have_no_empty_names() {
        let lists = [secrets::DIRS, secrets::FILES, secrets::KEYS, secrets::SHOWN];
        for line in lists.into_iter().flatten().chain(secrets::PUBLISHED) {
            let names = line.strip_prefix('/').unwrap_or(line);
            assert_eq!(line.to_lowercase(), **line);
            assert!(names.split('/').all(|name| !name.is_empty()), "{line}");
        }
    }
}
