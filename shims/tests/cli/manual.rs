//! Completions in real shells, and manual pages in `man`'s format.

use std::fs;
use std::process::Command;

use crate::machine::{Machine, refuses, stderr, stdout};

/// Writes the completions to a file, and returns what the shell prints for a script that reads it as `$1`.
fn complete(shell: &str, script: &str) -> Option<String> {
    let machine = Machine::new();
    let file = machine.path("completions");
    fs::write(&file, machine.run(&["completions", shell]).stdout).expect("writes");
    let mut command = Command::new(shell);
    let config = [("HOME", machine.dir.path()), ("XDG_CONFIG_HOME", machine.dir.path())];
    command.envs(config).args(["-c", script]);
    if shell == "bash" {
        command.arg("bash");
    }
    // A machine without this shell has nothing to try.
    let output = command.arg(file).output().ok()?;
    assert_eq!(stderr(&output), "");
    Some(stdout(&output))
}

#[test]
fn bash_completes_options_and_the_inner_command() {
    let of = |line: &str| {
        let script = format!(
            "source $1; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             last=${{COMP_WORDS[COMP_CWORD]}}; before=${{COMP_WORDS[COMP_CWORD - 1]}}; \
             _oswalk_exec oswalk \"$last\" \"$before\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        complete("bash", &script).expect("bash is there")
    };
    assert_eq!(of("oswalk stat"), "status\n");
    assert_eq!(of("oswalk exec --no-f"), "--no-fallback\n");
    assert!(of("oswalk exec --on n1 --summary tou").lines().any(|it| it == "touch"));
    assert!(of("oswalk exec -- tou").lines().any(|it| it == "touch"));
    assert_eq!(of("oswalk exec ls /etc/nsswitch.c"), "/etc/nsswitch.conf\n");
    assert_eq!(of("oswalk completions z"), "zsh\n");
}

#[test]
fn fish_completes_options_and_the_inner_command() {
    let of = |line: &str| complete("fish", &format!("source $argv[1]; complete -C '{line}'"));
    let Some(commands) = of("oswalk exec --on n1 --summary tou") else { return };
    assert!(commands.lines().any(|it| it.starts_with("touch")), "{commands}");
    let options = of("oswalk exec --no-f").expect("fish is there");
    assert!(options.starts_with("--no-fallback"), "{options}");
    let files = of("oswalk exec ls /etc/nsswitch.c").expect("fish is there");
    assert!(files.starts_with("/etc/nsswitch.conf"), "{files}");
    let options = of("oswalk exec ls --recurs").expect("fish is there");
    assert!(!options.contains("summary"), "{options}");
}

#[test]
fn zsh_accepts_the_completions() {
    let script = "autoload -U compinit; compinit -u -D; source $0; print -- $_comps[oswalk]";
    let Some(function) = complete("zsh", script) else { return };
    assert_eq!(function, "_oswalk\n");
}

#[test]
fn a_manual_page_for_each_command() {
    let machine = Machine::new();
    let dir = machine.path("new/man1");
    let output = machine.run(&["man", dir.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", stderr(&output));
    for name in ["oswalk", "oswalk-exec", "oswalk-cluster", "oswalk-cluster-init"] {
        let page = fs::read_to_string(dir.join(format!("{name}.1"))).expect(name);
        assert!(page.contains(".SH SYNOPSIS") && page.contains("state"), "{name}: {page}");
    }
    refuses(&machine, &mut machine.oswalk(&["man", "/proc/none"]), 125, &["/proc/none", "hint: "]);
    refuses(&machine, &mut machine.oswalk(&["completions", "tcsh"]), 125, &["'tcsh'", "fish"]);
}
