//! Why a file of a share is left as it is.

use std::fmt;

use nix::errno::Errno;

/// The cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The kernel or the volume refuses.
    Errno(Errno),
    /// Its name is one of secrets.
    Secret,
    /// A file `.oswalkignore` names it.
    Ignored,
    /// It is such a file, of others.
    Rules,
    /// A program has it open for writing.
    Open,
    /// Its content is on nodes that are not linked.
    Away,
    /// It is a pipe, a socket or a device, or the disk has one of its name.
    Special,
    /// Its directory has files that are left out.
    Full,
    /// Something on the disk has its name that is not shared, or is not another name there.
    Taken,
    /// It changes whenever it is read or written.
    Busy,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Errno(errno) => errno.desc(),
            Self::Secret => "secrets are not shared",
            Self::Ignored => "an .oswalkignore file leaves it out",
            Self::Rules => "each directory has its own .oswalkignore files, which are not written",
            Self::Open => "a program has it open for writing; it is tried again",
            Self::Away => "no linked node has its content; it is tried again",
            Self::Special => "pipes, sockets and devices are not shared",
            Self::Taken => {
                "the disk has another file of this name, which is left out, or whose name differs in case only"
            }
            Self::Busy => "it changes all the time; it is tried again after a while",
            Self::Full => "removed in the volume, but there are files in it that are left out",
        })
    }
}
