//! Pseudo-terminals of walks. The line discipline is the one of the terminal at the origin: there
//! characters are echoed, lines edited and keys turned into signals. Here the settings only say what
//! the program wants (`EXTPROC`), and the master hears of every change (packet mode).
#![expect(unsafe_code, reason = "packet mode, and settings in the kernel's form")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, getpgrp, ioctl_tiocsctty};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetpgrp, tcsetwinsize};
use worknode::door::{TERMIOS_BYTES, Termios, Window};
use worknode::spec::TerminalSpec;

/// `EXTPROC` in the local flags, which are the fourth word.
const EXTERNAL: u32 = 0o200_000;
const LOCAL_FLAGS: usize = 12;
const OUTPUT_FLAGS: usize = 4;
/// Where the end-of-file character is.
const EOF_CHARACTER: usize = 17 + libc::VEOF;
/// `TIOCPKT_IOCTL`: the settings have changed.
const PACKET_SETTINGS: u8 = 64;
/// `TIOCPKT_FLUSHREAD`: the program threw away what was typed.
const PACKET_FLUSHED: u8 = 1;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub(super) struct Pair {
    /// Nothing once it is hung up.
    pub(super) master: Option<OwnedFd>,
    pub(super) slave: OwnedFd,
}

impl Pair {
    /// Makes a terminal in the instance that is mounted on `/dev/pts`.
    pub(super) fn open(spec: &TerminalSpec) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = nix::fcntl::open("/dev/pts/ptmx", flags | OFlag::O_NONBLOCK, Mode::empty())?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )?;
        control(&master, libc::TIOCPKT, &mut 1_i32)?;
        let termios = spec.termios.as_slice().try_into().map_err(io::Error::other)?;
        set_settings(&master, termios)?;
        set_window(&master, spec.window)?;
        Ok(Self { master: Some(master), slave })
    }

    /// Makes it the terminal of the calling process's session.
    pub(super) fn take_control(&self) -> io::Result<()> {
        Ok(ioctl_tiocsctty(&self.slave)?)
    }

    /// Closes the master: when its last descriptor is closed, all who have the slave find its end, as
    /// when the window of a terminal is closed.
    pub(super) fn hang_up(&mut self) {
        self.master = None;
    }

    /// Puts the calling process's group into the foreground.
    pub(super) fn come_to_foreground(&self) -> io::Result<()> {
        Ok(tcsetpgrp(&self.slave, getpgrp())?)
    }

    /// Returns the group in the foreground.
    pub(super) fn foreground(&self) -> Option<libc::pid_t> {
        tcgetpgrp(&self.slave).ok().map(Pid::as_raw_pid)
    }

    /// Tells whether the program has read all that was typed.
    pub(super) fn is_drained(&self) -> bool {
        ioctl_fionread(&self.slave).is_ok_and(|bytes| bytes == 0)
    }
}

/// What one read of a master brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Output, behind the first byte.
    Output,
    /// The settings have changed, or input was thrown away.
    Changed {
        /// Input was thrown away.
        flushed: bool,
    },
    /// Nothing of interest.
    Other,
}

/// Tells what the first byte of a packet says.
pub(crate) fn packet(first: u8) -> Packet {
    let flushed = first & PACKET_FLUSHED != 0;
    match first {
        0 => Packet::Output,
        _ if flushed || first & PACKET_SETTINGS != 0 => Packet::Changed { flushed },
        _ => Packet::Other,
    }
}

/// Returns the settings, as the terminal at the origin is to have them.
pub(crate) fn settings(master: &impl AsFd) -> io::Result<Termios> {
    let mut termios: Termios = [0; TERMIOS_BYTES];
    control(master, libc::TCGETS, &mut termios)?;
    let flags = word(&termios, LOCAL_FLAGS) & !EXTERNAL;
    termios[LOCAL_FLAGS..LOCAL_FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
    Ok(termios)
}

/// Changes the settings.
pub(crate) fn set_settings(master: &impl AsFd, mut termios: Termios) -> io::Result<()> {
    let flags = word(&termios, LOCAL_FLAGS) | EXTERNAL;
    termios[LOCAL_FLAGS..LOCAL_FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
    control(master, libc::TCSETS, &mut termios)
}

/// Changes the size; the kernel tells the program.
pub(crate) fn set_window(master: &impl AsFd, window: Window) -> io::Result<()> {
    let [ws_row, ws_col, ws_xpixel, ws_ypixel] = window;
    Ok(tcsetwinsize(master, Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel })?)
}

/// Tells whether input comes line by line.
pub(crate) fn is_canonical(termios: &Termios) -> bool {
    word(termios, LOCAL_FLAGS) & libc::ICANON != 0
}

/// Tells whether a carriage return is put before each new line that is written.
pub(crate) fn returns_carriage(termios: &Termios) -> bool {
    let both = libc::OPOST | libc::ONLCR;
    word(termios, OUTPUT_FLAGS) & both == both
}

/// Returns the character that stands for the end of a file.
pub(crate) fn eof_character(termios: &Termios) -> u8 {
    termios[EOF_CHARACTER]
}

fn word(termios: &Termios, at: usize) -> u32 {
    let bytes = termios[at..at + 4].try_into().expect("four bytes");
    u32::from_ne_bytes(bytes)
}

/// Asks or tells the terminal something, in the structure that belongs to the request.
fn control<T>(terminal: &impl AsFd, request: libc::Ioctl, value: &mut T) -> io::Result<()> {
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: private to this file; every use passes the structure of its request.
    let result = unsafe { libc::ioctl(fd, request, std::ptr::from_mut(value)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
