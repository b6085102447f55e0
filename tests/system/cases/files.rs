//! Cases: operations on files.

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let both = [
        (
            "create",
            "",
            "touch empty; cp /etc/passwd copy; seq 1 5 | tee small >/dev/null; dd if=/dev/zero of=zeros bs=1000 count=7 2>/dev/null",
        ),
        (
            "truncate",
            "echo content >f; ln f g",
            "truncate -s 3 f; cat f g; truncate -s 100 f; wc -c f g; dd if=/dev/null of=g 2>/dev/null; wc -c f g",
        ),
        (
            "append",
            "echo one >f; ln f g",
            "perl -e 'open F, q(>>), q(f); print F qq(two\\n)'; cat f g",
        ),
        (
            "write in place",
            "printf 'abcdefghij' >f; ln f g",
            "printf XY | dd of=f bs=1 seek=3 conv=notrunc 2>/dev/null; cat f g; perl -e 'open F, q(+<), q(f); seek F, 8, 0; print F q(Z)'; cat g",
        ),
        (
            "overwrite as the shell does",
            "echo old content >f; ln f g",
            "cp /etc/hostname f; cat g | wc -c; perl -e 'open F, q(>), q(f); print F q(new)'; cat g",
        ),
        ("rename over", "echo old >f; ln f g; echo new >h", "mv h f; cat f g; ls"),
        (
            "replace through a temporary file",
            "echo old >f; ln f g",
            "sed s/old/new/ f >f.tmp && mv f.tmp f; cat f g",
        ),
        ("rename in place", "echo a >a; mkdir d", "mv a b; mv b d/c; cat d/c; ls . d"),
        (
            "delete",
            "touch a b c; mkdir d; touch d/e",
            "rm a; rm -f b nothing; rm c nothing2; echo $?; rm -r d; ls",
        ),
        ("delete and create again", "echo old >f; ln f g", "rm f; echo new >h; mv h f; cat f g"),
        (
            "hard links",
            "echo a >a",
            "ln a b; ln b c; echo more >>c; cat a; rm a; cat b; mkdir d; ln b d/e",
        ),
        ("hard links of new files", "", "cp /etc/hostname a; ln a b; mkdir d; ln a d/c; rm a"),
        (
            "names of one file",
            "echo a >a; ln a b; mkdir d; ln a d/c; ln -s x l; ln l m",
            "stat -c %h a b d/c; test a -ef d/c; echo $?; perl -e 'open F, q(>>), q(a); print F q(b)'; cat b d/c; perl -e 'open F, q(+<), q(d/c); print F q(c)'; cat a; rm a; stat -c %h b; cat b; mv b e; echo f | dd of=e conv=notrunc,fsync oflag=append 2>/dev/null; cat d/c; chmod 600 d/c; stat -c '%a %h' e; ln l n; mv m d/m; test n -ef d/m; echo $?; cp /etc/hostname h; ln h i; ln -f h e; cat e; stat -c %h d/c e l",
        ),
        (
            "written under a name that is gone",
            "echo a >a; ln a b; ln a c; mkdir d; echo d >d/a; ln d/a d/b",
            "perl -e 'open F, q(+<), q(a); print F q(X); close F; unlink q(a)'; cat b c; perl -e 'rename q(d), q(e); open F, q(>>), q(e/a); print F 1; close F; rename q(e/a), q(f); unlink q(e/b); open F, q(>>), q(f); print F 2'; cat f; ls . e; rm -f b; cat c",
        ),
        (
            "symbolic links",
            "echo a >a",
            "ln -s a l; cat l; ln -s /nonexistent broken; cat broken; ln -sfn . l; readlink l; ln -s loop loop; cat loop; echo $?",
        ),
        (
            "write through a symbolic link",
            "echo a >a; ln -s a l; ln -s new m",
            "perl -e 'open F, q(>), q(l); print F q(x)'; cp /etc/hostname m; ls -l | wc -l; cat a",
        ),
        (
            "directories",
            "mkdir old; touch old/f",
            "mkdir new; mkdir -p new/a/b/c; rmdir new/a/b/c; rmdir old; echo $?; mkdir new; echo $?; rm -r old; ls -R",
        ),
        (
            "rename a directory",
            "mkdir -p d/e; echo f >d/e/f; echo g >d/g",
            "mv d moved; cat moved/e/f; mkdir d; ls d moved; mv moved d/; cat d/moved/g",
        ),
        (
            "swap two directories, and what is in them",
            "mkdir -p a/x b/x c; echo a >a/x/f; echo b >b/x/f; echo c >c/f",
            "mv a t; mv b a; mv t b; cat a/x/f b/x/f; mv a/x t; mv b/x a/; mv t b/x; cat a/x/f b/x/f; rm -r c; mv a/x c; rmdir a; mv b a; ls; cat c/f a/x/f",
        ),
        (
            "a directory that replaces its own parent",
            "mkdir -p d/e/g; echo f >d/e/f; echo h >d/h",
            "mv d old; mv old/e d; cat d/f; ls old d; mkdir old/e; mv d/g old/e/; ls old/e",
        ),
        (
            "rename a directory that a walk made",
            "",
            "mkdir a; touch a/f; mv a b; mkdir a; touch a/g; ls a b",
        ),
        (
            "rename over an empty directory",
            "mkdir -p a b; touch a/f",
            "mv -T a b; ls; mkdir c; touch c/x; mv -T b c; echo $?",
        ),
        ("replace a directory", "mkdir d; touch d/a d/b", "rm -r d; mkdir d; touch d/c; ls d"),
        (
            "replace a directory by a file and back",
            "mkdir d; touch d/a f",
            "rm -r d; cp /etc/hostname d; rm f; mkdir f; touch f/x; ls -p",
        ),
        (
            "chmod",
            "touch a; mkdir d",
            "chmod 600 a; chmod 1777 d; chmod u+x a; stat -c '%a %n' a d; cp /bin/true x; chmod 4755 x; mkdir s; chmod 2755 s; touch s/f",
        ),
        (
            "chown",
            "touch a; mkdir d",
            "chown 65534:65534 a; chown 1:2 d; touch d/f; stat -c '%u %g %n' a d; ln -s a l; chown -h 3:4 l",
        ),
        (
            "explicit times",
            "touch a",
            "touch -d '2001-02-03 04:05:06.789 UTC' a; touch -d @1000000000 b; mkdir d; touch -d @999999999 d; ln -s a l; touch -h -d @5 l; stat -c '%y' a b d",
        ),
        (
            "cp -p and cp -a",
            "echo x >a; chmod 640 a; touch -d @1000000000 a; mkdir d; cp -p a d; ln -s a d/l; touch -d @900000000 d",
            "cp -p a b; cp -a d e; stat -c '%a %Y %s' b e/a",
        ),
        (
            "order of times",
            "touch a; sleep 0.02; touch b",
            "sleep 0.02; touch c; sleep 0.02; touch a; sleep 0.02; mkdir d; sleep 0.02; touch d/x; sleep 0.02; touch e; ls -t",
        ),
        (
            "make decides by times",
            "touch in; printf 'out: in\\n\\tcp in out\\nagain: out\\n\\tcp out again\\n' >Makefile",
            "make again; make again; sleep 0.02; touch in; make again; make again",
        ),
        ("fifo", "", "mkfifo p; test -p p; echo $?; mkfifo -m 600 q"),
        (
            "sparse file",
            "",
            "truncate -s 10M s; printf x | dd of=s bs=1 seek=5000000 conv=notrunc 2>/dev/null; cp --sparse=always s t; cmp s t; echo $?",
        ),
        (
            "a sparse file of a terabyte",
            "truncate -s 1T s; printf x | dd of=s bs=1 seek=500000000000 conv=notrunc 2>/dev/null; truncate -s 20M t; ln t u; truncate -s 3000 v",
            "stat -c '%s %b' s t v; python3 -c 'import os; f = os.open(\"s\", os.O_RDONLY); d = os.lseek(f, 0, os.SEEK_DATA); print(d, os.lseek(f, d, os.SEEK_HOLE))'; printf y | dd of=s bs=1 seek=700000000000 conv=notrunc 2>/dev/null; stat -c %s s; tail -c 5 s | od -c; python3 -c 'import os; f = os.open(\"s\", os.O_RDONLY); print(os.pread(f, 2, 500000000000), os.pread(f, 2, 700000000000))'; rm s; printf z | dd of=u bs=1 seek=8000000 conv=notrunc 2>/dev/null; cp --sparse=never t full; cp t w; printf a | dd of=full bs=1 seek=100 conv=notrunc 2>/dev/null; fallocate -p -o 4096 -l 16000000 full; stat -c '%s %b' full w; cmp t u",
        ),
        (
            "sparse file in place",
            "truncate -s 10M s",
            "printf x | dd of=s bs=1 seek=9000000 conv=notrunc 2>/dev/null; wc -c s",
        ),
        ("preallocation", "", "fallocate -l 100000 f; wc -c f; fallocate -n -l 200000 f; wc -c f"),
        (
            "extended attributes",
            "touch a",
            "python3 -c 'import os; os.setxattr(\"a\", \"user.x\", b\"1\"); os.setxattr(\"a\", \"user.y\", b\"\"); print(sorted(os.listxattr(\"a\")), os.getxattr(\"a\", \"user.x\"))'; cp -a a b; python3 -c 'import os; os.removexattr(\"a\", \"user.y\"); os.mkdir(\"d\"); os.setxattr(\"d\", \"user.z\", b\"2\")'",
        ),
        (
            "extended attributes that are there",
            "touch a; python3 -c 'import os; os.setxattr(\"a\", \"user.x\", b\"1\")'",
            "python3 -c 'import os; print(os.getxattr(\"a\", \"user.x\"))'; echo y >>a; perl -e 'open F, q(>>), q(a); print F 1'",
        ),
        (
            "extended attributes change",
            "mkdir d; touch a d/b; ln a c; python3 -c 'import os; [os.setxattr(f, \"user.x\", b\"1\") for f in (\"a\", \"d\", \"d/b\")]; os.setxattr(\"a\", \"user.y\", b\"2\")'",
            "python3 -c 'import os; print(sorted(os.listxattr(\"c\"))); os.removexattr(\"a\", \"user.y\"); os.setxattr(\"d/b\", \"user.x\", b\"3\"); os.removexattr(\"d\", \"user.x\"); os.setxattr(\".\", \"user.here\", b\"4\")'; python3 -c 'import os; print([(f, sorted((n, os.getxattr(f, n)) for n in os.listxattr(f))) for f in (\".\", \"a\", \"c\", \"d\", \"d/b\")])'; mv d e; cp -a e f; python3 -c 'import os; print(os.getxattr(\"f/b\", \"user.x\"), os.listxattr(\"f\"))'; touch a; rm e/b; python3 -c 'import os; os.removexattr(\".\", \"user.here\")'",
        ),
        (
            "access control lists",
            r#"mkdir d p; echo a >a; echo b >p/b; chmod 600 a; chmod 700 p; cat >acl.py <<'END'
import os, struct, sys
def acl(*entries): return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in entries)
NO = 0xffffffff
def user(uid, perm, mask): return acl((1, 7, NO), (2, perm, uid), (4, 0, NO), (0x10, mask, NO), (0x20, 0, NO))
def show(*files):
    for f in files: print(f, oct(os.stat(f).st_mode), [(n, os.getxattr(f, n).hex()) for n in sorted(os.listxattr(f))])
def can(uid, *files):
    print(*(os.waitpid(p, 0)[1] >> 8 for p in [os.fork()] if p or os._exit(go(uid, files))))
def go(uid, files):
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
    try: return sum(1 << i for i, f in enumerate(files) if can_open(f))
    finally: pass
def can_open(f):
    try: open(f).read(); return True
    except OSError: return False
exec(sys.argv[1])
END
python3 acl.py 'os.setxattr("a", "system.posix_acl_access", user(1234, 4, 4)); os.setxattr("p", "system.posix_acl_access", user(1234, 1, 1)); os.setxattr("d", "system.posix_acl_default", user(1234, 6, 6))'; rm -rf __pycache__"#,
            r#"python3 acl.py 'show("a", "p", "d"); can(1234, "a", "p/b"); can(1235, "a", "p/b")'; python3 acl.py 'open("d/new", "w").write("x"); os.mkdir("d/sub"); show("d/new", "d/sub"); os.chmod("a", 0o640); os.setxattr("p", "system.posix_acl_access", user(1235, 1, 1))'; python3 acl.py 'show("d/new", "d/sub", "a", "p"); can(1234, "a", "p/b", "d/new"); can(1235, "a", "p/b"); os.removexattr("a", "system.posix_acl_access")'; python3 acl.py 'show("a"); can(1234, "a")'; echo s >x; chmod 640 x; mv x d/moved; mkdir y; mv y d/z; cp -p a d/kept; python3 acl.py 'show("d/moved", "d/z", "d/kept")'; rm -rf __pycache__"#,
        ),
        (
            "1,000 entries",
            "",
            "mkdir d; cd d; seq 1 1000 | xargs touch; ls | wc -l; rm $(seq 1 2 1000); ls | md5sum",
        ),
        (
            "1,000 entries that are there",
            "mkdir d; cd d; seq 1 1000 | xargs touch",
            "ls d | md5sum; rm d/1*; mv d/2 d/two; ls d | wc -l",
        ),
        (
            "deep paths",
            "",
            "p=$(seq -s / 1 60); mkdir -p $p; echo deep >$p/f; cat $p/f; cd $p; show | tail -n 5; cd ../..; ls",
        ),
        (
            "a path of 200 letters, thrice",
            "",
            "n=$(printf %200s x | tr ' ' n); mkdir -p $n/$n/$n; echo x >$n/$n/$n/$n; cat $n/$n/$n/$n",
        ),
        (
            "names that are not UTF-8",
            r#"touch "$(printf 'in\377')""#,
            r#"ls | od -c; touch "$(printf 'out\376\n')" ' ' '-n'; ls | wc -c; rm "$(printf 'in\377')""#,
        ),
        (
            "names like those of the overlay",
            "",
            "touch .wh.a .wh..wh..opq .fuse_hidden1; mkdir .wh.d; ls -A; rm .wh.a",
        ),
        (
            "large file, changed in the middle",
            "head -c 3000000 /dev/zero | tr '\\0' a >f",
            "printf hello | dd of=f bs=1 seek=1500000 conv=notrunc 2>/dev/null; md5sum f; tail -c 10 f; head -c 2000000 f >g",
        ),
        (
            "mmap",
            "head -c 10000 /dev/zero >f",
            "python3 -c 'import mmap; f=open(\"f\",\"r+b\"); m=mmap.mmap(f.fileno(),0); m[5000:5003]=b\"abc\"; m.flush(); m.close()'; md5sum f",
        ),
        (
            "an unlinked file that is open",
            "echo x >f",
            "perl -e 'open F, q(<), q(f); unlink q(f); print <F>; open G, q(+>), q(g); print G 1; unlink q(g); print -e q(g) ? 1 : 0'; ls",
        ),
        (
            "locks",
            "touch f",
            "flock f echo locked; flock -n f sh -c 'flock -n f true; echo $?'; flock -s f cat f",
        ),
        (
            "read-only file, root",
            "echo a >f; chmod 400 f",
            "perl -e 'open F, q(>>), q(f) or print qq($!\\n); print F q(b)'; cat f",
        ),
        (
            "errors are the same",
            "touch f; mkdir d",
            "cat nothing f/x d; mkdir f d/a/b; rmdir f; ln f d; ln -s x f; mv nothing f; cp f f; rm d; perl -e 'mkdir q(f) or print $!+0; rename q(d), q(d/x) or print $!+0; unlink q(d) or print $!+0; open F, q(>), q(d) or print $!+0'",
        ),
        (
            "O_EXCL and O_NOFOLLOW",
            "touch f; ln -s f l",
            "python3 -c 'import os\nfor p,f in ((\"f\",os.O_EXCL|os.O_CREAT),(\"l\",os.O_NOFOLLOW),(\"n\",os.O_EXCL|os.O_CREAT),(\"d\",os.O_DIRECTORY),(\"f\",os.O_DIRECTORY)):\n  try: os.close(os.open(p,f|os.O_RDWR if not f&os.O_DIRECTORY else f)); print(\"ok\")\n  except OSError as e: print(e.errno)'",
        ),
        (
            "renameat2 exchange",
            "echo a >a; echo b >b",
            "change exchange a 0 x b; cat a b; change exchange a 0 x nothing; ls",
        ),
        (
            "O_TMPFILE",
            "",
            "python3 -c 'import os\ntry:\n  f=os.open(\".\",os.O_TMPFILE|os.O_RDWR,0o600); os.write(f,b\"x\"); os.link(\"/proc/self/fd/%d\"%f,\"named\",follow_symlinks=True)\nexcept OSError as e: print(\"error\")'; test -e named; ls",
        ),
        (
            "du, find and stat agree",
            "mkdir d; echo a >d/a; ln d/a d/b; ln -s a d/c",
            "find . -printf '%y %m %n %s %l %p\\n' | grep -v '^d' | sort; find d -samefile d/a | sort; stat -c '%F %s' d/a d/c",
        ),
        (
            "nothing changes",
            "echo a >a; touch -d @1000000000 a",
            "cat a; ls; grep a a; test a -ef a; echo $?",
        ),
        (
            "nothing changes, though opened for writing",
            "echo a >a; touch -d @1000000000 a",
            "perl -e 'open F, q(+<), q(a); print <F>'; perl -e 'open F, q(>>), q(a)'",
        ),
        (
            "outside of the directory",
            "mkdir in; touch x",
            "cd in; echo y >../x; mv ../x ../z; mkdir ../d; cp /etc/hostname ../d/h; cat ../z",
        ),
        (
            "install",
            "echo a >a",
            "install -m 755 a b; install -d -m 700 d/e; install -D a f/g/h; ls -l f/g | wc -l",
        ),
    ];
    let mut cases: Vec<_> = both
        .into_iter()
        .flat_map(|(name, setup, script)| Case::both(name, setup, script))
        .collect();
    cases.extend([
        Case::with(&["--walk-all"], "a walk reads what another node has written", "for i in 1 2 3 4 5 6 7 8; do seq $i | tee f$i >/dev/null; cat f$i | wc -l; cp f$i g; cat g | wc -l; done").walks(&["tee", "cat", "cp"]),
        Case::with(&[], "names come and go above a compile step", "cd w; while [ ! -e o/done ]; do mkdir ../n; rmdir ../n; done & for i in 1 2 3 4 5 6 7 8 9; do gcc -c ../a.c -o o/$i.o & p=\"$p $!\"; done; wait $p; : >o/done; wait; touch -d @1000000000 o/*; ls o")
            .setup("mkdir -p w/o; echo '#include <stdio.h>' >a.c").walks(&["gcc"]),
        Case::each("parallel walks into one directory", "for i in 1 2 3 4 5 6 7 8; do cp /etc/hostname f$i & done; wait; touch -d @1000000000 f*; ls").walks(&["cp"]),
        Case::each("the origin deletes what a walk has seen", "echo x >f; cat f; rm -f f; cat f; echo $?; : >f; cat f; echo y >f; cat f").walks(&["cat"]),
        Case::with(&["--walk", "cat", "--walk", "ls"], "the shell changes what walks have seen", "for i in 1 2 3 4 5 6; do echo $i >f; cat f; rm f; cat f; mkdir d; echo $i >d/f; cat d/f; ls d; rm -r d; ls; ln -sfn f$i l; echo $i >f$i; cat l; done").walks(&["cat", "ls"]),
        Case::with(&["--walk", "cat", "--walk", "ls"], "a directory is replaced at the origin", "mkdir a b; echo 1 >a/f; echo 2 >b/f; cat a/f b/f; mv a c; mv b a; mv c b; cat a/f b/f; ls a; rm -r a; mkdir a; cat a/f; echo 3 >a/f; cat a/f").walks(&["cat"]),
        Case::with(&["--walk", "cat"], "a symbolic link flips between directories", "mkdir a b; echo 1 >a/f; echo 2 >b/f; for i in 1 2 3 4 5 6; do ln -sfn a l; cat l/f; ln -sfn b l; cat l/f; done").walks(&["cat"]),
        Case::with(&["--walk", "cat"], "a file of one size and time changes", "for i in 1 2 3 4 5 6 7 8; do echo $i >f; touch -d @1000000000 f; cat f; done").walks(&["cat"]),
        Case::each("a hidden file", "perl -e 'open F, q(<), q(.netrc) or exit 9; print <F>'; echo $?; wc -c <.netrc").setup("echo secret >.netrc").stays(&[("perl", "not-exported"), ("wc", "not-exported")]).alone(),
        Case::each("new files with set-id bits and another group", "install -g mail -m 2755 /bin/true n; install -o nobody -m 4711 /bin/true m; touch c; chgrp mail c; chmod 6750 c; stat -c '%a %u %g %n' n m c"),
        Case::each("a write of root's leaves set-id bits", "for f in s g p; do perl -e 'open F, q(>>), shift; print F 1' $f; done; stat -c '%a %s %n' s g p; chmod 755 s; stat -c %a s").setup("touch s g p; chmod 4755 s; chmod 2755 g").stays(&[("perl", "not-exported"), ("chmod", "not-exported")]).walks(&["perl", "stat"]),
        Case::each("a hidden file that another walk asks for", "perl -e '$|=1; $SIG{TERM}=sub{exit 4}; print qq(up\n); sleep 20' >out & p=$!; until [ -s out ]; do sleep 0.05; done; perl -e 'open F, q(<), q(.netrc) or exit 9; print <F>'; kill -TERM $p; wait $p; echo $?").setup("echo secret >.netrc").stays(&[("perl", "not-exported")]).on("n1").alone(),
        Case::each("other names of hidden files", "cat a; cat b; cat <c; wc -c a").setup("mkdir .ssh; echo secret >.netrc; echo key >.ssh/x; ln .netrc a; ln .ssh/x b; echo c >c").stays(&[("cat", "not-exported")]).walks(&["cat", "wc"]).alone(),
        Case::each("a hidden directory", "cat .ssh/config; echo $?; ls .ssh; ls -A; stat -c %F .ssh; find . -type f; tar cf t.tar .ssh; tar tf t.tar; rm t.tar").setup("mkdir .ssh; echo secret >.ssh/config").stays(&[("cat", "not-exported"), ("ls", "not-exported"), ("find", "not-exported"), ("tar", "not-exported")]).walks(&["ls", "stat", "tar"]).alone(),
        Case::each("on one node", "show a; cat /etc/hostname >f; cat f").on("n2"),
    ]);
    cases
}
