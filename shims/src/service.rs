//! Who keeps the agent: systemd, which starts it after a reboot or a crash, too, or nobody.
//!
//! systemd keeps it if this machine runs systemd and has a unit that starts this very agent as it is to be started.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use worknode::door::SYSTEM_STATE;

use crate::error::Failure;
use crate::home;
use crate::log::last_message;
use crate::places::Places;
use crate::say;

const UNIT: &str = "oswalkd.service";
/// Where systemd looks for units of the system, what counts most first.
const SYSTEM_DIRS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Where it looks for units of all users, after their own.
const USER_DIRS: [&str; 4] = [
    "/etc/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/lib/systemd/user",
    "/lib/systemd/user",
];
/// Lines of the journal in which the error of an agent is looked for.
const JOURNAL_LINES: &str = "50";

/// Who keeps the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// The unit of the system.
    System,
    /// The unit of this user.
    User,
    Nobody,
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
struct Facts {
    is_root: bool,
    /// systemd is the first process of this machine.
    is_booted: bool,
    /// systemd has a manager for this user.
    has_user_manager: bool,
    /// The state directory is the one that the unit names.
    is_usual_state: bool,
    /// The agent is to be started with options, which the unit does not have.
    has_options: bool,
    /// The unit is installed, and starts this very agent.
    has_unit: bool,
}

/// Decides who keeps the agent.
fn keeper(facts: Facts) -> Keeper {
    let fits = facts.is_booted && facts.has_unit && facts.is_usual_state && !facts.has_options;
    match facts.is_root {
        true if fits => Keeper::System,
        false if fits && facts.has_user_manager => Keeper::User,
        _ => Keeper::Nobody,
    }
}

impl Keeper {
    /// Finds out who keeps the agent of this program on this machine.
    pub(crate) fn find(agent: &Path, places: &Places, has_options: bool) -> Self {
        let is_root = geteuid().is_root();
        let usual = if is_root {
            PathBuf::from(SYSTEM_STATE)
        } else {
            home_dir().join(".local/state/oswalk")
        };
        let manager = env::var_os("XDG_RUNTIME_DIR")
            .map(|dir| Path::new(&dir).join("systemd/private"))
            .is_some_and(|socket| socket.exists());
        keeper(Facts {
            is_root,
            is_booted: Path::new("/run/systemd/system").is_dir(),
            has_user_manager: manager,
            is_usual_state: places.state == usual,
            has_options,
            has_unit: unit_file()
                .and_then(|unit| fs::read_to_string(unit).ok())
                .is_some_and(|unit| starts(&unit, agent)),
        })
    }

    /// Returns a command for the manager that has the unit.
    fn command(self, program: &str) -> Command {
        let mut command = Command::new(program);
        if self == Self::User {
            command.arg("--user");
        }
        command.stdin(Stdio::null());
        command
    }

    /// Returns the command by which a user reads the agent's log.
    fn journal(self) -> &'static str {
        match self {
            Self::User => "journalctl --user -u oswalkd",
            _ => "journalctl -u oswalkd",
        }
    }
}

/// Returns the home directory. Without one, paths below it lead nowhere.
fn home_dir() -> PathBuf {
    home::dir().unwrap_or_else(|| PathBuf::from("/nonexistent"))
}

fn user_dirs(home: &Path) -> Vec<PathBuf> {
    let own = [home.join(".config/systemd/user"), home.join(".local/share/systemd/user")];
    own.into_iter().chain(USER_DIRS.map(PathBuf::from)).collect()
}

/// Returns the file of the unit that this user's agent would have.
pub(crate) fn unit_file() -> Option<PathBuf> {
    let dirs = match geteuid().is_root() {
        true => SYSTEM_DIRS.map(PathBuf::from).into(),
        false => user_dirs(&home_dir()),
    };
    first_in(&dirs)
}

/// Returns the file of the unit that counts.
fn first_in(dirs: &[PathBuf]) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(UNIT)).find(|file| file.is_file())
}

/// Tells whether a unit starts this program. A link in the unit's path is followed, as it was in that of `agent`.
fn starts(unit: &str, agent: &Path) -> bool {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
    let program = line.and_then(|line| line.split_whitespace().next());
    program.is_some_and(|program| {
        Path::new(program) == agent || fs::canonicalize(program).is_ok_and(|it| it == agent)
    })
}

/// Has systemd start the agent now and with each boot.
pub(crate) fn start(keeper: Keeper) -> Result<(), Failure> {
    let mut command = keeper.command("systemctl");
    // Sees a unit that was just installed.
    let _ = keeper.command("systemctl").arg("daemon-reload").output();
    let output = command.args(["enable", "--now", "--quiet", UNIT]).output();
    let output = output.map_err(|error| failed(keeper, &error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = last_words(keeper)
        .or_else(|| last_message(&String::from_utf8_lossy(&output.stderr)))
        .unwrap_or_else(|| "systemctl failed".to_owned());
    Err(failed(keeper, &said))
}

/// Returns the error in the agent's part of the journal.
fn last_words(keeper: Keeper) -> Option<String> {
    let mut journal = keeper.command("journalctl");
    journal.args(["--quiet", "--output=cat", "--lines", JOURNAL_LINES, "--unit", UNIT]);
    // Without what systemd itself says of the unit.
    journal.arg("_COMM=oswalkd");
    last_message(&String::from_utf8_lossy(&journal.output().ok()?.stdout))
}

/// Undoes the start of an agent that failed, so that systemd does not try again.
pub(crate) fn stop(keeper: Keeper) {
    let _ = keeper.command("systemctl").args(["disable", "--now", "--quiet", UNIT]).output();
}

/// Tells what a user does not expect of the unit.
pub(crate) fn say_kept(keeper: Keeper) {
    if keeper == Keeper::User {
        say::err(
            "note: systemd ends this agent when you log out, unless 'loginctl enable-linger' is set",
        );
    }
}

/// Returns the failure of systemd to start the agent.
fn failed(keeper: Keeper, said: &str) -> Failure {
    Failure::new(format!("systemd failed to start {UNIT}: {said}"))
        .hint(format!("its log is in '{}'; 'oswalk doctor' checks this machine", keeper.journal()))
}

/// Returns the failure of an agent that runs but does not answer.
pub(crate) fn silent(keeper: Keeper) -> Failure {
    failed(keeper, "its agent does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Facts = Facts {
        is_root: true,
        is_booted: true,
        has_user_manager: false,
        is_usual_state: true,
        has_options: false,
        has_unit: true,
    };
    const USER: Facts = Facts { is_root: false, has_user_manager: true, ..ROOT };

    #[test]
    fn systemd_keeps_the_agent_that_its_unit_starts() {
        assert_eq!(keeper(ROOT), Keeper::System);
        assert_eq!(keeper(USER), Keeper::User);
        for facts in [ROOT, USER] {
            for unfit in [
                Facts { is_booted: false, ..facts },
                Facts { is_usual_state: false, ..facts },
                Facts { has_options: true, ..facts },
                Facts { has_unit: false, ..facts },
            ] {
                assert_eq!(keeper(unfit), Keeper::Nobody, "{unfit:?}");
            }
        }
        assert_eq!(keeper(Facts { has_user_manager: false, ..USER }), Keeper::Nobody);
    }

    #[test]
    fn the_unit_that_counts_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let dirs = ["first", "second", "third"].map(|name| dir.path().join(name));
        assert_eq!(first_in(&dirs), None);
        for dir in &dirs[1..] {
            fs::create_dir(dir).expect("writable");
            fs::write(dir.join(UNIT), "").expect("writable");
        }
        assert_eq!(first_in(&dirs), Some(dirs[1].join(UNIT)));
    }

    #[test]
    fn a_unit_of_another_agent_is_none_of_ours() {
        let unit = "[Service]\nType=notify\nExecStart=/opt/oswalkd --state /var/lib/oswalk\n";
        assert!(starts(unit, Path::new("/opt/oswalkd")));
        assert!(!starts(unit, Path::new("/opt/oswalkd2")));
        assert!(!starts("[Service]\n", Path::new("/opt/oswalkd")));
    }

    #[test]
    fn the_failures_say_where_the_log_is() {
        let said = failed(Keeper::User, "port in use");
        assert_eq!(said.message(), "systemd failed to start oswalkd.service: port in use");
        assert!(said.hint_text().contains("journalctl --user -u oswalkd"));
        assert!(silent(Keeper::System).hint_text().contains("'journalctl -u oswalkd'"));
    }
}
