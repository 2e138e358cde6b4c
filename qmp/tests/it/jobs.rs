//! Jobs: statuses, progress and outcomes, whichever events come and whoever dismisses them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qmp::mock::{Answer, Control, Monitor};
use qmp::types::JobStatus;
use qmp::{Error, JobError, JobOutcome, Matcher, Options};
use serde_json::{Value, json};

use crate::calls::{cache, connect, connect_with};
use crate::events::event;

/// What `query-jobs` returns of the job `j`.
fn job_info(status: &str, error: Option<&str>) -> Value {
    let mut info = json!({
        "id": "j", "status": status, "type": "mirror",
        "current-progress": 0, "total-progress": 1,
    });
    if let Some(error) = error {
        info["error"] = error.into();
    }
    json!([info])
}

/// A monitor with one job whose `query-jobs` steps through the given statuses.
fn job_monitor(statuses: &[&'static str]) -> Monitor {
    job_monitor_of(statuses.to_vec())
}

fn job_monitor_of(statuses: Vec<&'static str>) -> Monitor {
    let asked = AtomicUsize::new(0);
    Monitor::new().on("query-jobs", move |_| {
        let at = asked.fetch_add(1, Ordering::Relaxed);
        match statuses[at.min(statuses.len() - 1)] {
            "gone" => Answer::value(json!([])),
            "failed" => Answer::value(job_info("concluded", Some("disk full"))),
            "cancelled" => Answer::value(job_info("concluded", Some("Operation canceled"))),
            status => Answer::value(job_info(status, None)),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_job_is_followed_although_all_its_events_are_lost() {
    let (client, _control) =
        connect(job_monitor(&["created", "running", "running", "ready"])).await;
    client.job("j").wait_ready().await.unwrap();
    let (client, _control) = connect(job_monitor(&["running", "pending"])).await;
    client.job("j").wait_pending().await.unwrap();
    let (client, _control) = connect(job_monitor(&["ready", "failed"])).await;
    let error = client.job("j").wait_pending().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to see job j pending: it failed: disk full"
    );
    let (client, _control) = connect(job_monitor(&["running", "failed"])).await;
    let end = client.job("j").wait_end().await.unwrap();
    assert_eq!(end, JobOutcome::Failed("disk full".into()));
    let (client, _control) = connect(job_monitor(&["running", "failed"])).await;
    let error = client.job("j").wait_ready().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to see job j ready: it failed: disk full"
    );
    let (client, _control) = connect(job_monitor(&["gone"])).await;
    let error = client.job("j").wait_ready().await.unwrap_err();
    assert_eq!(error.to_string(), "failed to find job j");
    let (client, _control) = connect(job_monitor(&["running", "gone"])).await;
    client.job("j").wait_status(JobStatus::Null).await.unwrap();
    // It ended and was dismissed between two looks.
    let (client, _control) = connect(job_monitor(&["running", "gone"])).await;
    let error = client.job("j").wait_ready().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to see job j ready: it is gone, and how it ended is not known"
    );
}

#[tokio::test]
async fn each_order_to_a_job_is_the_command_of_its_name() {
    let (client, control) = connect(Monitor::new().otherwise(|_| Answer::empty())).await;
    let job = client.job("j");
    job.pause().await.unwrap();
    job.resume().await.unwrap();
    job.complete().await.unwrap();
    job.cancel().await.unwrap();
    job.finalize().await.unwrap();
    job.dismiss().await.unwrap();
    let requests = control.requests();
    assert!(requests.iter().all(|r| r.arguments.len() == 1 && r.arguments["id"] == "j"));
    let names: Vec<&str> = requests.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "job-pause",
            "job-resume",
            "job-complete",
            "job-cancel",
            "job-finalize",
            "job-dismiss"
        ]
    );
}

/// A job that begins after `query-jobs` was answered, with its first event in the same segment as
/// the answer.
#[tokio::test(start_paused = true)]
async fn a_job_that_begins_while_it_is_asked_for_has_not_ended() {
    for wait_end in [true, false] {
        let asked = AtomicUsize::new(0);
        let monitor = Monitor::new().on("query-jobs", move |_| {
            let change = |status| event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}));
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => Answer::value(json!([])).event(change("created")),
                _ => Answer::value(job_info("concluded", None)),
            }
        });
        let (client, _control) = connect(monitor).await;
        let mut job = client.job("j");
        if wait_end {
            assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Completed);
        } else {
            job.wait_status("concluded").await.unwrap();
        }
    }
}

/// A job that changes after `query-jobs` was answered, with its last event in the same segment as the
/// answer: no other one will come.
#[tokio::test(start_paused = true)]
async fn a_job_that_changes_while_it_is_asked_for_is_asked_for_again_at_once() {
    let change = |status| event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}));
    let monitor = |first: &'static str, then: &'static str, last: Value| {
        let asked = AtomicUsize::new(0);
        Monitor::new().on("query-jobs", move |_| {
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => Answer::value(job_info(first, None)).event(change(then)),
                _ => Answer::value(last.clone()),
            }
        })
    };
    let begin = tokio::time::Instant::now();
    let ended = job_info("concluded", None);
    let (client, _control) = connect(monitor("running", "concluded", ended)).await;
    let end = client.job("j").wait_end().await.unwrap();
    assert_eq!(end, JobOutcome::Completed);
    let (client, _control) = connect(monitor("pending", "null", json!([]))).await;
    client.job("j").wait_status("null").await.unwrap();
    let (client, _control) = connect(monitor("running", "ready", job_info("ready", None))).await;
    client.job("j").wait_ready().await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

/// An answer about a job that is dismissed right after it, and the next job of the same name, whose
/// first event comes with that answer.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_job_is_not_taken_for_that_of_the_next_one_of_its_name() {
    for wait_end in [true, false] {
        let asked = AtomicUsize::new(0);
        let monitor = Monitor::new().on("query-jobs", move |_| {
            let change = |status| event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}));
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => Answer::value(job_info("concluded", Some("of the first")))
                    .event(change("null"))
                    .event(change("created")),
                1 => Answer::value(job_info("running", None)),
                _ => Answer::value(job_info("concluded", None)),
            }
        });
        let (client, _control) = connect(monitor).await;
        let mut job = client.job("j");
        if wait_end {
            assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Completed);
        } else {
            job.wait_status("running").await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_answer_about_jobs_that_is_not_understood_is_not_taken_for_none() {
    for answer in [json!({}), json!([{"id": "j", "status": 5}])] {
        let monitor = Monitor::new().on("query-jobs", move |_| Answer::value(answer.clone()));
        let (client, _control) = connect(monitor).await;
        let error = client.job("j").wait_end().await.unwrap_err();
        assert!(matches!(error, Error::Reply { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_dismissed_itself_is_known_from_its_events() {
    let (client, control) = connect(job_monitor(&["gone"])).await;
    let mut job = client.job("j");
    control.event(event(
        "JOB_STATUS_CHANGE",
        json!({"id": "j", "status": "created"}),
    ));
    control.event(event(
        "BLOCK_JOB_COMPLETED",
        json!({"device": "j", "error": "disk full"}),
    ));
    control.event(event("BLOCK_JOB_COMPLETED", json!({"device": "other"})));
    control.event(event(
        "JOB_STATUS_CHANGE",
        json!({"id": "j", "status": "null"}),
    ));
    cache(&client).wait(Matcher::any().data(json!({"status": "null"}))).await.unwrap();
    assert_eq!(
        job.wait_end().await.unwrap(),
        JobOutcome::Failed("disk full".into())
    );
}

/// The last event of a job that dismissed itself may be lost, and it may have been cancelled,
/// whoever dismisses it.
#[tokio::test(start_paused = true)]
async fn the_outcome_does_not_depend_on_who_dismissed_the_job_and_is_never_guessed() {
    let change = |status: &str| event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}));
    let changes = |statuses: &[&str]| statuses.iter().map(|s| change(s)).collect::<Vec<_>>();
    let cancelled = event("BLOCK_JOB_CANCELLED", json!({"device": "j"}));
    let failed = event(
        "BLOCK_JOB_COMPLETED",
        json!({"device": "j", "error": "disk full"}),
    );
    let gone: &[&str] = &["gone"];
    for (statuses, events, want) in [
        (&["cancelled"][..], vec![], JobOutcome::Cancelled),
        (
            gone,
            [
                changes(&["created", "aborting"]),
                vec![cancelled],
                changes(&["concluded", "null"]),
            ]
            .concat(),
            JobOutcome::Cancelled,
        ),
        (
            gone,
            [
                changes(&["created", "aborting"]),
                vec![failed],
                changes(&["concluded", "null"]),
            ]
            .concat(),
            JobOutcome::Failed("disk full".into()),
        ),
        (
            gone,
            changes(&["created", "running", "pending", "concluded", "null"]),
            JobOutcome::Completed,
        ),
        (gone, changes(&["created", "running"]), JobOutcome::Unknown),
        (
            gone,
            changes(&["created", "running", "aborting", "concluded", "null"]),
            JobOutcome::Unknown,
        ),
        // The end is that of the job before.
        (
            gone,
            [
                changes(&["created", "aborting"]),
                vec![event(
                    "BLOCK_JOB_COMPLETED",
                    json!({"device": "j", "error": "disk full"}),
                )],
                changes(&["concluded", "null", "created", "running"]),
            ]
            .concat(),
            JobOutcome::Unknown,
        ),
        // The error is not in the words that are known, but an event has said it.
        (
            &["failed"],
            vec![event("BLOCK_JOB_CANCELLED", json!({"device": "j"}))],
            JobOutcome::Cancelled,
        ),
        // It was there when it was asked for, and then it was gone.
        (&["running", "gone"], vec![], JobOutcome::Unknown),
        (
            &["failed", "gone"],
            vec![],
            JobOutcome::Failed("disk full".into()),
        ),
    ] {
        let (client, control) = connect(job_monitor_of(statuses.to_vec())).await;
        let mut job = client.job("j");
        let mut seen = client.subscribe("LAST");
        events.iter().for_each(|event| control.event(event.clone()));
        control.event(qmp::Event::new("LAST"));
        seen.recv().await.unwrap();
        for _ in 0..2 {
            assert_eq!(
                job.wait_end().await.unwrap(),
                want,
                "{statuses:?} {events:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_were_lost_leave_the_outcome_of_a_job_open() {
    let change = |status: &str| event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}));
    let options = Options::default().event_capacity(1);
    let (client, control) = connect_with(job_monitor(&["gone"]), options).await;
    let mut job = client.job("j");
    let mut seen = client.subscribe("LAST");
    for status in ["created", "aborting", "concluded"] {
        control.event(change(status));
    }
    control.event(qmp::Event::new("LAST"));
    seen.recv().await.unwrap();
    assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Unknown);
}

/// Sends events, and waits until they have come.
async fn happens(client: &qmp::Client, control: &Control, events: &[qmp::Event]) {
    let mut seen = client.subscribe("LAST");
    events.iter().for_each(|event| control.event(event.clone()));
    control.event(qmp::Event::new("LAST"));
    seen.recv().await.unwrap();
}

/// A job that was on its course may have failed since, if an event is missing.
#[tokio::test(start_paused = true)]
async fn a_course_that_was_heard_of_before_events_were_lost_proves_nothing() {
    let change = |status: &str| event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}));
    let options = Options::default().event_capacity(2);
    let (client, control) = connect_with(job_monitor(&["gone"]), options).await;
    let mut job = client.job("j");
    let lost = ["created", "running", "aborting"].map(change);
    happens(&client, &control, &lost).await;
    assert!(job.info().await.unwrap().is_none());
    happens(&client, &control, &["concluded", "null"].map(change)).await;
    assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_from_asking_and_what_events_say_make_up_the_outcome() {
    let change = |status: &str| event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}));
    for (asked, outcome) in [
        ("running", JobOutcome::Completed),
        ("aborting", JobOutcome::Unknown),
    ] {
        let (client, control) = connect(job_monitor_of(vec![asked, "gone"])).await;
        let mut job = client.job("j");
        assert_eq!(job.status().await.unwrap(), JobStatus::from(asked));
        happens(&client, &control, &["concluded", "null"].map(change)).await;
        assert_eq!(job.wait_end().await.unwrap(), outcome);
    }
    // An event that wakes a wait counts.
    let (client, control) = connect(job_monitor(&["running", "gone"])).await;
    let mut job = client.job("j");
    let waiting = tokio::spawn(async move { job.wait_end().await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    control.event(event(
        "BLOCK_JOB_COMPLETED",
        json!({"device": "j", "error": "disk full"}),
    ));
    assert_eq!(
        waiting.await.unwrap().unwrap(),
        JobOutcome::Failed("disk full".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_job_has_its_own_timeout_and_not_that_of_a_call() {
    const HOURS: &[&str] = &["running"; 7200];
    let statuses = [HOURS, &["ready", "concluded"]].concat();
    let options = Options::default().call_deadline(Duration::from_secs(1));
    let (client, _control) = connect_with(job_monitor_of(statuses.clone()), options).await;
    let mut job = client.job("j");
    job.wait_ready().await.unwrap();
    assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Completed);

    let (client, _control) = connect(job_monitor_of(statuses)).await;
    let mut job = client.job("j").timeout(Duration::from_secs(60));
    let error = job.wait_ready().await.unwrap_err();
    assert_eq!(error.to_string(), "failed to see job j ready within 60s");
    let error = job.wait_completed().await.unwrap_err();
    assert_eq!(error.to_string(), "failed to see job j end within 60s");
}

#[tokio::test(start_paused = true)]
async fn the_progress_of_a_job_is_reported_until_it_ends() {
    let (client, _control) = connect(job_monitor(&["running", "ready", "concluded"])).await;
    let mut job = client.job("j");
    let mut progress = job.progress(Duration::from_millis(100));
    let mut seen = Vec::new();
    let began = tokio::time::Instant::now();
    while let Some(info) = progress.next().await.unwrap() {
        seen.push(info.status);
    }
    assert_eq!(
        seen,
        [JobStatus::Running, JobStatus::Ready, JobStatus::Concluded]
    );
    assert_eq!(began.elapsed(), Duration::from_millis(200));
    assert!(progress.next().await.unwrap().is_none());
    drop(progress);
    assert_eq!(job.status().await.unwrap(), JobStatus::Concluded);
    let (client, control) = connect(job_monitor(&["running"])).await;
    let mut job = client.job("j");
    let mut progress = job.progress(Duration::from_secs(1));
    progress.next().await.unwrap();
    control.close();
    assert!(progress.next().await.unwrap_err().is_closed());
    assert!(progress.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ends_otherwise_than_awaited_is_an_error_with_its_outcome() {
    let (client, _control) = connect(job_monitor(&["running", "failed"])).await;
    let error = client.job("j").wait_completed().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to see job j completed: it failed: disk full"
    );
    let Error::Job(error) = error else {
        panic!("{error:?}")
    };
    assert!(matches!(
        *error,
        JobError::Ended {
            outcome: JobOutcome::Failed(_),
            ..
        }
    ));
}
