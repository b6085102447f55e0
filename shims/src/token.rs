//! `oswalk token`: shows, narrows and revokes tokens.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use worknode::capability::{self, Bounds, Right, TOKEN_BYTES_MAX, TokenId};
use worknode::id::NodeId;
use worknode::request::{Reply, Request};

use crate::cluster::orders::{ask, unexpected};
use crate::error::Failure;
use crate::places::Places;
use crate::say;

/// Show, narrow and revoke tokens, which say what a session may do
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Say what a token allows
    Show(Show),
    /// Print a token that allows less
    Narrow(Narrow),
    /// Make a token good for nothing at once, with all that were narrowed from it
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// File of the token, or '-' for standard input [default: what you may do at this agent]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Narrow {
    /// File of the token to narrow, or '-' for standard input [default: a new one of this agent]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Give only these rights: exec, read, write, signal, invite, admin
    #[arg(long, value_name = "RIGHT,…", value_delimiter = ',')]
    rights: Vec<Right>,
    /// Let programs change only files in these directories
    #[arg(long, value_name = "DIR,…", value_delimiter = ',')]
    paths: Vec<PathBuf>,
    /// Let programs walk only to these nodes
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    nodes: Vec<NodeId>,
    /// Let only so many programs walk at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,
    /// Let each program have only so much memory
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    memory: Option<u64>,
    /// Let programs have no network
    #[arg(long)]
    no_network: bool,
    /// Let only compile steps walk
    #[arg(long)]
    compile_steps: bool,
    /// Let it expire after this time, such as 90s, 30m, 2h or 7d
    #[arg(long, value_name = "TIME", default_value = "12h", value_parser = span)]
    expires: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// File of the token, '-' for standard input, or the number that 'oswalk token show' says
    token: String,
}

/// Longest expiry: an agent makes no token that is good for longer.
const EXPIRES_S_MAX: u64 = 30 * 24 * 3600;

pub(crate) fn run(command: &Token, places: &Places) -> Result<ExitCode, Failure> {
    match command {
        Token::Show(Show { file }) => {
            let token = token(file.as_deref(), places)?;
            let capability = token.peek().map_err(|error| Failure::new(error.to_string()))?;
            say::out(format_args!("{}", capability.words(now_s())))?;
        }
        Token::Narrow(options) => {
            let token = token(options.from.as_deref(), places)?;
            let narrowed = token.narrow(&options.bounds()?, &seed()?);
            let narrowed = narrowed.map_err(|error| Failure::new(error.to_string()))?;
            say::out(format_args!("{}\n", narrowed.reveal()))?;
        }
        Token::Revoke(Revoke { token }) => {
            let request = match token.parse::<TokenId>() {
                Ok(id) => Request::RevokeId(id),
                Err(_) => Request::Revoke(read(Path::new(token))?),
            };
            let Reply::Revoked(id) = ask(places, &request)? else { return Err(unexpected()) };
            say::out(format_args!("token {id} is revoked\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the token of a session, and the pattern by which its file is hidden from all nodes.
pub(crate) fn of_session(
    file: Option<&Path>,
) -> Result<Option<(capability::Token, String)>, Failure> {
    let variable = std::env::var_os("OSWALK_TOKEN_FILE").filter(|path| !path.is_empty());
    let Some(file) = file.map(Path::to_owned).or_else(|| variable.map(PathBuf::from)) else {
        return Ok(None);
    };
    let token = read(&file)?;
    let real = std::fs::canonicalize(&file).map_err(|error| unreadable(&file, &error))?;
    Ok(Some((token, literally(&real.to_string_lossy()))))
}

/// Returns a shell pattern that matches this path alone.
fn literally(path: &str) -> String {
    let is_special = |c: char| matches!(c, '*' | '?' | '[');
    path.chars().fold(String::new(), |mut pattern, c| {
        if is_special(c) {
            pattern.extend(['[', c, ']']);
        } else {
            pattern.push(c);
        }
        pattern
    })
}

/// Returns the token in a file, or a new one of this agent.
fn token(file: Option<&Path>, places: &Places) -> Result<capability::Token, Failure> {
    match file {
        Some(file) => read(file),
        None => match ask(places, &Request::Token)? {
            Reply::Token(token) => Ok(token),
            _ => Err(unexpected()),
        },
    }
}

fn read(file: &Path) -> Result<capability::Token, Failure> {
    // Two characters hold a byte, or a little more.
    let limit = 2 * TOKEN_BYTES_MAX as u64;
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| unreadable(file, &error))?;
    let token = text.parse();
    token.map_err(|error: capability::TokenError| {
        Failure::new(format!("{}: {error}", file.display()))
    })
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("failed to read the token in {}: {error}", file.display()))
}

impl Narrow {
    fn bounds(&self) -> Result<Bounds, Failure> {
        let given = |is_given: bool| is_given.then_some(());
        let paths = self.paths.iter().map(|path| dir(path)).collect::<Result<_, _>>()?;
        Ok(Bounds {
            rights: given(!self.rights.is_empty()).map(|()| self.rights.iter().copied().collect()),
            nodes: given(!self.nodes.is_empty()).map(|()| self.nodes.iter().cloned().collect()),
            paths: given(!self.paths.is_empty()).map(|()| paths),
            slots: self.slots,
            memory: self.memory,
            no_network: self.no_network,
            only_compile_steps: self.compile_steps,
            until_s: Some(now_s() + self.expires),
            sessions: None,
        })
    }
}

/// Returns a directory as programs see it: absolute, with links resolved.
fn dir(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| Failure::new(format!("{}: {why}", path.display()));
    let real = std::fs::canonicalize(path).map_err(|error| failed(error.to_string()))?;
    let text = real.to_str().ok_or_else(|| failed("its name is not UTF-8".to_owned()))?;
    Ok(text.to_owned())
}

/// Reads a span of time, in seconds.
fn span(text: &str) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let read = |(unit, length): (&str, u64)| {
        text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(length)
    };
    let seconds = units.into_iter().find_map(read);
    match seconds {
        Some(seconds) if (1..=EXPIRES_S_MAX).contains(&seconds) => Ok(seconds),
        _ => Err("write a time such as 90s, 30m, 2h or 7d, at most 30d".to_owned()),
    }
}

fn seed() -> Result<[u8; 32], Failure> {
    let mut seed = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed));
    read.map_err(|error| Failure::new(format!("failed to read /dev/urandom: {error}")))?;
    Ok(seed)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("30d", 2_592_000)] {
            assert_eq!(span(text), Ok(seconds), "{text}");
        }
        for text in ["", "h", "2", "0s", "31d", "-1h", "2 h", "99999999999999999999d"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_is_no_pattern() {
        assert_eq!(literally("/a b/x[1]*?"), "/a b/x[[]1][*][?]");
        assert!(worknode::glob::check(literally("/a/[").as_bytes()).is_ok());
    }
}
