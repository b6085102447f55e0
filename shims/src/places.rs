//! Paths of the agent's state, the agent, the preload library and the stub.

use std::env;
use std::fs::DirBuilder;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use worknode::door::{self, SYSTEM_DIR, SYSTEM_STATE};

use crate::error::Failure;
use crate::home;

/// File name of the preload library.
pub(crate) const PRELOAD: &str = "liboswalk_preload.so";
const STUB: &str = "oswalk-stub";
const AGENT: &str = "oswalkd";

/// What names a value that nobody has chosen.
pub(crate) const DEFAULT: &str = "default";

/// The paths of the agent.
#[derive(Debug)]
pub(crate) struct Places {
    /// The state directory of this user's agent.
    pub(crate) state: PathBuf,
    /// What has named it.
    pub(crate) named_by: &'static str,
}

impl Places {
    /// Finds the state directory: the given one, the system's, or one below the user's home. A user who has no home has
    /// the root directory for it, as in shells.
    pub(crate) fn find(state: Option<PathBuf>) -> Self {
        let root = nix::unistd::geteuid().is_root();
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let is_of_variable =
            |state: &PathBuf| variable("OSWALK_STATE").is_some_and(|it| it == *state);
        let given = state.map(|state| {
            let by = if is_of_variable(&state) { "OSWALK_STATE" } else { "--state" };
            (state, by)
        });
        let below = |name, dir: &str| Some((Path::new(&variable(name)?).join(dir), name));
        let below_home = || {
            let home = home::dir().unwrap_or_else(|| PathBuf::from("/"));
            (home.join(".local/state/oswalk"), "HOME")
        };
        let (state, named_by) = given
            .or_else(|| root.then(|| (PathBuf::from(SYSTEM_STATE), DEFAULT)))
            .or_else(|| below("XDG_STATE_HOME", "oswalk"))
            .unwrap_or_else(below_home);
        let state = std::path::absolute(&state).unwrap_or(state);
        Self { state, named_by }
    }

    /// Creates the state directory, unless it exists.
    pub(crate) fn make(&self) -> Result<(), Failure> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.state).map_err(|error| {
            let dir = self.state.display();
            Failure::new(format!("failed to create the state directory {dir}: {error}"))
                .hint("choose another with --state DIR")
        })
    }

    /// Tells whether the user has named the state directory, and so means this agent and no other.
    fn is_named(&self) -> bool {
        matches!(self.named_by, "--state" | "OSWALK_STATE")
    }

    /// Returns the door of this user's agent.
    pub(crate) fn own_door(&self) -> PathBuf {
        self.state.join(door::NAME)
    }

    /// Returns the door of the agent that serves this user: the one that `OSWALK_DOOR` names, that of the user's own agent, or
    /// that of the system's.
    pub(crate) fn door(&self) -> PathBuf {
        let named = env::var_os("OSWALK_DOOR").filter(|path| !path.is_empty());
        let own = self.own_door();
        let system = Path::new(SYSTEM_DIR).join(door::NAME);
        match named {
            Some(named) => named.into(),
            None if !self.is_named() && !own.exists() && system.exists() => system,
            None => own,
        }
    }

    /// Returns the directory of the node's membership.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.state.join("cluster")
    }

    /// Tells whether this node belongs to a cluster.
    pub(crate) fn is_member(&self) -> bool {
        self.cluster().exists()
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
    find_by(name).map(|(file, _)| file)
}

/// Returns the file of one of our programs, and what has led to it.
fn find_by(name: &str) -> Option<(PathBuf, &'static str)> {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    let given = env::var_os("OSWALK_LIBDIR").map(PathBuf::from);
    let candidates = [
        (given, "OSWALK_LIBDIR"),
        (beside.map(Path::to_owned), "beside oswalk"),
        (beside.map(|dir| dir.join("../lib/oswalk")), "../lib/oswalk"),
    ];
    let mut files = candidates.into_iter().filter_map(|(dir, by)| Some((dir?.join(name), by)));
    let (file, by) = files.find(|(file, _)| file.is_file())?;
    Some((file.canonicalize().ok()?, by))
}

/// Returns the programs besides `oswalk`, each with its file and what has led to it, if it is there.
pub(crate) fn programs() -> [(&'static str, Option<(PathBuf, &'static str)>); 3] {
    [AGENT, STUB, PRELOAD].map(|name| (name, find_by(name)))
}

pub(crate) fn missing(name: &str) -> Failure {
    Failure::new(format!("failed to find {name} beside oswalk or in ../lib/oswalk"))
        .hint("install all programs of OS Walk together, or set OSWALK_LIBDIR to their directory")
}
