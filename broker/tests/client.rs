//! What the client of Redis promises besides what every matchmaker does.

mod support;

use broker::{Broker, BrokerError};
use support::{Cell, cell, node, walk};

#[tokio::test]
async fn functions_that_were_lost_are_loaded_again() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1).await;
    let flushed = cell.redis_cli().args(["FUNCTION", "FLUSH"]).status();
    assert!(flushed.expect("redis-cli runs").success());
    origin.granted(walk(1, 1)).await;
}

#[tokio::test]
async fn errors_name_the_broker_without_its_password() {
    let name = node("n");
    let failed = Broker::connect("redis://:hush@127.0.0.1:1/", "w", &name).await;
    let error = failed.expect_err("nobody listens there");
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
    let text = format!("{error} {:?}", error.to_string());
    assert!(text.contains("redis://127.0.0.1:1/") && !text.contains("hush"), "{text}");
    let failed = Broker::connect("http://x/", "w", &name).await;
    assert!(matches!(failed, Err(BrokerError::Url { .. })));
}

/// A Redis without password hangs up on other machines; whether its words arrive is a matter of luck.
#[tokio::test]
async fn protected_mode_is_reported() {
    use std::io::Write;
    for words in ["-DENIED Redis is running in protected mode because …\r\n", ""] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let url = format!("redis://:pw@{}/", listener.local_addr().expect("bound"));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            stream.write_all(words.as_bytes()).expect("writes");
        });
        let name = "n".parse().expect("a sound name");
        let error = Broker::connect(&url, "w", &name).await.expect_err("refused");
        server.join().expect("it ends");
        let said = error.to_string();
        assert!(
            said.contains("protected mode") && said.contains("requirepass"),
            "{said}: {error:?}"
        );
        assert!(!said.contains("pw@"), "{said}");
    }
}

#[tokio::test]
async fn unescaped_passwords_are_refused_without_showing_them() {
    let name = "n".parse().expect("a sound name");
    for password in ["s3c@ret", "s3c/ret", "s3c#ret", "s3c?ret", "s3c%ret"] {
        let url = format!("redis://:{password}@127.0.0.1:1/");
        let error = Broker::connect(&url, "w", &name).await.expect_err("refused");
        let said = error.to_string();
        assert!(said.contains("%40 for @") && said.contains("redis://127.0.0.1:1/"), "{said}");
        assert!(!said.contains("s3c") && !said.contains("ret@"), "{said}");
    }
}
