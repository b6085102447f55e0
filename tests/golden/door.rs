//! What stub, `oswalk` and agent say to each other at the door: frames of every kind.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use worknode::door::{
    FdEntry, HEADER_BYTES, Header, HelloHead, Here, Kind, RLIMITS, Settings, Signal, VERSION,
    decode_number, decode_offset, decode_status, decode_window, encode_window,
};
use worknode::reason::Reason;
use worknode::request::{
    Action, CommandLine, Explanation, InviteStatus, MemberStatus, Reply, Request, SessionOptions,
    UserRule, VariableFate, VolumeChecked, VolumeConflict, VolumeConflictVersion, VolumeExported,
    VolumeGarbage, VolumeHolder, VolumePlace, VolumePrefetched, VolumeRecord, VolumeReplicas,
    VolumeReply, VolumeRequest, VolumeRestored, VolumeWhere, WorkProgress,
};

use crate::file::Golden;
use crate::messages;

/// The descriptor that is spoken of.
const FD: u16 = 1;
/// In its place, where none is.
const NO_FD: u16 = 0;

#[test]
fn the_door() {
    let mut golden = Golden::of("door", VERSION);
    for kind in Kind::ALL {
        check(&mut golden, kind);
    }
    golden.finish();
}

fn check(golden: &mut Golden, kind: Kind) {
    match kind {
        Kind::Hello => {
            frame(golden, kind, "", NO_FD, &Hello::example(), Hello::encode, Hello::decode)
        }
        Kind::Data => text(golden, kind, FD, "hello\n"),
        Kind::Eof | Kind::Broken | Kind::Close | Kind::Ready => empty(golden, kind, FD),
        Kind::Rewind => empty(golden, kind, NO_FD),
        Kind::Root => text(golden, kind, NO_FD, "/cluster"),
        Kind::Written | Kind::Want | Kind::Took => number(golden, kind, FD, 65_536),
        Kind::Stopped => number(golden, kind, NO_FD, 20),
        Kind::Signal => {
            let signal = Signal { number: 2, from_terminal: true };
            frame(golden, kind, "", NO_FD, &signal, |s| s.encode().to_vec(), Signal::decode);
        }
        Kind::Resize => {
            let decode = |bytes: &[u8]| bytes.try_into().ok().map(decode_window);
            let window = [24, 80, 0, 513];
            frame(golden, kind, "", FD, &window, |&window| encode_window(window).to_vec(), decode);
        }
        Kind::Exit => {
            let encode = |status: &i32| status.to_le_bytes().to_vec();
            frame(golden, kind, "", NO_FD, &0x100, encode, decode_status);
        }
        Kind::RunHere => {
            let here = Here { reason: Reason::Alone as u8, alone: true };
            frame(golden, kind, "", NO_FD, &here, |here| here.encode().to_vec(), Here::decode);
        }
        Kind::Request => requests(golden),
        Kind::Failed | Kind::Refused => text(golden, kind, NO_FD, "no node has room\n"),
        Kind::Seek => {
            let encode = |offset: &u64| offset.to_le_bytes().to_vec();
            frame(golden, kind, "", FD, &(1 << 33), encode, decode_offset);
        }
        Kind::Settings => {
            let settings = Settings { termios: messages::TERMIOS, flushed: true };
            frame(golden, kind, "", FD, &settings, |s| s.encode().to_vec(), Settings::decode);
        }
    }
}

/// A hello in its parts.
#[derive(Debug, PartialEq)]
struct Hello {
    head: HelloHead,
    fds: Vec<FdEntry>,
    strings: String,
}

impl Hello {
    fn example() -> Self {
        let [path, cwd] = ["/usr/bin/gcc", "/home/me"];
        let [argv, env] = ["gcc\0-c\0a.c\0", "HOME=/home/me\0LANG=C\0"];
        let bytes = |text: &str| u32::try_from(text.len()).expect("it is short");
        let mut rlimits = [(0, u64::MAX); RLIMITS];
        rlimits[7] = (1024, 4096);
        let head = HelloHead {
            // Not the present one, which the name of the directory says.
            version: 1000,
            fds: 2,
            umask: 0o22,
            nice: -5,
            blocked: 1 << 63,
            ignored: 1 << 12,
            rlimits,
            termios: messages::TERMIOS,
            window: [24, 80, 0, 513],
            path_bytes: bytes(path),
            cwd_bytes: bytes(cwd),
            argv_bytes: bytes(argv),
            env_bytes: bytes(env),
            ..HelloHead::new(0xfeed)
        };
        let terminal = FdEntry { mode: 0o20620, terminal: 1, rdev: 34816, offset: -1, ..fd(0) };
        let file = FdEntry { mode: 0o100_644, offset: 42, ..fd(3) };
        Self { head, fds: vec![terminal, file], strings: [path, cwd, argv, env].concat() }
    }

    fn encode(&self) -> Vec<u8> {
        let fds = self.fds.iter().flat_map(FdEntry::encode);
        self.head.encode().into_iter().chain(fds).chain(self.strings.bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = HelloHead::decode(bytes)?;
        let mut fds = Vec::new();
        for _ in 0..head.fds {
            let (entry, after) = FdEntry::decode(rest)?;
            fds.push(entry);
            rest = after;
        }
        Some(Self { head, fds, strings: String::from_utf8(rest.to_vec()).ok()? })
    }
}

fn fd(fd: u32) -> FdEntry {
    FdEntry { fd, flags: 2, dev: 64_769, ino: 12_345, ..FdEntry::default() }
}

fn requests(golden: &mut Golden) {
    let options = SessionOptions {
        version: "0.1.0".to_owned(),
        rules: vec![UserRule { pattern: "*/cc1".to_owned(), action: Action::Walk }],
        on: Some("tower".parse().expect("a node's name")),
        preload: b"/lib/p.so".to_vec(),
        stub: b"/lib/stub".to_vec(),
        ..SessionOptions::default()
    };
    json(golden, "-open-session", &Request::OpenSession(Box::new(options)));
    json(golden, "-close-session", &Request::CloseSession);
    json(golden, "-status", &Request::Status);
    let node: worknode::id::NodeId = "laptop".parse().expect("a node's name");
    json(golden, "-invite", &Request::Invite { nodes: 2, seconds: 86_400 });
    json(golden, "-members", &Request::Members);
    json(golden, "-remove", &Request::Remove(node.clone()));
    json(golden, "-invites", &Request::Invites);
    json(golden, "-withdraw", &Request::Withdraw("0a1b2c3d".to_owned()));
    json(golden, "-drain", &Request::Drain { node: node.clone(), drains: true });
    json(golden, "-trust", &Request::Trust(node.clone()));
    json(golden, "-rotate", &Request::Rotate { broker: None });
    json(golden, "-shutdown", &Request::Shutdown);
    let command = CommandLine {
        path: b"/bin/cc".to_vec(),
        argv: b"cc\0".to_vec(),
        env: b"A=1\0".to_vec(),
        named: vec![b"/a.c".to_vec()],
    };
    json(golden, "-explain", &Request::Explain(Box::new(command)));
    volume(golden);
    let session = worknode::id::SessionId(0xfeed);
    let (page, notice) = (b"/run/page".to_vec(), Some("no node takes walks".to_owned()));
    json(golden, "-reply-session", &Reply::Session { session, page, becomes: true, notice });
    json(golden, "-reply-done", &Reply::Done);
    let explanation = Explanation {
        variables: vec![("A".to_owned(), VariableFate::NotForCompilers)],
        hidden: vec!["/root/.netrc".to_owned()],
    };
    json(golden, "-reply-explained", &Reply::Explained(explanation));
    json(golden, "-reply-join-line", &Reply::JoinLine("oswalk://hub:7700/AQ".to_owned()));
    let (id, made_s, expires_s) = ("0a1b2c3d".to_owned(), 1_800_000_000, 1_800_086_400);
    let invite = InviteStatus { id, nodes_left: 2, made_s, expires_s };
    json(golden, "-reply-invites", &Reply::Invites(vec![invite]));
    let member = MemberStatus { node, key: "abc".to_owned(), may_invite: true, state: None };
    json(golden, "-reply-members", &Reply::Members(vec![member]));
}

/// Requests about the volume, and their answers.
fn volume(golden: &mut Golden) {
    let (point, at_ms) = (b"/cluster".to_vec(), Some(1_795_814_103_123));
    json(golden, "-mount", &Request::Mount { point: point.clone(), read_only: false, at_ms });
    json(golden, "-unmount", &Request::Unmount { point: point.clone() });
    let place = VolumePlace { point, path: b"d/f".to_vec() };
    let export = VolumeRequest::Export { dir: b"/out".to_vec(), path: b"/".to_vec(), at_ms: None };
    for (case, request) in [
        ("-log", VolumeRequest::Log { place: place.clone(), limit: 10 }),
        ("-restore", VolumeRequest::Restore { place: place.clone(), at_ms: 7 }),
        ("-pin", VolumeRequest::Pin { place: place.clone(), pinned: true }),
        ("-conflicts", VolumeRequest::Conflicts { place: place.clone() }),
        ("-where", VolumeRequest::Where { place: place.clone() }),
        ("-prefetch", VolumeRequest::Prefetch { place: place.clone() }),
        ("-replicas", VolumeRequest::Replicas { place, count: Some(2) }),
        ("-stat", VolumeRequest::Stat),
        ("-check", VolumeRequest::Check),
        ("-scrub", VolumeRequest::Scrub),
        ("-collect", VolumeRequest::Collect { keep: None }),
        ("-export", export),
    ] {
        json(golden, &format!("-volume{case}"), &Request::Volume(request));
    }
    let record = VolumeRecord {
        time: "2026-11-27T21:15:03.123Z".to_owned(),
        author: "0a1b2c3d".to_owned(),
        node: Some("n".to_owned()),
        seq: 7,
        path: "/d/f".to_owned(),
        what: "wrote 4 bytes".to_owned(),
    };
    let version = VolumeConflictVersion { version: "v".to_owned(), bytes: 3, ..Default::default() };
    let conflict = VolumeConflict { path: "/d/f".to_owned(), versions: vec![version] };
    let holder = VolumeHolder { node: "n".to_owned(), this: true, bytes: 2, trouble: None };
    let garbage = VolumeGarbage { values: 1, packets: 2, bytes: 3 };
    let checked = VolumeChecked { events: 9, mended: vec!["x".to_owned()], ..Default::default() };
    for (case, reply) in [
        ("-log", VolumeReply::Log(vec![record])),
        ("-restored", VolumeReply::Restored(VolumeRestored { placed: 1, removed: 2, changed: 3 })),
        ("-stat", VolumeReply::Stat(Box::default())),
        ("-checked", VolumeReply::Checked(checked)),
        ("-collected", VolumeReply::Collected(garbage)),
        ("-exported", VolumeReply::Exported(VolumeExported { files: 1, bytes: 2, changed: 0 })),
        ("-done", VolumeReply::Done),
        ("-conflicts", VolumeReply::Conflicts(vec![conflict])),
        ("-where", VolumeReply::Where(VolumeWhere { files: 1, bytes: 2, nodes: vec![holder] })),
        (
            "-prefetched",
            VolumeReply::Prefetched(VolumePrefetched { files: 1, ..Default::default() }),
        ),
        (
            "-replicas",
            VolumeReply::Replicas(VolumeReplicas { count: 2, by: Some("/d".to_owned()) }),
        ),
    ] {
        json(golden, &format!("-reply-volume{case}"), &Reply::Volume(reply));
    }
    json(golden, "-reply-progress", &Reply::Progress(WorkProgress { done: 1, total: 2 }));
}

fn json<T>(golden: &mut Golden, case: &str, value: &T)
where
    T: Debug + PartialEq + Serialize + DeserializeOwned,
{
    let encode = |value: &T| serde_json::to_vec(value).expect("fits a growing buffer");
    let decode = |bytes: &[u8]| serde_json::from_slice(bytes).ok();
    frame(golden, Kind::Request, case, NO_FD, value, encode, decode);
}

fn text(golden: &mut Golden, kind: Kind, fd: u16, text: &str) {
    let decode = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    frame(golden, kind, "", fd, &text.to_owned(), |text| text.clone().into_bytes(), decode);
}

fn number(golden: &mut Golden, kind: Kind, fd: u16, number: u32) {
    let encode = |number: &u32| number.to_le_bytes().to_vec();
    frame(golden, kind, "", fd, &number, encode, decode_number);
}

fn empty(golden: &mut Golden, kind: Kind, fd: u16) {
    let decode = |bytes: &[u8]| bytes.is_empty().then_some(());
    frame(golden, kind, "", fd, &(), |()| Vec::new(), decode);
}

fn frame<T: Debug + PartialEq>(
    golden: &mut Golden,
    kind: Kind,
    case: &str,
    fd: u16,
    example: &T,
    encode: impl FnOnce(&T) -> Vec<u8>,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) {
    let payload = encode(example);
    let payload_bytes = u32::try_from(payload.len()).expect("it is short");
    let header = Header { kind, fd, payload_bytes };
    let bytes = [&header.encode()[..], &payload].concat();
    let name = format!("{:02}-{kind:?}{case}", kind as u8).to_lowercase();
    let what = format!("{kind:?}, descriptor {fd}");
    golden.check(&name, &what, example, &bytes, |bytes| {
        let (found, payload) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        (Header::decode(*found)? == header).then(|| decode(payload)).flatten()
    });
}
