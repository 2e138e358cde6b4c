//! Nothing is left behind. Descriptors are counted in a separate process, where no other test opens
//! or closes any.

use std::future::IntoFuture;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use qmp::mock::{Answer, Monitor};
use qmp::{Client, Matcher, Options};
use serde_json::{Value, json};
use tokio::net::UnixStream;

/// Set in the process of its own.
const ALONE: &str = "QMP_TEST_ALONE";

/// Runs `work` in a process of its own: this program again, with the one test of this name.
fn alone(name: &str, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .expect("this program runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "no test is named {name}: {out}");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a list").count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A step of a random walk, the same in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Polls a future some times, then drops it.
async fn poll_and_drop<F>(work: F, polls: u64)
where
    F: IntoFuture,
    F::IntoFuture: Unpin,
{
    let mut future = work.into_future();
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        match std::pin::Pin::new(&mut future).poll(&mut cx) {
            Poll::Ready(_) => break,
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
}

/// A monitor that answers some commands when a later one comes, so that many replies are late.
fn late() -> Monitor {
    let held = Arc::new(Mutex::new(Vec::<Value>::new()));
    Monitor::new().on("echo", move |request| {
        let reply = json!({"return": request.arguments, "id": request.id});
        let mut held = held.lock().unwrap();
        held.push(reply);
        if request.arguments["hold"] == json!(true) && held.len() < 4 {
            return Answer::silence();
        }
        Answer::silence()
            .raw(held.drain(..).map(|reply| format!("{reply}\r\n")).collect::<String>())
    })
}

async fn ten_thousand_calls() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let control = late().spawn(theirs);
    let client = Client::from_unix_stream(ours, Options::default()).await.unwrap();
    let before = (tasks(), descriptors());
    let mut state = 0x1234_5678_9ABC_DEF1;
    let (mut answered, mut dropped, mut timed_out) = (0, 0, 0);
    for n in 0..10_000u64 {
        let roll = random(&mut state);
        let with_fd = roll.is_multiple_of(7);
        // One that carries a descriptor holds up the next, so it is answered at once.
        let hold = roll.is_multiple_of(3) && !with_fd;
        let arguments = json!({"n": n, "hold": hold});
        let mut call = client.execute("echo", arguments.clone());
        if with_fd {
            call = call.fd(std::fs::File::open("/dev/null").unwrap());
        }
        match roll % 5 {
            0 => {
                poll_and_drop(call, roll / 5 % 4).await;
                dropped += 1;
            }
            1 => {
                poll_and_drop(call.and_event("NEVER"), roll / 5 % 6).await;
                dropped += 1;
            }
            2 => match call.deadline(Duration::from_micros(roll % 200)).await {
                Ok(reply) => assert_eq!(reply, arguments),
                Err(error) => {
                    assert!(error.is_timeout(), "{error}");
                    timed_out += 1;
                }
            },
            // A call that is held back is pushed out by one that is not.
            _ => {
                let push = client.execute("echo", json!({"n": n, "hold": false}));
                let (reply, pushed) = tokio::join!(call.into_future(), push.into_future());
                assert_eq!(reply.unwrap(), arguments);
                assert_eq!(pushed.unwrap(), json!({"n": n, "hold": false}));
                answered += 2;
            }
        }
    }
    client.execute("echo", json!({"n": 0, "hold": false})).await.unwrap();
    assert_eq!(client.outstanding(), (0, 0));
    assert_eq!((tasks(), descriptors()), before);
    assert!(control.most_queued() <= 7, "{}", control.most_queued());
    assert!(
        answered > 1000 && dropped > 1000 && timed_out > 100,
        "{answered} {dropped} {timed_out}"
    );
}

/// Sessions that end in the middle of something, and attempts that never become one.
async fn a_few_hundred_sessions() {
    let mut state = 0x1234_5678_9ABC_DEF1;
    for _ in 0..300 {
        let roll = random(&mut state);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let _control = late().spawn(theirs);
        let attempt = Box::pin(Client::from_unix_stream(ours, Options::default()));
        if roll.is_multiple_of(4) {
            poll_and_drop(attempt, roll / 4 % 6).await;
            continue;
        }
        let client = attempt.await.unwrap();
        let _events = client.subscribe(Matcher::any());
        let file = std::fs::File::open("/dev/null").unwrap();
        poll_and_drop(client.execute("echo", ()).fd(file), roll / 4 % 4).await;
    }
}

#[test]
fn ten_thousand_dropped_and_timed_out_calls_mix_up_no_reply_and_leave_nothing() {
    let name = "leaks::ten_thousand_dropped_and_timed_out_calls_mix_up_no_reply_and_leave_nothing";
    alone(name, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let before = (tasks(), descriptors());
            ten_thousand_calls().await;
            a_few_hundred_sessions().await;
            // An aborted task is gone when the runtime gets round to it.
            while tasks() > before.0 {
                tokio::task::yield_now().await;
            }
            assert_eq!((tasks(), descriptors()), before);
        });
    });
}
