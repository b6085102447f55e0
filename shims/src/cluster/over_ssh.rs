//! Joins other machines over ssh, where the user's ssh gets there without asking anything.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::up::last_message;

/// Never asks for a password, and takes no host key that the user has not checked.
const OPTIONS: [&str; 6] =
    ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"];
/// The exit status of a shell that does not find a program.
const NOT_FOUND: i32 = 127;
/// The exit status of ssh itself.
const SSH_FAILED: i32 = 255;

/// Joins a machine. The line goes through standard input, where other users of both machines do not see it. Returns what the
/// machine said, or a sentence that says why it was not joined, with the remedy.
pub(super) fn join(host: &str, line: &str) -> Result<String, String> {
    let mut ssh = Command::new("ssh");
    ssh.args(OPTIONS).args(["--", host, "exec oswalk cluster join -"]);
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = || -> io::Result<Output> {
        let mut child = ssh.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that has failed already reads nothing.
            let _ = writeln!(stdin, "{line}");
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| {
        format!("ssh cannot be started ({error}): install the ssh client, or use the line below")
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(why(host, output.status.code(), &text(&output.stderr)))
}

/// Returns why a machine was not joined, and the remedy.
fn why(host: &str, status: Option<i32>, said: &str) -> String {
    let last = || last_message(said).unwrap_or_else(|| "it gives no reason".to_owned());
    match status {
        Some(SSH_FAILED) if said.contains("Host key verification failed") => format!(
            "its host key is unknown, or another than before: run 'ssh {host}' once and check the key"
        ),
        Some(SSH_FAILED) if said.contains("Permission denied") => format!(
            "ssh is not let in without a password: run 'ssh-copy-id {host}', or use an ssh agent"
        ),
        Some(SSH_FAILED) => {
            format!("ssh fails ({}): check the name, and that sshd runs there", last())
        }
        Some(NOT_FOUND) => {
            "there is no oswalk in the PATH that ssh sets there: install OS Walk there".to_owned()
        }
        _ => last(),
    }
}

#[cfg(test)]
mod tests {
    use super::why;

    #[test]
    fn each_failure_has_a_remedy() {
        for (status, said, words) in [
            (Some(255), "Host key verification failed.", "run 'ssh hub' once and check the key"),
            (Some(255), "me@hub: Permission denied (publickey).", "ssh-copy-id hub"),
            (Some(255), "ssh: connect to host hub: refused", "refused): check the name"),
            (Some(127), "sh: 1: exec: oswalk: not found", "install OS Walk there"),
            (Some(125), "error: the join line has expired: make a new one", "make a new one"),
            (None, "", "it gives no reason"),
        ] {
            let why = why("hub", status, said);
            assert!(why.contains(words), "{why}");
        }
    }
}
