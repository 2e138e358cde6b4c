//! The guest agent: no greeting, a line with an earlier conversation on it, commands without
//! answers.

use std::future::IntoFuture;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qmp::agent::Agent;
use qmp::mock::{Answer, Control, Monitor};
use qmp::session::{Config, Session};
use qmp::{Client, ConnectError, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::calls::{connect, connect_with, echo};
use crate::peer::Peer;

fn pair() -> (OwnedFd, Peer<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let ours = OwnedFd::from(ours);
    let peer = Peer::new(&ours, theirs);
    (ours, peer)
}

#[tokio::test]
async fn what_an_agent_told_its_last_client_is_dropped_up_to_the_answer_to_our_number() {
    let (ours, mut peer) = pair();
    peer.say("4, \"x\": 1}\n{\"return\": 5}\n{\"return\": {}, \"id\": \"ab0\"}\n");
    peer.say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n");
    let serve = async {
        let sync = peer.command().await;
        assert_eq!(sync["execute"], "guest-sync-delimited");
        assert_eq!(sync.get("id"), None, "agents before 4.0 refuse it");
        let number = sync["arguments"]["id"].as_u64().unwrap();
        // An answer to somebody else's number, and a message that was cut.
        peer.say(&format!("{{\"return\": {}}}\n{{\"return\": {{", number ^ 1));
        peer.say_bytes(b"\xFF");
        peer.say(&format!("{{\"return\": {number}}}\n"));
        let ping = peer.command().await;
        assert_eq!(ping, json!({"execute": "guest-ping"}));
        peer.say("{\"return\": {}}\n");
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

async fn agent(monitor: Monitor) -> (Client, qmp::mock::Control) {
    connect_with(monitor, Options::default().guest_agent()).await
}

/// An agent that refuses ids and sends none back.
#[tokio::test(start_paused = true)]
async fn an_old_agent_is_talked_to_and_answers_go_to_their_calls() {
    let monitor = Monitor::agent()
        .on("guest-ping", |_| Answer::value(json!({})))
        .on("guest-info", |_| Answer::value(json!({"version": "2.5"})))
        .on("guest-shutdown", |_| Answer::silence());
    let (client, control) = agent(monitor).await;
    let (ping, info, unknown) = tokio::join!(
        client.execute("guest-ping", ()).into_future(),
        client.execute("guest-info", ()).into_future(),
        client.execute("guest-none", ()).into_future(),
    );
    assert_eq!(ping.unwrap(), json!({}));
    assert_eq!(info.unwrap()["version"], "2.5");
    let unknown = unknown.unwrap_err();
    assert!(unknown.desc().unwrap().contains("guest-none"), "{unknown}");
    // One that is not answered, and one whose answer nobody waits for: the next is not mixed up.
    let shutdown = client.execute("guest-shutdown", ());
    shutdown
        .unless_refused(Duration::from_secs(1))
        .await
        .unwrap();
    control.block();
    let given_up = client
        .execute("guest-ping", ())
        .deadline(Duration::from_secs(1));
    assert!(given_up.await.unwrap_err().is_timeout());
    control.unblock();
    assert_eq!(
        client.execute("guest-info", ()).await.unwrap()["version"],
        "2.5"
    );
    assert_eq!(control.requests().len(), 5, "{:?}", control.requests());
}

#[tokio::test]
async fn an_agent_that_starts_after_the_connection_was_made_is_found() {
    tokio::time::pause();
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let serve = async {
        // The channel is there, and nobody has it open: what is written first is lost.
        let mut lost = [0; 4096];
        let first = theirs.read(&mut lost).await.unwrap();
        let count = theirs.read(&mut lost[first..]).await.unwrap();
        let second = lost[first..][..count].to_vec();
        let number = |line: &[u8]| {
            let sync: Value = serde_json::from_slice(&line[1..]).unwrap();
            sync["arguments"]["id"].as_u64().unwrap()
        };
        let (first, second) = (number(&lost[..first]), number(&second));
        assert_ne!(first, second);
        let third = {
            let count = theirs.read(&mut lost).await.unwrap();
            number(&lost[..count])
        };
        // It answers both that it has seen; the later answer is not one to a command.
        let answers = format!("{{\"return\": {second}}}\n{{\"return\": {third}}}\n");
        theirs.write_all(answers.as_bytes()).await.unwrap();
        let count = theirs.read(&mut lost).await.unwrap();
        assert!(lost[..count].starts_with(b"{\"execute\":\"guest-ping\""));
        theirs.write_all(b"{\"return\": {}}").await.unwrap();
    };
    let talk = async {
        let options = Options::default().guest_agent();
        let client = Client::from_stream(ours, options).await.unwrap();
        assert_eq!(client.execute("guest-ping", ()).await.unwrap(), json!({}));
    };
    tokio::join!(talk, serve);
}

#[tokio::test]
async fn the_largest_file_read_that_an_agent_grants_arrives() {
    // 48 MiB in base64, as `guest-file-read` returns them.
    let piece = || "QUJD".repeat(16 << 20);
    let monitor = Monitor::agent().on("guest-file-read", move |_| {
        Answer::value(json!({"count": 48 << 20, "buf-b64": piece(), "eof": false}))
    });
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let _control = monitor.spawn(theirs);
    let options = Options::default().guest_agent().transcript_lines(0);
    let client = Client::from_stream(ours, options).await.unwrap();
    let read = client.execute("guest-file-read", json!({"handle": 1}));
    let raw = read.raw().await.unwrap();
    assert!(raw.get().len() > 64 << 20, "{}", raw.get().len());
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
    assert!(matches!(error, ConnectError::NoAgent { .. }), "{error:?}");

    let (ours, mut peer) = pair();
    let refuse = async {
        let sync = peer.command().await;
        let error =
            json!({"class": "CommandNotFound", "desc": "Command guest-sync-delimited is not here"});
        assert_eq!(sync.get("id"), None);
        peer.say(&json!({"error": error}).to_string());
    };
    let attempt = Client::from_fd(ours, Options::default().guest_agent());
    let (result, ()) = tokio::join!(attempt, refuse);
    let error = result.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
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

/// A guest with one file, whose agent takes at most `most` bytes with a command.
fn guest_file(most: usize) -> (Monitor, Arc<Mutex<Vec<u8>>>) {
    let content = Arc::new(Mutex::new(b"what it held".to_vec()));
    let (opened, written) = (Arc::clone(&content), Arc::clone(&content));
    let monitor = Monitor::agent()
        .on("guest-file-open", move |request| {
            assert_eq!(request.arguments["path"], "/etc/motd");
            assert_eq!(request.arguments["mode"], "w");
            opened.lock().unwrap().clear();
            Answer::value(json!(7))
        })
        .on("guest-file-write", move |request| {
            assert_eq!(request.arguments["handle"], 7);
            let piece = request.arguments["buf-b64"].as_str().unwrap();
            let piece = STANDARD.decode(piece).unwrap();
            let count = piece.len().min(most);
            written.lock().unwrap().extend(&piece[..count]);
            Answer::value(json!({"count": count, "eof": false}))
        })
        .on("guest-file-flush", |_| Answer::empty())
        .on("guest-file-close", |_| Answer::empty());
    (monitor, content)
}

fn commands(control: &Control) -> Vec<String> {
    let requests = control.requests();
    requests.into_iter().map(|request| request.name).collect()
}

#[tokio::test]
async fn a_file_is_written_in_pieces_until_the_agent_has_taken_all_of_it() {
    let content: Vec<u8> = (0..5 << 19).map(|n: u32| (n % 251) as u8).collect();
    for (most, pieces) in [(usize::MAX, 3), (700_000, 4)] {
        let (monitor, file) = guest_file(most);
        let (client, control) = agent(monitor).await;
        let agent = Agent::new(client);
        agent.write_file("/etc/motd", &content).await.unwrap();
        assert!(*file.lock().unwrap() == content, "at most {most} at once");
        let mut expected = vec!["guest-file-open"];
        expected.extend(vec!["guest-file-write"; pieces]);
        expected.extend(["guest-file-flush", "guest-file-close"]);
        assert_eq!(commands(&control), expected);
        let longest = control.requests().into_iter().filter_map(|request| {
            let piece = request.arguments.get("buf-b64")?.as_str()?.len();
            Some(piece)
        });
        assert!(
            longest.max() < Some(2 << 20),
            "a piece fits an agent's memory"
        );
    }
    let (monitor, file) = guest_file(0);
    let (client, control) = agent(monitor).await;
    let error = Agent::new(client).write_file("/etc/motd", b"x").await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "failed to write /etc/motd in the guest: the agent took nothing after 0 bytes"
    );
    assert!(file.lock().unwrap().is_empty());
    assert_eq!(commands(&control).last().unwrap(), "guest-file-close");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_away_for_a_while_is_waited_for() {
    let (client, control) = agent(Monitor::agent().on("guest-ping", |_| Answer::empty())).await;
    let agent = Agent::new(client);
    agent.wait_ready().await.unwrap();
    control.block();
    let mut waiting = tokio::spawn({
        let agent = agent.clone();
        async move { agent.wait_ready().await }
    });
    let early = tokio::time::timeout(Duration::from_secs(100), &mut waiting).await;
    assert!(early.is_err(), "nothing has answered");
    control.unblock();
    waiting.await.unwrap().unwrap();
    // It is in step: answers go to their commands.
    assert!(agent.client().execute("guest-none", ()).await.is_err());
    agent.wait_ready().await.unwrap();

    control.close();
    assert!(agent.wait_ready().await.unwrap_err().is_closed());
}
