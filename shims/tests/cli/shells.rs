//! `oswalk shell-init` in real shells, and `oswalk shell`.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use worknode::request::Request;

use crate::machine::{Machine, refuses, stderr, stdout};

/// How each shell evaluates the script, and is told to be interactive.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "eval \"$(oswalk shell-init bash)\""),
    ("zsh", "eval \"$(oswalk shell-init zsh)\""),
    ("fish", "oswalk shell-init fish | source"),
];
/// What a shell is told to print.
const SHOW: &str = "echo \"[$OSWALK_PAGE][$LD_PRELOAD]\"";

/// Runs a shell without the user's files, which evaluates the script and shows the variables. Returns `None` on a machine
/// without this shell.
fn run(machine: &Machine, shell: &str, flags: &str, line: &str) -> Option<Output> {
    let oswalk = machine.oswalk(&[]);
    let dir = std::path::Path::new(oswalk.get_program()).parent().expect("it has a directory");
    let mut command = Command::new(shell);
    command.envs(oswalk.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("XDG_CONFIG_HOME", machine.dir.path()).env("PATH", {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path)))
            .expect("no colon in these paths")
    });
    command.args(match shell {
        "bash" => &["--norc", "--noprofile"][..],
        "zsh" => &["-f"],
        _ => &["--no-config"],
    });
    command.args([flags, line]).output().ok()
}

fn set(output: &Output) -> String {
    stdout(output).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn an_interactive_shell_opens_a_session_of_its_own() {
    for (shell, script) in SHELLS {
        let machine = Machine::new();
        let agent = machine.agent();
        let line = format!("{script}; echo $OSWALK_SHELL_PAGE; {SHOW}");
        let Some(output) = run(&machine, shell, "-ic", &line) else { continue };
        let (page, preload) = (machine.path("page"), machine.path("lib/liboswalk_preload.so"));
        let expected = format!("[{}][{}]", page.display(), preload.display());
        assert_eq!(set(&output), expected, "{shell}: {}", stderr(&output));
        let requests = agent.join().expect("the agent ends");
        let [Request::OpenSession(options)] = &requests[..] else { panic!("{requests:?}") };
        assert!(options.becomes && options.shell.is_some_and(|pid| pid > 1), "{options:?}");
    }
}

/// Also without an agent, or with one that hangs; never with a message, and never after a long wait.
#[test]
fn other_shells_are_left_alone() {
    for (shell, script) in SHELLS {
        let machine = Machine::new();
        let line = format!("{script}; {SHOW}");
        let Some(alone) = run(&machine, shell, "-ic", &line) else { continue };
        let (_hung, began) =
            (UnixListener::bind(machine.path("state/door")).expect("binds"), Instant::now());
        let hung = run(&machine, shell, "-ic", &line).expect("it is there");
        assert!(began.elapsed() < Duration::from_secs(4), "{shell}: {:?}", began.elapsed());
        for output in [alone, hung, run(&machine, shell, "-c", &line).expect("it is there")] {
            assert_eq!(set(&output), "[][]", "{shell}");
            assert!(!stderr(&output).contains("oswalk"), "{shell}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_session_of_exec_is_left_alone_but_not_one_of_an_outer_shell() {
    for (shell, script) in SHELLS {
        let set_outer = |name: &str, page: &str| match shell {
            "fish" => format!("set -gx {name} {page}"),
            _ => format!("export {name}={page}"),
        };
        let machine = Machine::new();
        let _agent = machine.agent();
        let outer = machine.path("outer").display().to_string();
        fs::write(&outer, "").expect("writes");
        let of_exec = set_outer("OSWALK_PAGE", &outer);
        let Some(output) = run(&machine, shell, "-ic", &format!("{of_exec}; {script}; {SHOW}"))
        else {
            continue;
        };
        assert_eq!(set(&output), format!("[{outer}][]"), "{shell}");
        let of_shell = set_outer("OSWALK_SHELL_PAGE", &outer);
        let line = format!("{of_exec}; {of_shell}; {script}; {SHOW}");
        let output = run(&machine, shell, "-ic", &line).expect("it is there");
        let page = machine.path("page").display().to_string();
        assert!(set(&output).starts_with(&format!("[{page}]")), "{shell}: {}", stdout(&output));
    }
}

#[test]
fn shell_becomes_a_shell_in_a_session() {
    let machine = Machine::new();
    refuses(&machine, &mut machine.oswalk(&["shell", "sh"]), 125, &["no agent at", "oswalk up"]);
    let agent = machine.agent();
    machine.script("my-shell", SHOW);
    let output = machine.run(&["shell", machine.path("my-shell").to_str().expect("UTF-8")]);
    let (page, preload) = (machine.path("page"), machine.path("lib/liboswalk_preload.so"));
    let expected = format!("[{}][{}]\n", page.display(), preload.display());
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    agent.join().expect("the agent ends");
    refuses(&machine, &mut machine.oswalk(&["shell", "nosuch"]), 127, &["nosuch"]);
    refuses(&machine, &mut machine.oswalk(&["shell-init", "tcsh"]), 125, &["'tcsh'", "fish"]);
}
