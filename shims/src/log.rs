//! The agent's log, as far as `oswalk` reads and creates it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// The log names programs, directories and nodes, so only its user may read it.
const LOG_MODE: u32 = 0o600;
/// Most of the log that is searched for the error of an agent that ended at once.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// Opens the log to be appended to.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let log =
        options.create(true).append(true).mode(LOG_MODE).custom_flags(OFlag::O_NOFOLLOW.bits());
    let log = log.open(path)?;
    // An earlier version may have created it with another mode.
    log.set_permissions(PermissionsExt::from_mode(LOG_MODE))?;
    Ok(log)
}

/// Returns the message of an agent that ended, from the part of the log behind `written_before`.
pub(crate) fn last_words(path: &Path, written_before: u64) -> Option<String> {
    let mut log = File::open(path).ok()?;
    let end = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(written_before.max(end.saturating_sub(LOG_BYTES_MAX)))).ok()?;
    let mut text = Vec::new();
    log.take(LOG_BYTES_MAX).read_to_end(&mut text).ok()?;
    last_message(&String::from_utf8_lossy(&text))
}

/// Returns the message of the last line that reports an error, or else the last line.
pub(crate) fn last_message(log: &str) -> Option<String> {
    let mut lines = log.lines().filter(|line| !line.trim().is_empty()).rev();
    // Reports of a wrong option, lines of the log (time and module precede the message), and panics.
    let failed = lines.clone().find_map(|line| {
        let usage = line.strip_prefix("error: ");
        let logged = line.split_once(" ERROR ").map(|(_, rest)| {
            let module = rest.split_once(": ").filter(|(module, _)| !module.contains(' '));
            module.map_or(rest, |(_, message)| message)
        });
        usage.or(logged).or_else(|| line.starts_with("thread '").then_some(line))
    });
    failed.or_else(|| lines.next()).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_log() {
        for (log, expected) in [
            ("", None),
            ("one\ntwo\n\n", Some("two")),
            (
                "2026-01-01T00:00:00.0Z  INFO oswalk_agent::agent: ready\n\
                 2026-01-01T00:00:00.1Z ERROR oswalk_agent: failed to listen on x: in use\n",
                Some("failed to listen on x: in use"),
            ),
            (
                "error: invalid value 'x' for '--name <NAME>': bad\n\nFor more information, try '--help'.\n",
                Some("invalid value 'x' for '--name <NAME>': bad"),
            ),
            (
                "thread 'main' panicked at a.rs:1:\noops\nnote: run\n",
                Some("thread 'main' panicked at a.rs:1:"),
            ),
        ] {
            assert_eq!(last_message(log).as_deref(), expected);
        }
    }
}
