//! Describes the process to the agent, in one frame.

use core::ffi::CStr;

use worknode::door::{HELLO_BYTES_MAX, HELLO_HEAD_BYTES, Header, HelloHead, Kind, TERMIOS_BYTES};
use worknode::page::{ASAN_OPTION, Page};
use worknode::reason::Reason;
use worknode::variables::{PAGE_ENTRY, WALK_ENTRY};

use crate::descriptors::Descriptors;
use crate::door::{self, LEAST_DESCRIPTOR};
use crate::process::Process;
use crate::room::Room;
use crate::signals::Signals;
use crate::sys::{self, Part};

const PRELOAD_VARIABLE: &[u8] = b"LD_PRELOAD=";
const ASAN_VARIABLE: &[u8] = b"ASAN_OPTIONS=";
/// Longest time to send the hello; an agent that takes longer counts as absent.
const HELLO_SECONDS: u64 = 2;
/// Longest time to send any later frame; even a busy agent reads its socket sooner.
const FRAME_SECONDS: u64 = 30;
/// Most parts of the frame. Arguments and environment lie contiguously on the stack, so they take few.
const PARTS_MAX: usize = 24;

/// Connects to the agent and says hello; returns the connection.
///
/// # Errors
/// The reason why the process cannot walk.
pub(crate) fn knock(
    process: Process,
    path: &CStr,
    page: &Page<'_>,
    signals: &Signals,
    room: &mut Room,
) -> Result<i32, Reason> {
    let Room { entries, descriptors, directory, .. } = room;
    let descriptors = Descriptors::list(descriptors, entries).ok_or(Reason::Descriptor)?;
    let directory = working_directory(directory).ok_or(Reason::Directory)?;
    let mut arguments = Parts::new();
    process.arguments().for_each(|argument| arguments.push(argument.to_bytes_with_nul()));
    let mut environment = Parts::new();
    ship_environment(process, page, &mut environment);

    let terminal = descriptors.terminal();
    let mut head = HelloHead {
        fds: u32::try_from(descriptors.count()).map_err(|_| Reason::ShimLimit)?,
        umask: sys::umask(),
        nice: sys::nice(),
        blocked: signals.inherited_mask,
        ignored: signals.ignored(),
        termios: terminal.and_then(sys::settings).unwrap_or([0; TERMIOS_BYTES]),
        window: terminal.and_then(sys::window).unwrap_or([0; 4]),
        path_bytes: size(path.count_bytes())?,
        cwd_bytes: size(directory.len())?,
        argv_bytes: size(arguments.bytes)?,
        env_bytes: size(environment.bytes)?,
        ..HelloHead::new(page.session())
    };
    head.rlimits.iter_mut().enumerate().for_each(|(which, limit)| *limit = sys::limit(which));
    let payload_bytes = HELLO_HEAD_BYTES
        + descriptors.encoded().len()
        + path.count_bytes()
        + directory.len()
        + arguments.bytes
        + environment.bytes;
    let payload_bytes = size(payload_bytes)?;
    let (header, head) =
        (Header { kind: Kind::Hello, fd: 0, payload_bytes }.encode(), head.encode());

    let mut parts = Parts::new();
    for part in [&header[..], &head, descriptors.encoded(), path.to_bytes(), directory] {
        parts.push(part);
    }
    parts.extend(&arguments);
    parts.extend(&environment);
    if parts.overflow {
        return Err(Reason::ShimLimit);
    }
    deliver(page, parts.as_mut_slice())
}

fn deliver(page: &Page<'_>, parts: &mut [Part<'_>]) -> Result<i32, Reason> {
    let path = page.door_path();
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    let fd = sys::connect(path, HELLO_SECONDS).map_err(|_| Reason::NoAgent)?;
    let fd = sys::move_up(fd, LEAST_DESCRIPTOR);
    if door::send_parts(fd, parts).is_err() {
        sys::close(fd);
        return Err(Reason::NoAgent);
    }
    sys::write_timeout(fd, FRAME_SECONDS);
    Ok(fd)
}

/// Returns the path of the working directory, if it has one.
fn working_directory(bytes: &mut [u8]) -> Option<&[u8]> {
    let length = sys::working_directory(bytes).ok()?;
    bytes.get(..length.checked_sub(1)?).filter(|path| path.starts_with(b"/"))
}

/// Adds the environment without the session's variables, which mean nothing on a runner.
fn ship_environment<'a>(process: Process, page: &Page<'a>, parts: &mut Parts<'a>) {
    let ours = page.preload_path();
    let ours = ours.strip_suffix(b"\0").unwrap_or(ours);
    for entry in process.environment() {
        let (text, whole) = (entry.to_bytes(), entry.to_bytes_with_nul());
        if text.starts_with(WALK_ENTRY) || text.starts_with(PAGE_ENTRY) {
            continue;
        }
        if let Some(others) = text.strip_suffix(ASAN_OPTION.as_bytes())
            && let Some(options) = others.strip_prefix(ASAN_VARIABLE)
        {
            // A colon separates the program's own options, if any, from the session's.
            if let Some(before) = options.strip_suffix(b":") {
                parts.push(&text[..ASAN_VARIABLE.len() + before.len()]);
                parts.push(b"\0");
            }
            continue;
        }
        match text.strip_prefix(PRELOAD_VARIABLE) {
            Some(list) if libraries(list).any(|library| library == ours) => {
                ship_preload(libraries(list).filter(|&library| library != ours), parts);
            }
            _ => parts.push(whole),
        }
    }
}

/// Adds `LD_PRELOAD` with the other libraries, if there are any.
fn ship_preload<'a>(libraries: impl Iterator<Item = &'a [u8]>, parts: &mut Parts<'a>) {
    let mut empty = true;
    for library in libraries {
        parts.push(if empty { PRELOAD_VARIABLE } else { b":" });
        parts.push(library);
        empty = false;
    }
    if !empty {
        parts.push(b"\0");
    }
}

fn libraries(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b':' || byte == b' ').filter(|library| !library.is_empty())
}

fn size(bytes: usize) -> Result<u32, Reason> {
    u32::try_from(bytes).ok().filter(|_| bytes <= HELLO_BYTES_MAX).ok_or(Reason::ShimLimit)
}

/// Parts of the frame. Slices that are contiguous in memory are one part.
struct Parts<'a> {
    parts: [Part<'a>; PARTS_MAX],
    count: usize,
    bytes: usize,
    overflow: bool,
}

impl<'a> Parts<'a> {
    fn new() -> Self {
        Self { parts: [Part::of(b""); PARTS_MAX], count: 0, bytes: 0, overflow: false }
    }

    fn push(&mut self, bytes: &'a [u8]) {
        self.bytes += bytes.len();
        if !self.as_mut_slice().last_mut().is_some_and(|last| last.absorb(bytes)) {
            self.append(Part::of(bytes));
        }
    }

    fn extend(&mut self, other: &Self) {
        self.overflow |= other.overflow;
        other.parts[..other.count].iter().for_each(|&part| self.append(part));
    }

    fn append(&mut self, part: Part<'a>) {
        match self.parts.get_mut(self.count) {
            Some(slot) => {
                *slot = part;
                self.count += 1;
            }
            None => self.overflow = true,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Part<'a>] {
        &mut self.parts[..self.count]
    }
}
