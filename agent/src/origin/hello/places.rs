//! Checks the paths that a process names: its working directory, and paths in its command line and environment, with all
//! links resolved. A process that uses paths which are local to each machine must stay.

use std::collections::BTreeSet;

use nix::errno::Errno;
use packetfs::export::Hidden;
use packetfs::path::{Bytes, above, is_within, join, split};
use worknode::command::{Files, Role, Tool, environment};
use worknode::reason::Reason;
use worknode::spec::{FdSpec, strings};

use super::environment::Reader;
use super::parsed::Hello;
use super::{compiler, configs};
use crate::compile;
use crate::installed::is_system;
use crate::look::{Found, Look, Resolved};
use crate::sys::place::Place;

/// Directories that are local to each machine.
const LOCAL_DIRS: [&[u8]; 4] = [b"/dev", b"/proc", b"/run", b"/sys"];
/// Where the kernel shows the open files of processes.
const PROCESSES: &[u8] = b"/proc";
/// A path that means the working directory in every process. Builds write it into their outputs.
const OWN_DIR: &[u8] = b"/proc/self/cwd";
/// A directory for private temporary files, which is empty on runners.
const SHARED_MEMORY: &[u8] = b"/dev/shm";
/// The device that is the same on all machines.
const NULL: &[u8] = b"/dev/null";
/// Variables in which cargo names a crate's source and output directories.
const CARGO: [&[u8]; 3] = [b"CARGO_MANIFEST_DIR=", b"CARGO_TARGET_DIR=", b"OUT_DIR="];
/// Variables that name the directory for temporary files.
const TEMPORARY: [&[u8]; 3] = [b"TMPDIR=", b"TMP=", b"TEMP="];
/// Most dangling links that are followed, as in the kernel.
const LINKS_MAX: usize = 40;

/// What was found at the places.
#[derive(Debug)]
pub(super) struct Places {
    /// Whether it may write into a system directory.
    pub(super) writes_system: bool,
    /// Which variables it may read.
    pub(super) reader: Reader,
    /// The files of a compile step.
    pub(super) files: Option<Files>,
}

/// A compile step with the facts that matter here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) tool: Tool,
    /// Which variables it may read, if it is what its name says.
    pub(super) reader: Reader,
}

impl Hello {
    /// Checks the files that the process has open and names, or returns why it must stay.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn look_around(
        &self,
        pid: u32,
        step: Option<Step>,
        hidden: &Hidden,
        look: Look,
    ) -> Result<Result<(Places, Vec<FdSpec>), Reason>, Errno> {
        if !self.is_where_it_says(pid, look)? {
            return Ok(Err(Reason::OtherMounts));
        }
        if is_local(&self.cwd) {
            return Ok(Err(Reason::Place));
        }
        let places = match step {
            Some(step) => self.places_of(step, look)?,
            None => self.places_of_any(look)?,
        };
        let fds = self.descriptors(pid, step.is_some(), (look, hidden))?;
        Ok(places.and_then(|places| Ok((places, fds?))))
    }

    /// Tells whether the working directory's path leads to it. It does not if something was mounted over it later, or is
    /// mounted only for the process.
    fn is_where_it_says(&self, pid: u32, look: Look) -> Result<bool, Errno> {
        let Ok(place) = Place::at(&format!("/proc/{pid}/cwd")) else { return Ok(false) };
        // The agent has copies of the mounts with other ids.
        let is_same = |found: Place| (found.dev, found.ino) == (place.dev, place.ino);
        Ok(look.find(&self.cwd)?.is_some_and(is_same))
    }

    /// Tells what a step may read of its environment.
    fn reader(&self, step: Step, look: Look) -> Result<Reader, Errno> {
        if step.reader == Reader::Anything {
            return Ok(Reader::Anything);
        }
        let search = || strings(&self.env).find_map(|variable| variable.strip_prefix(b"PATH="));
        let is_known = compiler::is_one(&path(&self.cwd, &self.path), look)?
            && (step.tool != Tool::Driver
                || compiler::assembles(search().unwrap_or(b"/usr/bin"), &self.cwd, look)?);
        Ok(if is_known { Reader::Compiler } else { Reader::Anything })
    }

    /// Checks the arguments of an unknown program, any of which may be a path.
    fn places_of_any(&self, look: Look) -> Result<Result<Places, Reason>, Errno> {
        for argument in strings(&self.argv).skip(1) {
            let Resolved::At(found) = look.resolve(&path(&self.cwd, argument))? else { continue };
            // The other end of a fifo or socket is on this machine.
            if matches!(found.kind, libc::S_IFIFO | libc::S_IFSOCK) {
                return Ok(Err(Reason::Descriptor));
            }
            // /proc and /dev are much the same on all machines.
            let dirs = [b"/run/".as_slice(), b"/sys/", b"/dev/shm/"];
            if dirs.iter().any(|dir| found.path.starts_with(dir)) {
                return Ok(Err(Reason::Place));
            }
        }
        Ok(Ok(Places { writes_system: true, reader: Reader::Anything, files: None }))
    }

    /// Checks everything that a compile step reads and writes.
    fn places_of(&self, step: Step, look: Look) -> Result<Result<Places, Reason>, Errno> {
        let reader = self.reader(step, look)?;
        let arguments = strings(&self.argv).skip(1);
        let files = compile::files(step.tool, arguments, &self.cwd, look)?;
        if files.decision == Err(Reason::ResponseFile) {
            // The process reads one of its own streams.
            return Ok(Err(Reason::ResponseFile));
        }
        let mut named: BTreeSet<(Role, Bytes)> = files.paths.iter().cloned().collect();
        let mut note = |role, path: &[u8]| {
            named.insert((role, path.to_vec()));
        };
        let is_shared_memory = |entry: &&[u8]| {
            let value = TEMPORARY.iter().find_map(|name| entry.strip_prefix(*name));
            value.is_some_and(|value| value.strip_suffix(b"/").unwrap_or(value) == SHARED_MEMORY)
        };
        let variables = strings(&self.env).filter(|entry| !is_shared_memory(entry));
        if let Err(reason) = environment::read(step.tool, variables, &mut note) {
            return Ok(Err(reason));
        }
        if step.tool == Tool::Driver {
            let program = self::path(&self.cwd, &self.path);
            if let Err(reason) = configs::found_by(&program, look)? {
                return Ok(Err(reason));
            }
        }
        let mut writes_system = is_system(&self.cwd);
        if step.tool == Tool::Rustc {
            // The outputs of macros are unknown; most likely they belong to the crate.
            let values = strings(&self.env)
                .filter_map(|entry| CARGO.iter().find_map(|name| entry.strip_prefix(*name)));
            named.extend(values.map(|value| (Role::OutputDir, value.to_vec())));
        } else {
            // So are those of plug-ins and scripts.
            writes_system |= reader == Reader::Anything;
        }
        let base = named.iter().find(|(role, _)| *role == Role::WorkingDir);
        let base = base.map_or_else(|| self.cwd.clone(), |(_, dir)| path(&self.cwd, dir));
        for (role, name) in &named {
            let path = named_path(&base, name);
            let resolved = place_of(*role, &path, look)?;
            if resolved == Resolved::Stream {
                // Descriptors of compile steps are not carried.
                let reason = if role.is_read() { Reason::Stdin } else { Reason::Descriptor };
                return Ok(Err(reason));
            }
            // A link at such a path may be replaced there, wherever it leads.
            let is_link = !matches!(&resolved, Resolved::At(found) if found.path == path);
            if role.is_written() && is_link && is_made_locally(&path, look)? {
                return Ok(Err(Reason::Place));
            }
            let Resolved::At(found) = resolved else { continue };
            if found.path == NULL {
                continue;
            }
            if !matches!(found.kind, 0 | libc::S_IFREG | libc::S_IFDIR) {
                return Ok(Err(Reason::Descriptor));
            }
            if is_local(&found.path) {
                return Ok(Err(Reason::Place));
            }
            if *role == Role::Config
                && let Err(reason) = configs::named(&found.path, look)?
            {
                return Ok(Err(reason));
            }
            if *role == Role::InputDir && has_specs(&found.path, look)? {
                return Ok(Err(Reason::ResponseFile));
            }
            writes_system |= role.is_written() && is_system(&found.path);
        }
        Ok(Ok(Places { writes_system, reader, files: Some(files) }))
    }
}

/// Tells whether a path is local to each machine, judging by its existing ancestors.
fn is_made_locally(path: &[u8], look: Look) -> Result<bool, Errno> {
    for dir in above(path) {
        match look.resolve(if dir.is_empty() { b"/" } else { dir })? {
            Resolved::At(found) => return Ok(is_local(&found.path) && path != NULL),
            Resolved::Stream => return Ok(true),
            Resolved::Nothing => {}
        }
    }
    Ok(false)
}

/// Resolves a path of a compile step. For outputs also returns where a missing file would be created.
fn place_of(role: Role, path: &[u8], look: Look) -> Result<Resolved, Errno> {
    let mut path = path.to_vec();
    for _ in 0..LINKS_MAX {
        let resolved = look.resolve(&path)?;
        if resolved != Resolved::Nothing {
            return Ok(resolved);
        }
        let Some((dir, name)) = split(&path) else { return Ok(Resolved::Nothing) };
        let dir = if dir.is_empty() { b"/" } else { dir };
        let found = match look.resolve(dir)? {
            Resolved::At(found) => found,
            Resolved::Nothing if role.is_written() && is_made_locally(&path, look)? => {
                return Ok(Resolved::At(Found { path, kind: 0 }));
            }
            other => return Ok(other),
        };
        // A descriptor of the step, which the agent does not have.
        if is_within(&found.path, PROCESSES) {
            return Ok(Resolved::Stream);
        }
        let made = join(&found.path, name);
        // A dangling link.
        let Some(target) = look.link(&made)? else {
            let made = Resolved::At(Found { path: made, kind: 0 });
            return Ok(if role.is_written() { made } else { Resolved::Nothing });
        };
        path = self::path(&found.path, &target);
    }
    Ok(Resolved::Nothing)
}

/// Tells whether a path without links is local to each machine.
pub(super) fn is_local(path: &[u8]) -> bool {
    LOCAL_DIRS.iter().any(|dir| is_within(path, dir))
}

/// Tells whether a non-system directory contains a file from which gcc reads further arguments, as it does in directories
/// where it searches for its programs.
fn has_specs(dir: &[u8], look: Look) -> Result<bool, Errno> {
    if is_system(dir) {
        return Ok(false);
    }
    Ok(look.resolve(&join(dir, b"specs"))? != Resolved::Nothing)
}

/// Returns the path of a name in a process's working directory.
pub(in crate::origin) fn named_path(dir: &[u8], name: &[u8]) -> Bytes {
    match name.strip_prefix(OWN_DIR) {
        Some(rest) if rest.is_empty() || rest.starts_with(b"/") => [dir, rest].concat(),
        _ => path(dir, name),
    }
}

/// Returns the path of a name in a directory.
pub(super) fn path(dir: &[u8], name: &[u8]) -> Bytes {
    if name.starts_with(b"/") { name.to_vec() } else { join(dir, name) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use worknode::door::{HELLO_HEAD_BYTES, HelloHead};

    use super::*;

    /// Returns the findings for a command line and variables, separated by spaces, in a directory.
    fn find(dir: &tempfile::TempDir, line: &str, env: &str) -> Result<bool, Reason> {
        let block = |words: &str| {
            words
                .split_whitespace()
                .fold(Vec::new(), |block, word| [block.as_slice(), word.as_bytes(), b"\0"].concat())
        };
        let (path, cwd) = (b"/usr/bin/gcc".as_slice(), dir.path().as_os_str().as_bytes());
        let (argv, env) = (block(line), block(env));
        let bytes = |part: &[u8]| u32::try_from(part.len()).expect("is short");
        let head = HelloHead {
            path_bytes: bytes(path),
            cwd_bytes: bytes(cwd),
            argv_bytes: bytes(&argv),
            env_bytes: bytes(&env),
            ..HelloHead::new(1)
        };
        assert_eq!(head.encode().len(), HELLO_HEAD_BYTES);
        let hello = [&head.encode(), path, cwd, &argv, &env].concat();
        let hello = Hello::parse(&hello).expect("just encoded");
        let tool = if line.starts_with("rustc") { Tool::Rustc } else { Tool::Driver };
        let step = Step { tool, reader: Reader::Compiler };
        let places = hello.places_of(step, Look::Waiting).expect("can be looked at");
        places.map(|places| places.writes_system)
    }

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("a.c"), "int a;\n").expect("writable");
        std::fs::write(dir.path().join("args"), "-c a.c -o /dev/shm/a.o\n").expect("writable");
        let make = |link, to| symlink(to, dir.path().join(link)).expect("writable");
        make("memory", "/dev/shm");
        make("object", "/dev/shm/no-such-object");
        make("again", "object");
        make("system", "/usr");
        make("null", "/dev/null");
        make("nowhere", "/dev/shm/no-such-directory/object");
        make("round", "round");
        make("in.c", "/dev/stdin");
        make("other.c", "in.c");
        make("far.c", "/dev/fd/200");
        make("fds", "/dev/fd");
        make("process", "/proc/self");
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR)
            .expect("writable");
        dir
    }

    #[test]
    fn what_runners_have_of_their_own() {
        let dir = directory();
        for line in [
            "gcc -c a.c -o /dev/shm/a.o",
            "gcc -c a.c -o /tmp/../dev/shm/a.o",
            "gcc -c a.c -o memory/a.o",
            "gcc -c a.c -o object",
            "gcc -c a.c -o again",
            "gcc -c a.c -o nowhere",
            "gcc -c a.c -o /dev/shm/no/such/directory/a.o",
            "gcc @args",
            "gcc -c a.c -MMD -MF /dev/shm/a.d",
            "gcc -c a.c -Wp,-MMD,/dev/shm/a.d",
            "gcc -c a.c -I/dev/shm",
            "gcc -c a.c -I memory",
            "gcc -c a.c -include /proc/version",
            "gcc -c a.c -isystem /sys/kernel",
            "gcc -c /proc/version",
            "rustc a.rs --out-dir /dev/shm",
            "rustc a.rs -C incremental=/dev/shm/x",
            "rustc a.rs -C link-arg=-Wl,-Map=/dev/shm/m.map",
        ] {
            assert_eq!(find(&dir, line, ""), Err(Reason::Place), "{line}");
        }
        for env in [
            "TMPDIR=/run",
            "TMPDIR=memory/",
            "DEPENDENCIES_OUTPUT=/dev/shm/log",
            "CPATH=/usr/include:/dev/shm",
        ] {
            assert_eq!(find(&dir, "gcc -c a.c", env), Err(Reason::Place), "{env}");
        }
        for line in [
            "gcc -c a.c",
            "gcc -c a.c -o /dev/null",
            "gcc -c a.c -o null",
            "gcc -c a.c -o round",
            "gcc -c -x c /dev/null -o a.o",
            "gcc -c a.c -I/run/no-such-directory",
            "gcc -c none.c -o none/a.o",
        ] {
            assert_eq!(find(&dir, line, "TMPDIR=/dev/shm TEMP=/dev/shm/"), Ok(false), "{line}");
        }
    }

    #[test]
    fn streams_by_any_name() {
        let dir = directory();
        let up = "../".repeat(dir.path().components().count() - 1);
        for line in [
            "gcc -c in.c",
            "gcc -c other.c",
            "gcc -c far.c",
            "gcc -c -x c fds/0",
            "gcc -c -x c fds/200",
            "gcc -c -x c process/fd/0",
            "gcc -c -x c UPdev/stdin",
            "gcc -c -x c UPproc/self/fd/0",
            "gcc -c a.c -include in.c",
            "rustc in.c",
        ] {
            let line = line.replace("UP", &up);
            assert_eq!(find(&dir, &line, ""), Err(Reason::Stdin), "{line}");
        }
        for line in ["gcc -c a.c -o UPdev/stdout", "gcc -c a.c -o fds/1", "gcc -c a.c -o fds/200"] {
            let line = line.replace("UP", &up);
            assert_eq!(find(&dir, &line, ""), Err(Reason::Descriptor), "{line}");
        }
        assert_eq!(find(&dir, "gcc @in.c", ""), Err(Reason::ResponseFile));
        assert_eq!(find(&dir, "gcc -c a.c -I/proc/self/cwd -o /proc/self/cwd/a.o", ""), Ok(false));
    }

    #[test]
    fn files_that_add_arguments() {
        let dir = directory();
        std::fs::write(dir.path().join("n.specs"), "*cc1:\n+ -march=native\n").expect("writable");
        std::fs::create_dir(dir.path().join("parts")).expect("writable");
        std::fs::write(dir.path().join("parts/specs"), "").expect("writable");
        for line in [
            "gcc -specs=n.specs -c a.c",
            "gcc --specs=./n.specs -c a.c",
            "gcc -specs n.specs -c a.c",
            "clang --config n.specs -c a.c",
            "clang --config=./n.specs -c a.c",
            "gcc -Bparts -c a.c",
        ] {
            assert_eq!(find(&dir, line, ""), Err(Reason::ResponseFile), "{line}");
        }
        for line in ["gcc -specs=none.specs -c a.c", "gcc -specs=/etc/passwd -c a.c"] {
            assert_eq!(find(&dir, line, ""), Ok(false), "{line}");
        }
    }

    #[test]
    fn fifos_and_devices() {
        let dir = directory();
        for line in [
            "gcc -c fifo -o a.o",
            "gcc -c a.c -o fifo",
            "gcc -c a.c -include fifo",
            "gcc -c a.c -MF fifo -MD",
        ] {
            assert_eq!(find(&dir, line, ""), Err(Reason::Descriptor), "{line}");
        }
    }

    #[test]
    fn what_is_written_into_system_directories() {
        let dir = directory();
        for line in [
            "gcc -c a.c -o /usr/a.o",
            "gcc -c a.c -o /usr/../opt/a.o",
            "gcc -c a.c -o system/a.o",
            "gcc -c a.c -MMD -MF/etc/a.d",
            "gcc -c a.c -Wp,-MMD,/usr/a.d",
            "rustc a.rs --out-dir /usr/lib",
            "rustc a.rs --out-dir=system",
        ] {
            assert_eq!(find(&dir, line, ""), Ok(true), "{line}");
        }
        assert_eq!(find(&dir, "rustc a.rs -C link-arg=-Wl,-Map=/opt/m.map", ""), Ok(true));
        assert_eq!(find(&dir, "rustc a.rs -C link_args=-L/usr/lib", ""), Ok(false));
        assert_eq!(find(&dir, "rustc a.rs", "CARGO_MANIFEST_DIR=/usr/src"), Ok(true));
        assert_eq!(find(&dir, "gcc -c a.c -I/usr/include -Isystem/include", ""), Ok(false));
    }
}
