//! Cases: what a program inherits.

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let both = [
        (
            "umask",
            "",
            "umask 077; show; touch a; mkdir b; umask 0; touch c; mkdir d; umask 027; show >e",
        ),
        (
            "cwd",
            "mkdir -p sub/deep",
            "show; cd sub; show; cd deep; show; touch here; ls ..; (cd / && show)",
        ),
        (
            "cwd with spaces and quotes",
            "mkdir 'a b  \"c\"'",
            "cd 'a b  \"c\"'; show; echo x >'f $1'; cat 'f $1'",
        ),
        (
            "cwd that is not UTF-8",
            r#"mkdir "$(printf 'x\377\376y')""#,
            r#"cd "$(printf 'x\377\376y')"; show; touch "$(printf '\200')"; ls | wc -c"#,
        ),
        (
            "cwd through a symbolic link",
            "mkdir real; ln -s real link",
            "cd link; show | grep -c real; pwd; cat ../link/../nothing; echo y >f; (cd -P .; touch g); ls",
        ),
        (
            "arguments: empty, spaces, newlines, not UTF-8",
            "",
            r#"show '' ' ' 'a
b' "$(printf '\377\001')" '*' '$x' '\' --"#,
        ),
        (
            "environment: empty values, not UTF-8",
            "",
            r#"SHOW_EMPTY= SHOW_A='x y' SHOW_B="$(printf '\377')" SHOW_C='=' show"#,
        ),
        (
            "environment: 60 kB and 500 variables",
            "",
            "export SHOW_BIG=$(printf %60000s x); for i in $(seq 500); do export SHOW_V$i=$i; done; show | sort | md5sum",
        ),
        (
            "what programs see of their environment",
            "",
            "export A_B='x y' EMPTY= EDITOR=vi; env | grep -v '^_=\\|^OSWALK_\\|^LD_PRELOAD=\\|^ASAN_OPTIONS=' | sort; printenv A_B; python3 -c 'import os; print(sorted(n for n in os.environ if n[:7] != \"OSWALK_\" and n != \"_\"))' | sed \"s/'ASAN_OPTIONS', //; s/'LD_PRELOAD', //\"",
        ),
        ("unset and export", "", "SHOW_X=1; show; export SHOW_X; show; unset SHOW_X; show"),
        ("nice", "", "nice -n 5 show; nice -n 19 sh -c show"),
        ("ulimit", "", "ulimit -n 99; ulimit -s 1024; show"),
        (
            "ulimit -f",
            "",
            "ulimit -f 8; dd if=/dev/zero of=big bs=1024 count=100 2>/dev/null; echo $?; wc -c <big",
        ),
        ("who and where", "", "id; whoami; hostname; uname -snm; pwd; nproc >/dev/null"),
        (
            "/proc/self",
            "",
            "cat /proc/self/comm; perl -e 'print -d qq(/proc/$$) ? 1 : 0, readlink(q(/proc/self)) == $$ ? 1 : 0, qq(\\n)'",
        ),
        (
            "/dev",
            "",
            "head -c 5 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; echo x >/dev/null; echo y >/dev/stderr; echo z | cat /dev/stdin; echo w | cat /dev/fd/0",
        ),
        (
            "locale and time zone",
            "",
            "TZ=UTC date -d @0; TZ=Asia/Tokyo date -d @0; date -d @86400 +%A",
        ),
        (
            "temporary files",
            "",
            "f=$(mktemp /tmp/oswalk-test-XXXXXX); echo x >$f; cat $f; rm $f; test -e $f; echo $?",
        ),
        (
            "shared memory and pseudo-terminals",
            "",
            "test -d /dev/shm; echo $?; python3 -c 'import multiprocessing as m; l=m.Lock(); print(l.acquire())'",
        ),
    ];
    cases
        .extend(both.into_iter().flat_map(|(name, setup, script)| Case::both(name, setup, script)));
    cases.extend([
        Case::each("arguments of 1 MB", "x=$(printf %100000s x); show $x$x a \"$x\" \"$x\" \"$x\" \"$x\" \"$x\" \"$x\" \"$x\" \"$x\" \"$x\" \"$x\"").walks(&["show"]),
        Case::each("too many arguments", "x=$(printf %100000s x); show $(for i in $(seq 30); do echo \"$x\"; done) \"$x$x\" >/dev/null 2>&1; echo $?; show").stays(&[("show", "shim-limit")]),
        Case::each("another argv[0]", "bash -c 'exec -a other show a'; perl -e 'exec {q(/bin/sh)} q(my sh), q(-c), q(echo $0)'"),
        Case::with(&[], "an empty environment is empty", "p=$(command -v python3); env -i $p -c 'import os; print(sorted(os.environ)); os.system(\"env | grep -c PRELOAD\"); import subprocess as s; s.run([\"/usr/bin/env\"], env={}); s.run([\"/usr/bin/env\"], env={\"LD_PRELOAD\": \"\", \"A\": \"1\"}); s.run([\"/usr/bin/gcc\", \"-c\", \"a.c\"], env={\"PATH\": \"/usr/bin\"})'; ls").setup("echo 'int a;' >a.c").walks(&["gcc"]),
        Case::with(&[], "AddressSanitizer in an empty environment", "gcc -fsanitize=address a.c -o a && env -i ./a").setup("echo 'int main(void) { return 0; }' >a.c"),
        Case::with(&["--walk", "show"], "a secret keeps what may read it", "MY_API_KEY=1 show; MY_API_KEY= show; MY_API_KEY=1 gcc -c a.c").setup("echo 'int a;' >a.c").walks(&["show", "gcc"]).stays(&[("show", "secret-variable")]),
        Case::with(&["--walk", "show", "--pass-env", "MY_*"], "--pass-env", "SHOW_TOKEN= MY_API_KEY=1 show").walks(&["show"]),
        Case::with(&["--walk", "printenv", "--without-env", "MY_API_KEY"], "--without-env", "MY_API_KEY=1 printenv PATH >/dev/null; echo $?").walks(&["printenv"]),
        Case::with(&["--policy", "/dev/null"], "rustc reads any variable", "export MY_API_KEY=abc; rustc a.rs && ./a; rustc --crate-type lib --emit metadata a.rs").setup("echo 'fn main() { println!(\"{:?}\", option_env!(\"MY_API_KEY\")); }' >a.rs").stays(&[("rustc", "secret-variable")]),
        Case::each("the working directory is deleted", "mkdir gone; cd gone; rmdir ../gone; show; cat ../x; echo $?").stays(&[("show", "directory"), ("cat", "directory")]).setup("echo x >x"),
        Case::each("other users", "umask 022; echo x >mine; chmod 600 mine; setpriv --reuid=65534 --regid=65534 --clear-groups cat mine; echo $?; setpriv --reuid=65534 --regid=65534 --clear-groups id").walks(&["setpriv"]),
        Case::each("a non-root user writes", "chmod 755 .; mkdir open; chmod 777 open; setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'echo x >open/f; echo y >ro; id -u'; echo $?; ls -ln open; cat ro").setup("echo z >ro; chmod 444 ro"),
        Case::whole("a read-only file refuses a non-root user", "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'echo y >ro; echo z >>ro; rm -f ro'; echo $?; cat ro").setup("echo z >ro; chmod 444 ro"),
    ]);
    cases
}
