//! A session: opened at the agent, and entered by a program through its environment.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use worknode::page::{ASAN_OPTION, Page};
use worknode::request::{Reply, Request, SessionOptions};
use worknode::variables;

use crate::door::{Door, DoorError};
use crate::error::Failure;
use crate::places::{self, PRELOAD, Places};
use crate::policy_file::{Alone, Network, Policy};
use crate::program::Program;
use crate::token;

/// The size of a policy page is a multiple of this.
const PAGE_BYTES_MIN: u64 = 4096;

/// An open session.
pub(crate) struct Session {
    pub(crate) door: Door,
    page_path: PathBuf,
    pub(crate) page_file: File,
    page: Vec<u8>,
    /// The session ends with a process, not with the door.
    pub(crate) becomes: bool,
    /// Why nothing walks at present.
    pub(crate) notice: Option<String>,
    preload: PathBuf,
    pub(crate) stub: PathBuf,
}

/// Returns the options that a policy gives a session, and a token: that in this file, or in $OSWALK_TOKEN_FILE.
pub(crate) fn options(policy: Policy, token: Option<&Path>) -> Result<SessionOptions, Failure> {
    let (token, its_file) = token::of_session(token)?.unzip();
    Ok(SessionOptions {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rules: policy.rules,
        pass_env: policy.pass_env,
        without_env: policy.without_env,
        lone_walks: policy.alone == Alone::Walk,
        offline: policy.network == Network::None,
        hide: policy.hide.into_iter().chain(its_file).collect(),
        token,
        ..SessionOptions::default()
    })
}

impl Session {
    /// Opens a session, waiting no longer than this for each answer. The error is the failure, and its message without
    /// the causes.
    pub(crate) fn open(
        places: &Places,
        patience: Duration,
        options: SessionOptions,
    ) -> Result<Self, (Failure, String)> {
        let (preload, stub) = places::shim().map_err(|failure| {
            let message = failure.message().to_owned();
            (failure, message)
        })?;
        let request = Request::OpenSession(Box::new(SessionOptions {
            preload: preload.as_os_str().as_bytes().to_vec(),
            stub: stub.as_os_str().as_bytes().to_vec(),
            ..options
        }));
        let refused =
            |error: DoorError| (Failure::from_error(&error).hint(error.hint()), error.to_string());
        let mut door = Door::open_within(&places.door(), patience).map_err(refused)?;
        let (page_path, becomes, notice) = match door.ask(&request).map_err(refused)? {
            Reply::Session { page, becomes, notice, .. } => {
                (PathBuf::from(OsString::from_vec(page)), becomes, notice)
            }
            _ => return Err(refused(door.protocol())),
        };
        let (page_file, page) =
            read_page(&page_path).map_err(|error| unreadable(&page_path, &error))?;
        Ok(Self { door, page_path, page_file, page, becomes, notice, preload, stub })
    }

    /// Returns its policy page.
    pub(crate) fn page(&self) -> Page<'_> {
        Page::parse(&self.page).expect("parsed when it was read")
    }

    /// Returns the variables of this process by which a program enters the session.
    pub(crate) fn variables(&self) -> [(&'static str, OsString); 3] {
        let foreign = std::env::var_os("LD_PRELOAD").unwrap_or_default();
        [
            ("LD_PRELOAD", with_preload(&self.preload, &foreign)),
            (variables::PAGE, self.page_path.clone().into_os_string()),
            ("ASAN_OPTIONS", with_asan_option(std::env::var_os("ASAN_OPTIONS"))),
        ]
    }

    /// Has a program enter the session.
    pub(crate) fn enter(&self, program: &mut Program) -> io::Result<()> {
        self.variables().iter().try_for_each(|(name, value)| program.set(name, value))
    }
}

/// Returns the failure to read the page, and its message without the cause.
pub(crate) fn unreadable(page: &Path, error: &io::Error) -> (Failure, String) {
    let message = format!("failed to read the policy page {}", page.display());
    let failure = Failure::new(format!("{message}: {error}"));
    (failure.hint("restart the agent: 'oswalk down', then 'oswalk up'"), message)
}

/// Reads the page without the tally behind it. The file is opened for writing if that is permitted.
fn read_page(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).or_else(|_| File::open(path))?;
    let mut page = Vec::new();
    (&file).take(PAGE_BYTES_MIN).read_to_end(&mut page)?;
    if Page::parse(&page).is_none() {
        // The page is longer than the minimum.
        (&file).read_to_end(&mut page)?;
    }
    match Page::parse(&page) {
        Some(_) => Ok((file, page)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged")),
    }
}

/// Adds the option with which AddressSanitizer accepts that our library is loaded before it, unless an outer session has.
fn with_asan_option(own: Option<OsString>) -> OsString {
    let own = own.unwrap_or_default();
    let mut parts = own.as_bytes().split(|&byte| byte == b':');
    if parts.any(|part| part == ASAN_OPTION.as_bytes()) {
        return own;
    }
    let mut options = own;
    if !options.is_empty() {
        options.push(":");
    }
    options.push(ASAN_OPTION);
    options
}

/// Puts the preload library before others, in the place of an outer session's.
fn with_preload(preload: &Path, foreign: &OsStr) -> OsString {
    let mut list = preload.as_os_str().as_bytes().to_vec();
    let parts = foreign.as_bytes().split(|byte| matches!(byte, b':' | b' '));
    for part in parts.filter(|part| !part.is_empty() && !part.ends_with(PRELOAD.as_bytes())) {
        list.push(b':');
        list.extend_from_slice(part);
    }
    OsString::from_vec(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preload_comes_first_and_once() {
        let list = |foreign: &str| {
            with_preload(Path::new("/l/liboswalk_preload.so"), OsStr::new(foreign))
                .into_string()
                .expect("UTF-8")
        };
        assert_eq!(list(""), "/l/liboswalk_preload.so");
        assert_eq!(list("a.so:b.so"), "/l/liboswalk_preload.so:a.so:b.so");
        assert_eq!(list("/x/liboswalk_preload.so a.so"), "/l/liboswalk_preload.so:a.so");
    }

    #[test]
    fn the_option_of_asan_is_added_once() {
        let options = |own: Option<&str>| with_asan_option(own.map(OsString::from));
        let alone = options(None);
        assert_eq!(alone, ASAN_OPTION);
        assert_eq!(options(alone.to_str()), alone);
        let both = options(Some("color=never"));
        assert_eq!(both, *format!("color=never:{ASAN_OPTION}"));
        assert_eq!(options(both.to_str()), both);
    }
}
