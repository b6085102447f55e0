//! Tokens, compared with what biscuit's own engine decides on the same Datalog.

use std::time::Duration;

use biscuit_auth::AuthorizerLimits;
use biscuit_auth::builder::AuthorizerBuilder;

use super::super::decision::{Program, Runner};
use super::super::lack::Lack;
use super::super::right::{Right, Rights};
use super::*;
use crate::id::{NodeId, SessionId};

/// Far above what a decision takes, however busy the machine is. The default is a millisecond of wall-clock time.
const ENGINE_TIME_MAX: Duration = Duration::from_secs(60);

fn name(text: &str) -> NodeId {
    text.parse().expect("a name")
}

fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn holder() -> Holder {
    let user = Some("alice".to_owned());
    Holder { node: name("laptop"), uid: 1000, user, minted_s: 50, rights: Rights::SESSION }
}

fn minted() -> Token {
    Token::mint(&holder(), &secret(1), &[2; 32]).expect("sound")
}

fn narrowed(token: &Token, bounds: Bounds) -> Token {
    token.narrow(&bounds, &[3; 32]).expect("sound")
}

fn verified(token: &Token) -> Capability {
    token.verify(&secret(1).key()).expect("sound")
}

fn all_bounds() -> Bounds {
    Bounds {
        rights: Some([Right::Read, Right::Exec].into_iter().collect()),
        nodes: Some([name("n1"), name("laptop")].into()),
        paths: Some(["/home/alice/x y".to_owned(), "/".to_owned()].into()),
        slots: Some(4),
        memory: Some(1 << 30),
        no_network: true,
        only_compile_steps: true,
        until_s: Some(1000),
        sessions: Some([SessionId(0xab)].into()),
    }
}

#[test]
fn what_is_written_is_read() {
    let token = minted();
    let capability = verified(&token);
    assert_eq!(capability.holder, holder());
    assert_eq!(capability.bounds.rights, Some(Rights::SESSION));
    let token = narrowed(&token, all_bounds());
    let again: Token = token.reveal().parse().expect("sound");
    assert_eq!(again, token);
    let capability = verified(&again);
    assert_eq!(capability.bounds, all_bounds());
    assert_eq!(capability.ids.len(), 2);
    assert_eq!(token.peek(), Ok(capability.clone()));
    assert_eq!(capability.id().to_string().parse(), Ok(capability.id()));
    assert_eq!(format!("{token:?}"), format!("Token({} bytes)", token.bytes().len()));
}

#[test]
fn narrowing_never_widens() {
    let rights = |rights: &[Right]| Bounds {
        rights: Some(rights.iter().copied().collect()),
        ..Bounds::default()
    };
    let token = narrowed(&minted(), rights(&[Right::Exec]));
    let token = narrowed(&token, rights(&Right::ALL));
    let capability = verified(&token);
    assert_eq!(capability.bounds.rights, Some([Right::Exec].into_iter().collect()));
    assert_eq!(capability.gives(Right::Exec, 1), Ok(()));
    assert_eq!(capability.gives(Right::Admin, 1), Err(Lack::Right(Right::Admin)));
}

#[test]
fn only_the_nodes_key_makes_tokens() {
    let token = minted();
    assert_eq!(token.verify(&secret(9).key()), Err(TokenError::Forged));
    let forged = Token::mint(&holder(), &secret(9), &[2; 32]).expect("sound");
    assert_eq!(forged.verify(&secret(1).key()), Err(TokenError::Forged));
    assert_eq!(Token(vec![1, 2, 3]).verify(&secret(1).key()), Err(TokenError::Malformed));
    assert!("".parse::<Token>().is_ok_and(|token| token.verify(&secret(1).key()).is_err()));
    assert_eq!("not base32!".parse::<Token>(), Err(TokenError::Malformed));
}

#[test]
fn a_block_of_anything_else_is_refused() {
    let root = pair(secret(1).seed()).expect("a key");
    let of = |authority: &str, block: &str| {
        let symbols = biscuit_auth::datalog::SymbolTable::default();
        let builder = Biscuit::builder().code(authority).expect("sound");
        let token = builder.build_with_key_pair(&root, symbols, &pair(&[2; 32])?);
        let block = BlockBuilder::new().code(block).expect("sound");
        let token = token
            .and_then(|token| token.append_with_keypair(&pair(&[3; 32]).expect("a key"), block));
        Token::of(&token.expect("sound"))?.verify(&secret(1).key())
    };
    let sound = source::of_holder(&holder());
    assert!(of(&sound, "check if slots($slots), $slots <= 4").is_ok());
    for block in [
        "check if slots($slots), $slots <= 4 or true",
        "check all slots($slots), $slots <= 4",
        "check if slots($slots), $slots < 4",
        "reject if network(\"none\")",
        "check if runner($runner), $runner === \"a\" || true",
        "check if runner($runner), $runner === \"a\" || $runner !== \"a\"",
        "check if color($color), $color === \"red\"",
        "right(\"admin\")",
        "right(\"admin\") <- right(\"exec\")",
        "check if time($time), $time <= 5; check if time($time), $time <= 9",
        "check if time($time), $time <= -5",
    ] {
        assert_eq!(of(&sound, block), Err(TokenError::Unknown), "{block}");
    }
    for authority in ["", "node(\"laptop\"); uid(0)", &format!("{sound} check if true")] {
        let block = "check if slots($slots), $slots <= 4";
        assert_eq!(of(authority, block), Err(TokenError::Unknown), "{authority}");
    }
}

#[test]
fn tokens_are_bounded() {
    let mut token = minted();
    for _ in 1..BLOCKS_MAX {
        token = narrowed(&token, all_bounds());
    }
    assert!(token.verify(&secret(1).key()).is_ok());
    assert_eq!(token.narrow(&all_bounds(), &[3; 32]), Err(TokenError::TooLong));
    assert_eq!(Token::try_from(vec![0; TOKEN_BYTES_MAX + 1]), Err(TokenError::TooLong));
    for path in ["x", "/a/", "/a/../b", "//a", "/a\"", "/a\n", "", "/a\\"] {
        let bounds = Bounds { paths: Some([path.to_owned()].into()), ..Bounds::default() };
        assert_eq!(minted().narrow(&bounds, &[3; 32]), Err(TokenError::Unwritable), "{path:?}");
    }
    let nothing = Bounds { nodes: Some([].into()), ..Bounds::default() };
    assert_eq!(minted().narrow(&nothing, &[3; 32]), Err(TokenError::Unwritable));
}

#[test]
fn what_a_walk_lacks_is_named() {
    let (n1, n2) = (name("n1"), name("n2"));
    let program = Program { uid: 1000, session: SessionId(7), compiles: true };
    let runner = Runner { node: &n1, is_offline: false };
    let elsewhere = Runner { node: &n2, ..runner };
    let without_network = Runner { is_offline: true, ..runner };
    let bounds = Bounds {
        rights: Some([Right::Exec, Right::Read].into_iter().collect()),
        nodes: Some([n1.clone()].into()),
        only_compile_steps: true,
        slots: Some(2),
        until_s: Some(1000),
        sessions: Some([SessionId(7)].into()),
        ..Bounds::default()
    };
    let capability = verified(&narrowed(&minted(), bounds));
    let offline = verified(&narrowed(&minted(), Bounds { no_network: true, ..Bounds::default() }));
    let unread = Bounds { rights: Some([Right::Exec].into_iter().collect()), ..Bounds::default() };
    let unread = verified(&narrowed(&minted(), unread));
    #[rustfmt::skip]
    let table = [
        (&capability, program, runner, 1, 1000, Ok(())),
        (&capability, program, runner, 1, 1001, Err(Lack::Expired)),
        (&capability, program, runner, 2, 1, Err(Lack::Slots(2))),
        (&capability, program, elsewhere, 0, 1, Err(Lack::Node(n2.clone()))),
        (&capability, Program { uid: 0, ..program }, runner, 0, 1, Err(Lack::User { holder: 1000, uid: 0 })),
        (&capability, Program { session: SessionId(8), ..program }, runner, 0, 1, Err(Lack::Session)),
        (&capability, Program { compiles: false, ..program }, runner, 0, 1, Err(Lack::Program)),
        (&offline, program, runner, 0, 1, Err(Lack::Network)),
        (&offline, program, without_network, 9, 1, Ok(())),
        (&unread, program, runner, 0, 1, Err(Lack::Right(Right::Read))),
    ];
    for (capability, program, runner, others, now_s, expected) in table {
        let allowed = capability.allows(&program, &runner, others, now_s);
        assert_eq!(allowed, expected, "{program:?} {runner:?}");
        if let Err(lack) = expected {
            let said = lack.to_string();
            assert!(said.contains(": ") && !said.ends_with('.'), "{said}");
        }
    }
}

/// Returns what biscuit's engine decides on a walk.
fn engine_allows(
    token: &Token,
    (program, runner): (&Program, &Runner<'_>),
    now_s: u64,
    path: &str,
) -> bool {
    let root = pair(secret(1).seed()).expect("a key").public();
    let token = Biscuit::from(token.bytes(), root).expect("verified before");
    ["exec", "read"].into_iter().all(|right| {
        let mut facts = format!(
            "operation(\"{right}\"); runner(\"{}\"); session(\"{}\"); time({now_s}); slots(1); memory(1); path(\"{path}\");",
            runner.node, program.session
        );
        let kind = if program.compiles { "compile-step" } else { "other" };
        let network = if runner.is_offline { "none" } else { "node" };
        facts.push_str(&format!("program(\"{kind}\"); network(\"{network}\"); allow if true;"));
        let limits = AuthorizerLimits { max_time: ENGINE_TIME_MAX, ..AuthorizerLimits::default() };
        let authorizer = AuthorizerBuilder::new().code(facts).expect("sound").set_limits(limits);
        authorizer.build(&token).expect("small").authorize().is_ok()
    })
}

#[test]
fn biscuits_engine_decides_the_same() {
    let mut random = 1_u64;
    let mut flip = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> 63 == 1
    };
    let (n1, n2) = (name("n1"), name("n2"));
    let mut allowed = 0;
    for _ in 0..200 {
        let mut bounds = Bounds::default();
        if flip() {
            let rights = [Right::Exec].into_iter().chain(flip().then_some(Right::Read));
            bounds.rights = Some(rights.collect());
        }
        bounds.nodes = flip().then(|| [if flip() { n1.clone() } else { n2.clone() }].into());
        bounds.paths = flip().then(|| ["/home/u".to_owned(), "/srv".to_owned()].into());
        bounds.until_s = flip().then_some(100);
        (bounds.no_network, bounds.only_compile_steps) = (flip() && flip(), flip());
        bounds.sessions = flip().then(|| [SessionId(1)].into());
        let token = narrowed(&minted(), bounds);
        let session = SessionId(if flip() || flip() { 1 } else { 2 });
        let program = Program { uid: 1000, session, compiles: flip() || flip() };
        let runner = Runner { node: &n1, is_offline: flip() };
        let (now_s, path) =
            (if flip() { 100 } else { 101 }, if flip() { "/home/u/a" } else { "/home/ux" });
        let capability = verified(&token);
        let ours = capability.allows(&program, &runner, 0, now_s).is_ok()
            && capability.bounds.covers(path.as_bytes());
        let engine = engine_allows(&token, (&program, &runner), now_s, path);
        assert_eq!(ours, engine, "{:?} {program:?} {runner:?}", capability.bounds);
        allowed += u32::from(ours);
    }
    assert!((10..190).contains(&allowed), "{allowed}");
}
