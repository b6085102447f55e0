//! Cases: places that each machine has of its own, and system directories.

use crate::case::Case;

const C: &str =
    "echo 'int answer(void) { return 42; }' >a.c; echo 'int main(void) { return 7; }' >m.c";
/// Each of these creates a directory for the case in such a place, and removes it at the end.
const MEMORY: &str = "d=/dev/shm/oswalk-case-$$; mkdir $d; trap 'rm -rf $d' EXIT; ";
const RUN: &str = "d=/run/oswalk-case-$$; mkdir $d; trap 'rm -rf $d' EXIT; ";
const OPT: &str = "d=/opt/oswalk-case-$$; mkdir $d; trap 'rm -rf $d' EXIT; ";

const MARKS_SETUP: &str =
    "mkdir -p layer/sub; mknod layer/gone c 0 0; mknod layer/sub/gone c 0 0; echo f >layer/f";
const MARKS: &str = "test -e layer/gone; echo $?; mkdir layer/gone; echo $?; rmdir layer/sub; echo $?; ls -l layer/gone | cut -c1; rm -r layer; ls";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::with(
            &[],
            "temporary files on a disk in memory",
            "export TMPDIR=/dev/shm; gcc -shared -fPIC a.c -o liba.so; nm -D liba.so | grep -c ' T answer'; gcc m.c -o m; ./m; echo $?; gcc -c a.c; nm a.o",
        )
        .walks(&["gcc"])
        .stays(&[("cc1", "place"), ("gcc", "link")]),
        Case::with(
            &[],
            "a compile step whose place for temporary files is /dev/shm walks",
            "TMPDIR=/dev/shm gcc -c a.c; nm a.o",
        )
        .walks(&["gcc"]),
        Case::each("a file that is left in /dev/shm", "python3 -c 'open(\"/dev/shm/oswalk-left\", \"w\").write(\"x\")'; cat /dev/shm/oswalk-left; rm /dev/shm/oswalk-left")
            .stays(&[("python3", "place"), ("cat", "place"), ("rm", "place")]),
        Case::each("input from /dev/shm", "f=/dev/shm/oswalk-input-$$; seq 3 >$f; sort -r <$f; rm -f $f")
            .walks(&["sort"]),
        Case::with(&[], "a fifo as a source stays", "mkfifo f; cat a.c >f & gcc -x c -c f -o a.o; wait; nm a.o")
            .stays(&[("gcc", "descriptor"), ("cc1", "descriptor")]),
        Case::with(&[], "standard input by a link stays", "ln -s /dev/stdin in.c; ln -s /dev/fd fds; echo 'int x;' | gcc -c in.c; nm in.o; echo 'int y;' | gcc -c -x c fds/0 -o y.o; nm y.o; up=$(pwd | sed 's,/[^/]*,../,g'); echo 'int z;' | gcc -c -x c ${up}dev/stdin -o z.o; nm z.o; ln -s /dev/stdin r.rs; echo 'pub fn f() {}' | rustc --crate-type lib --crate-name r --emit obj r.rs; test -s r.o; echo $?; rm in.c fds r.rs")
            .stays(&[("gcc", "stdin"), ("rustc", "stdin")]),
        Case::with(&[], "specs and configuration files that are not the system's stay", "printf -- '-march=native\\n' >n.cfg; printf '*cc1:\\n+ -march=native\\n' >n.specs; clang --config ./n.cfg -c a.c -o b.o; gcc -specs=./n.specs -c a.c -o c.o; ls; rm n.cfg n.specs")
            .stays(&[("gcc", "response-file"), ("clang", "response-file")]),
        Case::with(&[], "a map of rustc's linker in /opt", "d=/opt/oswalk-case-$$; mkdir $d; echo 'fn main() {}' >m.rs; rustc m.rs -C link-arg=-Wl,-Map=$d/m.map; echo $?; test -s $d/m.map; echo $?; rm -rf $d m")
            .walks(&["rustc"]),
        Case::with(&[], "the width of a terminal", "printf 'int f(void) { /* %s */ return undeclared; }\\n' \"$(printf 'x%.0s' $(seq 200))\" >wide.c; TERM=xterm script -qec 'stty cols 80; gcc -c wide.c; true' /dev/null </dev/null")
            .walks(&["gcc"]),
        Case::with(&[], "clang's serialized diagnostics", "clang -c a.c --serialize-diagnostics a.dia; ls; test -s a.dia; echo $?")
            .walks(&["clang"]),
    ];
    for (dir, prelude) in [("/dev/shm", MEMORY), ("/run", RUN)] {
        let case = |name: &str, script: &str| {
            Case::with(&[], &format!("{name} in {dir}"), &format!("{prelude}{script}"))
                .stays(&[("gcc", "place")])
        };
        cases.push(case("a header that is a link to one", "echo 'int one;' >$d/h.h; mkdir one two; ln -s $d/h.h one/h.h; echo 'int two;' >two/h.h; echo '#include <h.h>' >i.c; gcc -Ione -Itwo -c i.c; nm i.o; rm -r one"));
        cases.push(case("a directory of headers that is a link to one", "echo 'int one;' >$d/h.h; mkdir inc; ln -s $d inc/gen; printf '#if __has_include(<gen/h.h>)\n#include <gen/h.h>\n#endif\nint two;\n' >i.c; gcc -Iinc -c i.c; nm i.o; rm -r inc"));
        cases.push(case("what sources include by name", "echo 'int one;' >$d/h.h; printf '#if __has_include(\"%s/h.h\")\nint one;\n#endif\nint two;\n' $d >i.c; gcc -c i.c; nm i.o; rm i.c"));
    }
    cases.push(
        Case::with(&["--walk-all"], "a program that is led into /run", &format!("{RUN}echo x >$d/x; ln -s $d/x l; perl -e 'print -e \"l\" ? \"there\\n\" : \"gone\\n\"'; rm l"))
            .stays(&[("perl", "place")]),
    );
    cases.push(Case::each("devices that overlays take for marks", MARKS).setup(MARKS_SETUP).stays(
        &[
            ("ls", "not-exported"),
            ("mkdir", "not-exported"),
            ("rm", "not-exported"),
            ("rmdir", "not-exported"),
        ],
    ));
    cases.push(
        Case::with(&["--walk", "sh"], "devices that overlays take for marks, as a whole", MARKS)
            .setup(MARKS_SETUP)
            .stays(&[("sh", "not-exported")]),
    );
    let places = [
        ("objects", "gcc -c a.c -o $d/a.o; nm $d/a.o"),
        (
            "rules for make",
            "gcc -MMD -MF$d/a.d -c a.c; wc -l <$d/a.d; gcc -Wp,-MD,$d/b.d -c a.c; grep -c stdc $d/b.d",
        ),
        (
            "headers",
            "echo 'int h;' >$d/h.h; echo '#include <h.h>' >i.c; gcc -I$d -c i.c; nm i.o; CPATH=$d gcc -c i.c; nm i.o",
        ),
        ("a working directory", "cp a.c $d; cd $d; gcc -c a.c; nm a.o"),
        (
            "a link",
            "ln -s $d l; gcc -c a.c -o l/a.o; nm $d/a.o; ln -s $d/b.o b.o; gcc -c a.c -o b.o; nm $d/b.o; rm l b.o",
        ),
        ("an @file", "echo \"-c a.c -o $d/a.o\" >args; gcc @args; nm $d/a.o; rm args"),
        ("logs of dependencies", "DEPENDENCIES_OUTPUT=$d/log gcc -c a.c; wc -l <$d/log"),
        ("rustc", "echo 'pub fn f() {}' >r.rs; rustc --crate-type lib --out-dir $d r.rs; ls $d"),
    ];
    for (name, script) in places {
        for (dir, prelude) in [("/dev/shm", MEMORY), ("/run", RUN), ("/opt", OPT)] {
            let case = Case::with(&[], &format!("{name} in {dir}"), &format!("{prelude}{script}"));
            let program = if name == "rustc" { "rustc" } else { "gcc" };
            cases.push(match (dir, program) {
                ("/opt", "rustc") => case.walks(&["rustc"]),
                ("/opt", _) => case.walks(&["gcc"]),
                (_, "rustc") => case.stays(&[("rustc", "place")]),
                _ => case.stays(&[("gcc", "place")]),
            });
        }
    }
    cases.into_iter().map(|case| case.prelude(&format!("{C}; "))).collect()
}
