//! Paths of the agent's state, the agent, the preload library and the stub.

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Failure;

/// File name of the preload library.
pub(crate) const PRELOAD: &str = "liboswalk_preload.so";
const STUB: &str = "oswalk-stub";
const AGENT: &str = "oswalkd";

/// The paths that depend on the state directory.
#[derive(Debug)]
pub(crate) struct Places {
    /// The agent's state directory.
    pub(crate) state: PathBuf,
}

impl Places {
    pub(crate) fn find(state: Option<PathBuf>) -> Result<Self, Failure> {
        let root = nix::unistd::geteuid().is_root();
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let state = state
            .or_else(|| root.then(|| PathBuf::from("/var/lib/oswalk")))
            .or_else(|| variable("XDG_STATE_HOME").map(|dir| Path::new(&dir).join("oswalk")))
            .or_else(|| variable("HOME").map(|dir| Path::new(&dir).join(".local/state/oswalk")))
            .ok_or_else(|| {
                Failure::new("failed to find the state directory: HOME is not set")
                    .hint("name one with --state DIR")
            })?;
        let state = std::path::absolute(&state).unwrap_or(state);
        Ok(Self { state })
    }

    pub(crate) fn door(&self) -> PathBuf {
        self.state.join("door")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.state.join("oswalkd.log")
    }
}

/// Returns the agent's executable.
pub(crate) fn agent() -> Result<PathBuf, Failure> {
    find(AGENT).ok_or_else(|| missing(AGENT))
}

/// Returns the preload library and the stub.
pub(crate) fn shim() -> Result<(PathBuf, PathBuf), Failure> {
    let preload = find(PRELOAD).ok_or_else(|| missing(PRELOAD))?;
    if preload.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':')) {
        let file = preload.display();
        return Err(Failure::new(format!(
            "LD_PRELOAD cannot name {file}: a space or a colon in it would end the name"
        ))
        .hint("install OS Walk in a directory whose path has neither"));
    }
    Ok((preload, find(STUB).ok_or_else(|| missing(STUB))?))
}

fn find(name: &str) -> Option<PathBuf> {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    let given = env::var_os("OSWALK_LIBDIR").map(PathBuf::from);
    let candidates =
        [given, beside.map(Path::to_owned), beside.map(|dir| dir.join("../lib/oswalk"))];
    let file = candidates.into_iter().flatten().map(|dir| dir.join(name)).find(|f| f.is_file())?;
    file.canonicalize().ok()
}

pub(crate) fn missing(name: &str) -> Failure {
    Failure::new(format!("failed to find {name} beside oswalk or in ../lib/oswalk"))
        .hint("install all programs of OS Walk together, or set OSWALK_LIBDIR to their directory")
}
