//! The volume of a node: mounting it, looking back, and what happens when something is wrong.

use std::fs;

use crate::Test;
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("volume::looking_back", |lab| alone(lab, "back", LOOKING_BACK)),
    ("volume::care", |lab| alone(lab, "care", CARE)),
    ("volume::bad_input", |lab| alone(lab, "bad", BAD_INPUT)),
    ("volume::damage_is_told_and_nothing_is_changed", |lab| alone(lab, "damage", DAMAGE)),
    ("volume::a_full_and_a_read_only_disk", |lab| alone(lab, "disk", DISK)),
    ("volume::ordinary_users", |lab| alone(lab, "users", USERS)),
    ("volume::shared_directories", |lab| alone(lab, "shares", SHARES)),
    ("volume::a_killed_agent_mounts_again", |lab| alone(lab, "killed", KILLED)),
    ("volume::a_build_in_it_walks", build),
    ("volume::the_directory_below_takes_nothing", |lab| alone(lab, "below", BELOW)),
];

const LIMIT: std::time::Duration = seconds(60);

/// Functions of the scripts. The mount and pid namespaces of a script end with it, and all agents with them.
const SETUP: &str = r#"
set -eu
dir=$1 m=$1/m
export OSWALK_STATE=$dir/state
# Fails with a status, and with these words on standard error.
refuses() {
    words=$1; shift
    status=0; "$@" >"$dir/out" 2>"$dir/err" || status=$?
    [ $status = 125 ] || { echo "$*: status $status"; cat "$dir/out" "$dir/err"; exit 1; }
    grep -qF -- "$words" "$dir/err" || { echo "$*: no '$words' in:"; cat "$dir/err"; exit 1; }
}
is() { [ "$1" = "$2" ] || { echo "'$2' was expected, not '$1'"; exit 1; }; }
# Waits until a command succeeds.
soon() {
    for i in $(seq 400); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.02; done
    echo "never: $*"; "$@"
}
has() { [ "$(oswalk versions "$1" | wc -l)" -ge "$2" ]; }
now() { date -u +%Y-%m-%dT%H:%M:%S.%3NZ; }
"#;

/// Runs a script with an agent of its own.
fn alone(lab: &Lab, name: &str, script: &str) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh(&format!("volume-{name}"))?;
    let mut command = up.command("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.args(["sh", "-c", &format!("{SETUP}\n{script}"), "sh"]).arg(&dir).current_dir("/");
    let run = Run::of(command, LIMIT)?;
    if run.succeeded() { Ok(()) } else { Err(run.to_string()) }
}

const LOOKING_BACK: &str = r#"
oswalk up --name alone; oswalk mount $m
mkdir $m/d; echo one >$m/d/f; ln $m/d/f $m/d/g; echo old >$m/d/gone
soon has $m/d/f 1; soon has $m/d/gone 1
then=$(now); while [ "$(now)" = "$then" ]; do :; done
echo two >$m/d/f; rm $m/d/gone; echo new >$m/d/new; soon has $m/d/f 2; soon has $m/d/new 1
first=$(oswalk versions $m/d/f | tail -1 | cut -d' ' -f1)
oswalk diff $m/d/f $first >$dir/diff && exit 1
grep -q '^-one' $dir/diff; grep -q '^+two' $dir/diff
oswalk log $m/d | grep -q '/d/gone  removed'
is "$(oswalk log -n 1 --json $m/d/gone | grep -c '"what": "removed"')" 1
# A removed file is made again, with the content of a version.
oswalk choose $m/d/gone $(oswalk versions $m/d/gone | tail -1 | cut -d' ' -f1); is "$(cat $m/d/gone)" old; rm $m/d/gone
refuses "failed to bring" oswalk choose $m/d/never $first
ln -s f $m/d/link; refuses "is a symbolic link" oswalk choose $m/d/link $first; rm $m/d/link
# What somebody has unmounted is mounted again.
umount $m; if oswalk fs status | grep -q "^mounted"; then exit 1; fi; oswalk mount $m
(cd /; oswalk log -n 1 | grep -q .)
oswalk choose $m/d/f $first; is "$(cat $m/d/f)" one; echo three >$m/d/f; soon has $m/d/f 3
# The tree of the moment is mounted beside, and is what .oswalk shows.
oswalk mount --at $then $dir/past
is "$(cat $dir/past/d/f) $(cat $dir/past/d/gone) $(ls $dir/past/d | wc -l)" "one old 3"
diff -r $dir/past/d $m/.oswalk/at/$then/d
if echo x 2>/dev/null >$dir/past/d/x; then exit 1; fi
refuses "is not in a volume" oswalk restore $dir/past/d --at $then
oswalk umount $dir/past
oswalk restore $m/d/gone --at $then | grep -q 'is what it was'
is "$(cat $m/d/gone)" old
oswalk restore $m/d --at $then --json | grep -q '"removed": 1'
is "$(cat $m/d/f) $(cat $m/d/gone) $(ls $m/d | wc -l) $(stat -c %h $m/d/g)" "one old 3 2"
# What a restoration has replaced is not lost.
oswalk diff $m/d/f $(oswalk versions $m/d/f | sed -n 2p | cut -d' ' -f1) | grep -q '^-three'
oswalk umount $m; is "$(ls -A $m)" ""
oswalk mount --read-only $m; is "$(cat $m/d/f)" one
refuses "mounted read-only" oswalk restore $m/d --at $then
oswalk down; is "$(ls -A $m)" ""
"#;

const BELOW: &str = r#"
mkdir -m 750 $m; oswalk up --name alone; oswalk mount $m; echo x >$m/f
oswalk down
is "$(stat -c %a $m)" 555
oswalk up --name alone; soon test -e $m/f
umount $m; oswalk fs status | grep -q "^failed    $m: somebody has unmounted it"; oswalk mount $m; is "$(cat $m/f)" x
oswalk down
# What somebody has put there all the same is named, and not hidden.
for name in b c d e; do touch $m/$name; done
oswalk up --name alone
oswalk fs status | grep -q "^failed    $m: .*is not empty, and what is in it (.*, .*, .* and more) would be hidden: move it away"
oswalk fs status --json | grep -q '"failed": "'
refuses "is not empty" oswalk mount $m
rm $m/?; oswalk mount $m; is "$(cat $m/f)" x; oswalk fs status | grep -qx "mounted   $m"
oswalk umount $m; is "$(stat -c %a $m)" 750; touch $m/free; rm $m/free; rmdir $m
oswalk down
"#;

const SHARES: &str = r#"
mkdir -p $dir/src/a $dir/src/.ssh $dir/src/build; echo one >$dir/src/a/f; echo key >$dir/src/.ssh/id_rsa; echo o >$dir/src/build/o
echo build/ >$dir/src/.oswalkignore; ln -s a $dir/src/l
oswalk up --name alone; oswalk mount $m
is "$(oswalk share)" ""
refuses "No such file" oswalk share $dir/nowhere
refuses "is not a directory" oswalk share $dir/src/a/f
refuses "is no name for a share" oswalk share $dir/src --as a/../b
refuses "is no name for a share" oswalk share $dir/src --as .oswalk
refuses "there is no share" oswalk share --stop team
mkdir $m/taken
refuses "the volume has taken already" oswalk share $dir/src --as taken
oswalk share $dir/src --as team/src | grep -q "^team/src in the volume follows $dir/src "
refuses "the share team/src is there" oswalk share $dir/src --as team
same() { diff -r --no-dereference --exclude build --exclude .ssh $dir/src $m/team/src && [ ! -e $m/team/src/build ] && [ ! -e $m/team/src/.ssh ]; }
soon same
up_to_date() { oswalk share | grep -q "^team/src  $dir/src  up to date"; }
up_to_date
# Rules that are too long share nothing.
yes 'a?bc.c' | head -n 15000 >$dir/src/a/.oswalkignore; echo new >$dir/src/a/new; echo new >$dir/src/new; soon test -e $m/team/src/new
oswalk share | grep -q "$dir/src/a/.oswalkignore is longer than 64 KiB: nothing in its directory is shared"; [ ! -e $m/team/src/a/new ]
rm $dir/src/a/.oswalkignore; soon same; soon up_to_date
echo two >$dir/src/a/f; mv $dir/src/a $dir/src/b; rm $dir/src/l; mkdir $dir/src/l; soon same
soon has $m/team/src/b/f 2
is "$(stat -c '%a %Y' $m/team/src/b/f)" "$(stat -c '%a %Y' $dir/src/b/f)"
# It goes on with the agent.
oswalk down; echo three >$dir/src/b/f; rm -r $dir/src/l; oswalk up --name alone; soon same
oswalk share --json | grep -q '"name": "team/src"'
mv $dir/src $dir/away; soon sh -c 'oswalk share | grep -q "failed to read"'
oswalk share --stop team/src; is "$(oswalk share)" ""; is "$(cat $m/team/src/b/f)" three
oswalk down
"#;

const CARE: &str = r#"
oswalk up --name alone --keep 1h,0h,0d
oswalk fs status | grep -q 'nothing was written yet'
oswalk mount $m
mkdir -m 750 $m/d; printf 'a%.0s' $(seq 5000) >$m/d/f; ln $m/d/f $m/d/g; ln -s f $m/d/l; mkfifo $m/d/p
truncate -s 10M $m/d/hole; python3 -c 'import os,sys; os.setxattr(sys.argv[1], "user.x", b"y")' $m/d/f; chown 7:8 $m/d/f; touch -d '2001-02-03 04:05:06.789' $m/d/f
soon has $m/d/f 1
oswalk fs pin $m/d; oswalk fs unpin $m/d
for what in status fsck gc scrub; do oswalk fs $what >$dir/text; oswalk fs $what --json | grep -q '{'; done
oswalk fs status --json | grep -q '"all_s": 3600'
oswalk config show | grep -q '^keep *1h,0h,0h'
oswalk umount $m
# Also of a volume that is not mounted.
oswalk fs fsck | grep -q 'events'
oswalk fs export $dir/all; oswalk fs export $dir/part --from d --at now | grep -q '5 files'
oswalk mount $m
diff -r --no-dereference $m/d/f $dir/all/d/f; diff $m/d/hole $dir/part/hole
shows() { (cd $1; stat -c '%n %f %h %u %g %s %Y %y' f g l hole; python3 -c 'import os; print(os.getxattr("f", "user.x"))'; stat -c '%f' p .); }
shows $m/d >$dir/1; shows $dir/all/d >$dir/2; shows $dir/part >$dir/3
diff $dir/1 $dir/2; diff $dir/1 $dir/3
is "$(stat -c '%a %u %g %Y' $dir/part)" "$(stat -c '%a %u %g %Y' $m/d)"
is "$(stat -c %b $dir/all/d/hole)" 0
oswalk down
"#;

const BAD_INPUT: &str = r#"
refuses "oswalk up" oswalk mount $m
oswalk up --name alone
mkdir $dir/full; touch $dir/full/x $dir/file
refuses "is not empty" oswalk mount $dir/full
refuses "is not a directory" oswalk mount $dir/file
refuses "mkdir -p" oswalk mount $dir/no/m
refuses "nothing is mounted at" oswalk umount $m
refuses "is not a time" oswalk mount --at whenever $m
refuses "it is empty" oswalk mount --at '1s ago' $m
oswalk mount $m; echo x >$m/f
refuses "is mounted at $m already" oswalk mount $m
refuses "is in the volume itself" oswalk mount $m/d
refuses "is in the volume itself" oswalk fs export $m/d
refuses "its first event was at" oswalk mount --at 2001-02-03 $dir/past
refuses "is in the future" oswalk mount --at 2101-02-03 $dir/past
refuses "its first event was at" oswalk restore $m/f --at 2001-02-03
refuses "is in the future" oswalk restore $m/f --at 2101-02-03
refuses "there was no $m/never" sh -c "sleep 0.01; oswalk restore $m/never --at now"
refuses "is not in a volume" oswalk restore $dir/file --at '1h ago'
for what in versions log; do refuses "is not in a volume" oswalk $what /etc/passwd; done
refuses "File exists" oswalk fs export $dir/full
refuses "No such file" oswalk fs export $dir/tree --from never
refuses "Not a directory" oswalk fs export $dir/tree --from f
refuses "Not a directory" oswalk fs export $dir/tree --from $m/f
mkdir $dir/tree.part; refuses "tree.part" oswalk fs export $dir/tree; rmdir $dir/tree.part
# A program is at work there.
exec 7<$m/f
refuses "is in use" oswalk umount $m
exec 7<&-; oswalk umount $m
refuses "is not in a volume" oswalk log $m
# Another agent's mount, although it is empty.
OSWALK_STATE=$dir/other oswalk up --name other; OSWALK_STATE=$dir/other oswalk mount $m
refuses "something is mounted at $m already" oswalk mount $m
soon ls $m/.oswalk/versions
refuses "is not a mount of this agent's volume" oswalk restore $m --at now
refuses "is not a mount of this agent's volume" oswalk log $m
# Two agents on one store.
mkdir -p $dir/third/volume; mount --bind $dir/other/volume $dir/third/volume
OSWALK_STATE=$dir/third oswalk up --name third; mkdir $dir/m3
OSWALK_STATE=$dir/third refuses "another agent uses this volume" oswalk mount $dir/m3
# No FUSE.
umount /dev/fuse 2>/dev/null || true; mount --bind /dev/null /dev/fuse
refuses "failed to mount at" oswalk mount $dir/m4
umount /dev/fuse
oswalk down
refuses "oswalk up" oswalk fs status
refuses "keep" oswalk up --keep 0h,1d,1d
"#;

const DAMAGE: &str = r#"
oswalk up --name alone; oswalk mount $m
for i in 1 2 3 4 5 6 7 8; do seq $i 5000 >$m/f$i; done
for i in 1 2 3 4 5 6 7 8; do soon has $m/f$i 1; done
md5sum $m/f* >$dir/sums; oswalk umount $m; oswalk down
cp -a $dir/state $dir/intact
again() { oswalk down >/dev/null; rm -rf $dir/state; cp -a $dir/intact $dir/state; rm -f $dir/state/volume/mounts.json; }
flip() { printf '\377' | dd of=$1 bs=1 seek=$2 conv=notrunc status=none; }
again || true
# Caches are made again.
rm $dir/state/volume/packs/index.redb $dir/state/volume/tables.redb
oswalk up --name alone; oswalk mount $m; md5sum -c --quiet $dir/sums; oswalk fs fsck | grep -q 'files checked'
oswalk umount $m; again
for file in packs/index.redb tables.redb; do printf 'damaged, all of it' | dd of=$dir/state/volume/$file conv=notrunc status=none; done
oswalk up --name alone; oswalk mount $m; md5sum -c --quiet $dir/sums; oswalk umount $m; again
# A packet: it is named, never shown, and all others can be read and exported.
flip $dir/state/volume/packs/0.pack 200
oswalk up --name alone; oswalk mount $m
refuses "the volume has" oswalk fs scrub; grep -q '^fault: .*0.pack at byte' $dir/out
refuses "the volume has" oswalk fs fsck; grep -q '^fault: .*0.pack' $dir/out
[ $(md5sum -c $dir/sums 2>/dev/null | grep -c ': OK') -ge 6 ]
oswalk umount $m; again
# The log: nothing is changed, and fsck says where.
log=$dir/state/volume/log/00000001.log; [ -e $log ] || log=$(ls $dir/state/volume/log/*.log | head -1)
flip $log 700; cp $log $dir/damaged
oswalk up --name alone
refuses "the log is damaged" oswalk mount $m
refuses "the volume has" oswalk fs fsck; grep -q '^fault: .*\.log' $dir/out
cmp $log $dir/damaged
again
"#;

const DISK: &str = r#"
mkdir $dir/disk; mount -t tmpfs -o size=200M none $dir/disk; export OSWALK_STATE=$dir/disk/state
oswalk up --name alone; oswalk mount $m
echo kept >$m/f; sync $m/f
head -c 300M /dev/zero | tr '\0' 'x' 2>/dev/null >$dir/disk/filler || true
if head -c 20M /dev/urandom 2>$dir/err >$m/big; then echo "there was room"; exit 1; fi
grep -q 'No space left' $dir/err
is "$(cat $m/f)" kept
# Both say so, and what helps.
soon sh -c 'oswalk fs status | grep -q "^disk      full, .* free: free space on it; .*oswalk fs gc --keep"'
soon sh -c "oswalk status | grep -q 'the disk of the volume in .* is full: free space on it'"
rm $dir/disk/filler; soon sh -c 'oswalk fs status | grep -q "^disk .* free$"'
# What fills the disk is the past: it can be given up.
for i in 1 2 3 4 5; do head -c 25M /dev/urandom >$m/past; sync $m/past; soon has $m/past $i; done
oswalk fs gc --keep 1m,0h,0d | grep -q '^removed '
refuses "at least one minute" oswalk fs gc --keep 0h,0h,0d
rm $m/past; head -c 1M /dev/urandom >$m/big; sync $m/big; oswalk fs fsck
oswalk umount $m; oswalk down
# The kernel closes the last files of the agent a moment after it has ended.
soon mount -o remount,ro $dir/disk
mkdir $dir/ro; mount -t tmpfs none $dir/ro; export OSWALK_STATE=$dir/ro/state; mkdir $dir/ro/state
oswalk up --name alone
mkdir $dir/ro/state/volume; mount --bind $dir/disk/state/volume $dir/ro/state/volume
refuses "Read-only file system" oswalk mount $m; grep -q 'nothing is lost' $dir/err
umount $dir/ro/state/volume; oswalk down
mount -o remount,rw $dir/disk; export OSWALK_STATE=$dir/disk/state
oswalk up --name alone; [ "$(cat $m/f 2>/dev/null)" = kept ] || oswalk mount $m
is "$(cat $m/f)" kept; oswalk fs fsck
"#;

const USERS: &str = r#"
chmod 755 $dir; oswalk up --name alone; oswalk mount $m
as() { user=$1; shift; setpriv --reuid=$user --regid=$user --clear-groups env HOME=/nonexistent OSWALK_STATE= OSWALK_DOOR=$door "$@"; }
door=$dir/state/door; chmod 711 $dir/state; chmod 666 $door
chmod 1777 $m; as 4711 sh -c "echo one >$m/f; umask 077; echo secret >$m/s; mkdir $m/d; echo x >$m/d/x; echo r >$m/r"
soon has $m/f 1; soon has $m/s 1; soon has $m/r 1; soon has $m/d/x 1; then=$(now); while [ "$(now)" = "$then" ]; do :; done
as 4711 sh -c "echo two >$m/f; echo open >$m/s; rm $m/r; chmod 644 $m/s"; soon has $m/f 2; soon has $m/s 2
# The owner looks back and restores files; directories by copying.
as 4711 oswalk versions $m/f | grep -q present
as 4711 oswalk restore $m/f --at $then; is "$(cat $m/f)" one
as 4711 oswalk restore $m/r --at $then; is "$(cat $m/r) $(stat -c '%a %u' $m/r)" "r 600 4711"
as 4711 sh -c "refuse=1; oswalk restore $m/d --at $then 2>&1 | grep -q 'cp -a'"
# Another user sees only what that user could and can read, and manages nothing.
if as 4712 cat $m/.oswalk/at/$then/s 2>/dev/null; then exit 1; fi
if as 4712 oswalk restore $m/f --at $then 2>$dir/err; then exit 1; fi
# Not even who makes the name of a private directory again.
sees() { [ "$(as 4711 sh -c "cat $m/.oswalk/versions/d/x/*")" = x ]; }
soon sees
as 4711 rm -r $m/d; as 4712 mkdir $m/d
if as 4712 sh -c "cat $m/.oswalk/versions/d/x/* $m/.oswalk/at/$then/d/x" 2>/dev/null; then exit 1; fi
is "$(as 4711 cat $m/.oswalk/at/$then/d/x)" x
is "$(as 4712 cat $m/s)" open
if as 4712 oswalk choose $m/s $(oswalk versions $m/s | tail -1 | cut -d' ' -f1) 2>$dir/err; then exit 1; fi
for what in 'fs status' 'fs fsck' 'fs gc' 'fs scrub' "fs export $dir/x" "fs pin $m/f" "log $m" "umount $m" "mount $dir/y" "mount --at $then $dir/y"; do
    refuses "" as 4712 oswalk $what
done
[ ! -e $dir/x ]; [ ! -e $dir/y ]; is "$(cat $m/s)" open
"#;

const KILLED: &str = r#"
oswalk up --name alone; oswalk mount $m
for i in $(seq 50); do mkdir $m/d$i; echo $i >$m/d$i/f; done; sync $m/d50/f
mkdir $dir/at; then=$(now); soon oswalk mount --at $then $dir/at
kill -9 $(cat $dir/state/pid)
soon sh -c "! kill -0 $(cat $dir/state/pid)"
if cat $m/d1/f 2>/dev/null; then exit 1; fi
oswalk up --name alone
soon test -e $m/d50/f; for i in $(seq 50); do is "$(cat $m/d$i/f)" $i; done
soon test -e $dir/at/d50/f
if rmdir $dir/at/d50 2>/dev/null; then exit 1; fi
echo after >$m/d1/f; oswalk fs fsck | grep -q 'files checked'
"#;

/// A small project.
const PROJECT: &str = r#"
for i in 1 2 3 4 5 6; do printf '#include <stdio.h>\n#include "v.h"\nint f%d(int x) { printf("%%d", x); return x + V; }\n' $i >f$i.c; done
echo '#define V 7' >v.h
printf 'all: $(patsubst %%.c,%%.o,$(wildcard *.c))\n%%.o: %%.c\n\tgcc -O2 -c $< -o $@\n' >Makefile
"#;

fn build(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("volume build")?;
    let point = dir.join("cluster");
    let oswalk = |words: &[&str]| {
        let mut command = up.command("oswalk");
        command.args(words).arg(&point);
        run(command)
    };
    oswalk(&["mount"])?;
    let built = built(up, &dir);
    oswalk(&["umount"])?;
    built
}

fn built(up: &Up, dir: &std::path::Path) -> Result<(), String> {
    let point = dir.join("cluster");
    let sh = |script: &str| {
        let mut command = up.command("sh");
        command.args(["-ec", script]).current_dir(&point);
        run(command)
    };
    sh(&format!("mkdir native walked; for d in native walked; do (cd $d; {PROJECT}); done"))?;
    sh("make -s -j4 -C native")?;
    let report = dir.join("report.json");
    let mut make = up.exec(&report);
    make.args(["make", "-s", "-j4"]).current_dir(point.join("walked"));
    run(make)?;
    sh("for f in native/*.o; do cmp $f walked/${f#native/}; done")?;
    let report = Report::read(&report)?;
    if report.walks.len() < 4 {
        return Err(format!("only {} steps walked", report.walks.len()));
    }
    // A step's output has versions like any other file.
    let object = point.join("walked/f1.o");
    fs::metadata(&object).map_err(|error| error.to_string())?;
    let mut versions = up.command("oswalk");
    versions.arg("versions").arg(&object);
    run(versions)
}

fn run(command: std::process::Command) -> Result<(), String> {
    let run = Run::of(command, LIMIT)?;
    if run.succeeded() { Ok(()) } else { Err(run.to_string()) }
}
