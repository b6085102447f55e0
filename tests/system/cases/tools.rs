//! Cases: compilers and other tools, as builds use them.

use crate::case::Case;

const C: &str = r#"cat >a.c <<'END'
#include <stdio.h>
#include <string.h>
#include "b.h"
int main(void) { printf("%d %s\n", B, strchr("xy", 'y')); return B; }
END
mkdir inc; echo '#define B 7' >inc/b.h
echo 'int unused(int x) { int y; return x / 0; }' >warn.c
echo 'int broken( { return; }' >broken.c
cat >c.cc <<'END'
#include <string>
#include <vector>
std::string f(std::vector<int> v) { return std::to_string(v.size()); }
END
printf '.globl f\nf:\n ret\n' >s.s
printf '#define X 1\n.globl g\ng:\n ret\n' >t.S"#;

pub(crate) fn cases() -> Vec<Case> {
    let compilers = [
        ("gcc -c", "gcc -O2 -Iinc -c a.c; echo $?", &["gcc"][..]),
        (
            "gcc -c -MD",
            "gcc -g -Iinc -MD -MF dep/a.d -MT x -c a.c -o a.o; mkdir dep; gcc -g -Iinc -MD -MF dep/a.d -MT x -c a.c -o a.o; cat dep/a.d",
            &["gcc"],
        ),
        ("gcc -S", "gcc -O1 -Iinc -S a.c -o -; gcc -O1 -Iinc -S a.c", &["gcc"]),
        (
            "gcc with an error",
            "gcc -c broken.c; echo $?; gcc -c a.c; echo $?; gcc -c nothing.c; echo $?; ls",
            &["gcc"],
        ),
        (
            "gcc with an error over an old object",
            "echo old >broken.o; gcc -c broken.c -o broken.o; echo $?; ls",
            &["gcc"],
        ),
        ("gcc with warnings", "gcc -Wall -Wextra -O2 -c warn.c; echo $?", &["gcc"]),
        (
            "gcc -pipe -save-temps",
            "gcc -pipe -Iinc -c a.c; gcc -save-temps -Iinc -c a.c -o b.o; ls",
            &["gcc"],
        ),
        ("g++ -c", "g++ -std=c++17 -O1 -c c.cc; echo $?", &["g++"]),
        ("assembler", "as s.s -o s.o; gcc -c t.S; gcc -c s.s -o u.o; echo $?", &["as", "gcc"]),
        (
            "compile here, link there, run",
            "gcc -Iinc -c a.c && gcc a.o -o a && ./a; echo $?",
            &["gcc"],
        ),
        (
            "objects in a directory with a default list",
            r#"mkdir d; python3 -c 'import os, struct
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, 0xffffffff) for tag, bits in ((1, 7), (4, 7), (32, 0)))
os.setxattr("d", "system.posix_acl_default", acl)'; mkdir d/e; umask 077
gcc -Iinc -MMD -c a.c -o d/a.o; gcc -Iinc -c a.c -o d/e/a.o; gcc -Iinc -c a.c -o a.o; cd d/e; gcc -I../../inc -c ../../a.c -o b.o; stat -c '%a %n' ../a.* a.o b.o ../../a.o"#,
            &["gcc"],
        ),
        ("response file", "echo '-O1 -Iinc -c a.c' >args; gcc @args -o a.o -c; echo $?", &["gcc"]),
        (
            "outputs elsewhere",
            "mkdir -p obj/x; ln -s obj link; gcc -MMD -Iinc -c a.c -o obj/x/a.o; gcc -MMD -Iinc -c a.c -o ./obj/../obj/x/b.o; gcc -Iinc -c a.c -o link/c.o; gcc -c broken.c -o obj/broken.o; echo $?; gcc -Iinc -MD -c a.c -o obj/x; echo $?; gcc -Iinc -MD -c a.c -o obj/same.d; echo $?; ls obj/x",
            &["gcc"],
        ),
        (
            "outputs in directories with special bits",
            "mkdir group sticky; chgrp 7 group; chmod 2775 group; chmod 3777 sticky; gcc -Iinc -c a.c -o group/a.o; cd group; gcc -I../inc -MMD -c ../a.c -o b.o; gcc -c ../broken.c; cd ../sticky; gcc -I../inc -c ../a.c; stat -c '%a %g' . ../group ../group/*",
            &["gcc"],
        ),
        (
            "read-only output",
            "mkdir ro; touch ro/a.o; chmod 444 ro/a.o; gcc -Iinc -c a.c -o ro/a.o; echo $?; gcc -Iinc -c a.c -o no/a.o; echo $?",
            &["gcc"],
        ),
    ];
    let mut cases: Vec<_> = compilers
        .into_iter()
        .map(|(name, script, walked)| Case::with(&[], name, script).setup(C).walks(walked))
        .collect();
    cases.extend([
        Case::with(&[], "make with pattern rules, -j", "make -j4 2>&1 | sort; touch -d @1000000000 *.o; make; ./prog").setup(PROJECT).walks(&["cc"]),
        Case::with(&[], "make -n, -q, -t", "make -n; make -q; echo $?; make -s; make -q; echo $?; sleep 0.02; touch b.c; make -q; echo $?; make").setup(PROJECT).walks(&["cc"]),
    ]);
    let both = [
        (
            "gcc, all of it",
            C,
            "gcc -Iinc a.c -o prog && ./prog; echo $?; gcc -E -Iinc a.c | wc -l; gcc -dumpmachine",
        ),
        (
            "python script",
            "printf 'import sys, json, os\\nprint(json.dumps(sorted(os.listdir(\".\"))), len(sys.argv))\\nopen(\"out\", \"w\").write(\"x\" * 100)\\nsys.exit(4)\\n' >s.py",
            "/usr/bin/python3 s.py a b; echo $?",
        ),
        (
            "python imports its own module",
            "mkdir m; echo 'x = 5' >m/__init__.py",
            "PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -c 'import m; print(m.x)'",
        ),
        (
            "perl script",
            "printf '#!/usr/bin/perl\\nuse strict; use File::Temp; use POSIX;\\nprint join(q(,), sort glob(q(*))), qq(\\\\n); exit 3' >s.pl; chmod +x s.pl",
            "./s.pl; echo $?",
        ),
        (
            "tar",
            "mkdir -p d/e; echo a >d/a; ln d/a d/b; ln -s a d/e/l; chmod 700 d/e; touch -d @1000000000 d/a",
            "tar cf t.tar d; tar tf t.tar | sort >list; mkdir x; tar xpf t.tar -C x; touch -d @1000000000 d x/d d/e x/d/e; tar czf t.tgz --sort=name --mtime=@0 d; rm -r d; tar xf t.tar; touch -d @1000000000 d d/e d/b; rm t.tar t.tgz",
        ),
        (
            "sed -i",
            "echo old >f; ln f g; chmod 640 f",
            "sed -i s/old/new/ f; cat f g; sed -i.bak s/new/newer/ f; ls",
        ),
        (
            "sort",
            "seq 1 50000 | awk '{ print ($1 * 7919) % 50021 }' >in",
            "sort -n in | md5sum; sort -n -o in in; head -n 2 in; sort -S 100k in | tail -n 1",
        ),
        (
            "awk",
            "seq 1 100 >in",
            "awk '{ print > (\"out\" $1 % 3) } END { print NR; system(\"echo sub\"); \"echo cmd\" | getline x; print x }' in; cat out1 | wc -l",
        ),
        (
            "patch and diff",
            "seq 1 50 >a; sed 's/25/x/' a >b",
            "diff -u a b >p; patch -s a p; cmp a b; echo $?; rm -f p",
        ),
        (
            "gzip, xz",
            "seq 1 10000 >a",
            "gzip -k a; zcat a.gz | cmp - a; echo $?; rm a.gz; gzip -n a; ls",
        ),
        (
            "git",
            "",
            "git init -q . && git -c user.name=a -c user.email=b@c commit -q --allow-empty -m x && git log --format=%s && rm -rf .git",
        ),
        (
            "ar, ld and objcopy",
            C,
            "gcc -Iinc -c a.c; ar rcsD lib.a a.o; ar t lib.a; nm lib.a | wc -l; objcopy -S a.o b.o; strip a.o; ld -r a.o b.o -o c.o 2>&1 | wc -c",
        ),
        (
            "configure-like probes",
            "",
            "for h in stdio.h nothing.h; do echo \"#include <$h>\" >conftest.c; if gcc -c conftest.c 2>err; then echo yes; else echo no; fi; rm -f conftest.*; done; rm err",
        ),
        (
            "m4, bc, tr, cut, paste, join",
            "seq 1 5 >a; seq 3 7 >b",
            "join a b; paste a b; cut -c1 b; comm a b; expr 3 + 4; printf '%05d\\n' 42; tr 1-5 a-e <a; tac a; rev b; od -An -tx1 a",
        ),
        (
            "find and xargs and grep -r",
            "mkdir -p d/e; echo needle >d/e/f; echo hay >d/g",
            "grep -r needle . ; find . -type f | sort | xargs cat; find . -name g -delete; find . -newer d/e/f -type f",
        ),
        (
            "dd",
            "",
            "dd if=/dev/zero of=f bs=1M count=3 status=none; dd if=f of=g bs=512 skip=1 count=2 conv=fsync status=none; wc -c f g",
        ),
        (
            "shell functions of all kinds",
            "",
            "set -- a b c; for x; do case $x in b) continue;; esac; echo $x; done | while read y; do echo \"<$y>\"; done; x=$(echo sub; exit 3); echo $x $?; (exit 7); echo $?; trap 'echo bye' EXIT; test -t 0; echo $?; show",
        ),
    ];
    cases
        .extend(both.into_iter().flat_map(|(name, setup, script)| Case::both(name, setup, script)));
    cases
}

const PROJECT: &str = r#"for f in a b c d; do echo "int $f(void) { return 1; }" >$f.c; done
echo 'int a(void), b(void); int main(void) { return a() - b(); }' >main.c
cat >Makefile <<'END'
OBJS = main.o a.o b.o c.o d.o
prog: $(OBJS)
	$(CC) -o $@ $(OBJS)
END"#;
