//! Formats of stub, agents and preload library: frames of the door, policy pages, tallies, specs.

use proptest::array::uniform16;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use worknode::command::NoFiles;
use worknode::door::{FdEntry, Header, HelloHead, Kind, TERMIOS_BYTES};
use worknode::id::{NodeId, SessionId, WalkId};
use worknode::page::{Page, PageContents};
use worknode::policy::Verdict;
use worknode::principal::Principal;
use worknode::spec::{Ending, Fault, FdKind, FdSpec, Outcome, TerminalSpec, WalkSpec};
use worknode::tally;

use crate::bytes::{damage, damaged, noise, survives, survives_postcard, word};
use crate::memory::bounded;
use crate::trial::holds;

#[test]
fn headers_of_the_door() {
    let kinds = (1..=u8::MAX).prop_filter_map("a kind", Kind::from_u8);
    let headers = (kinds, any::<u16>(), any::<u32>())
        .prop_map(|(kind, fd, payload_bytes)| Header { kind, fd, payload_bytes });
    survives(
        headers,
        |header| header.encode().to_vec(),
        |bytes| Header::decode(*bytes.first_chunk()?),
    );
}

#[test]
fn hellos_of_the_door() {
    let numbers = (any::<[u32; 6]>(), any::<[u64; 3]>(), any::<(u32, i32)>());
    let terminal = (vec(any::<u8>(), TERMIOS_BYTES), any::<[u16; 4]>());
    let heads = (numbers, uniform16(any::<(u64, u64)>()), terminal).prop_map(
        |((a, b, c), rlimits, (termios, window))| HelloHead {
            termios: termios.try_into().expect("as many bytes"),
            window,
            version: a[0],
            fds: a[1],
            session: b[0],
            umask: c.0,
            nice: c.1,
            blocked: b[1],
            ignored: b[2],
            rlimits,
            path_bytes: a[2],
            cwd_bytes: a[3],
            argv_bytes: a[4],
            env_bytes: a[5],
        },
    );
    survives(
        heads,
        |head| head.encode().to_vec(),
        |bytes| HelloHead::decode(bytes).map(|(head, _)| head),
    );
}

#[test]
fn descriptors_of_the_door() {
    let entries = (any::<[u32; 4]>(), any::<[u64; 3]>(), any::<i64>()).prop_map(
        |([fd, flags, mode, terminal], [dev, ino, rdev], offset)| FdEntry {
            fd,
            flags,
            mode,
            terminal,
            dev,
            ino,
            rdev,
            offset,
        },
    );
    survives(
        entries,
        |entry| entry.encode().to_vec(),
        |bytes| FdEntry::decode(bytes).map(|(entry, _)| entry),
    );
}

/// Makes every query of a page that a process makes.
fn ask(page: &Page<'_>) {
    for path in [&b"/usr/bin/gcc"[..], b"", b"relative", &[0xff; 300]] {
        let _ = page.decide(path, [&b"-c"[..], b"a.c"].into_iter(), &mut NoFiles, &mut []);
    }
    for path in [page.page_path(), page.door_path(), page.stub_path(), page.preload_path()] {
        assert_eq!(path.last(), Some(&0), "the kernel is handed this path");
    }
    let _ = (page.rules().count(), page.session(), page.options());
}

#[test]
fn policy_pages() {
    let paths = vec(vec(1..=u8::MAX, 0..30), 4..=4);
    let rules = vec((word(), any::<[u8; 2]>()), 0..20);
    let pages = (paths, rules, any::<[u32; 2]>(), any::<u64>());
    holds(&(pages, damage(), noise()), |((paths, rules, options, session), damages, noise)| {
        let verdict = |bytes| Verdict::decode(bytes).unwrap_or(Verdict::CompilerDriver);
        let rules: Vec<_> =
            rules.into_iter().map(|(pattern, bytes)| (pattern, verdict(bytes))).collect();
        let bytes = PageContents {
            session,
            options: options[0],
            gate: 1,
            page_path: &paths[0],
            door_path: &paths[1],
            stub_path: &paths[2],
            preload_path: &paths[3],
            rules: rules.clone(),
            tally_bytes: options[1],
        }
        .encode();
        let page = Page::parse(&bytes).expect("just encoded");
        let read: Vec<_> = page.rules().map(|rule| (rule.pattern.to_vec(), rule.verdict)).collect();
        assert_eq!((read, page.session(), page.options()), (rules, session, options[0]));
        let with_nul = [&paths[1][..], b"\0"].concat();
        assert_eq!(page.door_path(), with_nul);
        for hostile in [damaged(bytes, &damages), [&b"OSWPAGE1"[..], &noise].concat(), noise] {
            bounded(&hostile, |bytes| Page::parse(bytes).as_ref().map(ask));
        }
    });
}

#[test]
fn tallies() {
    holds(&vec(any::<u8>(), 0..3000), |bytes| {
        bounded(&bytes, tally::read);
    });
}

pub(crate) fn nodes() -> impl Strategy<Value = NodeId> {
    "[a-zA-Z0-9]([_.-]?[a-zA-Z0-9]){0,31}".prop_map(|name| name.parse().expect("a node's name"))
}

fn fd_kinds() -> impl Strategy<Value = FdKind> {
    prop_oneof![
        any::<u32>().prop_map(|flags| FdKind::Null { flags }),
        Just(FdKind::Input),
        Just(FdKind::Output),
        (word(), any::<u64>()).prop_map(|(path, offset)| FdKind::File { path, offset }),
        Just(FdKind::Terminal),
    ]
}

fn specs() -> impl Strategy<Value = WalkSpec> {
    let names = (nodes(), any::<(u64, u32)>(), vec(word(), 5..=5));
    let identity = (any::<(u32, u32)>(), vec(any::<u32>(), 0..5));
    let numbers = (any::<[u32; 2]>(), any::<i32>(), any::<[u64; 2]>(), any::<[bool; 3]>());
    let terminals = (vec(any::<u8>(), 36..=36), any::<[u16; 4]>(), any::<bool>())
        .prop_map(|(termios, window, reads)| TerminalSpec { termios, window, reads });
    let fds = (btree_map(0..256_u32, option::of(fd_kinds()), 0..6), option::of(terminals));
    let limits = vec(any::<(u64, u64)>(), 0..17);
    (names, identity, numbers, fds, limits).prop_map(
        |(
            (node, (session, number), words),
            ((uid, gid), groups),
            ([pid, umask], nice, [blocked, ignored], [whole_tree, compiles, offline]),
            (fds, terminal),
            rlimits,
        )| {
            let [path, argv, env, cwd, hostname] = words.try_into().expect("five words");
            let first = fds.keys().next().copied();
            let kind = |fd, kind: Option<FdKind>| match first.filter(|&first| first != fd) {
                Some(first) => kind.unwrap_or(FdKind::Same { fd: first }),
                None => kind.unwrap_or(FdKind::Output),
            };
            WalkSpec {
                walk: WalkId { session: SessionId(session), number },
                principal: Principal { node, uid, gid, groups },
                path,
                argv,
                env,
                cwd,
                hostname,
                pid,
                umask,
                nice,
                blocked,
                ignored,
                rlimits,
                fds: fds.into_iter().map(|(fd, it)| FdSpec { fd, kind: kind(fd, it) }).collect(),
                terminal,
                whole_tree,
                compiles,
                offline,
            }
        },
    )
}

#[test]
fn walk_specs() {
    survives(specs(), WalkSpec::encode, |bytes| {
        let spec = WalkSpec::decode(bytes).ok()?;
        let _ = (spec.arguments().count(), spec.environment().count());
        Some(spec)
    });
}

pub(crate) fn outcomes() -> impl Strategy<Value = Outcome> {
    let ending = any::<(i32, u64, u64)>()
        .prop_map(|(status, run_us, cpu_us)| Outcome::Ended(Ending { status, run_us, cpu_us }));
    let faults = prop_oneof![
        ".{0,20}".prop_map(Fault::Sandbox),
        any::<i32>().prop_map(Fault::NotExecuted),
        Just(Fault::Full),
        word().prop_map(Fault::NotExported),
        Just(Fault::Leaving),
        ".{0,20}".prop_map(|why| Fault::NotAllowed(why.into())),
    ];
    prop_oneof![ending, faults.prop_map(Outcome::Fault)]
}

#[test]
fn outcomes_of_walks() {
    survives_postcard(outcomes());
}

#[test]
fn names_of_walks() {
    holds(&(any::<(u64, u32)>(), ".{0,40}"), |((session, number), text)| {
        let walk = WalkId { session: SessionId(session), number };
        assert_eq!(walk.to_string().parse::<WalkId>().ok(), Some(walk));
        if let Ok(walk) = text.parse::<WalkId>() {
            assert_eq!(walk.to_string().parse::<WalkId>().ok(), Some(walk));
        }
        let _ = text.parse::<NodeId>();
    });
}
