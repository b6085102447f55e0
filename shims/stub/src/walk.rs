//! The stub's one path from start to end.

use core::ffi::CStr;

use worknode::page::{NO_FALLBACK, Page};
use worknode::policy::base_name;
use worknode::reason::Reason;
use worknode::variables::{PAGE_ENTRY, WALK_ENTRY};

use crate::hello;
use crate::home::{self, Home};
use crate::leave;
use crate::output;
use crate::process::Process;
use crate::relay::{End, Relay};
use crate::room;
use crate::signals::Signals;
use crate::sys;

/// Runs the stub.
pub(crate) fn run(process: Process) -> ! {
    let Some(path) = process.variable(WALK_ENTRY) else {
        output::complain(&[b"only a session starts oswalk-stub: run 'oswalk exec COMMAND'"]);
        sys::exit(home::NOT_FOUND);
    };
    set_name(path);
    let home = Home { process, path, alone: false };
    let Some(page) = process.variable(PAGE_ENTRY).and_then(open) else { home.run(None) };
    // From here on no signal is lost: it is forwarded, or delivered to the program that runs here.
    let mut signals = Signals::take();
    let Some(room) = room::take() else { home.run(Some(signals)) };
    let door = match hello::knock(process, path, &page, &signals, room) {
        Ok(door) => door,
        Err(reason) => stay(home, &page, signals, reason),
    };
    let (end, untouched) = Relay::new(door, &mut signals, &mut room.data).run(&mut room.inbox);
    match end {
        End::Exit(status) => leave::like(status),
        End::Killed(signal) => leave::by_signal(signal, false),
        End::Here { alone } => Home { alone, ..home }.run(Some(signals)),
        End::Refused => sys::exit(leave::FAILED),
        End::Lost if untouched => stay(home, &page, signals, Reason::NoAgent),
        End::Lost => {
            let name = process.arguments().next().unwrap_or(path);
            output::complain(&[b"lost the agent while ", name.to_bytes(), b" ran"]);
            sys::exit(leave::FAILED)
        }
    }
}

/// Runs the program here because it cannot walk, or fails if the session forbids that.
fn stay(home: Home, page: &Page<'_>, signals: Signals, reason: Reason) -> ! {
    home::count(page, home.path, reason);
    if page.options() & NO_FALLBACK != 0 {
        let name = base_name(home.path.to_bytes());
        output::complain(&[name, b" cannot walk: ", reason.name().as_bytes()]);
        sys::exit(leave::FAILED);
    }
    home.run(Some(signals))
}

fn open(path: &CStr) -> Option<Page<'static>> {
    let fd = sys::open(path, sys::O_RDONLY).ok()?;
    let bytes = sys::map_file(fd);
    sys::close(fd);
    Page::parse(bytes?)
}

/// Sets the process name that `ps` shows to the program's. The arguments are the program's already.
fn set_name(path: &CStr) {
    let path = path.to_bytes_with_nul();
    let name = path.iter().rposition(|&byte| byte == b'/').map_or(path, |at| &path[at + 1..]);
    if let Ok(name) = CStr::from_bytes_with_nul(name) {
        sys::set_name(name);
    }
}
