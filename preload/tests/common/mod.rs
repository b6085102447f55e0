//! Shared by the tests: the built shims, small C programs, and sessions that consist of a policy page.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use tempfile::TempDir;
use worknode::page::{GATE_OPEN, PageContents};
use worknode::policy::{self, Verdict};
use worknode::reason::Reason;
use worknode::tally;

const TALLY_BYTES: usize = tally::WORDS * 8;

/// The two shims under test.
pub(crate) struct Shims {
    pub(crate) preload: PathBuf,
    pub(crate) stub: PathBuf,
}

/// Returns the shims that the environment names, or builds them.
pub(crate) fn shims() -> &'static Shims {
    static SHIMS: LazyLock<Shims> = LazyLock::new(|| {
        let named = |name| std::env::var_os(name).map(PathBuf::from);
        match (named("OSWALK_PRELOAD"), named("OSWALK_STUB")) {
            (Some(preload), Some(stub)) => Shims { preload, stub },
            _ => build(),
        }
    });
    &SHIMS
}

fn build() -> Shims {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in the target");
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--profile",
            "shim",
            "-p",
            "oswalk-preload",
            "-p",
            "oswalk-stub",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the shims do not build");
    let shim = target.join("shim");
    Shims { preload: shim.join("liboswalk_preload.so"), stub: shim.join("oswalk-stub") }
}

/// Programs compiled once for a test binary.
pub(crate) struct Programs {
    pub(crate) directory: TempDir,
}

impl Programs {
    /// Returns the path of a program.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Returns the programs. By the rules `walker` walks and `stayer` stays; `stub` prints what it was given.
pub(crate) fn programs() -> &'static Programs {
    static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| {
        let programs =
            Programs { directory: tempfile::tempdir().expect("a directory for programs") };
        let loader = programs.path("ld-musl-x86_64.so.1");
        std::os::unix::fs::symlink("/lib64/ld-linux-x86-64.so.2", &loader).expect("a loader");
        let musl = format!("-Wl,--dynamic-linker={}", loader.display());
        for (source, program, options) in [
            ("driver.c", "driver", &["-pthread"][..]),
            ("early.c", "early.so", &["-shared", "-fPIC"]),
            ("foreign.c", "foreign.so", &["-shared", "-fPIC"]),
            ("record.c", "walker", &["-DWHO=\"native\""]),
            ("record.c", "stayer", &["-DWHO=\"native\""]),
            ("record.c", "static-walker", &["-DWHO=\"native\"", "-static"]),
            ("record.c", "musl-walker", &["-DWHO=\"native\"", &musl]),
            ("spawner.c", "spawner", &[]),
            ("opener.c", "opener", &[]),
            ("paths.c", "paths", &[]),
            ("locked.c", "locked", &[]),
            ("stacks.c", "stacks", &["-pthread"]),
            ("waiting.c", "waiting.so", &["-shared", "-fPIC", "-pthread"]),
            ("nothing.c", "nothing", &["-static", "-nostdlib"]),
            ("nothing.c", "nothing-walker", &["-static", "-nostdlib"]),
            ("quiet.c", "stayer-quiet", &[]),
            ("record.c", "stub", &["-DWHO=\"stub\"", "-static"]),
        ] {
            compile(source, &programs.path(program), options);
        }
        programs
    });
    &PROGRAMS
}

fn compile(source: &str, program: &Path, options: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(source);
    let status = Command::new("cc")
        .args(["-w", "-O1", "-o"])
        .args([program, &source])
        .args(options)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "{} does not compile", source.display());
}

/// A session: a page with its tally, in a directory of its own.
pub(crate) struct Session {
    pub(crate) directory: TempDir,
    pub(crate) page: PathBuf,
    pub(crate) door: PathBuf,
}

/// The parameters of a session.
pub(crate) struct Recipe {
    pub(crate) options: u32,
    pub(crate) gate: u32,
    pub(crate) stub: PathBuf,
    pub(crate) preload: PathBuf,
    /// Where a volume was mounted when it was opened.
    pub(crate) volume: Option<&'static str>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            options: 0,
            gate: GATE_OPEN,
            stub: programs().path("stub"),
            preload: shims().preload.clone(),
            volume: None,
        }
    }
}

impl Session {
    /// Writes the page.
    pub(crate) fn new(recipe: &Recipe) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the session");
        let (page, door) = (directory.path().join("page"), directory.path().join("door"));
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let (page_path, door_path) = (bytes(&page), bytes(&door));
        let (stub, preload) = (bytes(&recipe.stub), bytes(&recipe.preload));
        let mut contents = PageContents {
            session: 0xfeed_0000_0000_0007,
            options: recipe.options,
            gate: recipe.gate,
            page_path: &page_path,
            door_path: &door_path,
            stub_path: &stub,
            preload_path: &preload,
            rules: rules(recipe.volume),
            tally_bytes: u32::try_from(TALLY_BYTES).expect("a small tally"),
        }
        .encode();
        contents.resize(contents.len() + TALLY_BYTES, 0);
        std::fs::write(&page, contents).expect("the page is written");
        Self { directory, page, door }
    }

    /// Returns a command in the session, with only `PATH` and `HOME` besides in its environment.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("LD_PRELOAD", &shims().preload)
            .env("OSWALK_PAGE", &self.page)
            .env(
                "PATH",
                format!("/nowhere:{}:/usr/bin:/bin", programs().directory.path().display()),
            )
            .env("HOME", "/root");
        command
    }

    /// Runs the driver, which executes `program` by the function `how`.
    pub(crate) fn drive(&self, how: &str, program: &str) -> Record {
        let mut command = self.command(&programs().path("driver"));
        command.arg(how).arg(programs().path(program)).arg(program);
        Record::of(&command.output().expect("the driver runs"))
    }

    /// Returns the counts of the tally.
    pub(crate) fn tally(&self) -> Vec<(String, Reason, u64)> {
        let bytes = std::fs::read(&self.page).expect("the page is there");
        let mut counts: Vec<_> = tally::read(&bytes[bytes.len() - TALLY_BYTES..])
            .into_iter()
            .map(|count| {
                let name = String::from_utf8(count.name).expect("names of this test");
                (name, count.reason.expect("a reason"), count.count)
            })
            .collect();
        counts.sort();
        counts
    }
}

/// Returns the built-in rules, so that a decision takes as long as in production, and those of the tests.
fn rules(volume: Option<&str>) -> Vec<(Vec<u8>, Verdict)> {
    let tests = [("*walker", Verdict::Walk), ("driver", Verdict::Stay(Reason::Driver))];
    let volume = volume.map(|point| (policy::below(point.as_bytes()), Verdict::Volume));
    let rules = policy::BUILT_IN.iter().chain(&tests);
    let rules = rules.map(|&(pattern, verdict)| (pattern.as_bytes().to_vec(), verdict));
    rules.chain(volume).collect()
}

/// The output of a program that prints what it was given.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) code: Option<i32>,
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) stderr: Vec<u8>,
}

impl Record {
    pub(crate) fn of(output: &Output) -> Self {
        let lines = output.stdout.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        Self { code: output.status.code(), lines, stderr: output.stderr.clone() }
    }

    /// Returns the rest of each line that starts with `prefix`.
    pub(crate) fn all(&self, prefix: &str) -> Vec<&[u8]> {
        self.lines.iter().filter_map(|line| line.strip_prefix(prefix.as_bytes())).collect()
    }

    /// Returns the rest of the only line that starts with `prefix`.
    pub(crate) fn one(&self, prefix: &str) -> Option<String> {
        let lines = self.all(prefix);
        assert!(lines.len() <= 1, "{prefix} occurs more than once: {self:?}");
        lines.first().map(|line| String::from_utf8_lossy(line).into_owned())
    }
}
