//! Short payloads, which links between agents use as well.

/// Bytes of a terminal's settings (the kernel's `struct termios`): `u32` input, output, control and
/// local flags, `u8` line discipline, 19 control characters.
pub const TERMIOS_BYTES: usize = 36;
/// A terminal's settings.
pub type Termios = [u8; TERMIOS_BYTES];
/// A terminal's size: rows, columns, x pixels, y pixels.
pub type Window = [u16; 4];

/// The payload of [`super::Kind::Signal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// Whether the terminal sent it to the whole process group.
    pub from_terminal: bool,
}

impl Signal {
    /// Returns the encoded signal.
    #[must_use]
    pub fn encode(self) -> [u8; 8] {
        let [a, b, c, d] = self.number.to_le_bytes();
        [a, b, c, d, u8::from(self.from_terminal), 0, 0, 0]
    }

    /// Returns the signal in a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [number @ .., from_terminal, _, _, _] = <[u8; 8]>::try_from(payload).ok()?;
        Some(Self { number: i32::from_le_bytes(number), from_terminal: from_terminal != 0 })
    }
}

/// The payload of [`super::Kind::Settings`] that changes a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The terminal's settings.
    pub termios: Termios,
    /// Whether unread input is discarded.
    pub flushed: bool,
}

impl Settings {
    /// Bytes of the encoded settings.
    pub const BYTES: usize = TERMIOS_BYTES + 1;

    /// Returns the encoded settings.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [u8::from(self.flushed); Self::BYTES];
        bytes[..TERMIOS_BYTES].copy_from_slice(&self.termios);
        bytes
    }

    /// Returns the settings in a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [termios @ .., flushed] = <[u8; Self::BYTES]>::try_from(payload).ok()?;
        Some(Self { termios, flushed: flushed == 1 })
    }
}

/// The payload of [`super::Kind::RunHere`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// Why the program is executed at the origin.
    pub reason: u8,
    /// Whether programs that it executes stay, too.
    pub alone: bool,
}

impl Here {
    /// Returns the encoded reason.
    #[must_use]
    pub fn encode(self) -> [u8; 2] {
        [self.reason, u8::from(self.alone)]
    }

    /// Returns the reason in a payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let &[reason, alone] = payload else { return None };
        Some(Self { reason, alone: alone != 0 })
    }
}

/// Returns the number of bytes in [`super::Kind::Written`], [`super::Kind::Want`] and [`super::Kind::Took`], or the
/// signal in [`super::Kind::Stopped`].
#[must_use]
pub fn decode_number(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_le_bytes)
}

/// Returns the wait status in [`super::Kind::Exit`].
#[must_use]
pub fn decode_status(payload: &[u8]) -> Option<i32> {
    payload.try_into().ok().map(i32::from_le_bytes)
}

/// Returns the offset in [`super::Kind::Seek`].
#[must_use]
pub fn decode_offset(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_le_bytes)
}

/// Returns the size in the payload of [`super::Kind::Resize`].
#[must_use]
pub fn decode_window(bytes: &[u8; 8]) -> Window {
    core::array::from_fn(|at| u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]))
}

/// Returns the payload of [`super::Kind::Resize`].
#[must_use]
pub fn encode_window(window: Window) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes
        .chunks_exact_mut(2)
        .zip(window)
        .for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}
