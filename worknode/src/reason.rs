//! Reasons why a process was executed at the origin. Staying is not an error: each stay has a named
//! reason, which the report counts.

/// The reason of a stay. The discriminants are written to shared memory: append, never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// No rule names the program.
    Unlisted = 1,
    /// A program that starts others (make, ninja, cargo …).
    Driver = 2,
    /// A shell.
    Shell = 3,
    /// A compiler wrapper (ccache …): the compilers it starts walk.
    Wrapper = 4,
    /// A compiler command that links.
    Link = 5,
    /// A compiler command that only preprocesses.
    Preprocess = 6,
    /// A query of the tool itself (`--version`, `-dumpmachine`, `-###`), or a trial compile of a
    /// configure script.
    Probe = 7,
    /// `-march=native` and the like: the result depends on the origin's processor.
    NativeCpu = 8,
    /// The source comes from standard input.
    Stdin = 9,
    /// A `--stay` option or a policy file keeps the program here.
    Rule = 10,
    /// The session has no cluster, or the cluster has no other node.
    NoCluster = 11,
    /// The program cannot be found or executed; the real call reports it.
    NotExecutable = 12,
    /// The program is for another architecture or C library than the shim.
    Foreign = 13,
    /// The program runs with more rights than its caller (setuid, setgid, capabilities).
    Privileged = 14,
    /// An inherited descriptor cannot be carried to another machine.
    Descriptor = 15,
    /// The working directory was deleted, or a file system that the program names did not answer.
    Directory = 16,
    /// The preload library or the stub had no room for the arguments, environment or descriptors.
    ShimLimit = 17,
    /// The agent did not answer or refused.
    NoAgent = 18,
    /// The broker did not answer or refused.
    NoBroker = 19,
    /// No slot became free in time.
    NoSlot = 20,
    /// The broker granted a slot of the origin itself.
    GrantedHome = 21,
    /// The runner or the link to it was lost before the commit.
    RunnerLost = 22,
    /// The runner could not set up the walk (its disk, its mounts, its kernel).
    RunnerFault = 23,
    /// The origin does not export a path that the walk needed.
    NotExported = 24,
    /// The origin could not apply the walk's changes.
    CommitFault = 25,
    /// The walk changed a file that has several hard links.
    Linked = 26,
    /// Another process changed a file during the walk that changed it.
    Conflict = 27,
    /// The program talks to a process of the origin by System V semaphores or queues (fakeroot).
    Ipc = 28,
    /// Nothing else of the session is running, and the origin is idle and as fast as its runners.
    Alone = 29,
    /// The process has other mounts or another root than the agent: its paths may name other files.
    OtherMounts = 30,
    /// A response file (`gcc @file`) cannot be read in advance: it is too large, or not a regular file.
    ResponseFile = 31,
    /// The program needs rights, namespaces, processes or devices of the origin (mount, docker, ps …), or
    /// the process has given up rights that its user has.
    NeedsOrigin = 32,
    /// A preloaded library talks to a process of the origin (those of bear, pseudo, fakeroot …).
    ForeignPreload = 33,
    /// Sending a distant node the files that it lacks would take longer than all steps of the session that
    /// stayed so far took.
    Transfer = 34,
    /// The program may read a variable that looks like a secret and is withheld.
    SecretVariable = 35,
    /// The program reads, writes or leaves files below /dev, /proc, /run or /sys, which are local to each
    /// machine.
    Place = 36,
    /// The session's token does not allow it.
    NotAllowed = 37,
}

impl Reason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 37] = [
        Self::Unlisted,
        Self::Driver,
        Self::Shell,
        Self::Wrapper,
        Self::Link,
        Self::Preprocess,
        Self::Probe,
        Self::NativeCpu,
        Self::Stdin,
        Self::Rule,
        Self::NoCluster,
        Self::NotExecutable,
        Self::Foreign,
        Self::Privileged,
        Self::Descriptor,
        Self::Directory,
        Self::ShimLimit,
        Self::NoAgent,
        Self::NoBroker,
        Self::NoSlot,
        Self::GrantedHome,
        Self::RunnerLost,
        Self::RunnerFault,
        Self::NotExported,
        Self::CommitFault,
        Self::Linked,
        Self::Conflict,
        Self::Ipc,
        Self::Alone,
        Self::OtherMounts,
        Self::ResponseFile,
        Self::NeedsOrigin,
        Self::ForeignPreload,
        Self::Transfer,
        Self::SecretVariable,
        Self::Place,
        Self::NotAllowed,
    ];

    /// Returns the reason with this discriminant.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value).checked_sub(1)?).copied()
    }

    /// Returns the reason with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Returns the name used in reports and policy files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlisted => "unlisted",
            Self::Driver => "driver",
            Self::Shell => "shell",
            Self::Wrapper => "wrapper",
            Self::Link => "link",
            Self::Preprocess => "preprocess",
            Self::Probe => "probe",
            Self::NativeCpu => "native-cpu",
            Self::Stdin => "stdin",
            Self::Rule => "rule",
            Self::NoCluster => "no-cluster",
            Self::NotExecutable => "not-executable",
            Self::Foreign => "foreign",
            Self::Privileged => "privileged",
            Self::Descriptor => "descriptor",
            Self::Directory => "directory",
            Self::ShimLimit => "shim-limit",
            Self::NoAgent => "no-agent",
            Self::NoBroker => "no-broker",
            Self::NoSlot => "no-slot",
            Self::GrantedHome => "granted-home",
            Self::RunnerLost => "runner-lost",
            Self::RunnerFault => "runner-fault",
            Self::NotExported => "not-exported",
            Self::CommitFault => "commit-fault",
            Self::Linked => "linked",
            Self::Conflict => "conflict",
            Self::Ipc => "ipc",
            Self::Alone => "alone",
            Self::OtherMounts => "other-mounts",
            Self::ResponseFile => "response-file",
            Self::NeedsOrigin => "needs-origin",
            Self::ForeignPreload => "foreign-preload",
            Self::Transfer => "transfer",
            Self::SecretVariable => "secret-variable",
            Self::Place => "place",
            Self::NotAllowed => "not-allowed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_are_dense_and_names_unique() {
        let mut names = std::collections::HashSet::new();
        for reason in Reason::ALL {
            assert_eq!(Reason::from_u8(reason as u8), Some(reason));
            assert!(names.insert(reason.name()));
            assert_eq!(Reason::named(reason.name()), Some(reason));
        }
        assert_eq!(Reason::from_u8(0), None);
        assert_eq!(Reason::from_u8(38), None);
    }
}
