//! One tree on all nodes: what one node writes the others see, whatever happens to links and agents meanwhile.

use std::path::{Path, PathBuf};

use crate::Test;
use crate::holders::sent;
use crate::interrupts::{wait_longer, wait_until};
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, Started, seconds};

pub(crate) const ALL: &[Test] = &[
    ("volumes::all_nodes_see_what_one_writes", all_see),
    ("volumes::what_is_made_after_a_close_is_seen_after_it", in_order),
    ("volumes::both_sides_of_a_cut_keep_what_they_wrote", cut),
    ("volumes::an_agent_that_is_killed_loses_nothing", killed),
    ("volumes::walks_see_what_other_nodes_write", walks_see),
    ("volumes::a_build_below_the_volume_walks", builds),
    ("volumes::a_program_runs_where_its_bytes_are", runs_near),
    ("volumes::scripts_walk_unless_a_shell_reads_them", scripts),
];

pub(crate) const NODES: [&str; 3] = ["origin", "n1", "n2"];

/// The volume, mounted on all nodes. It is unmounted when this is dropped.
pub(crate) struct Mounted<'a> {
    up: &'a Up,
    point: PathBuf,
}

impl<'a> Mounted<'a> {
    pub(crate) fn new(up: &'a Up, name: &str) -> Result<Self, String> {
        let mounted = Self { up, point: up.fresh(name)?.join("cluster") };
        for node in NODES {
            let point = mounted.point(node);
            mounted.done(node, &format!("oswalk mount {}", point.display()))?;
        }
        Ok(mounted)
    }

    /// Returns the path of a node's mount as this process sees it, until its agent ends.
    pub(crate) fn seen(&self, node: &str) -> Result<PathBuf, String> {
        let namespace = self.up.namespace(node)?;
        let task = namespace.strip_suffix("ns/mnt").expect("it is that of a task");
        let point = self.point(node);
        Ok(Path::new(task).join("root").join(point.strip_prefix("/").expect("it is absolute")))
    }

    /// Returns where a node has its mount. Those of the origin's come to all nodes, so the others use other directories.
    pub(crate) fn point(&self, node: &str) -> PathBuf {
        if node == "origin" { self.point.clone() } else { self.point.with_file_name(node) }
    }

    pub(crate) fn start(&self, node: &str, script: &str) -> Result<Started, String> {
        self.start_in(&self.up.state(node), &self.point(node), script)
    }

    /// Starts a script in the mount of the agent with a state directory.
    fn start_in(&self, state: &Path, point: &Path, script: &str) -> Result<Started, String> {
        let namespace = self.up.namespace_of(state)?;
        let mut command = self.up.command("nsenter");
        let script = format!("cd {} 2>/dev/null; {script}", point.display());
        command.arg(format!("--mount={namespace}")).args(["sh", "-c", &script]);
        command.env("OSWALK_STATE", state);
        Run::start(command, None)
    }

    /// Runs a script in the mount of a node.
    pub(crate) fn script(&self, node: &str, script: &str) -> Result<Run, String> {
        self.start(node, script)?.wait(seconds(60))
    }

    /// Runs a script in the mount of another agent, which must succeed. Returns what it prints.
    pub(crate) fn done_in(&self, state: &Path, script: &str) -> Result<String, String> {
        let run = self.start_in(state, &self.point, script)?.wait(seconds(60))?;
        if run.succeeded() { Ok(run.out()) } else { Err(format!("{script}: {run}")) }
    }

    /// Runs a script that must succeed. Returns what it prints.
    pub(crate) fn done(&self, node: &str, script: &str) -> Result<String, String> {
        let run = self.script(node, script)?;
        if run.succeeded() { Ok(run.out()) } else { Err(format!("on {node}: {script}: {run}")) }
    }

    /// Waits until a script succeeds on all nodes.
    pub(crate) fn all(&self, script: &str) -> Result<(), String> {
        NODES.iter().try_for_each(|node| {
            wait_until(&format!("on {node}: {script}"), || {
                self.script(node, script).is_ok_and(|run| run.succeeded())
            })
        })
    }

    /// Waits until a script prints the same on all nodes.
    pub(crate) fn same(&self, script: &str) -> Result<String, String> {
        let mut outs = Vec::new();
        let waited = wait_until(&format!("the same everywhere: {script}"), || {
            outs = NODES.iter().filter_map(|node| self.done(node, script).ok()).collect();
            outs.len() == NODES.len() && outs.iter().all(|out| *out == outs[0])
        });
        waited.map_err(|error| format!("{error}: {outs:?}"))?;
        Ok(outs.swap_remove(0))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        for node in NODES {
            let _ =
                self.script(node, &format!("cd /; oswalk umount {}", self.point(node).display()));
        }
    }
}

fn all_see(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes all see")?;
    volume.done("origin", "mkdir all && cp /etc/passwd all/passwd")?;
    volume.all("cmp all/passwd /etc/passwd")?;
    volume.done("n1", "mv all/passwd all/moved && chmod 600 all/moved")?;
    volume.all(
        "cmp all/moved /etc/passwd && test ! -e all/passwd && test $(stat -c %a all/moved) = 600",
    )?;
    volume.done("n2", "echo changed > all/moved")?;
    volume.all("grep -qx changed all/moved")?;
    volume.done(
        "origin",
        "rm all/moved; mkdir all/many; for i in $(seq 1000); do echo $i > all/many/$i; done",
    )?;
    volume.all("test ! -e all/moved && test $(cat all/many/* | wc -l) = 1000")?;
    volume.done("n2", "head -c 20000000 /dev/urandom > all/large")?;
    volume.all("test $(stat -c %s all/large) = 20000000")?;
    volume.same("sha256sum all/large")?;
    volume.done("n1", "rm -r all")?;
    volume.all("test ! -e all")
}

fn in_order(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes in order")?;
    volume.done("n1", "mkdir order && head -c 12000000 /dev/urandom > order/of")?;
    volume.all("test $(stat -c %s order/of) = 12000000")?;
    let sum = volume.done("n1", "sha256sum < order/of")?;
    for round in 0..6 {
        let reader = volume.start(
            "n2",
            &format!(
                "while ! test -e order/done{round}; do :; done; sha256sum < order/data{round}"
            ),
        )?;
        volume.done("n1", &format!("cp order/of order/data{round}; touch order/done{round}"))?;
        let read = reader.wait(seconds(60))?.out();
        if read != sum {
            return Err(format!("round {round}: {read}, not {sum}"));
        }
    }
    volume.done("origin", "rm -r order").map(drop)
}

fn cut(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes cut")?;
    volume.done("origin", "mkdir cut && echo before > cut/both")?;
    volume.all("grep -qx before cut/both")?;
    up.lab(&["cut", "n1"])?;
    volume.done(
        "origin",
        "echo here > cut/both; echo here > cut/here; mkdir cut/dir; echo here > cut/dir/here",
    )?;
    volume.done(
        "n1",
        "echo there > cut/both; echo there > cut/there; mkdir cut/dir; echo there > cut/dir/there",
    )?;
    up.lab(&["heal", "n1"])?;
    volume.all(
        "test -e cut/here && test -e cut/there && test -e cut/dir/here && test -e cut/dir/there",
    )?;
    let seen = volume.same("cd cut && cat both here there dir/here dir/there")?;
    if !["there\nhere\nthere\nhere\nthere\n", "here\nhere\nthere\nhere\nthere\n"]
        .contains(&seen.as_str())
    {
        return Err(format!("seen after the cut: {seen}"));
    }
    let versions = volume.same("cat .oswalk/versions/cut/both/* | sort")?;
    if versions != "before\nhere\nthere\n" {
        return Err(format!("versions after the cut: {versions}"));
    }
    volume.done("origin", "rm -r cut").map(drop)
}

fn killed(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes killed")?;
    volume.done("n1", "mkdir killed")?;
    volume.all("test -d killed")?;
    let writes =
        "for i in $(seq 5000); do echo $i > killed/$i 2>/dev/null && echo $i || exit 0; done";
    let writer = volume.start("n1", writes)?;
    wait_until("some files are here", || {
        volume.script("origin", "test -e killed/50").is_ok_and(|run| run.succeeded())
    })?;
    up.lab(&["kill", "n1"])?;
    let written = writer.wait(seconds(60))?;
    let last = written.out().lines().last().unwrap_or_default().to_owned();
    up.lab(&["heal", "n1"])?;
    volume.all(&format!("test -e killed/{last} && grep -qx {last} killed/{last}"))?;
    let all = volume.same("cat $(ls -d killed/* | sort -V) | sort -n | uniq | wc -l")?;
    if all.trim().parse::<u64>().ok() < last.parse().ok() {
        return Err(format!("{last} files were written, {all} are there"));
    }
    volume.done("origin", "rm -r killed").map(drop)
}

/// A walk on `n2` of a program of the origin.
const ON_N2: &str = "oswalk exec --on n2 --no-fallback --walk cat --walk ls --";

fn walks_see(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes walks see")?;
    volume.done("origin", "mkdir -p walks/sub && echo 0 > walks/f && echo s > walks/sub/s")?;
    volume.all("test -e walks/sub/s && grep -qx 0 walks/f")?;
    let walked = volume.done("origin", &format!("{ON_N2} cat walks/f"))?;
    if walked != "0\n" {
        return Err(format!("before the changes: {walked}"));
    }
    // While another node writes, a walk never sees less than a program of the origin has seen before.
    let writes = "for i in $(seq 40); do echo $i > walks/f; \
                  mv walks/f walks/g; mv walks/g walks/f; sleep 0.05; done";
    let writer = volume.start("n1", writes)?;
    let compare = format!(
        "for i in $(seq 20); do a=$(cat walks/f 2>/dev/null) || continue; \
         b=$({ON_N2} cat walks/f 2>/dev/null) || continue; test $b -ge $a || echo $a then $b; done"
    );
    let stale = volume.done("origin", &compare)?;
    if !stale.is_empty() {
        return Err(format!("walks saw former contents: {stale}"));
    }
    writer.wait(seconds(60))?;
    volume.done("n1", "mv walks/sub walks/other && echo t > walks/other/t && rm walks/f")?;
    wait_until("the origin sees the last change", || {
        let seen = "test -e walks/other/t && test ! -e walks/f && test ! -e walks/sub";
        volume.script("origin", seen).is_ok_and(|run| run.succeeded())
    })?;
    let native = volume.done("origin", "ls -R walks; cat walks/other/*")?;
    let walked = volume
        .done("origin", &format!("{ON_N2} ls -R walks; {ON_N2} cat walks/other/s walks/other/t"))?;
    if walked != native {
        return Err(format!("native: {native}, walked: {walked}"));
    }
    volume.done("origin", "rm -r walks").map(drop)
}

fn builds(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes builds")?;
    let sources = r#"mkdir build && cd build && for i in 1 2 3 4; do
        printf '#include "h.h"\nint f%d(int x) { return x + %d + H; }\n' $i $i > f$i.c; done
        echo '#define H 7' > h.h
        printf '#include <stdio.h>\nint main(void) { puts("made"); return 0; }\n' > main.c
        printf 'app: main.o f1.o f2.o f3.o f4.o\n\tcc -o $@ $^\nout: app\n\t./app > out\n' > Makefile"#;
    volume.done("n1", sources)?;
    volume.all("test -s build/Makefile && test -s build/main.c && test -s build/h.h")?;
    let report = volume.point.with_extension("report");
    let build = format!(
        "cd build && oswalk exec --no-fallback --report {} -- sh -c 'make -s -j4 out && ./app && cat out'",
        report.display()
    );
    let printed = volume.done("origin", &build)?;
    if printed != "made\nmade\n" {
        return Err(format!("the build printed {printed}"));
    }
    let json = std::fs::read_to_string(&report).map_err(|error| error.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    let walks = json["walks"].as_array().cloned().unwrap_or_default();
    let of = |name: &str| walks.iter().filter(|walk| walk["argv0"] == *name).count();
    if (of("cc"), of("./app")) != (5, 2) {
        return Err(format!("walks: {json}"));
    }
    // What walked is what the compiler makes here, and all nodes have it.
    let native = "cd build && mkdir native && for i in f1 f2 f3 f4 main; do \
                  cc -c $i.c -o native/$i.o && cmp native/$i.o $i.o || exit 1; done; rm -r native";
    volume.done("origin", native)?;
    volume.all("test -x build/app && grep -qx made build/out && test $(build/app) = made")?;
    volume.same("cat build/*.o | sha256sum")?;
    volume.done("origin", "rm -r build").map(drop)
}

/// Bytes of a file that only one node has.
const NEAR_BYTES: u64 = 40_000_000;

fn runs_near(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes near")?;
    volume.done("n2", &format!("mkdir near && head -c {NEAR_BYTES} /dev/urandom > near/data"))?;
    volume.all(&format!("test $(stat -c %s near/data) = {NEAR_BYTES}"))?;
    let sum = volume.done("n2", "sha256sum near/data")?;
    wait_until("it is packets on n2", || {
        volume.done("n2", "oswalk fs where near | grep -q '100 %'").is_ok()
    })?;
    let report = volume.point.with_extension("report");
    let walk = |options: &str| -> Result<Vec<String>, String> {
        let report = report.display();
        let command = format!(
            "oswalk exec --no-fallback {options} --walk sha256sum --report {report} -- sh -c 'sha256sum near/data; :'"
        );
        let read = volume.done("origin", &command)?;
        if read != sum {
            return Err(format!("{options}: {read}, not {sum}"));
        }
        let report = Report::read(&volume.point.with_extension("report"))?;
        Ok(report.runners().into_iter().map(str::to_owned).collect())
    };
    let before = sent(up, "origin")?;
    // On a busy machine, it may not be known in time who has the bytes.
    let mut failed = Ok(());
    wait_longer(seconds(60), "it runs on the node that has its bytes", || match walk("") {
        Ok(runners) => runners == ["n2"],
        Err(error) => {
            failed = Err(error);
            true
        }
    })?;
    failed?;
    // Another node takes it from the node that has it.
    walk("--on n1")?;
    let bytes = sent(up, "origin")? - before;
    if bytes > NEAR_BYTES / 4 {
        return Err(format!("the origin has sent {bytes} bytes"));
    }
    volume.done("origin", "rm -r near").map(drop)
}

/// Makes scripts in the directory `scripts`: those that walk, and others.
const SCRIPTS: &str = r#"mkdir scripts && cd scripts || exit 1
    body='import sys; print(sys.argv, open("/proc/self/cmdline").read().split("\0")); sys.exit(7)'
    printf '#!/usr/bin/env python3\n%s\n' "$body" > py
    printf '#! /usr/bin/env -S python3 -u -B \n%s\n' "$body" > split
    printf '#!%s/py  one two\nnested\n' "$PWD" > nested
    printf '#!/usr/bin/perl -w\nprint "$0 @ARGV\\n"; undef . "x"; exit 3\n' > pl
    printf '#!/usr/bin/awk -f\nBEGIN { print ARGV[1]; exit 4 }\n' > awk
    printf '#!/usr/bin/python3 -q\nimport os\nos.kill(os.getpid(), 9)\n' > dies
    printf '#!/bin/cat\n' > itself
    printf '#!/usr/bin/env python3\r\nprint(1)\n' > crlf
    printf '#!/usr/bin/python3\r\nprint(1)\n' > crlf2
    printf '#!/nowhere/python3\n' > missing
    printf '#!/usr/bin/env nowhere-python\n' > unknown
    printf '#!/bin/sh\necho "$0 $*"; ./py from sh\nexit 5\n' > sh
    cp py unreadable; cp py setid
    chmod 755 * && chmod 111 unreadable && chmod 6755 setid"#;
const WALK: [&str; 11] = [
    "py",
    "split",
    "nested",
    "pl",
    "awk",
    "dies",
    "itself",
    "crlf",
    "unknown",
    "unreadable",
    "setid",
];

fn scripts(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "volumes scripts")?;
    volume.done("origin", SCRIPTS)?;
    volume.all("test -u scripts/setid && test -s scripts/unreadable")?;
    let others = ["crlf2", "missing", "sh"];
    let all = WALK.iter().chain(&others).copied().collect::<Vec<_>>().join(" ");
    let each =
        format!("for it in {all}; do ./$it a \"b  c\"; echo $it: $?; done 2>&1; $PWD/scripts/py");
    let native = volume.done("origin", &format!("cd scripts && {{ sh -c '{each}'; :; }}"))?;
    let report = volume.point.with_extension("report");
    let walked = format!(
        "cd scripts && {{ oswalk exec --on n2 --no-fallback --report {} -- sh -c '{each}'; :; }}",
        report.display()
    );
    let walked = volume.done("origin", &walked)?;
    if walked != native {
        return Err(format!("native:\n{native}\nwalked:\n{walked}"));
    }
    let json = std::fs::read_to_string(&report).map_err(|error| error.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    let walks = json["walks"].as_array().cloned().unwrap_or_default();
    let names = walks.iter().filter(|walk| walk["runner"] == "n2");
    let names: Vec<_> =
        names.filter_map(|walk| walk["argv0"].as_str()?.strip_prefix("./")).collect();
    for name in WALK {
        // The shell's script executes one, too.
        if names.iter().filter(|walked| **walked == name).count() != 1 + usize::from(name == "py") {
            return Err(format!("{name} of {names:?}: {json}"));
        }
    }
    volume.done("origin", "rm -r scripts").map(drop)
}
