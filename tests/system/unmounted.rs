//! The volume where a mount namespace does not have it: programs do there what they do on the mount.

use std::fs;
use std::path::PathBuf;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::Lab;
use crate::run::{Run, seconds};
use crate::volumes::Mounted;

pub(crate) const ALL: &[Test] = &[
    ("unmounted::programs_do_what_they_do_on_the_mount", programs),
    ("unmounted::nothing_outside_of_the_volume_is_reached", nothing_outside),
    ("unmounted::programs_go_on_when_the_agent_has_restarted", restarted),
    ("unmounted::a_root_without_the_volume_reaches_it", chroot),
];

/// A program, and a script of it, in a directory `$P` of the volume.
const CASES: &[(&str, &str)] = &[
    ("cat", "cat $P/src/a.c $P/link link $P/nothing src/../link $P/../t/link"),
    ("ls", "ls -lR --time-style=+%F $P | grep -v total; ls -d . .. ../..; ls $P/.."),
    (
        "cp",
        "cp -a $P/src $P/copy; cp -r src /tmp/$$; cp -r /tmp/$$ $P/back; rm -r /tmp/$$; cp /etc/passwd .",
    ),
    (
        "mv",
        "mv $P/src/a.c $P/moved; mv moved /tmp/$$; mv /tmp/$$ $P/back; mv $P/src $P/other; mv back other",
    ),
    ("rm", "rm -r $P/src; rm $P/link; rm -f nothing; rm $P; rmdir $P/empty; rmdir $P/nothing"),
    (
        "find",
        "find $P -name '*.c'; find $P -type l; find . -type f | sort; find $P -name 's.sh' -exec cat {} +",
    ),
    (
        "tar",
        "tar cf $P/x.tar -C $P src link; mkdir $P/x; tar xf $P/x.tar -C $P/x; tar tf x.tar | sort; rm x.tar",
    ),
    ("grep", "grep -r main $P/src; grep -rl main . | sort; cd src; grep -n main *.c"),
    (
        "python",
        r#"python3 -c '
import os, pathlib, shutil, subprocess, tempfile
p = os.environ["P"]
print(sorted((d[len(p):], sorted(f)) for d, _, f in os.walk(p)))
shutil.copytree(p + "/src", p + "/py")
open(p + "/new", "w").write("x")
os.rename(p + "/new", p + "/new2")
print(os.path.relpath(pathlib.Path(p + "/link").resolve(), p), os.path.realpath(p + "/link") == p + "/src/a.c")
os.chdir(p + "/src")
print(os.getcwd() == p + "/src", os.listdir("."))
os.makedirs(p + "/a/b/c")
os.symlink("b", p + "/a/l")
print(os.readlink(p + "/a/l"), os.stat(p + "/new2").st_size, os.access(p + "/new2", os.X_OK))
shutil.rmtree(p + "/py")
os.utime(p + "/new2", (1, 2))
os.truncate(p + "/new2", 9)
os.chmod(p + "/new2", 0o640)
os.setxattr(p + "/new2", "user.a", b"b")
print(os.listxattr(p + "/new2"), os.getxattr(p + "/new2", "user.a"), os.statvfs(p).f_namemax)
tempfile.NamedTemporaryFile(dir=p).close()
os.rmdir(tempfile.mkdtemp(dir=p))
print(subprocess.run([p + "/s.sh", "x"], capture_output=True), subprocess.run(["pwd"], cwd=p + "/src", capture_output=True))
'"#,
    ),
    (
        "git",
        "git init -q $P/repo; cd $P/repo; echo a > f; git add f; git -c user.name=a -c user.email=b commit -qm m; git status --short; \
         git log --format=%s; git clone -q $P/repo $P/clone; cat $P/clone/f; git -C $P/clone status; rm -rf $P/*/.git",
    ),
    ("vim", "vim -es -u NONE -c 's/main/maim/' -c wq $P/src/a.c; cat src/a.c"),
    (
        "bash",
        "echo a > $P/r; echo b >> r; cat < $P/r; cd $P/src; pwd; pwd -P; /bin/pwd; cd ..; pwd; echo *; echo $P/*; [ -f $P/r ] && \
         [ -x $P/prog ] && echo yes; . $P/r; for f in $P/s*; do echo $f; done; (cd src; sh -c pwd); cat <<< text > $P/here; cd ..; ls -d t",
    ),
    (
        "programs and scripts",
        "$P/prog hello; ./prog hello; $P/s.sh x; ./s.sh x; PATH=$P:$PATH; prog found; s.sh found; env prog y; env s.sh y; nice s.sh z",
    ),
    (
        "cc",
        "cd $P/src; gcc -c a.c && gcc a.o -o ../bin && ../bin; echo $?; gcc $P/src/a.c -o $P/bin && $P/bin; rm $P/bin a.o",
    ),
    (
        "realpath",
        "realpath $P/link; readlink -f link; readlink $P/link; cd src; realpath ../link . $P/../t/src",
    ),
    (
        "others",
        "touch -d 2021-02-03 $P/src/a.c; stat -c '%Y %s %a' $P/src/a.c; chmod 600 $P/src/a.c; chown 1:1 $P/src/a.c; ln $P/src/a.c $P/hard; ln src/a.c $P/hard2; stat -c %h hard2; \
         mkfifo $P/fifo; truncate -s 100 $P/trunc; install -m 700 /etc/passwd $P/inst; sed -i s/main/x/ $P/src/a.c; sort -o $P/sorted \
         /etc/passwd; rmdir $(mktemp -d $P/dXXXXXX); rm $(mktemp $P/fXXXXXX); df $P > /dev/null && echo; du -s $P > /dev/null; diff -r \
         $P/src $P/src; ln -s $P/src $P/absolute; cat $P/absolute/a.c; rm $P/absolute; cd /; cat ${P#/}/src/a.c",
    ),
];

const SETUP: &str = "cd ..; rm -rf t; mkdir -p t/src t/empty; cd t; echo 'int main(void) { return 7; }' > src/a.c; ln -s src/a.c link; \
    cp /bin/echo prog; printf '#!/bin/sh -e\\necho $0 $1; pwd; exit 3\\n' > s.sh; chmod +x s.sh; touch -d 2020-01-01 src/a.c";
const TREE: &str =
    "find . -printf '%P %y %m %u %s %l\\n' | sort; find . -type f -exec md5sum {} + | sort";

/// A directory in the volume, and in namespaces that lack the volume.
struct Place<'a> {
    volume: Mounted<'a>,
    dir: PathBuf,
}

impl<'a> Place<'a> {
    fn new(volume: Mounted<'a>) -> Result<Self, String> {
        let dir = volume.point("origin").join("t");
        volume.done("origin", "rm -rf t secret inside; mkdir t")?;
        Ok(Self { volume, dir })
    }

    /// Runs a script there on the mount, in a session.
    fn natively(&self, script: &str) -> Result<Run, String> {
        let dir = self.dir.display();
        let script = format!("cd {dir}; P={dir} exec oswalk exec bash -c '{}'", quoted(script));
        self.volume.script("origin", &script)
    }

    /// Runs a script there in a session whose mount namespace lacks the volume.
    fn unmounted(&self, script: &str) -> Result<Run, String> {
        self.volume.start("origin", &self.hiding(script))?.wait(seconds(60))
    }

    fn hiding(&self, script: &str) -> String {
        let point = self.volume.point("origin");
        let (dir, point) = (self.dir.display(), point.display());
        format!(
            "P={dir} exec oswalk exec unshare -m sh -c 'cd /; umount -l {point}; ! grep -q \" {point} \" /proc/self/mountinfo || exit 9; \
             exec bash -c \"cd {dir} && eval \\\"\\$1\\\"\" bash \"$1\"' sh '{}'",
            quoted(script)
        )
    }

    /// Runs a script in both ways; returns how they differ.
    fn compare(&self, script: &str) -> Result<Option<String>, String> {
        let mut seen = Vec::new();
        for is_mounted in [true, false] {
            let setup = self.volume.script("origin", &format!("mkdir -p t; cd t; {SETUP}"))?;
            if !setup.succeeded() {
                return Err(format!("the setup: {setup}"));
            }
            let run = if is_mounted { self.natively(script) } else { self.unmounted(script) }?;
            let tree = self.volume.done("origin", &format!("cd t; {TREE}"))?;
            seen.push((run.status, run.out(), run.err(), tree));
        }
        let differs = seen[0] != seen[1];
        Ok(differs.then(|| format!("on the mount: {:#?}\nwithout it: {:#?}", seen[0], seen[1])))
    }
}

/// Returns a script as it is written between single quotes.
fn quoted(script: &str) -> String {
    script.replace('\'', r"'\''")
}

fn programs(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let place = Place::new(Mounted::new(up, "unmounted programs")?)?;
    let mut failed = String::new();
    for (name, script) in CASES {
        if let Some(difference) = place.compare(script)? {
            failed += &format!("{name}: {difference}\n");
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

fn nothing_outside(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let place = Place::new(Mounted::new(up, "unmounted outside")?)?;
    place.volume.done("origin", "echo secret > ../secret; echo inside > inside")?;
    // By system calls that the library does not see, from a descriptor of the root.
    let script = r#"python3 -c '
import ctypes, os
point = os.path.dirname(os.environ["P"])
libc, root = ctypes.CDLL(None, use_errno=True), os.open(point, os.O_RDONLY)
for path in ["..", "../..", "t/../..", "../../../../.."]:
    above = libc.syscall(257, root, path.encode(), 0)
    assert above >= 0 and sorted(os.listdir(above)) == sorted(os.listdir(root)), path
for path in ["../secret", "t/../../secret", "../../etc/passwd"]:
    assert libc.syscall(257, root, path.encode(), 0) == -1 and ctypes.get_errno() == 2, path
assert libc.syscall(257, root, b"../inside", 0) >= 0
assert sorted(os.listdir("/proc/self/fd/%d/../.." % root)) == sorted(os.listdir(root))
assert os.fstatvfs(root).f_flag & (os.ST_NOSUID | os.ST_NODEV) == os.ST_NOSUID | os.ST_NODEV
print("nothing")
'"#;
    let run = place.unmounted(script)?;
    if run.succeeded() && run.out() == "nothing\n" { Ok(()) } else { Err(run.to_string()) }
}

fn restarted(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let place = Place::new(Mounted::new(up, "unmounted restarted")?)?;
    let signs = up.fresh("unmounted restarted signs")?;
    let shown = signs.display();
    // The session's page ends with the agent: what the shell executes afterwards does not reach the volume.
    let script = format!(
        "echo before > $P/f; > {shown}/ready; for i in $(seq 1200); do [ ! -e {shown}/go ] || break; sleep 0.05; done; echo after >> $P/f; cd $P; \
         mapfile -t < f; echo ${{MAPFILE[@]}} in ${{PWD##*/}}"
    );
    let started = place.volume.start("origin", &place.hiding(&script))?;
    wait_until("the shell writes", || signs.join("ready").exists())?;
    // Only the agent: the lab would kill the shell too.
    let pid = fs::read_to_string(up.state("origin").join("pid")).map_err(|it| it.to_string())?;
    let mut kill = up.command("kill");
    kill.arg("-KILL").arg(pid.trim());
    Run::of(kill, seconds(5))?;
    up.lab(&["heal", "origin"])?;
    wait_until("the volume is back", || {
        place.volume.script("origin", "test -e t/f").is_ok_and(|run| run.succeeded())
    })?;
    fs::write(signs.join("go"), "").map_err(|error| error.to_string())?;
    let run = started.wait(seconds(60))?;
    if run.out() == "before after in t\n" { Ok(()) } else { Err(run.to_string()) }
}

fn chroot(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let place = Place::new(Mounted::new(up, "unmounted chroot")?)?;
    let root = up.fresh("unmounted chroot root")?;
    place.volume.done("origin", "echo text > t/f")?;
    let script = format!(
        "cd {}; mkdir -p usr proc; ln -s usr/bin usr/lib usr/lib64 usr/sbin .; mount --bind /usr usr; mount -t proc none proc; \
         for dir in ${{OSWALK_PAGE%/*}} ${{LD_PRELOAD%/*}}; do mkdir -p .$dir; mount --bind $dir .$dir; done; \
         chroot . bash -c \"cat $P/f; cd $P; pwd; echo more >> f; cat f; realpath f; ls -d $P/../..\"",
        root.display()
    );
    let run = place.unmounted(&script)?;
    let dir = place.dir.display();
    let above = format!("{dir}/../..");
    if run.out() == format!("text\n{dir}\ntext\nmore\n{dir}/f\n") && run.err().contains(&above) {
        Ok(())
    } else {
        Err(run.to_string())
    }
}
