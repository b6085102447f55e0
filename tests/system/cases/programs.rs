//! Cases: real programs, such as interpreters, version control, archives, databases and build systems, and
//! programs that change how others are loaded.

use std::path::Path;

use crate::case::Case;
use crate::run::seconds;

pub(crate) fn cases() -> Vec<Case> {
    [interpreters(), git(), archives(), databases(), builds(), loaders(), limits()]
        .into_iter()
        .flatten()
        .collect()
}

fn both(list: &[(&str, &str, &str)]) -> Vec<Case> {
    list.iter().flat_map(|(name, setup, script)| Case::both(name, setup, script)).collect()
}

fn interpreters() -> Vec<Case> {
    let mut cases = both(&[
        (
            "python: processes, threads, temporary files",
            "",
            r#"/usr/bin/python3 - <<'END'
import concurrent.futures as f, multiprocessing as m, os, subprocess, tempfile, threading
def square(x): return x * x
with m.Pool(3) as pool: print(pool.map(square, range(20)))
with f.ThreadPoolExecutor(4) as pool: print(sum(pool.map(square, range(100))))
with tempfile.TemporaryDirectory(dir='.') as d:
    open(os.path.join(d, 'x'), 'w').write('y' * 100000)
    print(subprocess.check_output(['wc', '-c', 'x'], cwd=d))
r, w = os.pipe()
if os.fork() == 0:
    os.write(w, b'from the child'); os._exit(3)
print(os.waitpid(-1, 0)[1], os.read(r, 100))
END"#,
        ),
        (
            "python: packages and compiled modules",
            "mkdir -p p/q; echo 'from .q import x' >p/__init__.py; echo 'x = 1' >p/q/__init__.py; touch -d @1000000000 p/*.py p/q/*.py",
            "/usr/bin/python3 -c 'import p; print(p.x)'; /usr/bin/python3 -m compileall -q -f --invalidation-mode unchecked-hash p; /usr/bin/python3 -m zipfile -c z.zip p/q/__init__.py; /usr/bin/python3 -m zipfile -l z.zip; PYTHONPATH=z.zip /usr/bin/python3 -c 'import p.q; print(p.q.__file__)'",
        ),
        (
            "perl: in place, pipes, locks",
            "seq 1 100 >a; cp a b",
            r#"perl -pi.old -e 's/5/five/' a b; perl -e 'open P, q(-|), qw(sort -rn b.old) or die; print scalar(<P>); close P; print $? >> 8, qq(\n)'; perl -MFcntl=:flock -e 'open F, q(>>), q(l); flock F, LOCK_EX; for (1..4) { next if fork; print F qq($_\n); exit } 1 while wait > 0; close F; open F, q(<), q(l); print sort <F>'; rm l"#,
        ),
        (
            "perl: sockets within a walk",
            "",
            r#"perl -MIO::Socket::INET -MIO::Socket::UNIX -e '
for my $l (IO::Socket::INET->new(Listen => 1, LocalAddr => q(127.0.0.1)), IO::Socket::UNIX->new(Listen => 1, Local => q(s))) {
  if (!fork) { my $c = $l->isa(q(IO::Socket::INET)) ? IO::Socket::INET->new(PeerAddr => q(127.0.0.1), PeerPort => $l->sockport) : IO::Socket::UNIX->new(Peer => q(s)); print $c qq(hello\n); exit }
  my $c = $l->accept; print <$c>; wait }
unlink q(s)'"#,
        ),
    ]);
    cases.extend(both(&[(
        "java",
        JAVA,
        "javac -J-XX:-UsePerfData -d classes *.java && \
         jar -J-XX:-UsePerfData --create --file a.jar --date=2001-02-03T04:05:06Z -C classes . && \
         java -Xmx64m -XX:-UsePerfData -cp a.jar Main a b; echo $?",
    )]));
    cases
}

// A Java machine removes what others, whose processes it does not see, have in /tmp/hsperfdata_USER. Without these files two of them
// do not conflict.
const JAVA: &str = r#"cat >Main.java <<'END'
import java.nio.file.*;
import java.util.stream.*;
class Main {
  record Pair(int a, String b) {}
  public static void main(String[] args) throws Exception {
    System.out.println(IntStream.range(0, 1000).parallel().mapToObj(Integer::toString).collect(Collectors.joining()).hashCode());
    Files.writeString(Path.of("out"), new Pair(args.length, args[0]).toString());
    System.err.println(Other.name());
    System.exit(3);
  }
}
END
echo 'class Other { static String name() { return Other.class.getName(); } }' >Other.java"#;

/// Sets an identity and a fixed time for Git. Its index contains inode numbers and times.
const GIT: &str = "export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@x GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@x GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000'\n";

fn git() -> Vec<Case> {
    both(&[
        (
            "git: commits and branches",
            "",
            r#"git init -q -b main r; cd r; git config pack.threads 1
mkdir d; echo one >a; echo two >d/b; ln -s a l; cp a x; chmod +x x
git add . && git commit -q -m first && git status --short && git log --stat --format='%H %s'
git checkout -q -b side; echo three >>a; git rm -q d/b; git commit -q -am second; git diff --stat main
git checkout -q main; cat a d/b; echo four >e; git add e; git commit -q -m third
git merge -q -m merge side; git log --graph --oneline; cat a; ls
echo dirty >>a; git stash -q; git stash pop -q; git diff | cat; git checkout -q -- a
git tag v1; git describe --always; git grep -n o main -- a; git blame -s e
git fsck --no-progress; git status --short; rm .git/index
# Git renews the time of an object or not, as its own clock has it.
find .git/objects -type f -exec touch -d @1000000000 {} +"#,
        ),
        (
            "git: gc, clone, worktree, archive",
            r#"git init -q -b main r; cd r; git config pack.threads 1
for i in $(seq 30); do seq $i >f$i; git add f$i; git commit -q -m "$i"; done; rm .git/index; git reset -q --hard"#,
            r#"cd r; git gc -q --prune=now; git count-objects -v | grep -v size; ls .git/objects/pack | wc -l
git clone -q --bare . ../bare.git; git -C ../bare.git log --oneline | wc -l; git clone -q ../bare.git ../copy; git -C ../copy status -sb
git worktree add -q ../tree HEAD~5; ls ../tree | wc -l; git archive --format=tar HEAD | tar t | wc -l; git rev-list --all | git cat-file --batch-check | md5sum
git -C ../copy gc -q; git -C ../copy fsck --no-progress; rm -rf ../tree .git/worktrees; rm .git/index ../copy/.git/index
# They are written in the order in which the file system lists them.
find ../copy/.git/logs -type f -exec touch -d @1000000000 {} +"#,
        ),
    ])
    .into_iter()
    .map(|case| case.prelude(GIT))
    .collect()
}

fn archives() -> Vec<Case> {
    both(&[
        (
            "tar with fixed metadata",
            "mkdir -p d/e; seq 1 1000 >d/a; : >d/empty; ln -s a d/l; chmod 4750 d/a; chmod 2770 d/e; head -c 300000 /dev/zero >d/e/z",
            "tar cf t.tar --sort=name --mtime=@1000000000 --owner=5:5 --group=6:6 --numeric-owner d; tar tvf t.tar; mkdir x; tar cf - d | tar xf - -C x; cmp d/a x/d/a; tar xpf t.tar --same-owner -C x --strip-components=1 d/e; tar df t.tar d/empty | wc -l; tar --delete -f t.tar d/l; tar cJf t.txz --sort=name --mtime=@0 d; tar xOf t.txz d/a | md5sum; touch -d @1000000000 d d/e x x/d x/d/e x/d/* x/d/e/*",
        ),
        // `-@-1`: by default rsync leaves a time alone that is in the right second, and a write's time may move into the next one.
        (
            "rsync -a between directories",
            "mkdir -p a/d/e; seq 1 5000 >a/f; echo x >a/d/g; ln -s ../f a/d/e/l; chmod 711 a/d/e; chmod 640 a/f; touch -d @1000000000 a/f a/d/g a/d a/d/e; chown 5:6 a/d/g",
            "rsync -@-1 -a a/ b; rsync -@-1 -ai a/ b; echo more >>a/f; rm a/d/g; touch -d @1100000000 a/f; rsync -@-1 -ai --delete a/ b; rsync -@-1 -ac --inplace a/ b; rsync -@-1 -a --no-links --link-dest=../b a/ c; stat -c '%a %u %g %Y' b/f b/d/e; find c -type f -links +1 | wc -l; touch -d @1200000000 a/d b/d c/d b/d/e c/d/e",
        ),
        (
            "times copied from what has just changed",
            "mkdir a; echo x >a/f",
            "for i in 1 2 3 4 5 6 7 8; do touch a a/f; rm -rf b; rsync -@-1 -a a/ b; rsync -@-1 -ai a/ b; cp -p a/f c; [ c -nt a/f ] || [ c -ot a/f ] && echo c; done; touch -d @1000000000 a a/f b b/f c",
        ),
        (
            "dpkg-deb",
            "mkdir -p p/DEBIAN p/usr/share/x; printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@x>\\nDescription: x\\n' >p/DEBIAN/control; seq 1 10000 >p/usr/share/x/f; find p | xargs touch -d @1000000000",
            "SOURCE_DATE_EPOCH=1000000000 dpkg-deb --root-owner-group --build p x.deb; dpkg-deb -c x.deb; dpkg-deb -I x.deb; dpkg-deb -x x.deb out; md5sum out/usr/share/x/f",
        ),
        (
            "find -exec and xargs -P",
            "mkdir d; for i in $(seq 40); do seq $i >d/$i; done",
            "find d -name '?' -exec sh -c 'wc -l <\"$1\"' sh {} \\; | sort; find d -name '1?' -exec gzip -n {} +; find d -execdir test -f {} \\; -print | wc -l; ls d | xargs -P4 -n3 sh -c 'cd d; cat \"$@\" | wc -c' sh | sort; seq 20 | xargs -P5 -I% sh -c 'echo % >d/n%'; touch -d @1000000000 d/*; xargs -P3 -n1 sh -c 'exit 3' </etc/hostname; echo $?",
        ),
    ])
    .into_iter()
    .chain([
        Case::with(&["--walk", "show"], "xargs -P starts walks at once", "seq 60 | xargs -P8 -n2 show | grep -c argv; seq 12 | SHOW_EXIT=5 xargs -P6 -n1 show >/dev/null; echo $?").walks(&["show"]),
        Case::with(&["--walk", "gzip"], "find -exec starts walks", "find d -type f -exec gzip -n {} \\;; find d -name '*.gz' -exec gzip -d {} +; ls d").setup("mkdir d; for i in 1 2 3 4 5; do seq $i >d/$i; done").walks(&["gzip"]),
    ])
    .collect()
}

fn databases() -> Vec<Case> {
    both(&[
        (
            "sqlite3",
            "",
            r#"sqlite3 a.db 'create table t (a integer primary key, b text); insert into t values (1, "one"), (2, "two"); select * from t'
sqlite3 a.db 'begin; insert into t values (3, "three"); rollback; select count(*) from t; begin; insert into t values (4, "four"); commit'
sqlite3 a.db 'with recursive n(i) as (select 10 union all select i + 1 from n where i < 5000) insert into t select i, hex(i * i) from n; select count(*), sum(length(b)) from t; create index i on t (b); vacuum'
sqlite3 a.db '.dump' | md5sum; sqlite3 a.db 'insert into t values (1, "again")'; echo $?; sqlite3 a.db 'pragma integrity_check'"#,
        ),
        (
            "sqlite3 with a write-ahead log",
            "sqlite3 a.db 'pragma journal_mode=wal; create table t (a)'",
            "sqlite3 a.db 'insert into t values (1), (2); select sum(a) from t'; sqlite3 a.db 'pragma wal_checkpoint; insert into t values (7); select sum(a) from t'; sqlite3 a.db 'pragma journal_mode=delete'; ls",
        ),
        (
            "python's dbm and sqlite3",
            "",
            "/usr/bin/python3 -c 'import dbm.dumb, sqlite3\nwith dbm.dumb.open(\"d\") as d: d[\"k\"] = \"v\" * 1000\nc = sqlite3.connect(\"p.db\", isolation_level=None); c.execute(\"create table t (x)\"); c.execute(\"begin exclusive\"); c.executemany(\"insert into t values (?)\", [(i,) for i in range(1000)]); c.execute(\"commit\"); print(c.execute(\"select sum(x) from t\").fetchone())'; /usr/bin/python3 -c 'import dbm.dumb; print(len(dbm.dumb.open(\"d\")[\"k\"]))'",
        ),
    ])
}

/// Removes what a build system records about the machine, the time and itself.
const FORGET: &str = "; rm -rf build/CMakeFiles/CMake*.log build/CMakeFiles/CMakeConfigureLog.yaml build/CMakeFiles/[0-9]* build/.ninja_* build/meson-* build/compile_commands.json; find build -type f -exec touch -d @1000000000 {} +";

fn builds() -> Vec<Case> {
    let build = |options, name: &str, setup, script: &str| {
        Case::with(options, name, script).setup(setup).epilogue(FORGET)
    };
    const CMAKE: &str =
        "cmake -B build -G Ninja -DCMAKE_BUILD_TYPE=Release . | sed 's/ ([0-9.]*s)//'";
    let cmake = &[CMAKE, "; ninja -C build | tail -n 1; build/main; echo $?; sleep 0.02; touch two.c; ninja -C build | tail -n 1; ninja -C build -t clean | tail -n 1; ls build"].concat();
    vec![
        build(&[], "cmake and ninja, compile steps", CMAKE_PROJECT, cmake).walks(&["cc"]),
        build(&["--walk", "sh"], "cmake and ninja, as a whole", CMAKE_PROJECT, cmake).walks(&["sh"]),
        build(&[], "cmake and make, compile steps", CMAKE_PROJECT, "cmake -B build . >/dev/null; cmake --build build -j4 | sort | tail -n 3; build/main; echo $?").walks(&["cc"]),
        build(&[], "meson, compile steps", MESON_PROJECT, MESON).walks(&["cc"]),
        build(&["--walk", "sh"], "meson, as a whole", MESON_PROJECT, MESON).walks(&["sh"]),
        // On one node, since a node's first rustc takes hundreds of megabytes.
        cargo(&[], "cargo, compile steps", "2>/dev/null").walks(&["rustc"]),
        cargo(&[], "cargo, compile steps, and what they say", "").walks(&["rustc"]),
        cargo(&["--walk", "sh"], "cargo, as a whole", "").walks(&["sh"]),
        Case::with(&[], "make in make with a jobserver", "make -j4 -s; cat */out | sort; make -j2 -s; env -i PATH=\"$PATH\" make -s -C a again; touch -d @1000000000 */*").setup(MAKE_PROJECT).walks(&["gcc"]),
        Case::whole("make in make with a jobserver", "make -j4 -s; cat */out | sort; make -j2 -s; touch -d @1000000000 */*").setup(MAKE_PROJECT),
    ]
}

pub(crate) const CMAKE_PROJECT: &str = r#"cat >CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.18)
project(x C)
include(CheckIncludeFile)
check_include_file(stdio.h HAVE_STDIO)
check_include_file(nothing.h HAVE_NOTHING)
configure_file(config.h.in config.h)
add_custom_command(OUTPUT made.c COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_SOURCE_DIR}/three.c made.c)
add_library(two STATIC two.c made.c)
add_executable(main main.c)
target_include_directories(main PRIVATE ${CMAKE_BINARY_DIR})
target_link_libraries(main two)
END
printf '#cmakedefine HAVE_STDIO\n#cmakedefine HAVE_NOTHING\n' >config.h.in
printf '#include "config.h"\n#include <stdio.h>\nint two(void); int main(void) { printf("%%d\\n", two()); return two(); }\n' >main.c
echo 'int made = 3;' >three.c
echo 'extern int made; int two(void) { return 2 + made; }' >two.c"#;

/// Names the compilers, since Meson otherwise runs them through a ccache or sccache that it finds.
const MESON: &str = "CC=cc meson setup build >/dev/null; echo $?; ninja -C build | tail -n 1 | cut -c1-6; build/main; echo $?; ls build/libtwo.a.p";
const MESON_PROJECT: &str = r#"cat >meson.build <<'END'
project('x', 'c', default_options: ['b_pch=false'])
two = static_library('two', 'two.c')
executable('main', 'main.c', link_with: two)
END
echo 'int two(void); int main(void) { return two(); }' >main.c
echo 'int two(void) { return 2; }' >two.c"#;

/// Builds a workspace without dependencies, so that nothing is fetched.
fn cargo(options: &'static [&'static str], name: &str, said: &str) -> Case {
    let script = CARGO.replace("cargo build", &format!("cargo build -q --offline -j4 {said}"));
    Case::with(options, name, &script).setup(CARGO_PROJECT).on("n1").within(seconds(90))
}

const CARGO: &str = "export CARGO_HOME=$PWD/home CARGO_INCREMENTAL=0; cargo build; target/debug/main; echo $?; cargo build; sed -i s/41/42/ two/src/lib.rs; cargo build; target/debug/main; echo $?; echo 'fn main() { two::no() }' >main/src/main.rs; cargo build; echo $?; rm -rf home target/.rustc_info.json target/debug/.fingerprint target/debug/*.d";
pub(crate) const CARGO_PROJECT: &str = r#"mkdir -p main/src two/src
printf '[workspace]\nresolver = "2"\nmembers = ["main", "two"]\n' >Cargo.toml
printf '[package]\nname = "main"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\ntwo = { path = "../two" }\n' >main/Cargo.toml
printf '[package]\nname = "two"\nversion = "0.1.0"\nedition = "2021"\n' >two/Cargo.toml
echo 'fn main() { println!("{:?}", two::two()); std::process::exit(two::two()) }' >main/src/main.rs
echo 'pub fn two() -> i32 { 41 }' >two/src/lib.rs
echo 'fn main() { println!("cargo:rerun-if-changed=build.rs"); }' >two/build.rs"#;

const MAKE_PROJECT: &str = r#"for d in a b c; do mkdir $d
printf 'out: x.o y.o z.o\n\tsize x.o y.o z.o | wc -l >out\n%%.o: %%.c\n\tgcc -c $< -o $@\nagain:\n\tgcc -c x.c -o again.o\n' >$d/Makefile
for f in x y z; do echo "int $f = 1;" >$d/$f.c; done; done
printf 'all: a b c\na b c:\n\t$(MAKE) -C $@\n.PHONY: a b c\n' >Makefile"#;

fn loaders() -> Vec<Case> {
    const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
    let mut cases = both(&[
        (
            "AddressSanitizer",
            SANITIZED,
            "./fine; echo $?; ./over 2>&1 | grep -c heap-buffer-overflow; ./over 2>/dev/null; echo $?; ./leak 2>&1 | grep -c 'detected memory leaks'; ASAN_OPTIONS=detect_leaks=0 ./leak; echo $?",
        ),
        (
            "UndefinedBehaviorSanitizer",
            SANITIZED,
            "./undefined; echo $?; UBSAN_OPTIONS=halt_on_error=1 ./undefined; echo $?",
        ),
    ]);
    cases.extend([
        Case::with(&[], "AddressSanitizer at the origin", "./fine; echo $?; ./over 2>&1 | grep -c heap-buffer-overflow; ./leak 2>&1 | grep -c 'detected memory leaks'").setup(SANITIZED).stays(&[("fine", "unlisted")]),
        Case::whole("fakeroot", FAKEROOT).setup("touch f"),
        Case::with(&[], "compile steps under fakeroot", "fakeroot sh -c 'timeout 3 gcc -c a.c; echo $?; chown 5:6 a.c; stat -c \"%u %g\" a.c'; ls").setup("echo 'int a;' >a.c").stays(&[("gcc", "foreign-preload"), ("cc1", "foreign-preload"), ("as", "link")]),
        Case::with(&[], "compile steps with an allocator", "export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2; gcc -c a.c; echo $?; ls").setup("echo 'int a;' >a.c").walks(&["gcc"]),
        Case::with(&["--walk-all", "--stay", "python3*"], "a terminal that hangs up", HANG_UP).walks(&["cat"]),
        Case::each("chroot", CHROOT).setup(JAIL),
        Case::each("out of a changed root", LEAVE_ROOT),
        Case::with(&["--walk-all", "--stay", "chroot"], "chroot that stays", CHROOT).setup(JAIL).stays(&[("chroot", "rule")]),
    ]);
    if Path::new(JEMALLOC).exists() {
        cases.extend(both(&[("jemalloc, preloaded and linked", "echo '#include <stdlib.h>\n#include <stdio.h>\nint main(void) { char *p = 0; for (int i = 1; i < 3000; i++) { p = realloc(p, i * 100); p[i] = 1; } free(p); puts(\"fine\"); return 6; }' >a.c; gcc -O0 a.c -o a; gcc -O0 a.c -o linked /usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 ./a; echo $?; MALLOC_CONF=tcache:false ./linked; echo $?; LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 sort -r a.c | md5sum; ldd linked | grep -c jemalloc")]));
    }
    cases
}

const FAKEROOT: &str = r#"fakeroot sh -c 'chown 5:6 f; mknod d c 1 3; mkdir x; chmod 700 x; stat -c "%u %g %F" f d; tar cf t.tar --mtime=@0 f x; ls -n t.tar | cut -c1-10; id -u'; stat -c %u f; tar tvf t.tar; fakeroot sh -c 'exit 4'; echo $?; rm -f d"#;

const HANG_UP: &str = r#"/usr/bin/python3 -c '
import os, pty, subprocess, tty
master, slave = pty.openpty()
tty.setraw(slave)
cat = subprocess.Popen(["cat"], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL)
os.close(slave)
os.write(master, b"x")
print(os.read(master, 1))
os.close(master)
print(cat.wait(timeout=9) in (0, 1)) # An end or an error, whichever the kernel says first.
'"#;

const SANITIZED: &str = r#"echo 'int main(void) { return 5; }' >fine.c
echo '#include <stdlib.h>
int main(int c, char **v) { char *p = malloc(8 + c); p[8 + c] = 1; return 0; }' >over.c
echo '#include <stdlib.h>
int main(void) { void *volatile p = malloc(100); p = 0; return 0; }' >leak.c
echo 'int main(int c, char **v) { int x = 0x7fffffff; x += c; return x == 1; }' >undefined.c
for f in fine over leak; do gcc -O0 -fsanitize=address $f.c -o $f; done
gcc -g -fsanitize=undefined undefined.c -o undefined"#;

const CHROOT: &str =
    "chroot jail /bin/sh -c 'echo inside; echo /*; echo new >/made; exit 3'; echo $?; ls jail";
/// Root escapes from a chroot: to the walk's root, not to the runner's.
const LEAVE_ROOT: &str = "perl -MCwd -e '$here = getcwd; mkdir q(in); opendir $d, q(/); chroot q(in) or die; chdir $d; chdir q(..) for 1..20; chroot q(.); print -d qq($here/in) ? qq(back\n) : qq(lost\n); print -e q(/lower) || -e q(/layers) ? qq(layers\n) : qq(none\n)'";
const JAIL: &str = "mkdir jail; for f in /bin/sh $(ldd /bin/sh | grep -o '/[^ ]*'); do mkdir -p jail${f%/*}; cp -L $f jail$f; done";

fn limits() -> Vec<Case> {
    both(&[
        (
            "paths longer than PATH_MAX",
            "",
            "python3 -c 'import os, subprocess as s\nfor i in range(60): os.mkdir(\"n\" * 200); os.chdir(\"n\" * 200)\nopen(\"f\", \"w\").write(\"deep\"); print(s.call([\"cat\", \"f\"]))\ntry: os.getcwd(); print(\"named\")\nexcept OSError as e: print(e.errno)\nfor i in range(60): os.chdir(\"..\")\ns.call(\"find . -type d | wc -l; find . -name f | wc -c; rm -rf n*; ls\", shell=True)'",
        ),
        (
            "mapped files",
            "head -c 100000 /dev/zero >old; head -c 4096 /dev/zero >shrink",
            r#"python3 - <<'END'
import mmap, os
f = open('new', 'w+b'); f.write(b'-' * 50000); f.flush(); m = mmap.mmap(f.fileno(), 0)
m[0:3] = b'abc'; m.flush(); m[49990:] = b'0123456789'; f.seek(0); print(f.read(3)); f.seek(49990); print(f.read())
g = open('old', 'r+b'); n = mmap.mmap(g.fileno(), 0); n[70000:70004] = b'late'
if os.fork() == 0: n[5:6] = b'c'; os._exit(0)
os.wait(); print(n[5:6], n[70000:70004])
p = mmap.mmap(g.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE); p[9:10] = b'x'; print(n[9:10])
h = open('shrink', 'r+b'); q = mmap.mmap(h.fileno(), 4096); q[0:1] = b'q'; h.truncate(10); q.close()
END
md5sum new old shrink"#,
        ),
        (
            "O_APPEND",
            "printf start >f",
            r#"python3 - <<'END'
import os
a = os.open('f', os.O_WRONLY | os.O_APPEND); b = os.open('f', os.O_WRONLY | os.O_APPEND); c = os.open('f', os.O_RDWR)
os.write(a, b'A'); os.write(b, b'B'); os.lseek(a, 0, 0); os.write(a, b'C'); os.write(c, b'S'); os.pwrite(c, b'x', 2); os.write(b, b'D')
for i in range(4):
    if os.fork() == 0: [os.write(a, b'.') for _ in range(100)]; os._exit(0)
for i in range(4): os.wait()
os.ftruncate(c, 300); os.write(a, b'end'); print(os.fstat(a).st_size, os.pread(c, 20, 0))
END
for i in 1 2 3; do echo $i | tee -a g; done; cat g"#,
        ),
        (
            "special modes",
            "touch a b c; chmod 0 a; chmod 222 b; chmod 7777 c; mkdir none sticky group; touch none/f sticky/f; chmod 0 none; chmod 1777 sticky; chgrp 7 group; chmod 2775 group",
            "cat a; echo x | tee a b >/dev/null; stat -c '%a %s %n' a b c; ls none; touch none/g group/f; mkdir group/d; stat -c '%a %g' group/f group/d; rm sticky/f; (umask 777; touch z; mkdir y; echo w | tee v >/dev/null); stat -c '%a %n' z y v; chown 5 c; stat -c %a c; install -m 6711 b i; mkfifo -m 1604 p",
        ),
        (
            "an argument and a variable of 120 kB",
            "",
            r#"x=$(printf %120000s x | tr ' ' '\377'); SHOW_X=$x show "$x" | md5sum; python3 -c 'import os, sys; print(len(os.fsencode(sys.argv[1])))' "$x""#,
        ),
        (
            "the directory is deleted under a program",
            "",
            "mkdir d; perl -e 'chdir q(d); rmdir q(../d) or die; print -e q(.) ? 1 : 0; open F, q(>), q(x) or print $!+0; opendir D, q(.); print scalar(my @n = readdir D), qq(\\n); system q(cat ../f; echo $?)'; ls",
        ),
    ])
    .into_iter()
    .chain([
        Case::whole("100,000 entries", ENTRIES).setup("echo 100000 >count").within(seconds(90)),
        Case::each("10,000 entries", ENTRIES).setup("echo 10000 >count"),
        Case::each("a directory's time is set to what it was", "python3 -c 'import os; os.unlink(\"d/f\"); os.utime(\"d\", (1000000000, 1000000000))'").setup("mkdir d; touch d/f; touch -d @1000000000 d"),
        Case::each("a hard link to a symbolic link", "ln -P l m; stat -c %h l m").setup("ln -s x l"),
        Case::each("input that a program does not read is left to the next", "seq 3 | (perl -e 'vec($r, 0, 1) = 1; select $r, undef, undef, undef'; cat)"),
        Case::each("the size of a new directory", "perl -e 'mkdir q(d); print -s q(d)'"),
    ])
    .collect()
}

const ENTRIES: &str = r#"python3 -c 'import os; os.mkdir("d")
for i in range(int(open("count").read())): os.close(os.open("d/%d" % i, os.O_CREAT))'
ls d | wc -l; ls -f d | sort | md5sum; find d -name '*99' | wc -l; rm -r d; ls"#;
