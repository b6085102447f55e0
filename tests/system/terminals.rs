//! Programs at a terminal, driven through tmux: the screen is the same natively and walked.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::Test;
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("terminals::line_by_line", |lab| same(lab, "line", LINES)),
    ("terminals::settings_and_size", |lab| same(lab, "settings", SETTINGS)),
    ("terminals::window_changes", |lab| same(lab, "window", WINDOW)),
    ("terminals::a_password", |lab| same(lab, "password", PASSWORD)),
    ("terminals::an_editor_and_a_pager", |lab| same(lab, "editor", EDITOR)),
    ("terminals::job_control", |lab| same(lab, "jobs", JOBS)),
    ("terminals::input_is_left_for_the_next", |lab| same(lab, "next", NEXT)),
    ("terminals::a_shell_on_a_node", shell_on_a_node),
    ("terminals::compiles_are_done_once", compiles_are_done_once),
];

/// Limit for a change of the screen.
const LIMIT: Duration = seconds(15);
const POLL: Duration = Duration::from_millis(30);

/// A step of a user: an input, or something to wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Type this line.
    Line(&'static str),
    /// Press these keys, by their names in tmux.
    Keys(&'static [&'static str]),
    /// Wait for a line that starts with this.
    See(&'static str),
    /// Resize the window to this width and height.
    Resize(u16, u16),
    /// Wait until the screen stops changing.
    Rest,
    /// Wait for the shell's prompt: text typed earlier would be echoed at an arbitrary place.
    Prompt,
}
use Step::{Keys, Line, Prompt, Resize, Rest, See};

const LINES: &[Step] = &[
    Line("cat"),
    Rest,
    Line("hello"),
    Rest,
    Line("twice"),
    Keys(&["C-d"]),
    Prompt,
    Line("sh -c 'printf \"name? \"; read name; echo \"you are $name\"'"),
    See("name?"),
    Line("bob"),
    See("you are bob"),
    Prompt,
    Line("perl -e 'print STDERR \"to the terminal\\n\"; print -t STDIN, -t STDOUT, \"\\n\"'"),
    See("11"),
];
const SETTINGS: &[Step] = &[
    Line("stty size; tput cols; test -t 0 && test -t 1 && test -t 2 && echo a terminal"),
    See("a terminal"),
    Prompt,
    Line("stty -echo; echo quiet; stty echo; echo loud"),
    See("loud"),
    Prompt,
    Line("echo written >/dev/tty; sh -c 'echo asked >/dev/tty'"),
    See("asked"),
    Prompt,
    Line("printf 'one\\rtwo\\n'; printf 'tab\\tbell\\n'; printf '50%%\\r100%%\\n'"),
    See("100%"),
];
const WINDOW: &[Step] = &[
    Line("bash -c 'trap \"stty size; exit\" WINCH; echo ready; while :; do sleep 0.1; done'"),
    See("ready"),
    Resize(90, 20),
    See("20 90"),
    Prompt,
    Line("stty size; echo done"),
    See("done"),
];
const PASSWORD: &[Step] = &[
    Line("/usr/bin/python3 -c 'import getpass; print(len(getpass.getpass()), \"letters\")'"),
    See("Password:"),
    Line("secret"),
    See("6 letters"),
    Prompt,
    Line("echo visible again"),
    See("visible again"),
];
const EDITOR: &[Step] = &[
    Line("vim -u NONE -i NONE text"),
    See("~"),
    Keys(&["i", "f", "i", "r", "s", "t", "Enter", "s", "e", "c", "o", "n", "d", "Escape"]),
    See("second"),
    Line(":wq"),
    Prompt,
    Line("cat text; seq 1 100 | less"),
    See(":"),
    Keys(&["G"]),
    See("100"),
    Keys(&["q"]),
    Prompt,
    Line("clear; top -b -n 1 | head -n 1 | cut -c 1-5; echo after"),
    See("after"),
];
const JOBS: &[Step] = &[
    Line("sleep 1000"),
    Keys(&["C-z"]),
    See("[1]+  Stopped"),
    Prompt,
    Line("jobs; fg"),
    Keys(&["C-c"]),
    Prompt,
    Line("echo status $?"),
    See("status 130"),
    Prompt,
    Line(
        "perl -e '$SIG{INT} = sub { print qq(caught\\n); exit 3 }; $| = 1; print qq(up\\n); sleep 99'",
    ),
    See("up"),
    Keys(&["C-c"]),
    See("^Ccaught"),
    Prompt,
    Line("echo status $?"),
    See("status 3"),
    Prompt,
    Line("perl -e '$| = 1; print qq(quit me\\n); sleep 99'"),
    See("quit me"),
    Keys(&["C-\\"]),
    Prompt,
    Line("echo status $?"),
    See("status 131"),
    Prompt,
    Line("{ sleep 1000 & } 2>/dev/null; kill %1; wait %1; echo status $?"),
    See("status 143"),
];
const NEXT: &[Step] = &[
    Line("while read line; do /bin/echo got $line; /bin/true; done"),
    Keys(&["a", "Enter", "b", "Enter", "c", "Enter"]),
    See("got c"),
    Keys(&["C-d"]),
    Prompt,
    Line("echo end"),
    See("end"),
];

/// A terminal with a shell in it.
pub(crate) struct Screen<'a> {
    up: &'a Up,
    socket: PathBuf,
}

impl<'a> Screen<'a> {
    pub(crate) fn open(up: &'a Up, dir: &Path, shell: &str) -> Result<Self, String> {
        let screen = Self { up, socket: dir.join("tmux") };
        // Higher than what any test shows, with a line of `oswalk` besides.
        let size = ["-x", "80", "-y", "28"];
        let start = ["new-session", "-d", "-c"];
        // Keeps the screen of a shell that exits too soon.
        let stay = [";", "set-option", "remain-on-exit", "on"];
        screen
            .tmux(&[&start[..], &[&dir.display().to_string()], &size, &[shell], &stay].concat())?;
        Ok(screen)
    }

    fn tmux(&self, words: &[&str]) -> Result<String, String> {
        let mut command = self.up.command("tmux");
        command.env("TERM", "xterm").env("SHELL", "/bin/bash");
        command.args(["-f", "/dev/null", "-S"]).arg(&self.socket).args(words);
        let run = Run::of(command, LIMIT)?;
        if run.succeeded() { Ok(run.out()) } else { Err(format!("tmux {words:?}: {run}")) }
    }

    pub(crate) fn lines(&self) -> Result<Vec<String>, String> {
        let text = self.tmux(&["capture-pane", "-p"])?;
        Ok(text.lines().map(|line| line.trim_end().to_owned()).collect())
    }

    pub(crate) fn take(&self, step: Step) -> Result<(), String> {
        match step {
            Line(text) => {
                self.tmux(&["send-keys", "-l", text])?;
                self.tmux(&["send-keys", "Enter"])?;
            }
            Keys(keys) => {
                // A user presses a key for a program only once that runs.
                self.settle()?;
                self.tmux(&[&["send-keys"], keys].concat())?;
            }
            See(start) => self.until(start, |line| line.starts_with(start))?,
            Prompt => self.until_prompt()?,
            Rest => self.settle()?,
            Resize(width, height) => {
                let (width, height) = (width.to_string(), height.to_string());
                self.tmux(&["resize-window", "-x", &width, "-y", &height])?;
            }
        }
        Ok(())
    }

    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<(), String> {
        self.until_screen(what, |lines| lines.iter().any(|line| holds(line)))
    }

    fn until_prompt(&self) -> Result<(), String> {
        self.until_screen("the prompt", |lines| {
            lines.iter().rfind(|line| !line.is_empty()).is_some_and(|line| line == "$")
        })
    }

    fn until_screen(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let lines = self.lines()?;
            if holds(&lines) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("'{what}' is not on the screen:\n{}", lines.join("\n")));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until screen and foreground process stop changing.
    fn settle(&self) -> Result<(), String> {
        let now = || -> Result<_, String> {
            let process = self.tmux(&["display-message", "-p", "#{pane_current_command}"])?;
            Ok((self.lines()?, process))
        };
        let (mut before, mut steady) = (now()?, 0);
        while steady < 10 {
            thread::sleep(POLL);
            let after = now()?;
            steady = if after == before { steady + 1 } else { 0 };
            before = after;
        }
        Ok(())
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // Fails only if the server is gone already.
        let _ = self.tmux(&["kill-server"]);
    }
}

/// A shell that looks the same wherever it runs.
const SHELL: &str = "env PS1='$ ' bash --norc --noprofile";

/// Takes the same steps natively and walked, and compares the screens.
fn same(lab: &Lab, name: &str, steps: &[Step]) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let screen = |walked: bool| -> Result<String, String> {
        let dir = up.fresh(&format!("terminal-{name}-{walked}"))?;
        let exec = "oswalk exec --walk-all --stay bash --stay env -- ";
        let screen = Screen::open(up, &dir, &format!("{}{SHELL}", if walked { exec } else { "" }))?;
        screen.until("$", |line| line.starts_with('$'))?;
        for &step in steps {
            screen.take(step).map_err(|error| {
                format!("{} {step:?}: {error}", if walked { "walked," } else { "native," })
            })?;
        }
        screen.settle()?;
        // A node that does not know a program yet may take a while on a busy machine, and that is said.
        let is_the_programs = |line: &String| !line.starts_with("oswalk: sending the files that ");
        let lines: Vec<_> = screen.lines()?.into_iter().filter(is_the_programs).collect();
        Ok(lines.join("\n").trim_end().to_owned())
    };
    let (native, walked) = (screen(false)?, screen(true)?);
    if native == walked {
        Ok(())
    } else {
        Err(format!("the screens differ; native:\n{native}\nwalked:\n{walked}"))
    }
}

/// Compile steps at a terminal walk at the first attempt, although a sandbox that has had a terminal serves
/// no other walk.
fn compiles_are_done_once(lab: &Lab) -> Result<(), String> {
    const COMPILES: usize = 300;
    const MAKEFILE: &str = "all: $(patsubst %,%.o,$(shell seq $(COMPILES))) ; @:\n\
                            %.o: ; @gcc -c -o $@ a.c\n";
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("terminals-compiles")?;
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).map_err(|error| format!("{name}: {error}"))
    };
    write("a.c", "int f(void) { return 1; }\n")?;
    write("Makefile", MAKEFILE)?;
    let report = dir.join("report.json");
    // Quoted by `script` for a shell.
    let line = format!("oswalk exec --report report.json make -s -j4 COMPILES={COMPILES}");
    let mut command = up.command("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(&dir);
    let run = Run::of(command, seconds(120))?;
    let report = Report::read(&report)?;
    let (walks, repeated, here) = (report.walks.len(), report.repeated, report.fallbacks());
    if run.succeeded() && (walks, repeated) == (COMPILES, 0) && here.is_empty() {
        Ok(())
    } else {
        Err(format!("{walks} walks, {repeated} with several attempts, stays {here:?}: {run}"))
    }
}

/// An interactive shell walks as a whole.
fn shell_on_a_node(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("terminal-shell")?;
    // The history file does not exist yet, and its name is hidden.
    let shell = "HISTFILE=$PWD/.netrc PS1='$ ' oswalk exec --report report.json bash --norc --noprofile; sleep 1000";
    let screen = Screen::open(up, &dir, shell)?;
    screen.until("$", |line| line.starts_with('$'))?;
    for step in [
        Line("echo made here >file; tty; cat file"),
        See("made here"),
        Prompt,
        Line("sleep 1000"),
        Keys(&["C-z"]),
        See("[1]+  Stopped"),
        Prompt,
        Line("fg"),
        Keys(&["C-c"]),
        Prompt,
        Line("exit 7"),
    ] {
        screen.take(step)?;
    }
    screen
        .until("the report", |_| dir.join("report.json").exists() && dir.join("file").exists())?;
    let report = std::fs::read_to_string(dir.join("report.json")).map_err(|e| e.to_string())?;
    let report: serde_json::Value = serde_json::from_str(&report).map_err(|e| e.to_string())?;
    let walk = &report["walks"][0];
    if walk["argv0"] == "bash" && walk["status"] == 7 {
        Ok(())
    } else {
        Err(format!("the shell did not walk: {report}"))
    }
}
