//! Cases: programs that stay, and their reasons.

use crate::case::Case;

const C: &str = "echo 'int main(void) { return 0; }' >a.c";

/// Creates a header, and another one that a mount puts in its place.
const PRIVATE: &str = "mkdir alt; echo 'int one;' >v.h; echo 'int two;' >alt/v.h; echo '#include \"v.h\"' >a.c; cp a.c alt";

const BUILD_PY: &str = r#"printf 'import subprocess, sys\nsys.exit(max(subprocess.Popen(["gcc", "-c", "f%%d.c" %% i]).wait() for i in (1, 2)))\n' >build.py; echo 'int a;' >f1.c; echo 'int b;' >f2.c"#;

/// The expected stays of a case: programs and reasons.
type Stays = &'static [(&'static str, &'static str)];

pub(crate) fn cases() -> Vec<Case> {
    let stays: [(&str, &str, Stays); 8] = [
        ("a link stays", "gcc -c a.c; gcc a.o -o a; ./a", &[("gcc", "link"), ("a", "unlisted")]),
        (
            "a preprocessing run stays",
            "gcc -E a.c >/dev/null; gcc -M a.c",
            &[("gcc", "preprocess")],
        ),
        (
            "a probe stays",
            "gcc --version | head -n 1; gcc -dumpmachine; gcc -print-prog-name=as",
            &[("gcc", "probe")],
        ),
        ("the processor's own code stays", "gcc -march=native -c a.c", &[("gcc", "native-cpu")]),
        ("a source from standard input stays", "gcc -x c -c - -o a.o <a.c", &[("gcc", "stdin")]),
        (
            "the driver and the shell stay",
            "make a.o; sh -c :",
            &[("make", "driver"), ("sh", "shell")],
        ),
        ("an unlisted program stays", "show", &[("show", "unlisted")]),
        (
            "a program that cannot be executed stays",
            "gcc -c a.c; touch x; ./x; echo $?",
            &[("sh", "shell")],
        ),
    ];
    let mut cases: Vec<_> = stays
        .into_iter()
        .map(|(name, script, stays)| Case::with(&[], name, script).setup(C).stays(stays))
        .collect();
    cases.extend([
        Case::with(&["--walk-all", "--stay", "cat"], "--stay", "cat a.c; wc -c a.c")
            .setup(C)
            .stays(&[("cat", "rule")])
            .walks(&["wc"]),
        Case::with(&["--stay", "gcc"], "--stay over the table", "gcc -c a.c")
            .setup(C)
            .stays(&[("gcc", "rule")]),
        Case::with(&["--policy", "/dev/null"], "a compile step that is alone stays", "gcc -c a.c; gcc a.o -o a; ./a")
            .setup(C)
            .stays(&[("gcc", "alone"), ("cc1", "alone"), ("as", "link")])
            .alone(),
        Case::with(&["--policy", "/dev/null"], "one that is not alone walks", "for i in 1 2 3 4 5 6; do gcc -O2 -c big.c & perl -e 'select undef, undef, undef, 0.05'; gcc -c a.c; wait; done; ls")
            .setup("for i in $(seq 800); do echo \"int f$i(int x) { return x * $i; }\"; done >big.c; echo 'int a;' >a.c")
            .walks(&["gcc"])
            .stays(&[("gcc", "alone"), ("cc1", "alone"), ("as", "link")])
            .alone(),
        Case::with(&[], "a python script as the command", "python3 build.py; ls")
            .setup(BUILD_PY)
            .walks(&["gcc"])
            .stays(&[("python3", "unlisted")]),
        Case::with(&[], "a link to ccache, and a script before gcc", "ln -s /usr/bin/gcc y-gcc; printf '#!/bin/sh\\nexec gcc \"$@\"\\n' >x-gcc; chmod +x x-gcc; ./x-gcc -c a.c; ./y-gcc -c a.c -o b.o; echo $?; rm y-gcc x-gcc")
            .setup(C)
            .walks(&["gcc", "y-gcc"])
            .stays(&[("x-gcc", "wrapper")]),
        Case::with(&[], "standard input by another name", "gcc -x c -c /dev/stdin -o a.o <a.c; echo '-x c -' >args; gcc -c @args -o b.o <a.c; gcc a.o -o a; ./a; echo $?; cmp a.o b.o")
            .setup(C)
            .stays(&[("gcc", "stdin")]),
        Case::with(&["--walk", "*/sho?"], "--walk with a path pattern", "show").walks(&["show"]),
        Case::with(&[], "a private mount over a header stays", "unshare -m sh -c 'mount --bind alt/v.h v.h && gcc -c a.c'; nm a.o; gcc -c a.c -o b.o; nm b.o")
            .setup(PRIVATE)
            .walks(&["gcc"])
            .stays(&[("gcc", "other-mounts"), ("cc1", "other-mounts"), ("as", "link")]),
        Case::with(&[], "a private mount over the working directory stays", "unshare -m sh -c \"mount --bind alt . && cd '$PWD' && gcc -c a.c\"; nm alt/a.o")
            .setup(PRIVATE)
            .stays(&[("gcc", "other-mounts"), ("cc1", "other-mounts"), ("as", "link")]),
        Case::with(&[], "behind another root all stays", "unshare -m sh -c 'mkdir root; mount --rbind / root; mount --bind alt/v.h root$PWD/v.h; chroot root sh -c \"cd $PWD; gcc -c a.c\"'; rmdir root; nm a.o")
            .setup(PRIVATE)
            .stays(&[("gcc", "other-mounts"), ("cc1", "other-mounts"), ("as", "link")]),
        Case::each("a static program stays", "gcc -static a.c -o s && ./s; echo $?").setup(C),
        Case::each(
            "a setuid program stays",
            "cp $(command -v show) u; chown 65534 u; chmod 4755 u; ./u",
        )
        .stays(&[("u", "privileged")]),
        Case::each(
            "a script that an interpreter of the table runs",
            "printf '#!/usr/bin/python3\\nprint(1)\\n' >p; chmod +x p; ./p",
        )
        .walks(&["p"]),
    ]);
    cases
}
