//! A command and its own event: nothing that came before the command counts.
//!
//! The peer's earlier messages are unread in the kernel's buffer when a command is sent.

use std::future::IntoFuture;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use qmp::Client;
use serde_json::{Value, json};

use crate::peer::{Peer, connect, reply};

async fn unix() -> (Client, Peer<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    theirs.set_nonblocking(true).expect("a mode");
    connect(ours, theirs).await
}

async fn tcp() -> (Client, Peer<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (theirs, _) = listener.accept().expect("accepted");
    theirs.set_nonblocking(true).expect("a mode");
    theirs.set_nodelay(true).expect("a mode");
    connect(ours, theirs).await
}

fn done(whose: &str) -> String {
    format!(
        "{}\r\n",
        json!({"event": "DONE", "data": {"whose": whose}, "timestamp": {"seconds": 1, "microseconds": 2}})
    )
}

/// What can stand in the buffer when a command is sent: the first part is there, the second one
/// follows when the command has been read.
fn stale(kind: u64) -> (String, String) {
    let old = done("old");
    let cut = old.len() / 2;
    let pretty = format!(
        "{:#}\r\n",
        serde_json::from_str::<Value>(&old).expect("JSON")
    );
    let open = pretty.find("\"data\"").expect("a member");
    match kind {
        0 => (String::new(), String::new()),
        1 => (old, String::new()),
        2 => (old[..cut].into(), old[cut..].into()),
        3 => (format!("{old}{old}{}", &old[..1]), old[1..].into()),
        4 => (pretty[..open].into(), pretty[open..].into()),
        // A broken message and the line end at which the next one can be read.
        _ => (format!("{old}{{\"event\": inf"), ", \"x\": 1}\r\n".into()),
    }
}

const KINDS: u64 = 6;

/// One command that finds `kind` of stale text in the buffer, and its event, at `place`.
async fn exchange<S: Read + Write>(client: &Client, peer: &mut Peer<S>, kind: u64, place: u64) {
    let (before, after) = stale(kind);
    peer.say(&before);
    let serve = async {
        let command = peer.command().await;
        peer.say(&after);
        let own = done("own");
        match place {
            0 => peer.say(&format!("{own}{}", reply(&command))),
            1 => {
                peer.say(&own);
                peer.heard().await;
                peer.say(&reply(&command));
            }
            2 => peer.say(&format!("{}{own}", reply(&command))),
            3 => {
                peer.say(&reply(&command));
                peer.heard().await;
                peer.say(&own);
            }
            _ => {
                peer.say(&format!("{}{}", reply(&command), &own[..9]));
                peer.heard().await;
                peer.say(&own[9..]);
            }
        }
    };
    let call = client.execute("go", ()).and_event("DONE");
    let (result, ()) = tokio::join!(call.into_future(), serve);
    let (_, event) = result.expect("a reply and an event");
    assert_eq!(
        event.text("whose"),
        Some("own"),
        "kind {kind}, place {place}"
    );
}

const PLACES: u64 = 5;

async fn all_kinds<S: Read + Write>(client: Client, mut peer: Peer<S>) {
    for kind in 0..KINDS {
        for place in 0..PLACES {
            let mut all = client.subscribe("DONE");
            exchange(&client, &mut peer, kind, place).await;
            peer.heard().await;
            // Earlier subscribers get the old ones.
            let old = [0, 1, 1, 3, 1, 1][kind as usize];
            for _ in 0..old {
                assert_eq!(all.recv().await.unwrap().text("whose"), Some("old"));
            }
            assert_eq!(all.recv().await.unwrap().text("whose"), Some("own"));
            assert!(all.try_recv().unwrap().is_none(), "kind {kind}");
        }
    }
}

#[tokio::test]
async fn an_event_from_before_the_command_does_not_count_even_if_nobody_has_read_it() {
    let (client, peer) = unix().await;
    all_kinds(client, peer).await;
    let (client, peer) = tcp().await;
    all_kinds(client, peer).await;
}

#[tokio::test]
async fn ten_thousand_commands_find_their_own_event_before_in_or_after_the_reply() {
    let (client, mut peer) = unix().await;
    for n in 0..10_000 {
        exchange(&client, &mut peer, n % KINDS, n / KINDS % PLACES).await;
    }
    peer.heard().await;
    assert_eq!(client.outstanding(), (0, 0));
}

#[tokio::test]
async fn an_event_that_comes_while_the_command_is_being_written_does_not_count() {
    let (client, mut peer) = unix().await;
    // More than the kernel takes at once.
    let arguments = json!({"pad": "x".repeat(1 << 20)});
    let serve = async {
        peer.listen(1000).await;
        peer.say(&done("old"));
        let command = peer.command().await;
        peer.say(&format!("{}{}", reply(&command), done("own")));
    };
    let call = client.execute("go", arguments).and_event("DONE");
    let (result, ()) = tokio::join!(call.into_future(), serve);
    assert_eq!(result.unwrap().1.text("whose"), Some("own"));
}

#[tokio::test]
async fn a_stream_that_ends_just_before_a_command_fails_it_with_the_cause() {
    let (client, mut peer) = unix().await;
    let mut events = client.subscribe(qmp::Matcher::any());
    peer.say(&format!("{}{{\"cut", done("old")));
    drop(peer);
    let error = client.execute("go", ()).and_event("DONE").await.unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(matches!(client.closed().await, qmp::Closed::Cut(_)));
    assert!(
        events.recv().await.is_ok(),
        "what came before it is not lost"
    );
}
