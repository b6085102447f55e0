//! `oswalk down`: ends the agent.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use worknode::request::Request;

use crate::door::{Door, DoorError};
use crate::error::Failure;
use crate::places::Places;
use crate::say;

/// Longest time for the agent to hand on its walks and exit.
const DOWN_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn run(places: &Places) -> Result<ExitCode, Failure> {
    let failed = |error: DoorError| Failure::from_error(&error).hint(error.hint());
    let mut door = match Door::open(&places.own_door()) {
        Ok(door) => door,
        Err(error @ DoorError::NoAgent { .. }) => {
            say::out(format_args!("{error}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(failed(error)),
    };
    let status = door.status().map_err(failed)?;
    door.ask(&Request::Shutdown).map_err(failed)?;
    let deadline = Instant::now() + DOWN_MAX;
    while !is_gone(status.pid) {
        if Instant::now() > deadline {
            return Err(still_up(status.pid, &places.log()));
        }
        std::thread::sleep(POLL);
    }
    say::out(format_args!("agent {} is down\n", status.node))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the failure of an agent to exit.
pub(crate) fn still_up(pid: u32, log: &Path) -> Failure {
    let seconds = DOWN_MAX.as_secs();
    Failure::new(format!("the agent (pid {pid}) did not exit in {seconds} s"))
        .hint(format!("end it with 'kill -KILL {pid}'; its log is {}", log.display()))
}

/// Tells whether a process has exited. A zombie has: its parent may be slow to reap it.
pub(crate) fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
