//! The blocking facade, transcripts, redaction, and the consumer outside the workspace.

use std::sync::{Arc, Mutex};

use qmp::mock::{Answer, Monitor, Replay};
use qmp::redact::Redaction;
use qmp::transcript::{self, Direction, Entry};
use qmp::types::QueryJobs;
use qmp::{Client, Options, blocking};
use serde_json::json;

use crate::calls::{self, cache, connect_with, echo};
use crate::peer::{GREETING, reply};
use crate::qemu::{self, Qemu};

#[test]
fn the_blocking_client_works_without_a_runtime_and_reads_while_the_program_does_not() {
    for program in qemu::all("qemu-storage-daemon") {
        let folder = tempfile::tempdir().unwrap();
        let mut qsd = Qemu::storage_daemon(&program);
        let client = blocking::Client::from_fd(qsd.socket(), Options::default()).unwrap();
        assert!(client.greeting().version.at_least(6, 2));
        assert!(client.call(QueryJobs::new()).unwrap().is_empty());
        let mut changes = client.subscribe("JOB_STATUS_CHANGE");
        let mut job = client.as_async().job("j");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let options = json!({"driver": "file", "filename": file, "size": 65536});
        client
            .execute(
                "blockdev-create",
                json!({"job-id": "j", "options": options}),
            )
            .unwrap();
        client.wait(job.wait_completed()).unwrap();
        assert_eq!(
            changes.next().unwrap().unwrap().text("status"),
            Some("created")
        );
        client.quit().unwrap();
        let rest: Vec<_> = changes.map(Result::unwrap).collect();
        assert!(rest.iter().any(|event| event.text("status") == Some("concluded")));
    }
}

#[test]
fn a_blocking_client_that_is_dropped_inside_a_line_leaves_all_of_it() {
    use std::io::{BufRead, BufReader, Read, Write};
    const LONG: usize = 4 << 20;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let (begins, line_begins) = tokio::sync::oneshot::channel();
    let (leaves, client_leaves) = std::sync::mpsc::channel::<Client>();
    let peer = std::thread::spawn(move || {
        let mut writer = theirs.try_clone().unwrap();
        let mut reader = BufReader::new(theirs);
        writer.write_all(GREETING.as_bytes()).unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let negotiated = reply(&serde_json::from_str(&line).unwrap());
        writer.write_all(negotiated.as_bytes()).unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        begins.send(()).unwrap();
        // It takes no more until the session has ended.
        let client = client_leaves.recv().unwrap();
        while client.closed_cause().is_none() {
            std::thread::yield_now();
        }
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        rest
    });
    let client = blocking::Client::from_fd(ours, Options::default()).unwrap();
    let call = client.as_async();
    let call = call.execute("echo", json!({"text": "x".repeat(LONG)}));
    let given_up = client.wait(async {
        tokio::select! {
            result = call.into_future() => panic!("{result:?}"),
            begun = line_begins => begun.unwrap(),
        }
        Ok(())
    });
    given_up.unwrap();
    leaves.send(client.as_async().clone()).unwrap();
    drop(client);
    let rest = peer.join().unwrap();
    assert!(rest.len() > LONG && rest.ends_with("}\n"), "{}", rest.len());
}

fn recording() -> (Options, Arc<Mutex<Vec<Entry>>>) {
    let entries = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&entries);
    let options = calls::options().record(move |entry| sink.lock().unwrap().push(entry.clone()));
    (options, entries)
}

#[tokio::test]
async fn a_recorded_session_can_be_replayed_and_deviations_are_noticed() {
    let (options, entries) = recording();
    let (client, control) = connect_with(echo(), options).await;
    client.execute("echo", json!({"a": 1})).await.unwrap();
    control.event(qmp::Event::new("STOP"));
    cache(&client).wait("STOP").await.unwrap();
    client.execute("missing", ()).await.unwrap_err();
    let entries = entries.lock().unwrap().clone();
    let directions: String = entries
        .iter()
        .map(|entry| {
            if entry.direction == Direction::In {
                '<'
            } else {
                '>'
            }
        })
        .collect();
    assert_eq!(directions, "<><><<><");

    let file: String =
        entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect();
    assert_eq!(transcript::parse(&file).unwrap(), entries);
    assert_eq!(transcript::parse("\n{}").unwrap_err().line, 2);

    let (ours, theirs) = tokio::io::duplex(4096);
    let replay = tokio::spawn(Replay::new(entries.clone()).serve(theirs));
    let client = Client::from_stream(ours, calls::options()).await.unwrap();
    assert_eq!(
        client.execute("echo", json!({"a": 1})).await.unwrap(),
        json!({"a": 1})
    );
    cache(&client).wait("STOP").await.unwrap();
    assert!(client.execute("missing", ()).await.unwrap_err().command().is_some());
    replay.await.unwrap().unwrap();

    let (ours, theirs) = tokio::io::duplex(4096);
    let replay = tokio::spawn(Replay::new(entries).serve(theirs));
    let client = Client::from_stream(ours, Options::default()).await.unwrap();
    assert!(client.execute("echo", json!({"a": 2})).await.unwrap_err().is_closed());
    let error = replay.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("\"a\":2") && error.contains("\"a\":1"),
        "{error}"
    );
}

#[tokio::test]
async fn secrets_reach_qemu_and_no_transcript() {
    let (options, entries) = recording();
    let options = options.redaction(Redaction::members(["password"]));
    let (client, control) = connect_with(echo().otherwise(|_| Answer::empty()), options).await;
    client.execute("echo", json!({"password": "hunter2"})).await.unwrap();
    let secret = json!({"qom-type": "secret", "id": "s", "data": "hunter2"});
    client.execute("object-add", secret).await.unwrap();
    // What makes it a secret stands behind it, where the tail of the transcript has no room.
    let key = json!({"data": "hunter2".repeat(1000), "id": "t", "qom-type": "secret"});
    client.execute("object-add", key).await.unwrap();
    assert_eq!(control.requests()[0].arguments["password"], "hunter2");
    assert_eq!(control.requests()[1].arguments["data"], "hunter2");
    let everything = format!(
        "{:?} {:?}",
        entries.lock().unwrap(),
        client.transcript_tail(99)
    );
    assert!(!everything.contains("hunter2"), "{everything}");
    assert!(everything.contains("REDACTED"));
}

#[tokio::test]
async fn the_tail_of_the_transcript_is_bounded_in_lines_and_length() {
    let monitor = Monitor::new().on("big", |_| Answer::value(json!("x".repeat(100_000))));
    let (client, _control) = connect_with(monitor, Options::default().transcript_lines(3)).await;
    for _ in 0..5 {
        client.execute("big", ()).await.unwrap();
    }
    let tail = client.transcript_tail(99);
    assert_eq!(tail.len(), 3);
    assert!(
        tail[2].text.len() < 3000 && tail[2].text.contains("(100"),
        "{}",
        tail[2].text.len()
    );
    assert!(
        tail[1].to_string().contains("-> {\"execute\":\"big\""),
        "{}",
        tail[1]
    );
    assert_eq!(client.transcript_tail(1), tail[2..]);
}

/// Builds and runs a crate that is not of this workspace. It compiles the dependencies once more,
/// so it is not part of the quick tests: `cargo test -p qemu-qmp --test it -- --ignored consumer`.
#[test]
#[ignore = "compiles all dependencies once more"]
fn a_consumer_outside_the_workspace_builds_and_runs() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = folder.join("../target/consumer");
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap());
    cargo.args(["run", "--quiet", "--offline", "--manifest-path"]);
    cargo.arg(folder.join("tests/consumer/Cargo.toml")).arg("--target-dir").arg(target);
    assert!(cargo.status().unwrap().success());
}
