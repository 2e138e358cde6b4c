//! The guest agent: no greeting, a line with an earlier conversation on it, commands without
//! answers.

use std::future::IntoFuture;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use qmp::mock::Monitor;
use qmp::session::{Config, Session};
use qmp::{Client, ConnectError, Error, Options};
use serde_json::{Value, json};

use crate::calls::{connect, connect_with, echo};
use crate::peer::{Peer, reply};

fn pair() -> (OwnedFd, Peer<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let ours = OwnedFd::from(ours);
    let peer = Peer::new(&ours, theirs);
    (ours, peer)
}

#[tokio::test]
async fn what_an_agent_told_its_last_client_is_dropped_up_to_the_answer_to_our_number() {
    for gives_ids_back in [true, false] {
        let (ours, mut peer) = pair();
        peer.say("4, \"x\": 1}\n{\"return\": 5}\n{\"return\": {}, \"id\": \"ab0\"}\n");
        peer.say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n");
        let serve = async {
            let sync = peer.command().await;
            assert_eq!(sync["execute"], "guest-sync-delimited");
            let number = sync["arguments"]["id"].as_u64().unwrap();
            // An answer to somebody else's number, and a message that was cut.
            peer.say(&format!("{{\"return\": {}}}\n{{\"return\": {{", number ^ 1));
            peer.say_bytes(b"\xFF");
            peer.say(&match gives_ids_back {
                true => format!("{}\n", json!({"return": number, "id": sync["id"]})),
                false => format!("{{\"return\": {number}}}\n"),
            });
            let ping = peer.command().await;
            assert_eq!(ping["execute"], "guest-ping");
            peer.say(&reply(&ping));
        };
        let talk = async {
            let client = Client::from_fd(ours, Options::default().guest_agent())
                .await
                .unwrap();
            assert!(!client.oob_enabled());
            client.execute("guest-ping", ()).await.unwrap();
        };
        tokio::join!(talk, serve);
    }
}

#[test]
fn an_agent_is_told_to_forget_what_it_has_read_and_must_repeat_our_number() {
    let mut config = Config::default();
    config.agent = true;
    let line = |config| Session::new(config).transmit().unwrap().bytes;
    assert_eq!(line(config)[..2], [0xFF, b'{']);
    assert_ne!(line(config), line(config), "the number is random");

    let mut session = Session::new(config);
    let sync = session.transmit().unwrap().bytes;
    let sync: Value = serde_json::from_slice(&sync[1..]).unwrap();
    let number = sync["arguments"]["id"].as_u64().unwrap();
    session.receive(format!("{{\"return\": {}}}", number ^ 1).as_bytes(), |_| {});
    assert!(!session.is_ready(), "another number is no answer");
    session.receive(format!("{{\"return\": {number}}}").as_bytes(), |_| {});
    assert!(session.is_ready());
}

#[tokio::test]
async fn an_agent_that_does_not_run_is_silent_and_one_that_refuses_says_why() {
    let (ours, _peer) = pair();
    let options = Options::default()
        .guest_agent()
        .connect_deadline(Duration::from_millis(50));
    let error = Client::from_fd(ours, options).await.unwrap_err();
    assert!(
        matches!(&error, Error::Connect(e) if matches!(**e, ConnectError::NoAgent { .. })),
        "{error:?}"
    );

    let (ours, mut peer) = pair();
    let refuse = async {
        let sync = peer.command().await;
        let error = json!({"class": "CommandNotFound", "desc": "not here"});
        peer.say(&json!({"error": error, "id": sync["id"]}).to_string());
    };
    let attempt = Client::from_fd(ours, Options::default().guest_agent());
    let (result, ()) = tokio::join!(attempt, refuse);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    assert!(
        causes.any(|e| e.to_string().contains("not here")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_command_that_is_answered_only_when_it_fails_succeeds_in_silence() {
    const SILENCE: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);
    let (client, control) = connect(echo()).await;
    // More than may be in flight: those without an answer make room.
    for _ in 0..10 {
        let never = client.execute("never", ());
        never.unless_refused(SILENCE).await.unwrap();
    }
    assert_eq!(client.outstanding(), (0, 0));
    let never = control.requests()[0].id.clone();
    control.raw(json!({"error": {"class": "GenericError"}, "id": never}).to_string());
    let answered = client.execute("echo", ());
    answered.unless_refused(LONG).await.unwrap();
    let unknown = client.execute("unknown", ()).unless_refused(LONG).await;
    assert!(unknown.unwrap_err().command().is_some());

    let (client, control) = connect(echo()).await;
    let shutdown = client.execute("never", ()).unless_refused(LONG);
    control.close();
    shutdown.await.unwrap();
    client.closed().await;
    let late = client.execute("never", ()).unless_refused(LONG).await;
    assert!(late.unwrap_err().is_closed(), "nothing was sent");

    let (client, control) = connect_with(Monitor::new(), Options::default().in_band_limit(1)).await;
    control.block();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.execute("first", ()).await }
    });
    while client.outstanding() != (1, 0) {
        tokio::task::yield_now().await;
    }
    let unsent = client.execute("second", ()).unless_refused(SILENCE).await;
    assert!(unsent.unwrap_err().is_timeout(), "it was never sent");
    control.unblock();
    assert!(first.await.unwrap().unwrap_err().command().is_some());
    assert_eq!(control.requests().len(), 1, "{:?}", control.requests());
}

/// The peer has stopped reading in the middle of the command.
#[tokio::test]
async fn a_command_that_is_not_all_written_has_not_succeeded_in_silence() {
    let (ours, theirs) = tokio::io::duplex(100);
    let control = echo().without_oob().spawn(theirs);
    let client = Client::from_stream(ours, Options::default()).await.unwrap();
    control.block();
    let first = tokio::spawn(client.execute("echo", ()).into_future());
    while client.outstanding() != (1, 0) {
        tokio::task::yield_now().await;
    }
    let large = client.execute("never", json!({"x": "x".repeat(1000)}));
    let half = large.unless_refused(Duration::from_millis(5)).await;
    assert!(half.unwrap_err().is_timeout());
    control.unblock();
    first.await.unwrap().unwrap();
    client.execute("echo", ()).await.unwrap();
}
