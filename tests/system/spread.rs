//! Which nodes have what of one tree: conflicts, where a content is, fetching it, mending it, and keeping it on several nodes.

use std::fs;
use std::process::Command;

use crate::Test;
use crate::interrupts::{wait_longer, wait_until};
use crate::lab::Lab;
use crate::members::Odd;
use crate::run::{Run, seconds};
use crate::volumes::Mounted;

pub(crate) const ALL: &[Test] = &[
    ("spread::contents_are_found_fetched_and_mended", found),
    ("spread::conflicts_are_listed_until_they_are_decided", conflicts),
    ("spread::a_content_survives_the_node_that_wrote_it", survives),
    ("spread::two_nodes_share_a_directory", both_ways),
];

/// Flips a bit of a file's content in the packs of a node.
const FLIP: &str = r#"
import os, sys
packs, part = sys.argv[1], open(sys.argv[2], "rb").read()[1500000:1500064]
for name in os.listdir(packs):
    if not name.endswith(".pack"): continue
    with open(os.path.join(packs, name), "r+b") as pack:
        at = pack.read().find(part)
        if at >= 0:
            pack.seek(at); pack.write(bytes([part[0] ^ 1])); sys.exit(0)
sys.exit("the content is in no pack")
"#;

fn found(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "spread found")?;
    volume.done(
        "origin",
        "mkdir sp && head -c 3000000 /dev/urandom > sp/large && echo x > sp/small",
    )?;
    volume.all("test $(stat -c %s sp/large) = 3000000")?;
    let is = |node: &str, script: &str, expected: &str| {
        wait_until(&format!("on {node}: {script}: {expected}"), || {
            volume.done(node, script).is_ok_and(|out| out.contains(expected))
        })
    };
    is("n1", "oswalk fs where sp/large | tr -s ' '", "n1* 0 B 0 %\n")?;
    is("n1", "oswalk fs where sp/large | tr -s ' '", "origin 2.86 MiB 100 %\n")?;
    volume.done("n1", "oswalk fs prefetch sp | grep -q '2 of 2 files are here; 2.86 MiB of'")?;
    volume.done("n1", "oswalk fs prefetch sp | grep -q '; 0 B of'")?;
    is("origin", "oswalk fs where sp | tr -s ' '", "n1 2.86 MiB 100 %\n")?;
    is("origin", "oswalk fs where sp", "2 files, 2.86 MiB\norigin*")?;
    volume.done("origin", "oswalk fs where --json sp | grep -q '\"this\": true'")?;
    up.lab(&["kill", "n2"])?;
    is("origin", "oswalk fs where sp/large | tr -s ' '", "n2 not reachable")?;
    up.lab(&["heal", "n2"])?;
    // A bit flips on the disk of a node, and another node has the packet.
    let packs = up.state("n1").join("volume/packs");
    let flip = format!("python3 -c '{FLIP}' {} sp/large", packs.display());
    volume.done("n1", &flip)?;
    let scrubbed = volume.done("n1", "oswalk fs scrub")?;
    if !scrubbed.contains("healed: 1 damaged packets") {
        return Err(format!("the first scrub: {scrubbed}"));
    }
    volume.done("n1", "oswalk fs scrub --json | grep -q '\"healed\": 0'")?;
    volume.same("sha256sum sp/large")?;
    volume.done("origin", "rm -r sp").map(drop)
}

fn conflicts(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "spread conflicts")?;
    volume.done("origin", "mkdir co && echo before > co/f && echo before > co/g")?;
    volume.all("grep -qx before co/f && grep -qx before co/g")?;
    up.lab(&["cut", "n1"])?;
    volume.done("origin", "echo here > co/f; echo here > co/g")?;
    volume.done("n1", "echo there > co/f; echo there > co/g")?;
    up.lab(&["heal", "n1"])?;
    volume.all("test $(oswalk fs conflicts co | grep -c 'co/[fg]$') = 2")?;
    volume.all("oswalk fs conflicts co/f | grep -q ' origin ' && oswalk fs conflicts co/f | grep -q ' n1 '")?;
    volume.all("cd co && test $(oswalk fs conflicts --json | grep -c '\"path\"') -ge 2")?;
    volume.all("oswalk versions co/f | grep -q conflict && oswalk fs status | grep -q \"fs conflicts' lists\"")?;
    let lost = "oswalk versions co/$f | grep ' conflict' | cut -d' ' -f1";
    volume.done("n1", &format!("f=f; oswalk choose co/f $({lost})"))?;
    volume.done("origin", &format!("f=g; oswalk choose --dismiss co/g $({lost})"))?;
    volume.done("origin", "oswalk log co/g -n 1 | grep -q '  origin  .*  dismissed a version$'")?;
    volume.all("test -z \"$(oswalk fs conflicts co)\"")?;
    volume.same("cat co/f co/g")?;
    // What programs write does not end a conflict, and its versions have one name on all nodes.
    up.lab(&["cut", "n1"])?;
    volume.done("origin", "echo once more here >> co/f")?;
    volume.done("n1", "echo once more there >> co/f")?;
    up.lab(&["heal", "n1"])?;
    volume.all("oswalk fs conflicts co/f | grep -q ' n1 '")?;
    volume.done("origin", "echo after >> co/f && echo saved > co/f~ && mv co/f~ co/f")?;
    volume.all("grep -qx saved co/f && test $(oswalk fs conflicts co/f | grep -c '@') = 2")?;
    volume.same("oswalk versions co/f | grep ' conflict' | cut -d' ' -f1")?;
    let name = volume.done("n2", &format!("f=f; {lost}"))?;
    volume.done("origin", &format!("oswalk choose co/f {}", name.trim()))?;
    volume.all("test -z \"$(oswalk fs conflicts co)\" && grep -q 'once more' co/f")?;
    volume.done(
        "origin",
        "! oswalk choose --dismiss co/g $(oswalk versions co/g | tail -1 | cut -d' ' -f1)",
    )?;
    volume.done("origin", "rm -r co").map(drop)
}

fn survives(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "spread survives")?;
    let state = up.fresh("spread odd")?;
    let listens = ["--listen", "10.77.0.13:7709", "--advertise", "10.77.0.13:7709"];
    let odd = Odd::join(up, state.clone(), &listens)?;
    let point = up.fresh("spread odd mount")?.join("cluster");
    let point = point.display();
    volume.done_in(&state, &format!("oswalk mount {point}"))?;
    let on_odd = |script: &str| volume.done_in(&state, &format!("cd {point} && {script}"));
    volume.done("origin", "mkdir re && oswalk fs replicas re 2 | grep -q '2 nodes keep'")?;
    // The command asks the agent, which knows of the directory shortly before programs see it.
    let says = "oswalk fs replicas re | grep -q '2 nodes keep' && test -d re";
    wait_until("odd has heard it", || on_odd(says).is_ok())?;
    on_odd("head -c 5000000 /dev/urandom > re/f")?;
    let sum = on_odd("sha256sum re/f")?;
    let healthy =
        "oswalk fs status | grep -q 'replicas  1 contents, 4.77 MiB: all have their copies'";
    wait_longer(seconds(60), "two nodes have it", || on_odd(healthy).is_ok())?;
    let pid = fs::read_to_string(state.join("pid")).map_err(|error| error.to_string())?;
    let mut kill = Command::new("kill");
    kill.args(["-KILL", pid.trim()]);
    Run::of(kill, seconds(10))?;
    let told =
        "oswalk fs status | grep -q 'under-replicated: 1 contents, 4.77 MiB; nothing is missing'";
    wait_longer(seconds(60), "the loss is told", || volume.done("origin", told).is_ok())?;
    drop(odd);
    up.cluster(&up.state("origin"), &["remove", "odd"])?;
    wait_longer(seconds(60), "two other nodes have it", || volume.done("origin", healthy).is_ok())?;
    volume.all(&format!("test \"$(sha256sum re/f)\" = '{}'", sum.trim()))?;
    volume.done("origin", "rm -r re").map(drop)
}

fn both_ways(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "spread both ways")?;
    let top = up.fresh("spread directories")?;
    let [one, two] = ["origin", "n1"].map(|node| top.join(node).display().to_string());
    volume.done("origin", &format!("mkdir -p {one}/d {two} && echo one > {one}/d/f && echo 1 > {one}/g && chmod 750 {one}/g"))?;
    volume.done(
        "origin",
        &format!("oswalk share {one} --as both/ways --write | grep -q 'kept the same'"),
    )?;
    volume.all("test -e both/ways/g")?;
    volume.done(
        "n1",
        &format!(
            "! oswalk share {two} --as both/ways 2> {two}.err; grep -q 'with --write' {two}.err"
        ),
    )?;
    volume.done(
        "n1",
        &format!("echo two > {two}/only && oswalk share {two} --as both/ways --write"),
    )?;
    let same = || {
        wait_until("the directories are the same", || {
            let script = format!(
                "diff -r {one} {two} && test -z \"$(find {one} {two} -name '.oswalk-share-*')\""
            );
            volume.done("n2", &script).is_ok()
        })
    };
    same()?;
    // As editors save, and as programs on a mount of a third node write.
    volume.done(
        "n1",
        &format!(
            "echo saved > {two}/d/f~ && mv {two}/d/f~ {two}/d/f && mv {two}/only {two}/d/moved"
        ),
    )?;
    volume.done("n2", "echo mounted > both/ways/new && rm both/ways/g")?;
    wait_until("the changes are everywhere", || {
        let script = format!(
            "grep -qx saved {one}/d/f && grep -qx two {one}/d/moved && grep -qx mounted {one}/new && test ! -e {one}/g"
        );
        volume.done("n2", &script).is_ok()
    })?;
    same()?;
    up.lab(&["cut", "n1"])?;
    volume.done("origin", &format!("echo here > {one}/d/f"))?;
    volume.done("n1", &format!("echo there > {two}/d/f"))?;
    for (node, text) in [("origin", "here"), ("n1", "there")] {
        wait_until("the volume has it", || {
            volume.done(node, &format!("grep -qx {text} both/ways/d/f")).is_ok()
        })?;
    }
    up.lab(&["heal", "n1"])?;
    volume.all("oswalk fs conflicts both | grep -q 'both/ways/d/f$'")?;
    same()?;
    volume.done("origin", "oswalk fs status | grep -q '^shared    both/ways, both ways with '")?;
    for (node, dir) in [("origin", &one), ("n1", &two)] {
        volume.done(node, &format!("oswalk share | grep -q '^both/ways  {dir}  both ways'"))?;
        volume.done(node, "oswalk share --stop both/ways")?;
    }
    volume
        .done("origin", &format!("rm -r both && test -e {one}/new && test -e {two}/new"))
        .map(drop)
}
