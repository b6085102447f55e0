//! Bad input: errors name the thing and the remedy, and nothing hangs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("bad_input::unknown_command", |lab| {
        oswalk(lab, &["exec", "--", "nosuchcommand"], 127, &["nosuchcommand"])
    }),
    ("bad_input::unknown_path", |lab| {
        oswalk(lab, &["exec", "--", "./no/such"], 127, &["./no/such"])
    }),
    ("bad_input::not_executable", |lab| {
        oswalk(lab, &["exec", "--", "/etc/passwd"], 126, &["/etc/passwd", "permission denied"])
    }),
    ("bad_input::a_directory", |lab| oswalk(lab, &["exec", "--", "/etc"], 126, &["/etc"])),
    ("bad_input::no_command", |lab| oswalk(lab, &["exec"], 125, &["COMMAND"])),
    ("bad_input::unknown_option", |lab| {
        oswalk(lab, &["exec", "--wlak", "x", "true"], 125, &["--wlak", "--walk"])
    }),
    ("bad_input::unknown_subcommand", |lab| oswalk(lab, &["exce"], 125, &["exce"])),
    ("bad_input::unknown_node", |lab| {
        oswalk(lab, &["exec", "--no-fallback", "--on", "n9", "show"], 125, &["n9", "oswalk status"])
    }),
    ("bad_input::unknown_node_falls_back", |lab| {
        oswalk(lab, &["exec", "--on", "n9", "show"], 0, &["n9", "running here"])
    }),
    ("bad_input::bad_node_name", |lab| {
        oswalk(lab, &["exec", "--on", "a/b", "show"], 125, &["a/b", "--on"])
    }),
    ("bad_input::report_cannot_be_written", |lab| {
        oswalk(
            lab,
            &["exec", "--report", "/no/such/dir/r.json", "show"],
            125,
            &["/no/such/dir/r.json", "nothing was run"],
        )
    }),
    ("bad_input::policy_syntax", |lab| {
        policy(lab, "walk = []\nstay = [\n", 125, &["policy.toml", "line"])
    }),
    ("bad_input::policy_unknown_key", |lab| {
        policy(lab, "walk = []\nwlak = ['x']\n", 125, &["policy.toml", "line 2", "'wlak'"])
    }),
    ("bad_input::policy_wrong_type", |lab| {
        policy(lab, "walk = ['a']\n\nstay = 7\n", 125, &["policy.toml", "line 3", "'stay'"])
    }),
    ("bad_input::policy_hides_no_path", |lab| {
        policy(lab, "hide = ['secret']\n", 125, &["policy.toml", "'hide'", "'secret'"])
    }),
    ("bad_input::policy_missing", |lab| {
        oswalk(lab, &["exec", "--policy", "/no/policy.toml", "show"], 125, &["/no/policy.toml"])
    }),
    ("bad_input::policy_unreadable", |lab| {
        oswalk(lab, &["exec", "--policy", "/etc", "show"], 125, &["/etc", "policy"])
    }),
    ("bad_input::no_agent", no_agent),
    ("bad_input::no_redis", no_redis),
    ("bad_input::port_taken", port_taken),
    ("bad_input::second_agent", second_agent),
    ("bad_input::broker_unreachable", broker_unreachable),
    ("bad_input::an_agent_with_other_settings", other_settings),
    ("bad_input::membership_is_damaged", membership_is_damaged),
    ("bad_input::a_hung_agent_is_named", a_hung_agent_is_named),
    ("bad_input::state_is_a_file", state_is_a_file),
    ("bad_input::forged_journal", forged_journal),
    ("bad_input::version_mismatch", version_mismatch),
    ("bad_input::noise_at_the_door", noise_at_the_door),
    ("bad_input::stub_without_a_session", stub_without_a_session),
    ("bad_input::page_is_damaged", page_is_damaged),
    ("bad_input::runner_disk_full", runner_disk_full),
    ("bad_input::an_origin_without_room_executes_the_program_itself", origin_has_no_room),
];

/// Limit for a command to fail.
const LIMIT: Duration = seconds(15);

/// Checks the status and message of a failure.
fn expect(run: &Run, status: i32, words: &[&str]) -> Result<(), String> {
    let missing: Vec<_> = words.iter().filter(|word| !run.err().contains(**word)).collect();
    if run.status.code() != Some(status) || !missing.is_empty() {
        return Err(format!("expected exit {status} and a message with {missing:?}, got {run}"));
    }
    if run.took > seconds(10) { Err(format!("took too long: {run}")) } else { Ok(()) }
}

fn oswalk(lab: &Lab, arguments: &[&str], status: i32, words: &[&str]) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let mut command = up.command(up.dist.join("oswalk"));
    command.args(arguments).current_dir(&up.dir);
    expect(&Run::of(command, LIMIT)?, status, words)
}

fn policy(lab: &Lab, text: &str, status: i32, words: &[&str]) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh(&format!("policy-{words:?}"))?;
    fs::write(dir.join("policy.toml"), text).map_err(|error| error.to_string())?;
    let mut command = up.command(up.dist.join("oswalk"));
    command
        .args(["exec", "--", "show"])
        .env("OSWALK_POLICY", dir.join("policy.toml"))
        .current_dir(&dir);
    expect(&Run::of(command, LIMIT)?, status, words)
}

fn no_agent(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let exec = |flags: &[&str]| {
        let mut command = up.command(up.dist.join("oswalk"));
        command
            .arg("exec")
            .args(flags)
            .args(["--", "sh", "-c", "exit 3"])
            .env("OSWALK_STATE", "/nonexistent/state");
        Run::of(command, LIMIT)
    };
    expect(&exec(&[])?, 3, &["running here"])?;
    expect(&exec(&["--no-fallback"])?, 125, &["agent", "oswalk up"])?;
    for asked in ["status", "down"] {
        let mut command = up.command(up.dist.join("oswalk"));
        command.arg(asked).env("OSWALK_STATE", "/nonexistent/state");
        let run = Run::of(command, LIMIT)?;
        if asked == "status" {
            expect(&run, 125, &["agent"])?;
        }
    }
    Ok(())
}

/// Returns an `oswalk up` on a state directory of its own.
fn up_on(up: &Up, state: &Path, arguments: &[&str]) -> Command {
    let mut command = up.command(up.dist.join("oswalk"));
    command.arg("up").args(arguments).env("OSWALK_STATE", state);
    command
}

/// Ends an agent that was started unexpectedly, so that it does not outlive the test.
fn down(up: &Up, state: &Path) {
    let mut command = up.command(up.dist.join("oswalk"));
    command.arg("down").env("OSWALK_STATE", state);
    let _ = Run::of(command, LIMIT);
}

fn no_redis(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let state = up.fresh("no-redis")?;
    let mut command = up_on(up, &state, &[]);
    command.env("PATH", "/nonexistent");
    let run = Run::of(command, LIMIT);
    down(up, &state);
    expect(&run?, 125, &["redis-server"])
}

/// A command that fails to make a cluster leaves the node without one.
fn fails_init(up: &Up, name: &str, arguments: &[&str], words: &[&str]) -> Result<Run, String> {
    let state = up.fresh(name)?;
    let run = up.cluster(&state, &[&["init"], arguments].concat())?;
    let is_member = state.join("cluster").exists();
    down(up, &state);
    expect(&run, 125, words)?;
    if is_member { Err(format!("the node belongs to a cluster: {run}")) } else { Ok(run) }
}

fn port_taken(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = taken.local_addr().map_err(|error| error.to_string())?.to_string();
    fails_init(up, "port-taken", &["--listen", &address], &[&address, "in use"]).map(drop)
}

fn broker_unreachable(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let options = ["--listen", "127.0.0.1:0", "--broker", "redis://:s3cret@127.0.0.1:1/"];
    let words = ["127.0.0.1:1", "Connection refused"];
    let run = fails_init(up, "broker-unreachable", &options, &words)?;
    let once = run.err().matches("Connection refused").count() == 1;
    if once { Ok(()) } else { Err(format!("a cause is printed more than once: {run}")) }
}

fn other_settings(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let run = Run::of(up_on(up, &up.state("n1"), &["--slots", "77"]), LIMIT)?;
    expect(&run, 125, &["already up", "--slots is 2, not 77", "oswalk down"])
}

/// The agent of a node whose files are damaged does not start; what to do is said, and helps.
fn membership_is_damaged(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let state = up.fresh("damaged-membership")?;
    let init = ["init", "--name", "small", "--node", "small", "--listen", "127.0.0.1:0"];
    expect(&up.cluster(&state, &init)?, 0, &[])?;
    down(up, &state);
    for (name, junk) in [("key", &b"short"[..]), ("place", b"{"), ("records", b"\x01junk")] {
        let file = state.join("cluster").join(name);
        let failed = |error: std::io::Error| format!("{}: {error}", file.display());
        let sound = fs::read(&file).map_err(failed)?;
        for content in [Some(junk), Some(b""), None] {
            match content {
                Some(junk) => fs::write(&file, junk).map_err(failed)?,
                None => fs::remove_file(&file).map_err(failed)?,
            }
            let run = Run::of(up_on(up, &state, &[]), LIMIT);
            down(up, &state);
            expect(&run?, 125, &[&file.to_string_lossy(), "damaged", "oswalk cluster leave"])?;
        }
        fs::write(&file, sound).map_err(failed)?;
    }
    let again = Run::of(up_on(up, &state, &[]), LIMIT);
    down(up, &state);
    expect(&again?, 0, &[])?;
    expect(&up.cluster(&state, &["leave"])?, 125, &["owner's key", "--end-cluster"])?;
    expect(&up.cluster(&state, &["leave", "--end-cluster"])?, 0, &[])?;
    let run = up.cluster(&state, &init)?;
    down(up, &state);
    expect(&run, 0, &[])
}

/// Every request has a time limit, and its error names the agent that does not answer.
fn a_hung_agent_is_named(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let state = up.fresh("hung-agent")?;
    let started = Run::of(up_on(up, &state, &["--name", "hung"]), LIMIT)?;
    let pid = fs::read_to_string(state.join("pid")).map_err(|error| error.to_string())?;
    let pid: u32 = pid.trim().parse().map_err(|_| format!("no pid: {started}"))?;
    let signal = |name: &str| -> Result<(), String> {
        let mut kill = Command::new("kill");
        kill.args([name, &pid.to_string()]);
        let run = Run::of(kill, LIMIT)?;
        if run.succeeded() { Ok(()) } else { Err(format!("kill {name}: {run}")) }
    };
    let ask = || -> Result<(), String> {
        let silent = format!("the agent (pid {pid}) does not answer");
        let asks: [(&[&str], i32, &str); 4] = [
            (&["status"], 125, "kill -KILL"),
            (&["down"], 125, "kill -KILL"),
            (&["exec", "--no-fallback", "true"], 125, "kill -KILL"),
            (&["exec", "sh", "-c", "exit 3"], 3, "running here"),
        ];
        let runs = std::thread::scope(|scope| {
            let started = asks.map(|(arguments, ..)| {
                let mut command = up.command(up.dist.join("oswalk"));
                command.args(arguments).env("OSWALK_STATE", &state);
                scope.spawn(move || Run::of(command, LIMIT))
            });
            started.map(|run| run.join().expect("it was started"))
        });
        for (run, (_, status, word)) in runs.into_iter().zip(asks) {
            expect(&run?, status, &[&silent, word])?;
        }
        Ok(())
    };
    signal("-STOP")?;
    let asked = ask();
    signal("-CONT")?;
    down(up, &state);
    asked
}

fn state_is_a_file(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    expect(&Run::of(up_on(up, Path::new("/etc/hostname"), &[]), LIMIT)?, 125, &["/etc/hostname"])
}

/// An agent does not start if others may write its journal, and finishes no commit from it.
fn forged_journal(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let state = up.fresh("forged-journal")?;
    let journal = state.join("journal");
    let failed = |error: std::io::Error| format!("{}: {error}", journal.display());
    fs::create_dir_all(&state).map_err(failed)?;
    fs::write(&journal, "forged").map_err(failed)?;
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    let run = Run::of(up_on(up, &state, &[]), LIMIT);
    down(up, &state);
    expect(&run?, 125, &[&journal.to_string_lossy(), "others may write", "remove it"])
}

fn second_agent(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    // `oswalk up` finds the agent that is up; a second `oswalkd` refuses to start.
    let state = up.state("n1");
    let again = Run::of(up_on(up, &state, &[]), LIMIT)?;
    if !again.succeeded() || !again.out().contains("already up") {
        return Err(format!("a second 'oswalk up': {again}"));
    }
    let mut command = up.command(up.dist.join("oswalkd"));
    command.arg("--state").arg(&state);
    let run = Run::of(command, LIMIT)?;
    if run.succeeded() {
        return Err(format!("a second agent ran: {run}"));
    }
    let said = run.out() + &run.err();
    let named = said.contains(&*state.to_string_lossy());
    if named {
        Ok(())
    } else {
        Err(format!("the message does not name the state directory: {run}"))
    }
}

/// Sends bytes to the origin's door and returns the answer.
fn ask_door(up: &Up, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("the door: {error}");
    let mut door = UnixStream::connect(up.state("origin").join("door")).map_err(failed)?;
    door.set_read_timeout(Some(seconds(5))).map_err(failed)?;
    let _ = door.write_all(bytes);
    let _ = door.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match door.read_to_end(&mut answer) {
        // The agent may also close the connection before it has read everything.
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(failed(error)),
        _ => Ok(answer),
    }
}

/// Encodes a frame of the door: kind, descriptor, length, payload.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(payload.len()).expect("is short").to_le_bytes();
    [&[kind, 0, 0, 0], &bytes[..], payload].concat()
}

const REQUEST: u8 = 12;

fn version_mismatch(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let request = r#"{"OpenSession":{"version":"0.0.9","rules":[],"walk_all":false,"on":null,"no_fallback":false,"preload":[],"stub":[]}}"#;
    let answer = ask_door(up, &frame(REQUEST, request.as_bytes()))?;
    let answer = String::from_utf8_lossy(&answer);
    let clear =
        ["0.0.9", env!("CARGO_PKG_VERSION"), "version"].iter().all(|word| answer.contains(word));
    if clear { Ok(()) } else { Err(format!("the agent answered {answer:?}")) }
}

fn noise_at_the_door(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let noise = (0..100_000_u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect::<Vec<_>>();
    let long = [&[REQUEST, 0, 0, 0][..], &u32::MAX.to_le_bytes()].concat();
    for bytes in [
        &[][..],
        b"x",
        &noise,
        &long,
        &frame(1, &noise[..100]),
        &frame(REQUEST, b"{"),
        &frame(77, b""),
    ] {
        ask_door(up, bytes)?;
    }
    let mut command = up.command(up.dist.join("oswalk"));
    command.args(["exec", "--no-fallback", "--", "show"]);
    expect(&Run::of(command, LIMIT)?, 0, &[])
}

fn stub_without_a_session(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let run = Run::of(up.command(up.dist.join("oswalk-stub")), LIMIT)?;
    if run.succeeded() || run.stderr.is_empty() {
        return Err(format!("a stub without a session: {run}"));
    }
    // With the variable that names the program it still executes the program.
    let mut command = up.command(up.dist.join("oswalk-stub"));
    command.env("OSWALK_WALK", "/bin/sh").env("OSWALK_PAGE", "/nonexistent").args(["-c", "exit 9"]);
    expect(&Run::of(command, LIMIT)?, 9, &[])
}

fn page_is_damaged(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("page")?;
    for (name, bytes) in
        [("empty", Vec::new()), ("zeros", vec![0; 4096]), ("ones", vec![0xff; 70_000])]
    {
        fs::write(dir.join(name), bytes).map_err(|error| error.to_string())?;
        let mut command = up.command("/bin/sh");
        command.args(["-c", "show >/dev/null; exit 4"]).env("OSWALK_PAGE", dir.join(name));
        command.env("LD_PRELOAD", up.dist.join("liboswalk_preload.so"));
        expect(&Run::of(command, LIMIT)?, 4, &[])?;
    }
    Ok(())
}

/// Sends a walk that writes 8 MiB to a runner with room for 1 MiB of changes.
fn runner_disk_full(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let dir = up.fresh("disk-full")?;
    let (broker, state) = (dir.join("a"), dir.join("b"));
    let started = two_agents(up, &broker, &state, ["0", "1"]);
    let checked = started.and_then(|()| {
        let commands = "show >small; head -c 8000000 /dev/zero >shell; \
            dd if=/dev/zero of=big bs=1M count=8 && echo fine >>small";
        dd_comes_home(up, &dir, &broker, commands, "runner-fault")
    });
    down(up, &state);
    down(up, &broker);
    checked
}

/// Starts a walk that writes 8 MiB from an origin with room for 1 MiB of changes.
fn origin_has_no_room(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let dir = up.fresh("no-room")?;
    let (broker, state) = (dir.join("a"), dir.join("b"));
    let started = two_agents(up, &broker, &state, ["1", "0"]);
    let checked = started.and_then(|()| {
        let commands = "show >small; dd if=/dev/urandom of=big bs=1M count=8 && echo fine >>small";
        dd_comes_home(up, &dir, &state, commands, "commit-fault")
    });
    down(up, &state);
    down(up, &broker);
    checked
}

/// Starts two agents, one with little room, in a cluster whose first node runs the broker.
fn two_agents(
    up: &Up,
    origin: &Path,
    runner: &Path,
    [large_slots, small_slots]: [&str; 2],
) -> Result<(), String> {
    let listen = ["--listen", "127.0.0.1:0"];
    let init = ["init", "--node", "big", "--slots", large_slots];
    expect(&up.cluster(origin, &[&init[..], &listen].concat())?, 0, &[])?;
    let line = up.join_line(origin)?;
    let join = ["join", &line, "--node", "small", "--slots", small_slots, "--upper-bytes", "1M"];
    expect(&up.cluster(runner, &[&join[..], &listen].concat())?, 0, &[])?;
    // A node is listed before it has been greeted.
    let sees = |state: &Path, node: &str| {
        let mut command = up.command(up.dist.join("oswalk"));
        command.args(["status", "--json"]).env("OSWALK_STATE", state);
        Run::of(command, LIMIT).is_ok_and(|run| run.out().contains(&format!("\"{node}\"")))
    };
    wait_until("both are in the cluster", || sees(origin, "small") && sees(runner, "big"))
}

/// Runs commands with a `dd` whose walk fails for this reason, and is repeated at the origin.
fn dd_comes_home(
    up: &Up,
    dir: &Path,
    origin: &Path,
    commands: &str,
    reason: &str,
) -> Result<(), String> {
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    command.env("OSWALK_STATE", origin).args(["--walk-all", "--", "sh", "-c", commands]);
    command.current_dir(dir);
    let run = Run::of(command, LIMIT)?;
    expect(&run, 0, &[])?;
    let bytes = fs::metadata(dir.join("big")).map_or(0, |is| is.len());
    let report = Report::read(&report)?;
    if bytes != 8 << 20 {
        return Err(format!("the file 'big' has {bytes} bytes: {run}"));
    }
    if !report.walked("show") || !report.stayed("dd", reason) {
        return Err(format!("walks {:?}, stays {:?}: {run}", report.walks, report.stays));
    }
    Ok(())
}
