//! `oswalk completions` and `oswalk man`: the command line, described for shells and for `man`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::TypedValueParser;
use clap_complete::Shell;

use crate::error::Failure;
use crate::say;

/// Print a shell's completions for oswalk
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"])
        .map(|name| match name.as_str() {
            "bash" => Shell::Bash,
            "zsh" => Shell::Zsh,
            _ => Shell::Fish,
        }))]
    shell: Shell,
}

/// Write the manual pages into a directory
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory, which is created unless it exists
    dir: PathBuf,
}

pub(crate) fn completions(
    options: &Completions,
    mut cli: clap::Command,
) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut cli, "oswalk", &mut script);
    say::out(String::from_utf8_lossy(&script) + &*of_inner_command(options.shell, &cli))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns what completes the command of `oswalk exec` as that command itself would be, which clap_complete does for zsh
/// alone.
fn of_inner_command(shell: Shell, cli: &clap::Command) -> String {
    let exec = cli.find_subcommand("exec").expect("the command line has it");
    let takes_value = |option: &&clap::Arg| option.get_action().takes_values();
    let options = exec.get_arguments().filter(takes_value).filter_map(clap::Arg::get_long);
    let options: Vec<_> = options.map(|name| format!("--{name}")).collect();
    match shell {
        Shell::Bash => include_str!("manual/exec.bash").replace("@OPTIONS@", &options.join("|")),
        Shell::Fish => include_str!("manual/exec.fish").replace("@OPTIONS@", &options.join(" ")),
        _ => String::new(),
    }
}

pub(crate) fn man(options: &Man, cli: clap::Command) -> Result<ExitCode, Failure> {
    let dir = &options.dir;
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(cli, dir));
    written.map_err(|error| {
        Failure::new(format!("failed to write the manual pages to {}: {error}", dir.display()))
            .hint("name a directory in which you may write")
    })?;
    Ok(ExitCode::SUCCESS)
}
