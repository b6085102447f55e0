//! The seccomp filter of walks. It refuses system calls that reach beyond the sandbox (mounts, keys, clock
//! and modules of the machine), that would regain capabilities (new namespaces), or that few programs but
//! many attacks need.
//!
//! The rules are data. The launcher compiles them once into a classic BPF program, which is installed in
//! every walk's process before it executes its program.
#![expect(unsafe_code, reason = "installs a seccomp filter")]

use std::io;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It fails with `EPERM`.
    Denied,
    /// It fails with `ENOSYS`: its callers have a fallback for old kernels.
    Absent,
    /// Denied if any of these bits of the first argument is set.
    DeniedWith(u32),
    /// Denied if the second argument is one of these two.
    DeniedCommands(u32, u32),
    /// It fails with `EAFNOSUPPORT` unless the first argument is one of [`FAMILIES`].
    OfFamilies,
}
use Verdict::{Absent, Denied, DeniedCommands, DeniedWith, OfFamilies};

/// The `CLONE_NEW…` flags of `clone`.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_UNIX`, `AF_INET`, `AF_INET6` and `AF_NETLINK`. Of the others some reach beyond the network namespace, as
/// `AF_VSOCK` does to the host of a virtual machine, and the rest is code of the kernel that few programs need.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];
/// `CLONE_NEWTIME`. In the flags of `clone` this bit belongs to the exit signal.
const NEW_TIME: u32 = 0x80;
/// `TIOCSTI` types into a terminal, `TIOCLINUX` pastes into a console.
const TYPES: Verdict = DeniedCommands(0x5412, 0x541c);

/// The rules, by the call numbers of this architecture.
const NATIVE: &[(libc::c_long, Verdict)] = &[
    // A program has all capabilities inside a user namespace that it creates.
    (libc::SYS_unshare, DeniedWith(NEW_NAMESPACES | NEW_TIME)),
    (libc::SYS_clone, DeniedWith(NEW_NAMESPACES)),
    // Its flags are in memory, which a filter cannot read. C libraries fall back to clone.
    (libc::SYS_clone3, Absent),
    (libc::SYS_setns, Denied),
    (libc::SYS_mount, Denied),
    (libc::SYS_umount2, Denied),
    (libc::SYS_pivot_root, Denied),
    (libc::SYS_move_mount, Denied),
    (libc::SYS_fsopen, Denied),
    (libc::SYS_fsmount, Denied),
    (libc::SYS_fspick, Denied),
    (libc::SYS_fsconfig, Denied),
    (libc::SYS_open_tree, Denied),
    (OPEN_TREE_ATTR, Denied),
    (libc::SYS_mount_setattr, Denied),
    (libc::SYS_open_by_handle_at, Denied),
    // User keyrings belong to the machine.
    (libc::SYS_keyctl, Denied),
    (libc::SYS_add_key, Denied),
    (libc::SYS_request_key, Denied),
    (libc::SYS_bpf, Denied),
    (libc::SYS_perf_event_open, Denied),
    (libc::SYS_userfaultfd, Denied),
    // Requests through a ring bypass the filter.
    (libc::SYS_io_uring_setup, Absent),
    (libc::SYS_io_uring_enter, Absent),
    (libc::SYS_io_uring_register, Absent),
    (libc::SYS_ioctl, TYPES),
    (libc::SYS_socket, OfFamilies),
    (libc::SYS_socketpair, OfFamilies),
    // The machine itself.
    (libc::SYS_kexec_load, Denied),
    (libc::SYS_kexec_file_load, Denied),
    (libc::SYS_init_module, Denied),
    (libc::SYS_finit_module, Denied),
    (libc::SYS_delete_module, Denied),
    (libc::SYS_swapon, Denied),
    (libc::SYS_swapoff, Denied),
    (libc::SYS_reboot, Denied),
    (libc::SYS_quotactl, Denied),
    (libc::SYS_quotactl_fd, Denied),
    (libc::SYS_acct, Denied),
    (libc::SYS_settimeofday, Denied),
    (libc::SYS_clock_settime, Denied),
    (libc::SYS_syslog, Denied),
    (libc::SYS_lookup_dcookie, Denied),
    (libc::SYS_vhangup, Denied),
    (libc::SYS_fanotify_init, Denied),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, Denied),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, Denied),
];
/// Missing from the libc crate.
const OPEN_TREE_ATTR: libc::c_long = 467;

#[cfg(target_arch = "x86_64")]
mod architecture {
    use super::{Absent, Denied, DeniedWith, NEW_NAMESPACES, NEW_TIME, OfFamilies, TYPES, Verdict};

    /// `AUDIT_ARCH_X86_64`.
    pub(super) const NATIVE: u32 = 0xc000_003e;
    /// `AUDIT_ARCH_I386`: 32-bit programs.
    pub(super) const OTHER: Option<u32> = Some(0x4000_0003);
    /// Call numbers from here on are those of x32 programs, which have the same architecture.
    pub(super) const NUMBERS_END: Option<u32> = Some(0x4000_0000);
    /// The same rules by the call numbers of 32-bit programs.
    pub(super) const OTHER_CALLS: &[(libc::c_long, Verdict)] = &[
        (310, DeniedWith(NEW_NAMESPACES | NEW_TIME)), // unshare
        (120, DeniedWith(NEW_NAMESPACES)),            // clone
        (435, Absent),                                // clone3
        (346, Denied),                                // setns
        (21, Denied),                                 // mount
        (22, Denied),                                 // umount
        (52, Denied),                                 // umount2
        (217, Denied),                                // pivot_root
        (429, Denied),                                // move_mount
        (430, Denied),                                // fsopen
        (432, Denied),                                // fsmount
        (433, Denied),                                // fspick
        (431, Denied),                                // fsconfig
        (428, Denied),                                // open_tree
        (467, Denied),                                // open_tree_attr
        (442, Denied),                                // mount_setattr
        (342, Denied),                                // open_by_handle_at
        (288, Denied),                                // keyctl
        (286, Denied),                                // add_key
        (287, Denied),                                // request_key
        (357, Denied),                                // bpf
        (336, Denied),                                // perf_event_open
        (374, Denied),                                // userfaultfd
        (425, Absent),                                // io_uring_setup
        (426, Absent),                                // io_uring_enter
        (427, Absent),                                // io_uring_register
        (54, TYPES),                                  // ioctl
        (359, OfFamilies),                            // socket
        (360, OfFamilies),                            // socketpair
        (102, Absent), // socketcall, whose arguments are in memory; C libraries use socket
        (283, Denied), // kexec_load
        (128, Denied), // init_module
        (350, Denied), // finit_module
        (129, Denied), // delete_module
        (87, Denied),  // swapon
        (115, Denied), // swapoff
        (88, Denied),  // reboot
        (131, Denied), // quotactl
        (443, Denied), // quotactl_fd
        (51, Denied),  // acct
        (25, Denied),  // stime
        (79, Denied),  // settimeofday
        (264, Denied), // clock_settime
        (404, Denied), // clock_settime64
        (103, Denied), // syslog
        (253, Denied), // lookup_dcookie
        (111, Denied), // vhangup
        (338, Denied), // fanotify_init
        (110, Denied), // iopl
        (101, Denied), // ioperm
        (113, Denied), // vm86old
        (166, Denied), // vm86
    ];
}

#[cfg(target_arch = "aarch64")]
mod architecture {
    use super::Verdict;

    /// `AUDIT_ARCH_AARCH64`.
    pub(super) const NATIVE: u32 = 0xc000_00b7;
    /// 32-bit programs are refused every system call.
    pub(super) const OTHER: Option<u32> = None;
    pub(super) const NUMBERS_END: Option<u32> = None;
    pub(super) const OTHER_CALLS: &[(libc::c_long, Verdict)] = &[];
}

/// Offsets in `struct seccomp_data`. Both architectures are little-endian.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_ARGUMENT_AT: u32 = 16;
const SECOND_ARGUMENT_AT: u32 = 24;
/// `SECCOMP_RET_ALLOW` and `SECCOMP_RET_ERRNO`.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_RET | BPF_K`, and `BPF_JMP | … | BPF_K`.
const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_NOT_LESS: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
/// Up to so many ranges of numbers are searched linearly; more are bisected.
const RANGES_LOOKED_AT: usize = 3;

/// A filter that can be installed.
///
/// Installing it takes time for each instruction, and for each step that any call number takes, because the
/// kernel precomputes which numbers are always allowed. A walk waits for that, so both are kept few.
#[derive(Debug)]
pub(super) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Builds the filter of walks.
    pub(super) fn new() -> Self {
        let native = Node::search(&ranges(NATIVE), RANGES_LOOKED_AT);
        let native = match architecture::NUMBERS_END {
            Some(end) => Node::test(JUMP_NOT_LESS, end, Node::ABSENT, native),
            None => native,
        };
        let others = match architecture::OTHER {
            Some(other) => {
                // Loading an argument first stops the kernel's precomputation, which is not worth its time here.
                let calls = Node::search(&ranges(architecture::OTHER_CALLS), usize::MAX);
                let calls = Node::load(FIRST_ARGUMENT_AT, Node::load(NUMBER_AT, calls));
                Node::test(JUMP_EQUAL, other, calls, Node::ABSENT)
            }
            None => Node::ABSENT,
        };
        let native = Node::load(NUMBER_AT, native);
        let whole = Node::test(JUMP_EQUAL, architecture::NATIVE, native, others);
        Self(assemble(&Node::load(ARCHITECTURE_AT, whole)))
    }

    /// Installs the filter in the calling process and all its descendants. The process must be
    /// privileged or have set `no_new_privs`.
    pub(super) fn install(&self) -> io::Result<()> {
        let len = u16::try_from(self.0.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel only reads the program, during the call.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The first and last of consecutive call numbers with the same verdict.
type Range = (u32, u32, Verdict);

fn ranges(calls: &[(libc::c_long, Verdict)]) -> Vec<Range> {
    let number = |&(call, verdict)| (u32::try_from(call).expect("numbers are small"), verdict);
    let mut calls: Vec<_> = calls.iter().map(number).collect();
    calls.sort_unstable_by_key(|&(call, _)| call);
    let mut ranges: Vec<Range> = Vec::new();
    for (call, verdict) in calls {
        match ranges.last_mut() {
            Some((_, last, same)) if *last + 1 == call && *same == verdict => *last = call,
            _ => ranges.push((call, call, verdict)),
        }
    }
    ranges
}

/// A node of the decision tree.
enum Node {
    Answer(u32),
    Load { at: u32, then: Box<Self> },
    Test { test: u16, value: u32, yes: Box<Self>, no: Box<Self> },
}

impl Node {
    const ALLOWED: Self = Self::Answer(ALLOW);
    const DENIED: Self = Self::Answer(ERRNO | libc::EPERM.cast_unsigned());
    const ABSENT: Self = Self::Answer(ERRNO | libc::ENOSYS.cast_unsigned());
    const NO_FAMILY: Self = Self::Answer(ERRNO | libc::EAFNOSUPPORT.cast_unsigned());

    fn load(at: u32, then: Self) -> Self {
        Self::Load { at, then: Box::new(then) }
    }

    fn test(test: u16, value: u32, yes: Self, no: Self) -> Self {
        Self::Test { test, value, yes: Box::new(yes), no: Box::new(no) }
    }

    /// Searches the loaded number in sorted ranges.
    fn search(ranges: &[Range], looked_at: usize) -> Self {
        if ranges.len() > looked_at {
            let (below, from) = ranges.split_at(ranges.len() / 2);
            let (below, from) = (Self::search(below, looked_at), Self::search(from, looked_at));
            return Self::test(JUMP_NOT_LESS, ranges[ranges.len() / 2].0, from, below);
        }
        ranges.iter().rev().fold(Self::ALLOWED, |others, &(first, last, verdict)| {
            if first == last {
                return Self::test(JUMP_EQUAL, first, Self::of(verdict), others);
            }
            // Numbers below all ranges are allowed; a number not above the last range's end is in it.
            let within = Self::test(JUMP_GREATER, last, others, Self::of(verdict));
            Self::test(JUMP_NOT_LESS, first, within, Self::ALLOWED)
        })
    }

    fn of(verdict: Verdict) -> Self {
        match verdict {
            Denied => Self::DENIED,
            Absent => Self::ABSENT,
            DeniedWith(bits) => {
                let decided = Self::test(JUMP_ANY_BIT, bits, Self::DENIED, Self::ALLOWED);
                Self::load(FIRST_ARGUMENT_AT, decided)
            }
            OfFamilies => {
                let one = |others, family| Self::test(JUMP_EQUAL, family, Self::ALLOWED, others);
                let decided = FAMILIES.into_iter().rev().fold(Self::NO_FAMILY, one);
                Self::load(FIRST_ARGUMENT_AT, decided)
            }
            DeniedCommands(one, other) => {
                let second = Self::test(JUMP_EQUAL, other, Self::DENIED, Self::ALLOWED);
                let decided = Self::test(JUMP_EQUAL, one, Self::DENIED, second);
                Self::load(SECOND_ARGUMENT_AT, decided)
            }
        }
    }
}

/// An instruction whose jumps may lead to an answer at the end of the program.
struct Step {
    code: u16,
    value: u32,
    yes: To,
    no: To,
}

#[derive(Clone, Copy)]
enum To {
    /// Skip so many instructions.
    Over(usize),
    Answer(u32),
}

fn assemble(node: &Node) -> Vec<libc::sock_filter> {
    let mut steps = Vec::new();
    emit(node, &mut steps);
    let answers = [Node::ALLOWED, Node::DENIED, Node::ABSENT, Node::NO_FAMILY];
    let answers = answers.map(|answer| match answer {
        Node::Answer(answer) => answer,
        _ => unreachable!("only answers are collected"),
    });
    let count = steps.len();
    let resolve = |at: usize, to: To| {
        let over = match to {
            To::Over(over) => over,
            To::Answer(answer) => {
                let which = answers.iter().position(|&one| one == answer);
                count - at - 1 + which.expect("there are four answers")
            }
        };
        u8::try_from(over).expect("the filter is shorter than a jump can be")
    };
    let instruction = |(at, step): (usize, &Step)| libc::sock_filter {
        code: step.code,
        jt: resolve(at, step.yes),
        jf: resolve(at, step.no),
        k: step.value,
    };
    let give = |answer| libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: answer };
    steps.iter().enumerate().map(instruction).chain(answers.map(give)).collect()
}

fn emit(node: &Node, steps: &mut Vec<Step>) {
    match node {
        Node::Answer(_) => unreachable!("answers are emitted at the end"),
        Node::Load { at, then } => {
            steps.push(Step { code: LOAD, value: *at, yes: To::Over(0), no: To::Over(0) });
            emit(then, steps);
        }
        Node::Test { test, value, yes, no } => {
            let at = steps.len();
            let place = |node: &Node, steps: &mut Vec<Step>| match node {
                Node::Answer(answer) => To::Answer(*answer),
                node => {
                    let over = steps.len() - at - 1;
                    emit(node, steps);
                    To::Over(over)
                }
            };
            steps.push(Step { code: *test, value: *value, yes: To::Over(0), no: To::Over(0) });
            let (yes, no) = (place(yes, steps), place(no, steps));
            (steps[at].yes, steps[at].no) = (yes, no);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the filter as the kernel does.
    fn ask(architecture: u32, number: u32, first: u32, second: u32) -> u32 {
        let filter = Filter::new().0;
        let (mut at, mut loaded) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = filter[at];
            at += 1;
            let jump = |holds| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => {
                    loaded = match k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        FIRST_ARGUMENT_AT => first,
                        SECOND_ARGUMENT_AT => second,
                        other => panic!("no field at offset {other}"),
                    }
                }
                JUMP_EQUAL => at += jump(loaded == k),
                JUMP_GREATER => at += jump(loaded > k),
                JUMP_NOT_LESS => at += jump(loaded >= k),
                JUMP_ANY_BIT => at += jump(loaded & k != 0),
                RETURN => return k,
                other => panic!("no such instruction: {other}"),
            }
        }
    }

    fn errno(errno: i32) -> u32 {
        ERRNO | errno.cast_unsigned()
    }

    fn check(architecture: u32, table: &[(libc::c_long, Verdict)]) {
        for number in 0..600_u32 {
            let verdict = table.iter().find(|(call, _)| *call == libc::c_long::from(number));
            let (plain, with) = match verdict.map(|&(_, verdict)| verdict) {
                None => (ALLOW, ALLOW),
                Some(Denied) => (errno(libc::EPERM), errno(libc::EPERM)),
                Some(Absent) => (errno(libc::ENOSYS), errno(libc::ENOSYS)),
                Some(OfFamilies) => (errno(libc::EAFNOSUPPORT), errno(libc::EAFNOSUPPORT)),
                Some(DeniedWith(_) | DeniedCommands(..)) => (ALLOW, errno(libc::EPERM)),
            };
            assert_eq!(ask(architecture, number, 0, 0), plain, "call {number}");
            assert_eq!(ask(architecture, number, 0x1000_0000, 0x5412), with, "call {number}");
        }
    }

    #[test]
    fn the_filter_implements_the_tables() {
        check(architecture::NATIVE, NATIVE);
        if let Some(other) = architecture::OTHER {
            check(other, architecture::OTHER_CALLS);
            assert_eq!(architecture::OTHER_CALLS.len(), NATIVE.len() + 5, "each in both");
        }
    }

    #[test]
    fn other_architectures_are_refused_every_call() {
        assert_eq!(ask(0x4000_0028, 4, 0, 0), errno(libc::ENOSYS));
        if let Some(end) = architecture::NUMBERS_END {
            assert_eq!(ask(architecture::NATIVE, end, 0, 0), errno(libc::ENOSYS));
        }
    }

    #[test]
    fn sockets_of_few_families() {
        let socket = u32::try_from(libc::SYS_socket).expect("is small");
        for family in 0..64 {
            let expected =
                if FAMILIES.contains(&family) { ALLOW } else { errno(libc::EAFNOSUPPORT) };
            assert_eq!(ask(architecture::NATIVE, socket, family, 0), expected, "family {family}");
        }
    }

    #[test]
    fn threads_and_processes_can_be_created() {
        let clone = u32::try_from(libc::SYS_clone).expect("is small");
        // The flags of pthread_create, fork and vfork.
        for flags in [0x003d_0f00, 0x0120_0011, 0x4111] {
            assert_eq!(ask(architecture::NATIVE, clone, flags, 0), ALLOW);
        }
        for bit in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(ask(architecture::NATIVE, clone, bit, 0), errno(libc::EPERM));
        }
    }
}
