//! Resuming in another session: what happens to calls, subscriptions, jobs and kept handles.

use std::future::IntoFuture;
use std::time::Duration;

use qmp::mock::{Answer, Control, Monitor};
use qmp::{Client, Closed, Error, Greeting, JobOutcome, Matcher, Options, RecvError, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::calls::{connect, connect_with, echo};
use crate::events::event;
use crate::peer::GREETING;

fn jobs(status: &str) -> Value {
    json!([{
        "id": "j", "status": status, "type": "mirror", "current-progress": 0, "total-progress": 1,
    }])
}

fn with_jobs(jobs: Value) -> Monitor {
    echo().on("query-jobs", move |_| Answer::value(jobs.clone()))
}

fn change(status: &str) -> qmp::Event {
    event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}))
}

/// A bug in resuming may leave callers waiting forever; they get an error instead.
async fn bounded<T>(what: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, what).await.expect("it hangs")
}

async fn end(client: &Client, control: &Control) {
    control.close();
    client.closed().await;
}

#[tokio::test]
async fn all_clones_go_on_in_the_next_session() {
    bounded(async {
        let (client, control) = connect(echo()).await;
        let clone = client.clone();
        assert!(client.execute("echo", ()).await.is_ok());
        end(&client, &control).await;
        assert!(clone.execute("echo", ()).await.unwrap_err().is_closed());

        let greeting = Greeting::new(Version::new(11, 1, 0), []);
        let (next, control) = connect(echo().greeting(greeting)).await;
        client.resume(next);
        assert!(clone.closed_cause().is_none());
        assert!(!clone.oob_enabled());
        assert_eq!(clone.greeting().version, Version::new(11, 1, 0));
        assert_eq!(
            clone.execute("echo", json!({"n": 1})).await.unwrap(),
            json!({"n": 1})
        );
        assert_eq!(control.requests().len(), 1);
        // It ends with its last client, as any session.
        drop(clone);
        assert!(client.execute("echo", ()).await.is_ok());
        drop(client);
        while control.next_request().await.is_some() {}
    })
    .await
}

#[tokio::test]
async fn a_session_that_still_works_ends_when_another_takes_its_place() {
    bounded(async {
        let (client, control) = connect(echo()).await;
        let mut events = client.subscribe(Matcher::any());
        let call = tokio::spawn(client.execute("never", ()).into_future());
        assert!(control.next_request().await.is_some());
        let (next, _control) = connect(echo()).await;
        client.resume(next);
        let error = call.await.unwrap().unwrap_err();
        assert!(
            matches!(
                error,
                Error::Closed {
                    cause: Closed::Local,
                    sent: true,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(matches!(
            events.recv().await,
            Err(RecvError::Closed(Closed::Local))
        ));
        assert!(client.execute("echo", ()).await.is_ok());
        client.resume(client.clone());
        assert!(
            client.execute("echo", ()).await.is_ok(),
            "its own session is no other"
        );
    })
    .await
}

/// Of three calls the first is all written, the second half, and the third not.
#[tokio::test]
async fn a_call_that_fails_with_its_session_says_whether_it_was_sent() {
    bounded(async {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let serve = async {
            theirs.write_all(GREETING.as_bytes()).await.unwrap();
            let mut line = vec![0; 500];
            let count = theirs.read(&mut line).await.unwrap();
            let command: Value = serde_json::from_slice(&line[..count]).unwrap();
            let reply = json!({"return": {}, "id": command["id"]}).to_string();
            theirs.write_all(reply.as_bytes()).await.unwrap();
            theirs
        };
        let (client, mut theirs) =
            tokio::join!(Client::from_stream(ours, Options::default()), serve);
        let client = client.unwrap();
        let first = tokio::spawn(client.execute("first", ()).into_future());
        while client.outstanding().0 != 1 {
            tokio::task::yield_now().await;
        }
        let large = json!({"x": "x".repeat(1000)});
        let second = tokio::spawn(client.execute("second", large).into_future());
        while client.outstanding().0 != 2 {
            tokio::task::yield_now().await;
        }
        let third = tokio::spawn(client.execute("third", ()).into_future());
        while client.outstanding().1 != 1 {
            tokio::task::yield_now().await;
        }
        let mut some = vec![0; 50];
        theirs.read_exact(&mut some).await.unwrap();
        drop(theirs);
        for (call, was_sent, text) in [
            (
                first,
                true,
                "failed to execute first: the QMP session has ended, and QEMU may have executed the command",
            ),
            (
                second,
                false,
                "failed to execute second: the QMP session has ended",
            ),
            (
                third,
                false,
                "failed to execute third: the QMP session has ended",
            ),
        ] {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(error.to_string(), text);
            let Error::Closed { sent, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!(sent, was_sent, "{text}");
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_job_is_followed_into_the_next_session() {
    bounded(async {
        let (client, control) = connect(with_jobs(jobs("running"))).await;
        let mut job = client.job("j");
        job.wait_status("running").await.unwrap();
        let mut waiting = tokio::spawn(async move {
            let error = job.wait_end().await.unwrap_err();
            (job, error)
        });
        assert!(tokio::time::timeout(Duration::from_secs(3), &mut waiting).await.is_err());
        end(&client, &control).await;
        let (mut job, error) = waiting.await.unwrap();
        assert!(error.is_closed(), "{error}");
        assert!(job.wait_end().await.unwrap_err().is_closed());

        // Its events are heard in the next one.
        let (next, control) = connect(with_jobs(jobs("running"))).await;
        client.resume(next);
        let mut other = client.subscribe("BLOCK_JOB_COMPLETED");
        job.wait_status("running").await.unwrap();
        control.event(event(
            "BLOCK_JOB_COMPLETED",
            json!({"device": "j", "error": "disk full"}),
        ));
        let (last, control_2) = connect(with_jobs(json!([]))).await;
        other.recv().await.unwrap();
        // An end that was reported remains valid, although the job is gone.
        client.resume(last);
        assert_eq!(
            job.wait_end().await.unwrap(),
            JobOutcome::Failed("disk full".into())
        );
        assert_eq!(control_2.requests().len(), 1);
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_job_goes_on_in_a_session_that_comes_before_the_end_of_the_last() {
    bounded(async {
        for while_it_asks in [false, true] {
            let (client, control) = connect(with_jobs(jobs("running"))).await;
            let mut job = client.job("j");
            job.wait_status("running").await.unwrap();
            if while_it_asks {
                control.block();
            }
            let waiting = tokio::spawn(async move { job.wait_end().await });
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(client.outstanding().0, usize::from(while_it_asks));
            let (next, _control) = connect(with_jobs(jobs("concluded"))).await;
            client.resume(next);
            assert_eq!(waiting.await.unwrap().unwrap(), JobOutcome::Completed);
        }
    })
    .await
}

/// What happened between the sessions was not reported, so its last status proves nothing.
#[tokio::test(start_paused = true)]
async fn a_job_that_went_between_two_sessions_has_no_outcome_that_is_known() {
    bounded(async {
        let (client, control) = connect(with_jobs(jobs("running"))).await;
        let mut job = client.job("j");
        control.event(change("created"));
        control.event(change("running"));
        job.wait_status("running").await.unwrap();
        end(&client, &control).await;

        let (next, control) = connect(with_jobs(json!([])).before_negotiated("")).await;
        client.resume(next);
        assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Unknown);
        // Neither does the end of it that comes now, which may be that of a job that had failed.
        control.event(change("concluded"));
        control.event(change("null"));
        let mut ended = client.subscribe(Matcher::any().data(json!({"status": "null"})));
        ended.recv().await.unwrap();
        assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Unknown);
    })
    .await
}

#[tokio::test]
async fn events_are_kept_by_the_session_that_was_asked_to() {
    bounded(async {
        let keep = Options::default().cache_events(10);
        let (client, control) = connect_with(echo(), keep.clone()).await;
        let kept = client.event_cache().unwrap();
        end(&client, &control).await;
        let (next, control) = connect_with(echo(), keep).await;
        client.resume(next);
        control.event(qmp::Event::new("STOP"));
        assert!(kept.wait("STOP").await.unwrap_err().is_closed());
        let now = client.event_cache().unwrap();
        assert_eq!(now.wait("STOP").await.unwrap().name, "STOP");
    })
    .await
}
