//! A case: a script that runs natively and walked, with a report and without. Nothing may differ.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use oswalk_tests::tree::{Before, Tree};

use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, ending, seconds, shown};

/// Limit for a run. Few cases take more than a second natively.
const LIMIT: Duration = seconds(20);

/// Which part of a script walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walking {
    /// Every command of the script; the shell stays.
    Each,
    /// The shell, with everything that it starts.
    Whole,
    /// The programs that these options of `oswalk exec` select.
    As(&'static [&'static str]),
}

/// How a script is run.
#[derive(Debug, Clone, Copy)]
enum How<'a> {
    Natively,
    /// By an `oswalk exec` that waits for it, and writes this report.
    Reported(&'a Path),
    /// By an `oswalk exec` that becomes the shell.
    Unreported,
}

/// A script whose outcome must be the same natively and walked.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    script: String,
    walking: Walking,
    setup: String,
    stdin: Option<Vec<u8>>,
    walked: &'static [&'static str],
    stayed: &'static [(&'static str, &'static str)],
    runner: Option<&'static str>,
    gap: Option<&'static str>,
    limit: Duration,
    alone: bool,
}

impl Case {
    fn new(name: String, script: &str, walking: Walking) -> Self {
        Self {
            name,
            script: script.to_owned(),
            walking,
            setup: String::new(),
            stdin: None,
            walked: &[],
            stayed: &[],
            runner: None,
            gap: None,
            limit: LIMIT,
            alone: false,
        }
    }

    /// Makes a case in which every command of the script walks.
    pub(crate) fn each(name: &str, script: &str) -> Self {
        Self::new(format!("{name}, each command"), script, Walking::Each)
    }

    /// Makes a case in which the script walks as a whole.
    pub(crate) fn whole(name: &str, script: &str) -> Self {
        Self::new(format!("{name}, as a whole"), script, Walking::Whole).walks(&["sh"])
    }

    /// Makes both of these, with a setup that runs first, natively.
    pub(crate) fn both(name: &str, setup: &str, script: &str) -> [Self; 2] {
        [Self::each(name, script).setup(setup), Self::whole(name, script).setup(setup)]
    }

    /// Makes a case in which options of `oswalk exec` decide.
    pub(crate) fn with(options: &'static [&'static str], name: &str, script: &str) -> Self {
        Self::new(name.to_owned(), script, Walking::As(options))
    }

    pub(crate) fn setup(self, setup: &str) -> Self {
        Self { setup: setup.to_owned(), ..self }
    }

    /// Prepends a text to setup and script.
    pub(crate) fn prelude(self, prelude: &str) -> Self {
        let [setup, script] = [self.setup, self.script].map(|text| format!("{prelude}{text}"));
        Self { setup, script, ..self }
    }

    /// Appends a text to the script.
    pub(crate) fn epilogue(self, epilogue: &str) -> Self {
        Self { script: self.script + epilogue, ..self }
    }

    pub(crate) fn stdin(self, stdin: Vec<u8>) -> Self {
        Self { stdin: Some(stdin), ..self }
    }

    /// Requires that these programs walked.
    pub(crate) fn walks(self, walked: &'static [&'static str]) -> Self {
        Self { walked, ..self }
    }

    /// Requires that these programs stayed for these reasons.
    pub(crate) fn stays(self, stayed: &'static [(&'static str, &'static str)]) -> Self {
        Self { stayed, ..self }
    }

    /// Sends all walks to this node.
    pub(crate) fn on(self, node: &'static str) -> Self {
        Self { runner: Some(node), ..self }
    }

    /// Sets a limit other than [`LIMIT`].
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Marks a known difference (see docs/semantics.md). The case fails once there is none.
    pub(crate) fn gap(self, gap: &'static str) -> Self {
        Self { gap: Some(gap), ..self }
    }

    /// Runs the case alone in the lab, on a machine that looks idle to the origin's agent.
    pub(crate) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Runs the case natively and walked, and compares the outcomes.
    pub(crate) fn check(&self, lab: &Lab) -> Result<(), String> {
        if self.alone {
            let (up, _alone) = lab.alone()?;
            let _idle = up.idle()?;
            return self.compare(up);
        }
        let (up, _peace) = lab.shared()?;
        self.compare(up)
    }

    fn compare(&self, up: &Up) -> Result<(), String> {
        let dir = up.fresh(&self.name)?;
        let native = self.run(up, &dir, How::Natively)?;
        let report = dir.with_extension("json");
        let walked = self.run(up, &dir, How::Reported(&report))?;
        let mut wrong = native.differences(&walked);
        wrong.extend(self.unexpected(&Report::read(&report)?));
        if wrong.is_empty() {
            let unreported = self.run(up, &dir, How::Unreported)?;
            let differences = native.differences(&unreported);
            wrong.extend(differences.into_iter().map(|text| format!("without a report: {text}")));
        }
        if let Some(gap) = self.gap {
            let closed = format!("the gap is closed ({gap}): make it a promise");
            return if wrong.is_empty() { Err(closed) } else { Ok(()) };
        }
        if wrong.is_empty() {
            let _ = fs::remove_dir_all(&dir);
            return Ok(());
        }
        Err(format!("{}\n\nscript:\n{}\nwalked: {}", wrong.join("\n"), self.script, walked.run))
    }

    fn run(&self, up: &Up, dir: &Path, how: How) -> Result<Outcome, String> {
        let began = SystemTime::now();
        let dir = up.fresh(&dir.file_name().expect("named").to_string_lossy())?;
        let mut setup = up.command("/bin/sh");
        setup.args(["-e", "-c", &self.setup]).current_dir(&dir);
        let setup = Run::of(setup, LIMIT)?;
        if !setup.succeeded() {
            return Err(format!("the setup failed: {setup}"));
        }
        let before = Before::of(&dir)?;
        let mut command = match how {
            How::Natively => up.command("sh"),
            How::Reported(report) => self.walked(up.exec(report)),
            How::Unreported => self.walked(up.exec_unreported()),
        };
        command.args(["-c", &self.script]).current_dir(&dir);
        let run = Run::start(command, self.stdin.clone())?.wait(self.limit)?;
        let tree = Tree::of(&dir, &before)?;
        if let Some(off) = tree.off_the_clock(began) {
            return Err(off);
        }
        Ok(Outcome { run, tree })
    }

    /// Adds the case's options to a call of `oswalk exec`.
    fn walked(&self, mut command: Command) -> Command {
        match self.walking {
            Walking::Each => command.arg("--walk-all"),
            Walking::Whole => command.args(["--walk", "sh"]),
            Walking::As(options) => command.args(options),
        };
        command.args(self.runner.iter().flat_map(|node| ["--on", node]));
        command.args(["--", "sh"]);
        command
    }

    /// Returns the programs that did not walk or stay as required.
    fn unexpected(&self, report: &Report) -> Vec<String> {
        let mut wrong = Vec::new();
        let expected: Vec<_> =
            self.stayed.iter().map(|(name, reason)| format!("{name} ({reason})")).collect();
        wrong.extend(
            report
                .fallbacks()
                .into_iter()
                .filter(|stay| !expected.contains(stay) && !Report::is_right(stay))
                .map(|stay| format!("{stay} did not walk")),
        );
        wrong.extend(
            self.walked
                .iter()
                .filter(|name| !report.walked(name) && !report.stayed_rightly(name))
                .map(|name| format!("{name} did not walk")),
        );
        let stays = self.stayed.iter().filter(|(name, reason)| !report.stayed(name, reason));
        wrong.extend(stays.map(|(name, reason)| format!("{name} did not stay ({reason})")));
        let any_right = report.stays.iter().any(|(name, _)| report.stayed_rightly(name));
        if report.walks.is_empty() && self.stayed.is_empty() && !any_right {
            wrong.push("nothing walked".into());
        }
        if let Some(node) = self.runner
            && report.runners() != [node]
        {
            wrong.push(format!("walked to {:?}, not to {node}", report.runners()));
        }
        if !wrong.is_empty() {
            wrong.push(format!("walks {:?}, stays {:?}", report.walks, report.stays));
        }
        wrong
    }
}

/// The outcome of a run.
pub(crate) struct Outcome {
    pub(crate) run: Run,
    pub(crate) tree: Tree,
}

impl Outcome {
    pub(crate) fn differences(&self, walked: &Self) -> Vec<String> {
        let mut differences = self.tree.differences(&walked.tree);
        let mut compare = |what: &str, native: String, walked: String, same: bool| {
            if !same {
                differences.push(format!("{what}\n--- native: {native}\n--- walked: {walked}"));
            }
        };
        let (a, b) = (&self.run, &walked.run);
        compare("the endings differ", ending(a.status), ending(b.status), a.status == b.status);
        compare("stdout differs", shown(&a.stdout), shown(&b.stdout), a.stdout == b.stdout);
        compare("stderr differs", shown(&a.stderr), shown(&b.stderr), a.stderr == b.stderr);
        differences
    }
}
