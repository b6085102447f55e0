//! Command lines that say something else than was meant.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::machine::{Machine, refuses, stderr, stdout};

#[test]
fn a_word_that_is_no_command_gets_a_hint() {
    let machine = Machine::new();
    let ran = machine.path("ran");
    let touch = format!("touch {}", ran.display());
    for (arguments, status, words) in [
        (&["touch", ran.to_str().expect("UTF-8")][..], 125, "did you mean 'oswalk exec touch /"),
        (&["exec", &touch], 127, "hint: give a command and its arguments as separate words"),
        (&["exec", "FOO=1", "touch", "x"], 127, "oswalk exec env FOO=1"),
    ] {
        refuses(&machine, &mut machine.oswalk(arguments), status, &[words]);
    }
}

#[test]
fn a_mistyped_option_is_no_command() {
    let machine = Machine::new();
    let ran = machine.path("ran");
    let ran = ran.to_str().expect("UTF-8");
    for (option, words) in [
        ("--sumary", "'--summary'"),
        ("--no-fallbck", "'--no-fallback'"),
        ("-j8", "'-j'"),
        ("-", "'-'"),
    ] {
        refuses(
            &machine,
            &mut machine.oswalk(&["exec", option, "touch", ran]),
            if option == "-" { 127 } else { 125 },
            &[words],
        );
    }
    machine.script("lib/--sumary", "echo \"$@\"");
    let path = format!("{}:/usr/bin:/bin", machine.path("lib").display());
    let output = machine.oswalk(&["exec", "--", "--sumary", "-x"]).env("PATH", path).output();
    assert_eq!(stdout(&output.expect("oswalk starts")), "-x\n");
}

#[test]
fn words_that_are_not_utf8_are_refused_or_passed_on() {
    let machine = Machine::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    for option in ["--walk", "--on"] {
        let mut command = machine.oswalk(&["exec", option]);
        command.arg(odd).arg("touch").arg(machine.path("ran"));
        refuses(&machine, &mut command, 125, &["invalid UTF-8"]);
    }
    let mut command = machine.oswalk(&["exec", "printf", "%s"]);
    assert_eq!(command.arg(odd).output().expect("oswalk starts").stdout, b"\xff");
    let mut empty = machine.oswalk(&["status"]);
    empty
        .env("OSWALK_STATE", "")
        .env("OSWALK_BROKER", "")
        .env("XDG_STATE_HOME", machine.path("none"));
    refuses(&machine, &mut empty, 125, &["no agent at"]);
}

#[test]
fn a_bad_policy_file_is_an_error() {
    let machine = Machine::new();
    fs::write(machine.path("p.toml"), "stay = ['a']\nstya = ['b']\n").expect("writes");
    let policy = machine.path("p.toml");
    let output = machine.run(&["exec", "--policy", policy.to_str().expect("UTF-8"), "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("p.toml: line 2, key 'stya': unknown field"));
    fs::write(machine.path("p.toml"), "stay = ['[a-']\n").expect("writes");
    let output = machine.run(&["exec", "--policy", policy.to_str().expect("UTF-8"), "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("key 'stay', pattern '[a-': '[' has no matching ']'"),
        "{}",
        stderr(&output)
    );
    fs::write(machine.path("p.toml"), "hide = ['secret']\n").expect("writes");
    let mut command =
        machine.oswalk(&["exec", "--policy", policy.to_str().expect("UTF-8"), "touch"]);
    command.arg(machine.path("ran"));
    refuses(
        &machine,
        &mut command,
        125,
        &["p.toml", "key 'hide', pattern 'secret'", "begin it with"],
    );
    for path in ["/dev/zero", "/"] {
        let output = machine.run(&["exec", "--policy", path, "true"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains("it is not a regular file"), "{}", stderr(&output));
    }
}
