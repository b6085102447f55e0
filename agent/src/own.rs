//! The agent's own files and secrets, which are hidden from walks.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use packetfs::export::Own;
use packetfs::path::Bytes;

/// Prefix of the variables that are meant for the agent, or for `oswalk`, which has started it.
const PREFIX: &str = "OSWALK_";

/// Returns the agent's directories, the files that its environment names, and the words by which copies of its
/// secrets are recognized.
pub(crate) fn all(dirs: &[&Path], secrets: Vec<Bytes>, broker: &str) -> Own {
    let variables =
        std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(PREFIX.as_bytes()));
    let named = variables.map(|(_, value)| PathBuf::from(value)).filter(|path| is_data(path));
    let socket = socket(broker).map(PathBuf::from);
    let dirs = dirs.iter().map(|dir| dir.to_path_buf());
    let files = named.chain(socket);
    let mut paths: Vec<Bytes> = dirs.chain(files).flat_map(|path| spellings(&path)).collect();
    paths.sort();
    paths.dedup();
    let words = secrets.into_iter().chain(password(broker)).collect();
    Own { paths, words }
}

/// Returns a path as given and with symbolic links resolved, both absolute.
fn spellings(path: &Path) -> Vec<Bytes> {
    let given = std::path::absolute(path).ok();
    let real = std::fs::canonicalize(path).ok();
    let both = [given, real].into_iter().flatten();
    // `/` would hide everything.
    both.map(|path| path.as_os_str().as_bytes().to_vec()).filter(|path| path.len() > 1).collect()
}

/// Tells whether a variable's value is the path of a data file, rather than of a program or directory.
fn is_data(path: &Path) -> bool {
    let meta = path.is_absolute().then(|| std::fs::metadata(path).ok()).flatten();
    meta.is_some_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 == 0)
}

/// Returns the socket of a broker on this machine.
fn socket(url: &str) -> Option<&str> {
    let (scheme, path) = url.split_once("://")?;
    let path = path.split('?').next().unwrap_or_default();
    (scheme.contains("unix") && path.starts_with('/')).then_some(path)
}

/// Returns the password in a broker's URL, both as written and decoded.
fn password(url: &str) -> Vec<Bytes> {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let login = authority.rsplit_once('@').map(|(login, _)| login);
    let in_login = login.and_then(|login| login.split_once(':')).map(|(_, password)| password);
    let in_query = url.split(['?', '&']).find_map(|part| part.strip_prefix("pass="));
    let written = in_login.into_iter().chain(in_query);
    written
        .flat_map(|password| [password.as_bytes().to_vec(), decoded(password.as_bytes())])
        .collect()
}

/// Returns a text with percent-encoding decoded.
fn decoded(text: &[u8]) -> Bytes {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = (byte == b'%').then(|| after.get(..2)).flatten();
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_are_hidden_by_any_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let (real, link) = (dir.path().join("secret"), dir.path().join("link"));
        std::fs::write(&real, "s").expect("writable");
        std::os::unix::fs::symlink(&real, &link).expect("writable");
        let own = all(&[dir.path(), &link], vec![b"word".to_vec()], "redis://:p%40ss@host:1/");
        for path in [dir.path(), &real, &link] {
            assert!(own.paths.contains(&path.as_os_str().as_bytes().to_vec()), "{path:?}");
        }
        let words = ["word", "p%40ss", "p@ss"].map(|word| word.as_bytes().to_vec());
        assert_eq!(own.words, words);
    }

    #[test]
    fn broker_urls() {
        assert!(password("redis://host").is_empty());
        assert_eq!(password("redis+unix:///r.sock?pass=abc")[0], b"abc");
        assert_eq!(password("redis://user:a:b@host/1")[0], b"a:b");
        assert_eq!(socket("redis+unix:///run/r.sock?db=1"), Some("/run/r.sock"));
        assert_eq!(socket("redis://host/run"), None);
    }
}
