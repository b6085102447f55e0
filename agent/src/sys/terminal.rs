//! Pseudo-terminals of walks. The terminal at the origin does the line discipline: echo, line editing, and
//! turning keys into signals. Here the settings only record what the program wants (`EXTPROC`), and the
//! master is notified of every change (packet mode).
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

/// `EXTPROC`, a local flag. The local flags are the fourth word.
const EXTERNAL: u32 = 0o200_000;
const LOCAL_FLAGS: usize = 12;
const OUTPUT_FLAGS: usize = 4;
/// Offset of the end-of-file character.
const EOF_CHARACTER: usize = 17 + libc::VEOF;
/// `TIOCPKT_IOCTL`: the settings have changed.
const PACKET_SETTINGS: u8 = 64;
/// `TIOCPKT_FLUSHREAD`: the program discarded unread input.
const PACKET_FLUSHED: u8 = 1;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub(super) struct Pair {
    /// `None` after a hang-up.
    pub(super) master: Option<OwnedFd>,
    pub(super) slave: OwnedFd,
}

impl Pair {
    /// Makes a terminal in the devpts instance at `/dev/pts`.
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

    /// Makes it the controlling terminal of the calling process's session.
    pub(super) fn take_control(&self) -> io::Result<()> {
        Ok(ioctl_tiocsctty(&self.slave)?)
    }

    /// Closes the master. When its last descriptor is closed, the slave hangs up, as when a terminal
    /// window is closed.
    pub(super) fn hang_up(&mut self) {
        self.master = None;
    }

    /// Makes the calling process's group the foreground group.
    pub(super) fn come_to_foreground(&self) -> io::Result<()> {
        Ok(tcsetpgrp(&self.slave, getpgrp())?)
    }

    /// Returns the foreground group.
    pub(super) fn foreground(&self) -> Option<libc::pid_t> {
        tcgetpgrp(&self.slave).ok().map(Pid::as_raw_pid)
    }

    /// Tells whether the program has read all input.
    pub(super) fn is_drained(&self) -> bool {
        ioctl_fionread(&self.slave).is_ok_and(|bytes| bytes == 0)
    }
}

/// The kind of packet that a read of the master returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Output, after the first byte.
    Output,
    /// The settings changed, or input was discarded.
    Changed {
        /// Whether input was discarded.
        flushed: bool,
    },
    /// Anything else.
    Other,
}

/// Decodes the first byte of a packet.
pub(crate) fn packet(first: u8) -> Packet {
    let flushed = first & PACKET_FLUSHED != 0;
    match first {
        0 => Packet::Output,
        _ if flushed || first & PACKET_SETTINGS != 0 => Packet::Changed { flushed },
        _ => Packet::Other,
    }
}

/// Returns the settings for the terminal at the origin.
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

/// Changes the size; the kernel notifies the program.
pub(crate) fn set_window(master: &impl AsFd, window: Window) -> io::Result<()> {
    let [ws_row, ws_col, ws_xpixel, ws_ypixel] = window;
    Ok(tcsetwinsize(master, Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel })?)
}

/// Tells whether input comes line by line.
pub(crate) fn is_canonical(termios: &Termios) -> bool {
    word(termios, LOCAL_FLAGS) & libc::ICANON != 0
}

/// Tells whether output newlines get a carriage return (`ONLCR`).
pub(crate) fn returns_carriage(termios: &Termios) -> bool {
    let both = libc::OPOST | libc::ONLCR;
    word(termios, OUTPUT_FLAGS) & both == both
}

/// Returns the end-of-file character.
pub(crate) fn eof_character(termios: &Termios) -> u8 {
    termios[EOF_CHARACTER]
}

fn word(termios: &Termios, at: usize) -> u32 {
    let bytes = termios[at..at + 4].try_into().expect("four bytes");
    u32::from_ne_bytes(bytes)
}

/// Performs an ioctl with the structure that belongs to the request.
fn control<T>(terminal: &impl AsFd, request: libc::Ioctl, value: &mut T) -> io::Result<()> {
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: private to this file; every use passes the structure of its request.
    let result = unsafe { libc::ioctl(fd, request, std::ptr::from_mut(value)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
