//! Shells whose programs walk: by `oswalk shell-init` in bash, zsh and fish, and by `oswalk shell`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Test;
use crate::interrupts::{processes, wait_until};
use crate::lab::{Lab, Up};
use crate::nodes::all_join;
use crate::terminals::Screen;
use crate::terminals::Step::{Keys, Line, Prompt, See};

pub(crate) const ALL: &[Test] = &[
    ("shells::bash", |lab| walks(lab, "bash")),
    ("shells::zsh", |lab| walks(lab, "zsh")),
    ("shells::fish", |lab| walks(lab, "fish")),
    ("shells::oswalk_shell", |lab| walks(lab, "oswalk")),
    ("shells::an_agent_that_is_restarted", agent_restarts),
];

/// Writes the files of a user whose programs named `sleep` walk. Returns the command that starts the shell.
fn prepare(dir: &Path, shell: &str, seconds: &str) -> Result<String, String> {
    let home = dir.display();
    let eval = format!("PS1='$ '\neval \"$(oswalk shell-init {shell})\"\n");
    let (file, text, command) = match shell {
        "bash" => ("bashrc", eval, "bash --noprofile --rcfile bashrc".to_owned()),
        "zsh" => (".zshrc", eval, format!("env ZDOTDIR={home} zsh -d")),
        "fish" => (
            "fish/config.fish",
            "function fish_prompt; echo '$ '; end\nset fish_greeting\noswalk shell-init fish | source\n".to_owned(),
            format!("env XDG_CONFIG_HOME={home} fish"),
        ),
        _ => ("bashrc", "PS1='$ '\n".to_owned(), format!("env BASH_ENV= HOME={home} oswalk shell bash")),
    };
    let write = |name: &str, text: &str| {
        let file = dir.join(name);
        fs::create_dir_all(file.parent().expect("it is in a directory"))
            .and_then(|()| fs::write(file, text))
            .map_err(|error| format!("{name}: {error}"))
    };
    write(file, &text)?;
    write(".bashrc", "PS1='$ '\n")?;
    write("policy.toml", "walk = ['sleep']\n")?;
    write("Makefile", &format!("all:\n\t@sleep {seconds}\n"))?;
    Ok(format!("env HOME={home} OSWALK_POLICY={home}/policy.toml {command}"))
}

/// Returns the path of the session's page, which the shell on the screen prints.
fn page(screen: &Screen<'_>) -> Result<PathBuf, String> {
    screen.take(Line("echo; echo page=$OSWALK_PAGE"))?;
    screen.take(See("page=/"))?;
    let lines = screen.lines()?;
    let page = lines.iter().find_map(|line| line.strip_prefix("page=/"));
    page.map(|page| Path::new("/").join(page)).ok_or_else(|| lines.join("\n"))
}

/// Tells whether a process with this in its command line is in the network of a node.
fn is_on_a_node(seconds: &str) -> bool {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let here = network("self");
    let found = processes(seconds);
    let pids = found.iter().filter_map(|line| line.split(' ').next());
    pids.filter_map(network).any(|net| Some(net) != here)
}

/// Asks `oswalk shell-init` whether it works, where it does and where no file has its line.
fn check(screen: &Screen<'_>, dir: &Path, shell: &str) -> Result<(), String> {
    let script = format!(
        "cp bashrc .bashrc; H=$PWD; cd /; has() {{ oswalk shell-init --check {shell}; }}\n\
         (export HOME=$H ZDOTDIR=$H XDG_CONFIG_HOME=$H; has && echo check=walks)\n\
         mkdir -p $H/empty; H=$H/empty\n\
         (export HOME=$H ZDOTDIR=$H XDG_CONFIG_HOME=$H; has || echo check=stays)\n"
    );
    fs::write(dir.join("check.sh"), script).map_err(|error| error.to_string())?;
    screen.take(Line("sh check.sh 2>&1"))?;
    screen.take(See("check=walks"))?;
    screen.take(See("check=stays"))
}

fn walks(lab: &Lab, shell: &str) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh(&format!("shells-{shell}"))?;
    let seconds = format!("{}.25", 40_000 + shell.len() * 1000 + usize::from(shell.as_bytes()[0]));
    let screen = Screen::open(up, &dir, &prepare(&dir, shell, &seconds)?)?;
    screen.take(Prompt)?;
    let page = page(&screen)?;
    if shell != "oswalk" {
        check(&screen, &dir, shell)?;
    }
    screen.take(Line("make"))?;
    wait_until("the program of make walks", || is_on_a_node(&seconds))?;
    screen.take(Keys(&["C-c"]))?;
    screen.take(Prompt)?;
    let was_open = page.exists();
    screen.take(Line("exit"))?;
    wait_until("the session ends with the shell", || !page.exists())?;
    if was_open { Ok(()) } else { Err("the session has ended before its shell".to_owned()) }
}

/// A shell goes on without a session, and a new one has one.
fn agent_restarts(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("shells-restart")?;
    let shell = prepare(&dir, "bash", "0.1")?;
    let screen = Screen::open(up, &dir, &shell)?;
    screen.take(Prompt)?;
    let before = page(&screen)?;
    restart(up)?;
    screen.take(Line("clear; make && sh -c 'exit 3'; echo status $?"))?;
    screen.take(See("status 3"))?;
    screen.take(Line("clear; bash --noprofile --rcfile bashrc"))?;
    screen.take(Prompt)?;
    let after = page(&screen)?;
    if before != after && after.exists() { Ok(()) } else { Err(format!("{before:?}, {after:?}")) }
}

fn restart(up: &Up) -> Result<(), String> {
    up.lab(&["kill", "origin"])?;
    up.lab(&["heal", "origin"])?;
    all_join(up, &["n1", "n2", "n3"])
}
