//! Trees of real files: a build, and all headers of the machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::served::{Served, bytes_below};
use crate::sides::Sides;
use crate::table::{Must, Table};

const INCLUDE: &str = "/usr/include";
const MIB: f64 = 1024.0 * 1024.0;

/// Builds Lua on both sides.
pub(crate) fn build(sides: &mut Sides, lua: Option<&Path>, table: &mut Table) {
    let Some(lua) = lua else {
        println!("build is left out: --lua says where the sources are");
        return;
    };
    let built = sides.turns(|dir| {
        run("cp", &["-a", &shown(lua), &shown(&dir.join("lua"))]);
        seconds(|| run("make", &["-s", "-j2", "-C", &shown(&dir.join("lua/src")), "linux"]))
    });
    table.beside("make -j2 of Lua", "s", &built, &Must::Over(1.05));
}

/// Puts all headers into a new store, beside restic and casync.
pub(crate) fn include(dir: &Path, runs: usize, table: &mut Table) {
    let [mut first, mut again, mut stored] = [const { Vec::new() }; 3];
    let mut cpu = Vec::new();
    run("cp", &["-a", INCLUDE, &shown(&dir.join("warm"))]);
    for at in 0..runs {
        let dir = dir.join(format!("include-{at}"));
        let mut served = Served::new(&dir);
        let to = shown(&dir.join("point/include"));
        first.push(seconds(|| {
            run("cp", &["-a", INCLUDE, &to]);
            served.settle();
        }));
        cpu.push(served.cpu().as_secs_f64());
        again.push(
            1000.0
                * seconds(|| {
                    run("rsync", &["-a", &format!("{INCLUDE}/"), &to]);
                    served.settle();
                }),
        );
        drop(served);
        stored.push(bytes_below(&dir.join("store/packs")) / MIB);
    }
    table.alone("/usr/include put in by cp -a, until it is packets", "s", &first, &Must::Own(0.9));
    table.alone("  CPU time of the server", "s", &cpu, &Must::Stated);
    table.alone("  again unchanged, by rsync -a", "ms", &again, &Must::Own(20.0));
    table.alone("  stored", "MiB", &stored, &Must::Own(20.0));
    let plain =
        |at: usize| seconds(|| run("cp", &["-a", INCLUDE, &shown(&dir.join(format!("cp-{at}")))]));
    table.alone("  cp -a to ext4", "s", &(0..runs).map(plain).collect::<Vec<_>>(), &Must::Stated);
    let plain = |_| {
        1000.0
            * seconds(|| run("rsync", &["-a", &format!("{INCLUDE}/"), &shown(&dir.join("cp-0"))]))
    };
    table.alone(
        "  rsync -a again on ext4",
        "ms",
        &(0..runs).map(plain).collect::<Vec<_>>(),
        &Must::Stated,
    );
    others(dir, runs, table);
}

/// A program, and how it puts the tree into its store.
type Other<'a> = (&'a str, &'a dyn Fn(&str));

fn others(dir: &Path, runs: usize, table: &mut Table) {
    let programs: [Other<'_>; 2] = [
        ("restic", &|store| {
            run("restic", &["-q", "-r", store, "backup", INCLUDE]);
        }),
        ("casync", &|store| {
            run(
                "casync",
                &["make", &format!("--store={store}"), &format!("{store}.caidx"), INCLUDE],
            );
        }),
    ];
    for (name, put) in programs {
        if Command::new(name)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            println!("  {name} is not installed");
            continue;
        }
        let [mut first, mut again, mut stored] = [const { Vec::new() }; 3];
        for at in 0..runs {
            let store = dir.join(format!("{name}-{at}"));
            if name == "restic" {
                run("restic", &["-q", "-r", &shown(&store), "init"]);
            } else {
                std::fs::create_dir(&store).expect("the directory is writable");
            }
            first.push(seconds(|| put(&shown(&store))));
            again.push(1000.0 * seconds(|| put(&shown(&store))));
            stored.push(bytes_below(&store) / MIB);
        }
        table.alone(&format!("  {name}, first"), "s", &first, &Must::Stated);
        table.alone(&format!("  {name}, again"), "ms", &again, &Must::Stated);
        table.alone(&format!("  {name}, stored"), "MiB", &stored, &Must::Stated);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn seconds(what: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    what();
    begin.elapsed().as_secs_f64()
}

fn run(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.args(args).env("RESTIC_PASSWORD", "bench").stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().expect("the program is installed");
    assert!(status.success(), "{program} {args:?}: {status}");
}
