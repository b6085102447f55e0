//! A cluster of ordinary users, without root anywhere.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use crate::Test;
use crate::lab::{Lab, Up};
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("rootless::builds_are_the_same_without_root_anywhere", builds),
    ("rootless::a_node_without_root_takes_compile_steps_only", others_run_here),
    ("rootless::only_what_meets_an_access_control_list_is_declined", meets_acls),
    ("rootless::a_closed_directory_in_path_costs_nothing", closed_directory),
];

const LIMIT: std::time::Duration = seconds(60);
/// Two users without an entry in `/etc/passwd`.
const ANN: u32 = 4711;
const BEN: u32 = 4712;

/// Makes `/dev/fuse` accessible, as it is on most machines, then lets Ann make a cluster, Ben join it, and Ann run the rest. The
/// caller has pid and mount namespaces of its own, with which everything ends.
const SETUP: &str = r#"
set -e
dir=$1; ann=$2; ben=$3; shift 3
ip link set lo up
mount -t tmpfs none /run
mknod /run/fuse c 10 229; chmod 666 /run/fuse; mount --bind /run/fuse /dev/fuse
as() { user=$1; shift; setpriv --reuid=$user --regid=$user --clear-groups env HOME=$dir/$user "$@"; }
as $ann oswalk cluster init --name lab --node ann --listen 127.0.0.1:7801 --slots 2 >$dir/made
line=$(sed -n "s/.*'\(oswalk:.*\)'.*/\1/p" $dir/made)
as $ben oswalk cluster join "$line" --node ben --listen 127.0.0.1:7802 --slots 4 >/dev/null
cd $dir/$ann
as $ann sh -ec "$1"
"#;

/// A project with sources that only their owner may read, and with outputs that are there already.
const PROJECT: &str = r#"
mkdir -p src obj inc; chmod 700 inc; echo '#define V 7' >inc/v.h; chmod 600 inc/v.h
for i in 1 2 3 4 5 6 7 8; do printf '#include <stdio.h>\n#include "v.h"\nint f%d(int x) { printf("%%d", x); return x + V; }\n' $i >src/f$i.c; done
echo 'int bad(void) { return }' >src/bad.c
printf 'all: $(patsubst src/f%%.c,obj/f%%.o,$(wildcard src/f*.c))\nobj/%%.o: src/%%.c\n\tgcc -O2 -g -gsplit-dwarf -MMD -Iinc -c $< -o $@\n' >Makefile
"#;

fn in_cluster(up: &Up, name: &str, script: &str) -> Result<Run, String> {
    let dir = up.fresh(&format!("rootless-{name}"))?;
    for user in [ANN, BEN] {
        let home = dir.join(user.to_string());
        fs::create_dir(&home)
            .and_then(|()| chown(&home, Some(user), Some(user)))
            .map_err(|error| error.to_string())?;
    }
    let mut command: Command = up.command("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.args(["sh", "-c", SETUP, "sh"]).arg(&dir).args([ANN, BEN].map(|uid| uid.to_string()));
    command.arg(script).env_remove("OSWALK_STATE").env_remove("OSWALK_POLICY");
    let run = Run::of(command, LIMIT)?;
    if run.succeeded() { Ok(run) } else { Err(run.to_string()) }
}

fn builds(lab: &Lab) -> Result<(), String> {
    const BUILD: &str = r#"
        mkdir native walked
        for dir in native walked; do (cd $dir; eval "$PROJECT"); done
        shows() {
            sort obj/*.d | md5sum; for f in obj/*; do stat -c '%n %a %u %g' $f; done; md5sum obj/*.o obj/*.dwo
        }
        cd native; make -s -j6; echo x >obj/f1.o; chmod 640 obj/f1.o; touch src/f1.c; make -s; gcc -c src/bad.c 2>err || echo $?; shows >../native.txt; cd ..
        mv native was-native; mv walked native; cd native
        oswalk exec --report ../report.json make -s -j6
        echo x >obj/f1.o; chmod 640 obj/f1.o; touch src/f1.c; oswalk exec make -s
        oswalk exec gcc -c src/bad.c 2>err || echo $?
        shows >../walked.txt; cd ..
        diff was-native/err native/err; diff native.txt walked.txt
        grep -c '"runner": *"ben"' report.json
    "#;
    let (up, _shared) = lab.shared()?;
    let run = in_cluster(
        up,
        "builds",
        &format!("PROJECT='{}'\n{BUILD}", PROJECT.replace('\'', r"'\''")),
    )?;
    let out = run.out();
    let walked: usize = out.lines().last().and_then(|count| count.parse().ok()).unwrap_or(0);
    if walked < 4 { Err(format!("{walked} walked: {run}")) } else { Ok(()) }
}

/// Programs that could see that all files have one owner there.
fn others_run_here(lab: &Lab) -> Result<(), String> {
    const SCRIPT: &str = r#"
        oswalk status | grep -q '^ben .*compile steps' || echo "the status does not say it"
        oswalk exec --report report.json --walk-all -- sh -c 'stat -c "%u %g" / /etc .; tar cf t.tar --absolute-names /etc/hostname; tar tvf t.tar | cut -c 1-22'
        stat -c "%u %g" / /etc .; tar cf t.tar --absolute-names /etc/hostname; tar tvf t.tar | cut -c 1-22
        grep -c '"runner": *"ben"' report.json || true
    "#;
    let (up, _shared) = lab.shared()?;
    let run = in_cluster(up, "others", SCRIPT)?;
    let out = run.out();
    let lines: Vec<&str> = out.lines().collect();
    let count = lines.len() / 2;
    if lines.len() == 2 * count + 1
        && lines[..count] == lines[count..2 * count]
        && lines.last() == Some(&"0")
    {
        Ok(())
    } else {
        Err(format!("walked, then natively, then how many walked: {run}"))
    }
}

/// A list elsewhere in the tree keeps nothing here. What meets one is executed at the origin, with the same result. A loaded machine
/// may place one of three steps at the origin for its own reasons, so that "some" walked is what the test can ask for.
fn meets_acls(lab: &Lab) -> Result<(), String> {
    const SCRIPT: &str = r#"
        mkdir w inc below; echo 'int v;' >inc/v.h; echo 'int x;' >other
        setfacl -m u:1:r other; setfacl -m u:1:rx below
        for i in 1 2 3; do echo 'int a;' >w/a$i.c; echo '#include "../inc/v.h"' >w/b$i.c; echo 'int c;' >below/c$i.c; done
        walked() { oswalk exec --report $1.json make -s -j3 -f - || echo failed; grep -q '"runner": *"ben"' $1.json && echo some || echo none; cat $1.json >&2; rm -f */*.o; }
        rule='%.o: %.c\n\tgcc -c $< -o $@\n'
        printf "all: w/a1.o w/a2.o w/a3.o\n$rule" >a; printf "all: w/b1.o w/b2.o w/b3.o\n$rule" >b
        printf "all: below/c1.o below/c2.o below/c3.o\n$rule" >c
        walked a <a; walked b <b
        setfacl -m u:1:r inc/v.h; walked b <b; walked c <c; walked a <a
    "#;
    let (up, _shared) = lab.shared()?;
    let run = in_cluster(up, "acls", SCRIPT)?;
    if run.out() == "some\nsome\nnone\nnone\nsome\n" {
        Ok(())
    } else {
        Err(format!("walked: {run}"))
    }
}

/// Drivers look for their programs in all of PATH. What they may not enter here they may not enter there.
fn closed_directory(lab: &Lab) -> Result<(), String> {
    const SCRIPT: &str = r#"
        PATH=/root/bin:$PATH; ls /root 2>/dev/null && exit 1
        for i in 1 2 3 4; do echo 'int a;' >a$i.c; done
        printf 'all: a1.o a2.o a3.o a4.o\n%%.o: %%.c\n\tgcc -c $< -o $@\n' >Makefile
        oswalk exec --report report.json make -s -j4
        grep -c '"argv0": "gcc"' report.json; grep -c 'argv0.*cc1' report.json || true
    "#;
    let (up, _shared) = lab.shared()?;
    let run = in_cluster(up, "closed", SCRIPT)?;
    if run.out() == "4\n0\n" { Ok(()) } else { Err(format!("walked: {run}")) }
}
