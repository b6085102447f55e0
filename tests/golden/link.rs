//! What two agents say to each other: the greeting, and frames of every kind.

use std::fmt::Debug;

use bytes::Bytes;
use oswalk_agent::wire::feed::{Fetch, Has, Probe, Probed};
use oswalk_agent::wire::frame::{Assembler, Frame, Kind};
use oswalk_agent::wire::holding::{Claim, Held, TicketKey};
use oswalk_agent::wire::message::{Ask, Introduction, Open, encode};
use oswalk_agent::wire::payload::{about, split};
use oswalk_agent::wire::squeeze::{Squeezer, Unsqueezer};
use oswalk_agent::wire::{VERSION, lists};
use packetfs::locks::Envelope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use worknode::door::{Settings, Signal, decode_number, decode_window, encode_window};
use worknode::id::Attempt;
use worknode::spec::{Outcome, WalkSpec};

use crate::file::{Golden, variant};
use crate::{greeting, holding, joining, messages, volumes};

/// The stream of the walk in the examples: the side that called has opened it.
const WALK: u32 = 3;
/// The number of the question.
const QUESTION: u32 = 7;
/// In the place of a stream, in frames that concern no walk.
const NO_WALK: u32 = 0;
/// The descriptor that is spoken of.
const FD: u8 = 1;

#[test]
fn the_link() {
    let mut golden = Golden::of("link", VERSION);
    greeting::check(&mut golden);
    joining::check(&mut golden);
    for kind in Kind::ALL {
        check(&mut golden, kind);
    }
    golden.finish();
}

fn check(golden: &mut Golden, kind: Kind) {
    match kind {
        Kind::Open => opens(golden),
        Kind::Data => {
            descriptor(golden, kind, b"hello\n".to_vec(), Vec::clone, |b| Some(b.to_vec()))
        }
        Kind::Eof | Kind::Broken | Kind::Ready => {
            descriptor(golden, kind, (), |()| Vec::new(), nothing);
        }
        Kind::Credit | Kind::Took => descriptor(golden, kind, 65_536, number, decode_number),
        Kind::Signal => {
            let signal = Signal { number: 2, from_terminal: true };
            frame(golden, kind, "", WALK, &signal, signal.encode().to_vec(), Signal::decode);
        }
        Kind::Cancel => frame(golden, kind, "", WALK, &(), Vec::new(), nothing),
        Kind::Ping | Kind::Pong => frame(golden, kind, "", NO_WALK, &(), Vec::new(), nothing),
        Kind::Told => {
            let told = messages::told();
            frame(golden, kind, "", NO_WALK, &told, encode(&told), lists::told);
        }
        Kind::Packets => postcard(golden, kind, "", WALK, &messages::packets()),
        Kind::Exit => exits(golden),
        Kind::Ask => asks(golden),
        Kind::Answer => answers(golden),
        Kind::Changes => changes(golden),
        Kind::Settings => {
            let settings = Settings { termios: messages::TERMIOS, flushed: true };
            descriptor(golden, kind, settings, |s| s.encode().to_vec(), Settings::decode);
        }
        Kind::Resize => {
            let window = |bytes: &[u8]| bytes.try_into().ok().map(decode_window);
            descriptor(golden, kind, [24, 80, 0, 513], |&w| encode_window(w).to_vec(), window);
        }
        Kind::Session => {
            let [begins, ends] = messages::introductions();
            let (began, ended) = (encode(&begins), encode(&ends));
            frame(golden, kind, "", NO_WALK, &begins, began, Introduction::decode);
            frame(golden, kind, "-end", NO_WALK, &ends, ended, Introduction::decode);
        }
        Kind::Has => {
            for has in volumes::has() {
                let case = if has.is_all { "-all" } else { "-answer" };
                frame(golden, kind, case, NO_WALK, &has, encode(&has), Has::decode);
            }
        }
        Kind::Events => postcard(golden, kind, "", NO_WALK, &volumes::events()),
        Kind::Want => postcard(golden, kind, "", NO_WALK, &volumes::want()),
        Kind::Fetch => {
            let fetch = volumes::fetch();
            frame(golden, kind, "", QUESTION, &fetch, encode(&fetch), Fetch::decode);
        }
        Kind::Fetched => postcard(golden, kind, "", QUESTION, &messages::packets()),
        Kind::Probe => {
            let probe = volumes::probe();
            frame(golden, kind, "", QUESTION, &probe, encode(&probe), Probe::decode);
        }
        Kind::Probed => {
            for (case, has) in [("", Some(vec![true, false])), ("-no-volume", None)] {
                let probed = Probed { has };
                frame(golden, kind, case, QUESTION, &probed, encode(&probed), Probed::decode);
            }
        }
        Kind::TicketKey => {
            let key = holding::KEY;
            frame(golden, kind, "", NO_WALK, &key, encode(&key), TicketKey::decode);
        }
        Kind::Held => {
            let held = holding::held();
            frame(golden, kind, "", NO_WALK, &held, encode(&held), Held::decode);
        }
        Kind::Claim => {
            let claim = holding::claim();
            frame(golden, kind, "", QUESTION, &claim, encode(&claim), Claim::decode);
        }
        Kind::Given => postcard(golden, kind, "", QUESTION, &messages::packets()),
        Kind::Locks => {
            for (case, envelope) in volumes::locks() {
                frame(golden, kind, case, NO_WALK, &envelope, encode(&envelope), Envelope::decode);
            }
        }
        Kind::Stopped => frame(golden, kind, "", WALK, &20, number(&20), decode_number),
    }
}

/// Checks a spec, and one that is like it: that is compressed, with the first as the dictionary.
fn opens(golden: &mut Golden) {
    let (mut squeezer, mut unsqueezer) = (Squeezer::default(), Unsqueezer::default());
    let [first, second] = [messages::spec(1), messages::spec(2)];
    let mut decode = |payload: &[u8]| {
        let spec = Open::decode_spec(payload, &mut unsqueezer, true).ok()??;
        WalkSpec::decode(&spec).ok()
    };
    let payload = Open::encode(Attempt(1), &first.encode(), &mut squeezer);
    frame(golden, Kind::Open, "-first", WALK, &first, payload, &mut decode);
    let payload = Open::encode(Attempt(2), &second.encode(), &mut squeezer);
    let (name, bytes) = encoded(Kind::Open, "-alike", WALK, payload);
    // What a compressor makes of it is not prescribed.
    golden.check_decoded(
        &name,
        "Open, a spec like the first, compressed",
        &second,
        &bytes,
        |bytes| decode(&payload_of(Kind::Open, WALK, bytes)?),
    );
}

fn exits(golden: &mut Golden) {
    for exit in messages::exits() {
        let case = match (&exit.outcome, &exit.doubt) {
            (Outcome::Fault(fault), _) => format!("-fault-{}", variant(fault)),
            (Outcome::Ended(_), Some(doubt)) => format!("-doubt-{}", variant(doubt)),
            (Outcome::Ended(_), None) => "-ended".to_owned(),
        };
        postcard(golden, Kind::Exit, &case, WALK, &exit);
    }
}

fn asks(golden: &mut Golden) {
    for ask in messages::asks() {
        let case = format!("-{}", variant(&ask));
        frame(golden, Kind::Ask, &case, QUESTION, &ask, encode(&ask), Ask::decode);
    }
}

fn answers(golden: &mut Golden) {
    for answer in messages::answers() {
        postcard(golden, Kind::Answer, &format!("-{}", variant(&answer)), QUESTION, &answer);
    }
}

fn changes(golden: &mut Golden) {
    let changes = messages::changes();
    let payload = lists::encode_changes(&changes, &mut Squeezer::default());
    let decode = |bytes: &[u8]| lists::decode_changes(bytes, &mut Unsqueezer::default(), true).ok();
    frame(golden, Kind::Changes, "", NO_WALK, &changes, payload, decode);
}

/// Checks a message that is decoded by postcard alone.
fn postcard<T>(golden: &mut Golden, kind: Kind, case: &str, stream: u32, message: &T)
where
    T: Debug + PartialEq + Serialize + DeserializeOwned,
{
    let decode = |bytes: &[u8]| postcard::from_bytes(bytes).ok();
    frame(golden, kind, case, stream, message, encode(message), decode);
}

/// Checks a frame about one descriptor of the walk.
fn descriptor<T: Debug + PartialEq>(
    golden: &mut Golden,
    kind: Kind,
    what: T,
    encode: impl FnOnce(&T) -> Vec<u8>,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) {
    let payload = about(FD, &encode(&what));
    let decode = |payload: &[u8]| {
        let (fd, what) = split(payload)?;
        Some((fd, decode(what)?))
    };
    frame(golden, kind, "", WALK, &(FD, what), payload, decode);
}

fn frame<T: Debug + PartialEq>(
    golden: &mut Golden,
    kind: Kind,
    case: &str,
    stream: u32,
    example: &T,
    payload: Vec<u8>,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) {
    let (name, bytes) = encoded(kind, case, stream, payload);
    let what = format!("{kind:?}, stream {stream}");
    golden.check(&name, &what, example, &bytes, |bytes| decode(&payload_of(kind, stream, bytes)?));
}

/// Returns the name of a frame's file, and its bytes.
fn encoded(kind: Kind, case: &str, stream: u32, payload: Vec<u8>) -> (String, Vec<u8>) {
    let name = format!("{:02}-{kind:?}{case}", kind as u8).to_lowercase();
    let mut bytes = Vec::new();
    Frame { kind, stream, payload: payload.into() }.encode(&mut bytes);
    (name, bytes)
}

/// Returns the payload of the only frame in a message, if it is of this kind and stream.
fn payload_of(kind: Kind, stream: u32, message: &[u8]) -> Option<Bytes> {
    let frames = Assembler::default().frames(Bytes::copy_from_slice(message)).ok()?;
    let [frame] = frames.as_slice() else { return None };
    (frame.kind == kind && frame.stream == stream).then(|| frame.payload.clone())
}

fn number(number: &u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn nothing(payload: &[u8]) -> Option<()> {
    payload.is_empty().then_some(())
}
