//! Cases: every function that executes a program.

use crate::case::Case;

/// Only `show`, which `hooks` starts, walks.
const SHOW: &[&str] = &["--walk", "show"];

pub(crate) fn cases() -> Vec<Case> {
    let hooked = [
        ("execve", "hooks execve $(command -v show) one 'two words'; echo $?"),
        ("execve with a private environment", "hooks execve_private $(command -v show) one two"),
        ("execv", "hooks execv $(command -v show) one two; echo $?"),
        ("execvp", "hooks execvp $(command -v show) one two"),
        ("execvpe", "hooks execvpe $(command -v show) one two"),
        ("execl", "hooks execl $(command -v show) one two"),
        ("execlp", "hooks execlp $(command -v show) one two"),
        ("execle", "hooks execle $(command -v show) one two"),
        ("execveat", "hooks execveat $(command -v show) one two"),
        ("execveat in a directory", "hooks execveat_dir $(command -v show) one two"),
        ("execveat of a descriptor", "hooks execveat_fd $(command -v show) one two"),
        ("fexecve", "hooks fexecve $(command -v show) one two"),
        ("syscall execve", "hooks syscall $(command -v show) one two"),
        ("syscall execveat", "hooks syscall_at $(command -v show) one two"),
        ("posix_spawn", "SHOW_EXIT=7 hooks posix_spawn $(command -v show) one two; echo $?"),
        ("posix_spawnp", "hooks posix_spawnp $(command -v show) one two; echo $?"),
        (
            "posix_spawn with file actions",
            "hooks spawn_actions $(command -v show) one two; cat spawned.out",
        ),
        ("vfork", "SHOW_EXIT=9 hooks vfork $(command -v show) one two; echo $?"),
        ("fork", "SHOW_EXIT=200 hooks fork $(command -v show) one two; echo $?"),
        ("system", "SHOW_EXIT=3 hooks system $(command -v show) one two; echo $?"),
        ("popen for reading", "SHOW_EXIT=4 hooks popen_read $(command -v show) one two; echo $?"),
        ("exec in a thread", "hooks thread $(command -v show) one two; echo $?"),
        (
            "four threads fork",
            "SHOW_EXIT=5 hooks threads $(command -v show) x >out; sort out; echo $?",
        ),
        ("sh -c", "sh -c 'sh -c \"show one two; echo $?\"'"),
        (
            "a script without an interpreter line",
            "printf 'show from a script\\n' >s; chmod +x s; ./s",
        ),
        (
            "a script with an interpreter line",
            "printf '#!/bin/sh\\nshow from a script\\n' >s; chmod +x s; ./s a",
        ),
        ("env -i", "env -i PATH=\"$PATH\" SHOW_X=1 show one; env -i $(command -v show)"),
        ("env -u LD_PRELOAD", "env -u LD_PRELOAD -u OSWALK_PAGE show one"),
        (
            "a foreign LD_PRELOAD",
            "LD_PRELOAD= show one; LD_PRELOAD=/nonexistent.so show two 2>/dev/null",
        ),
        ("xargs", "echo a b c | xargs -n1 show"),
        ("find -exec", "touch x; find . -name x -exec show {} \\;"),
        (
            "nohup, nice, timeout and setsid",
            "nohup show a; nice -n 3 show b; timeout 9 show c; setsid -w show d",
        ),
        (
            "python subprocess",
            "/usr/bin/python3 -c 'import subprocess,sys; r=subprocess.run([\"show\",\"p\"],capture_output=True); sys.stdout.buffer.write(r.stdout); print(r.returncode)'",
        ),
        (
            "perl system and backticks",
            "perl -e 'system(\"show\",\"p\"); print `show q`; exec(\"show\",\"r\")'",
        ),
    ];
    let mut cases: Vec<_> = hooked
        .into_iter()
        .map(|(name, script)| Case::with(SHOW, name, script).walks(&["show"]))
        .collect();
    cases.extend([
        Case::with(
            &["--walk", "cat"],
            "popen for writing",
            "hooks popen_write $(command -v cat) -; echo $?",
        )
        .walks(&["cat"]),
        Case::with(SHOW, "make, quiet recipes", "make -s; echo $?; cat one two")
            .setup(MAKEFILE)
            .walks(&["show"]),
        Case::with(SHOW, "make, V=0", "make V=0; make V=0; cat one two")
            .setup(MAKEFILE)
            .walks(&["show"]),
        Case::with(SHOW, "make, V=1", "make V=1; cat one two").setup(MAKEFILE).walks(&["show"]),
        Case::with(SHOW, "make, a recipe fails", "make -k bad one; echo $?; make bad two; echo $?")
            .setup(MAKEFILE)
            .walks(&["show"]),
        Case::with(SHOW, "make, a walk's target is deleted on error", "make half; echo $?; ls")
            .setup(MAKEFILE)
            .walks(&["show"]),
    ]);
    cases
}

const MAKEFILE: &str = r#"cat >Makefile <<'END'
Q_0 = @
Q = $(Q_$(V))
.DELETE_ON_ERROR:
all: one two
one two:
	$(Q)show $@ >$@
	@echo '  MADE $@'
bad:
	$(Q)SHOW_EXIT=3 show bad
half:
	$(Q)SHOW_EXIT=3 show half >$@
END"#;
