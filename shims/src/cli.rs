//! Parses the command line and dispatches to the commands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::error::{EXIT_FAILED, Failure};
use crate::places::Places;
use crate::{
    cluster, config, decide, doctor, down, exec, explain, fs, history, manual, mount, say, share,
    shell, shell_init, status, token, up, versions,
};

/// Execute the processes of an unmodified build on other machines
#[derive(Debug, Parser)]
#[command(name = "oswalk", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Directory of the agent's state [default: /var/lib/oswalk for root, else
    /// ~/.local/state/oswalk]
    #[arg(long, env = "OSWALK_STATE", value_name = "DIR", global = true,
        value_parser = clap::builder::OsStringValueParser::new().map(PathBuf::from))]
    state: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Exec(exec::Options),
    Up(up::Options),
    /// End the agent of this machine
    Down(NoOptions),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    #[command(subcommand)]
    Token(token::Token),
    Mount(mount::Mount),
    Umount(mount::Umount),
    Versions(versions::Versions),
    Choose(versions::Choose),
    Diff(versions::Diff),
    Log(history::Log),
    Restore(history::Restore),
    #[command(subcommand)]
    Fs(fs::Fs),
    Share(share::Share),
    Shell(shell::Options),
    ShellInit(shell_init::Init),
    ShellSession(shell_init::Open),
    Status(status::Options),
    Doctor(doctor::Options),
    #[command(subcommand)]
    Config(config::Config),
    Completions(manual::Completions),
    Man(manual::Man),
}

#[derive(Debug, Args)]
pub(crate) struct NoOptions {}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    match run(std::env::args_os()) {
        Ok(code) => code,
        Err(failure) => say::failure(&failure),
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<ExitCode, Failure> {
    let arguments: Vec<_> = arguments.collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors. Clap's status for wrong usage, 2, could be the command's.
            let _ = error.print();
            if let Some(line) = meant(&error, &arguments) {
                say::err(did_you_mean(&line));
            }
            let code = if error.use_stderr() { EXIT_FAILED } else { 0 };
            return Ok(ExitCode::from(code));
        }
    };
    let state = cli.state.filter(|dir| !dir.as_os_str().is_empty());
    let places = || Places::find(state.clone());
    match cli.command {
        Command::Exec(options) if options.explain => explain::run(&options, &places()),
        Command::Exec(options) => exec::run(&options, &places()),
        Command::Up(options) => up::run(&options, &places()),
        Command::Down(_) => down::run(&places()),
        Command::Cluster(command) => cluster::run(&command, &places()),
        Command::Token(command) => token::run(&command, &places()),
        Command::Mount(options) => mount::mount(&options, &places()),
        Command::Umount(options) => mount::umount(&options, &places()),
        Command::Versions(options) => versions::versions(&options),
        Command::Choose(options) => versions::choose(&options),
        Command::Diff(options) => versions::diff(&options),
        Command::Log(options) => history::log(&options, &places()),
        Command::Restore(options) => history::restore(&options, &places()),
        Command::Fs(command) => fs::run(&command, &places()),
        Command::Share(options) => share::share(&options, &places()),
        Command::Shell(options) => shell::run(&options, &places()),
        Command::ShellInit(options) => shell_init::init(&options, state.as_deref()),
        Command::ShellSession(options) => shell_init::open(&options, &places()),
        Command::Status(options) => status::run(&options, &places()),
        Command::Doctor(options) => doctor::run(&options, &places()),
        Command::Config(command) => config::run(&command, &places()),
        Command::Completions(options) => manual::completions(&options, Cli::command()),
        Command::Man(options) => manual::man(&options, Cli::command()),
    }
}

/// Returns the hint for a command line that lacks `exec`.
pub(crate) fn did_you_mean(line: &str) -> String {
    format!("hint: did you mean '{line}'?")
}

/// Returns the command line that was probably meant by one that lacks `exec`.
pub(crate) fn meant(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    decide::find(name.as_ref(), std::env::var_os("PATH").as_deref()).ok()?;
    let at = arguments.iter().position(|word| word == name.as_str())?;
    let words = arguments[at..].iter().map(|word| word.to_string_lossy());
    Some(format!("oswalk exec {}", words.collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn exec(line: &str) -> exec::Options {
        let cli = Cli::try_parse_from(line.split(' ')).expect("parses");
        let Command::Exec(options) = cli.command else { panic!("not exec") };
        options
    }

    #[test]
    fn the_definition_passes_claps_checks() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let options = exec("oswalk exec --on n1 --walk a* --walk b make -j8 --report x");
        assert_eq!(options.command, ["make", "-j8", "--report", "x"]);
        assert_eq!(options.walk, ["a*", "b"]);
        assert_eq!(options.on.expect("given").as_str(), "n1");
        assert_eq!(options.report, None);
        let options = exec("oswalk exec --walk-all -- --odd-name -x");
        assert_eq!(options.command, ["--odd-name", "-x"]);
        assert!(options.walk_all && !options.summary && !options.no_fallback);
    }

    #[test]
    fn a_command_without_exec_gets_a_hint() {
        let meant = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            meant(&Cli::try_parse_from(&words).expect_err(line), &words)
        };
        assert_eq!(meant("oswalk sh -c x"), Some("oswalk exec sh -c x".to_owned()));
        assert_eq!(meant("oswalk --state /s env"), Some("oswalk exec env".to_owned()));
        assert_eq!(meant("oswalk exce"), None);
        assert_eq!(meant("oswalk exec"), None);
    }

    #[test]
    fn wrong_usage_is_refused_by_name() {
        for (line, words) in [
            ("oswalk exec", "<COMMAND>"),
            ("oswalk exec --on a/b x", "'a/b'"),
            ("oswalk exec --on -- x", "--on"),
            ("oswalk exec --sumary make", "'--summary'"),
            ("oswalk exec --summary --no-fallbak make", "'--no-fallback'"),
            ("oswalk exec -j8 make", "'-j"),
            ("oswalk exec --walk [a- x", "'[' has no matching ']'"),
            ("oswalk", "Usage"),
            ("oswalk up --slots many", "'many'"),
            ("oswalk up --slots -1", "'-1'"),
            ("oswalk up --upper-bytes 0", "'0'"),
            ("oswalk up --store-bytes -5", "'-5'"),
            ("oswalk cluster init --listen localhost:7700", "write IP:PORT"),
            ("oswalk cluster join x --advertise n1", "write IP:PORT"),
            ("oswalk cluster init --name a/b", "'a/b'"),
            ("oswalk cluster invite --nodes 0", "'0'"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line).to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
        for option in ["--walk", "--stay"] {
            let error = Cli::try_parse_from(["oswalk", "exec", option, "", "x"]);
            let error = error.expect_err("an empty pattern").to_string();
            assert!(error.contains("it is empty"), "{error}");
        }
    }
}
