//! The guest agent: no greeting, a line with an earlier conversation on it, commands without
//! answers.

use std::future::IntoFuture;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qmp::agent::types::GuestShutdown;
use qmp::agent::{Agent, AgentError, Exec};
use qmp::frame::Limits;
use qmp::mock::{Answer, Control, Monitor};
use qmp::session::{CallId, Config, Discarded, Notice, Request, Session};
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
        // An answer to another client's number, and a truncated message.
        peer.say(&format!("{{\"return\": {}}}\n{{\"return\": {{", number ^ 1));
        peer.say_bytes(b"\xFF");
        peer.say(&format!("{{\"return\": {number}}}\n"));
        let ping = peer.command().await;
        assert_eq!(ping, json!({"execute": "guest-ping"}));
        peer.say("{\"return\": {}}\n");
    };
    let talk = async {
        let client = Client::from_fd(ours, Options::default().guest_agent()).await.unwrap();
        assert!(!client.oob_enabled());
        client.execute("guest-ping", ()).await.unwrap();
    };
    tokio::join!(talk, serve);
}

async fn agent(monitor: Monitor) -> (Client, qmp::mock::Control) {
    connect_with(monitor, Options::default().guest_agent()).await
}

/// An agent that rejects ids and returns none.
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
    // One that is not answered, and one that is abandoned: the next reply is not mixed up.
    let shutdown = client.execute("guest-shutdown", ());
    shutdown.unless_refused(Duration::from_secs(1)).await.unwrap();
    control.block();
    let given_up = client.execute("guest-ping", ()).deadline(Duration::from_secs(1));
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
        // The channel exists but is not open: what is written first is lost.
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

/// A session with an agent that has sent back its number.
fn in_step() -> Session {
    let mut config = Config::default();
    config.agent = true;
    let mut session = Session::new(config);
    let number = number(&mut session);
    say(&mut session, json!({"return": number}));
    assert!(session.is_ready());
    while session.notice().is_some() {}
    session
}

fn say(session: &mut Session, message: Value) {
    session.receive(format!("{message}\n").as_bytes(), |_| {});
}

/// The number that the agent is sent next.
fn number(session: &mut Session) -> u64 {
    let line = session.transmit().expect("a number").bytes;
    let sync: Value = serde_json::from_slice(&line[1..]).unwrap();
    assert_eq!(sync["execute"], "guest-sync-delimited");
    sync["arguments"]["id"].as_u64().unwrap()
}

fn submit(session: &mut Session, name: &str) -> CallId {
    session.submit(Request::new(name, None)).unwrap()
}

/// To which call the only notice replies, and whether it succeeded.
fn replied(session: &mut Session) -> (CallId, bool) {
    let (notice, more) = (session.notice(), session.notice());
    match (notice, more) {
        (Some(Notice::Reply { call, result, .. }), None) => (call, result.is_ok()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_agent_gets_numbers_that_it_can_send_back_and_old_ones_are_forgotten() {
    for _ in 0..64 {
        let mut config = Config::default();
        config.agent = true;
        let number = number(&mut Session::new(config));
        assert!(number < 1 << 32, "a double, as some agents count, is exact");
    }
    let mut config = Config::default();
    config.agent = true;
    let mut session = Session::new(config);
    let first = number(&mut session);
    // An agent that is away for hours.
    for _ in 0..10_000 {
        session.synchronize();
        number(&mut session);
    }
    say(&mut session, json!({"return": first}));
    assert!(!session.is_ready(), "not all of them are remembered");
    session.synchronize();
    let last = number(&mut session);
    say(&mut session, json!({"return": last}));
    assert!(session.is_ready());
}

/// The handle of a file may be any number.
#[test]
fn a_number_that_an_agent_has_not_seen_may_be_an_answer() {
    let mut config = Config::default();
    config.agent = true;
    let mut session = Session::new(config);
    let unseen = number(&mut session);
    session.synchronize();
    let seen = number(&mut session);
    session.synchronize();
    let later = number(&mut session);
    say(&mut session, json!({"return": seen}));
    while session.notice().is_some() {}
    // One that it has seen as well is none.
    say(&mut session, json!({"return": later}));
    let only = session.notice();
    let stale = matches!(only, Some(Notice::Discarded(Discarded::Stale { .. })));
    assert!(stale, "{only:?}");
    let open = submit(&mut session, "guest-file-open");
    session.transmit().unwrap();
    say(&mut session, json!({"return": unseen}));
    assert_eq!(replied(&mut session), (open, true));
}

/// It answers in order, but it may leave an answer out.
#[test]
fn an_agent_is_sent_one_command_at_a_time() {
    let mut session = in_step();
    let first = submit(&mut session, "guest-ping");
    submit(&mut session, "guest-info");
    assert!(session.transmit().is_some());
    assert!(session.transmit().is_none());
    say(&mut session, json!({"return": {}}));
    assert_eq!(replied(&mut session), (first, true));
    assert!(session.transmit().is_some());
}

#[test]
fn an_answer_with_an_id_is_for_another_client_of_the_agent() {
    let mut session = in_step();
    let ping = submit(&mut session, "guest-ping");
    session.transmit().unwrap();
    say(&mut session, json!({"return": 1, "id": "theirs"}));
    let only = session.notice();
    let stale = matches!(only, Some(Notice::Discarded(Discarded::Stale { .. })));
    assert!(stale, "{only:?}");
    say(&mut session, json!({"return": {}}));
    assert_eq!(replied(&mut session), (ping, true));
}

/// What cannot be read may have been the answer, or something else before it.
#[test]
fn an_agent_is_brought_in_step_again_after_words_that_cannot_be_read() {
    let mut session = in_step();
    let first = submit(&mut session, "guest-ping");
    session.transmit().unwrap();
    session.receive(b"{\"return\": nan}\n", |_| {});
    assert_eq!(replied(&mut session), (first, false));
    assert!(session.transmit().is_none(), "there is nothing to ask");
    let second = submit(&mut session, "guest-ping");
    let number = number(&mut session);
    assert!(session.transmit().is_none(), "not before it is in step");
    // The answer to the first, late.
    say(&mut session, json!({"return": {"late": true}}));
    assert!(matches!(session.notice(), Some(Notice::Discarded(_))));
    say(&mut session, json!({"return": number}));
    assert!(
        session.notice().is_none(),
        "it was ready before, and has not greeted again"
    );
    session.transmit().unwrap();
    say(&mut session, json!({"return": {}}));
    assert_eq!(replied(&mut session), (second, true));
}

#[tokio::test]
async fn an_agent_that_does_not_run_is_silent_and_one_that_refuses_says_why() {
    let (ours, _peer) = pair();
    let options = Options::default().guest_agent().connect_deadline(Duration::from_millis(50));
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
    let leave = async {
        control.next_request().await.unwrap();
        control.close();
    };
    let (shutdown, ()) = tokio::join!(shutdown, leave);
    shutdown.unwrap();
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

#[tokio::test(start_paused = true)]
async fn a_typed_command_without_an_answer_is_known_to_be_one() {
    let shutdown =
        |answer: fn() -> Answer| Monitor::agent().on("guest-shutdown", move |_| answer());
    let (client, _control) = agent(shutdown(Answer::silence)).await;
    let agent_of_guest = Agent::new(client);
    agent_of_guest.call(GuestShutdown::new()).await.unwrap();
    let raw = agent_of_guest.call(GuestShutdown::new()).raw();
    let raw = tokio::time::timeout(Duration::from_secs(60), raw).await;
    assert_eq!(raw.expect("an end").unwrap().get(), "{}");
    let (client, _control) = agent(shutdown(|| Answer::error("busy"))).await;
    let error = Agent::new(client).call(GuestShutdown::new()).await.unwrap_err();
    assert_eq!(error.desc(), Some("busy"));
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

/// A guest is not trusted: the host limits the size of its messages.
#[tokio::test]
async fn limits_that_were_set_hold_for_an_agent_too() {
    let monitor = Monitor::agent().on("guest-info", |_| Answer::value(json!("x".repeat(5000))));
    let limits = Limits::default().with_message(1000);
    let options = Options::default().limits(limits).guest_agent();
    let (client, _control) = connect_with(monitor, options).await;
    let error = client.execute("guest-info", ()).await.unwrap_err();
    assert!(error.report().to_string().contains("1000 bytes"), "{error}");
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

/// A guest in which a program ends after its status was asked for `running` times.
fn guest_program(running: usize, status: Value) -> Monitor {
    let asked = AtomicUsize::new(0);
    Monitor::agent().on("guest-exec", |_| Answer::value(json!({"pid": 7}))).on(
        "guest-exec-status",
        move |request| {
            assert_eq!(request.arguments["pid"], 7);
            match asked.fetch_add(1, Ordering::Relaxed) < running {
                true => Answer::value(json!({"exited": false})),
                false => Answer::value(status.clone()),
            }
        },
    )
}

#[tokio::test(start_paused = true)]
async fn a_program_gets_what_it_was_given_and_is_waited_for_until_its_end() {
    let (out, err) = (STANDARD.encode("out\0"), STANDARD.encode("err"));
    let status = json!({
        "exited": true, "signal": 9, "out-data": out, "err-data": err, "err-truncated": true,
    });
    let (client, control) = agent(guest_program(5, status)).await;
    let exec = Exec::new("/bin/sh").arg("-c").args(["cat", "-"]);
    let exec = exec.env("A", "1").env("B", "x=y").input(b"in\0".as_slice());
    let output = Agent::new(client).exec(exec).await.unwrap();
    assert_eq!((output.code, output.signal), (None, Some(9)));
    assert_eq!(output.stdout, b"out\0");
    assert_eq!(output.stderr, b"err");
    assert!(output.truncated && !output.success());
    let requests = control.requests();
    assert_eq!(
        Value::Object(requests[0].arguments.clone()),
        json!({
            "path": "/bin/sh", "arg": ["-c", "cat", "-"], "env": ["A=1", "B=x=y"],
            "input-data": STANDARD.encode("in\0"), "capture-output": true,
        })
    );
    assert_eq!(requests.len(), 7);

    // As little as can be said; and nothing was written.
    let ended = json!({"exited": true, "exitcode": 0});
    let (client, control) = agent(guest_program(0, ended)).await;
    let output = Agent::new(client).exec(Exec::new("true")).await.unwrap();
    assert!(output.success() && output.stdout.is_empty() && !output.truncated);
    assert_eq!(
        Value::Object(control.requests()[0].arguments.clone()),
        json!({"path": "true", "capture-output": true})
    );
}

#[tokio::test(start_paused = true)]
async fn a_program_that_fails_is_told_from_one_that_does_not_end_or_cannot_be_understood() {
    let failed = json!({"exited": true, "exitcode": 1, "out-truncated": true});
    let (client, _control) = agent(guest_program(0, failed)).await;
    let output = Agent::new(client).exec(Exec::new("false")).await.unwrap();
    assert_eq!((output.code, output.success()), (Some(1), false));
    assert!(output.truncated);

    let (client, _control) = agent(guest_program(usize::MAX, json!({}))).await;
    let exec = Exec::new("sleep").timeout(Duration::from_secs(5));
    let error = Agent::new(client).exec(exec).await.unwrap_err();
    assert!(matches!(error, AgentError::Timeout { pid: 7, .. }));
    assert_eq!(
        error.to_string(),
        "failed to see the end of sleep in the guest (pid 7) within 5s"
    );

    // An agent that hangs in the start.
    let (client, _control) = agent(Monitor::agent().on("guest-exec", |_| Answer::silence())).await;
    let exec = Exec::new("sleep").timeout(Duration::from_secs(5));
    let end = Agent::new(client);
    let end = tokio::time::timeout(Duration::from_secs(60), end.exec(exec)).await;
    assert_eq!(
        end.expect("an end").unwrap_err().to_string(),
        "failed to execute guest-exec within 5s"
    );

    let garbled = json!({"exited": true, "exitcode": 0, "out-data": "*"});
    let (client, _control) = agent(guest_program(0, garbled)).await;
    let error = Agent::new(client).exec(Exec::new("ls")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to read the output of a program: it is not base64"
    );
}

/// A guest with one file that is read: of a file that grows the agent never says that it ends.
fn guest_content(content: Vec<u8>, says_eof: bool) -> Monitor {
    let at = AtomicUsize::new(0);
    Monitor::agent()
        .on("guest-file-open", |_| Answer::value(json!(7)))
        .on("guest-file-read", move |request| {
            assert_eq!(request.arguments["handle"], 7);
            let most = request.arguments["count"].as_u64().unwrap() as usize;
            let from = at.load(Ordering::Relaxed);
            let until = content.len().min(from + most);
            at.store(until, Ordering::Relaxed);
            let piece = STANDARD.encode(&content[from..until]);
            let eof = says_eof && until == content.len();
            Answer::value(json!({"count": until - from, "buf-b64": piece, "eof": eof}))
        })
        .on("guest-file-close", |_| Answer::empty())
}

#[tokio::test]
async fn a_file_is_read_in_pieces_until_its_end() {
    let content: Vec<u8> = (0..5 << 19).map(|n: u32| (n % 251) as u8).collect();
    for (says_eof, pieces) in [(true, 3), (false, 4)] {
        let (client, control) = agent(guest_content(content.clone(), says_eof)).await;
        let read = Agent::new(client).read_file("/etc/motd").await.unwrap();
        assert!(read == content);
        let mut expected = vec!["guest-file-open"];
        expected.extend(vec!["guest-file-read"; pieces]);
        expected.push("guest-file-close");
        assert_eq!(commands(&control), expected);
    }
    let broken =
        guest_content(content, true).on("guest-file-read", |_| Answer::error("Is a directory"));
    let (client, control) = agent(broken).await;
    let error = Agent::new(client).read_file("/etc").await.unwrap_err();
    assert!(error.to_string().contains("Is a directory"), "{error}");
    assert_eq!(commands(&control).last().unwrap(), "guest-file-close");
}
