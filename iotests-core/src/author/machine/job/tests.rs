//! Jobs of a simulated QEMU, in situations that occur in a real one only by chance.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use qmp::mock::{Answer, Control, Monitor as Mock, Request};
use serde_json::{Value, json};

use super::{Job, Outcome};
use crate::author::mocked;

fn event(name: &str, data: Value) -> qmp::Event {
    let data = data.as_object().cloned().unwrap_or_default();
    qmp::Event::new(name).with_data(data)
}

fn status(status: &str) -> qmp::Event {
    event("JOB_STATUS_CHANGE", json!({"id": "j", "status": status}))
}

/// A QEMU with a job `j` that has just started, manual or not.
async fn started(qemu: Mock, automatic: bool) -> (Job, Control) {
    let (monitor, qemu) = mocked::monitor(qemu).await;
    let job = Job::follow(
        &monitor,
        "j".to_owned(),
        (automatic, automatic),
        std::panic::Location::caller(),
    );
    qemu.event(status("created"));
    qemu.event(status("running"));
    (job, qemu)
}

/// A job as QEMU reports it, with the members that are always present.
fn with_all_members(state: &Value) -> Value {
    let mut job = json!({"type": "backup", "current-progress": 0, "total-progress": 0});
    if let (Some(job), Some(state)) = (job.as_object_mut(), state.as_object()) {
        job.extend(state.clone());
    }
    job
}

/// `query-jobs` answers with each of these in turn, then keeps repeating the last; `null` for no
/// job.
fn jobs(states: &[Value]) -> Mock {
    let states: Vec<Value> = states
        .iter()
        .map(|state| match state {
            Value::Null => json!([]),
            state => json!([with_all_members(state)]),
        })
        .collect();
    let asked = AtomicUsize::new(0);
    Mock::new().on("query-jobs", move |_| {
        let at = asked.fetch_add(1, Ordering::Relaxed);
        Answer::value(states[at.min(states.len() - 1)].clone())
    })
}

fn completed(offset: u64, len: u64) -> qmp::Event {
    let data = json!({"device": "j", "type": "backup", "offset": offset, "len": len, "speed": 0});
    event("BLOCK_JOB_COMPLETED", data)
}

/// H34: a job that ends without an error, but before its work is done, has not completed. One that
/// did more than it had to has counted wrong.
#[tokio::test(start_paused = true)]
async fn a_job_whose_work_is_not_its_total_has_not_completed() {
    for (offset, error) in [
        (4096, None),
        (1024, Some("left work undone")),
        (5120, Some("did more than its total")),
    ] {
        let (job, qemu) = started(jobs(&[Value::Null]), true).await;
        qemu.event(completed(offset, 4096));
        qemu.event(status("null"));
        let ended = job.wait().await;
        assert_eq!(ended.is_ok(), error.is_none(), "{ended:?}");
        if let (Err(failure), Some(error)) = (ended, error) {
            assert!(failure.message().contains(error), "{failure}");
        }
        let (job, qemu) = started(jobs(&[Value::Null]), true).await;
        qemu.event(completed(offset, 4096));
        qemu.event(status("null"));
        assert_eq!(
            job.wait().outcome().await.unwrap().outcome,
            Outcome::Completed
        );
    }
}

/// A QEMU whose job `j` is ready and ends on request, and the requests that it got.
fn obedient() -> (Mock, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    let note = move |request: &Request| {
        let name = request.name.clone();
        kept.lock().unwrap().push(name.clone());
        let answer = Answer::empty();
        match name.as_str() {
            "job-complete" => answer.event(status("waiting")).event(status("pending")),
            "job-finalize" => answer.event(completed(1, 1)).event(status("concluded")),
            _ => answer.event(status("null")),
        }
    };
    let note = Arc::new(note);
    let mut qemu = jobs(&[json!({"id": "j", "status": "ready"})]);
    for name in ["job-complete", "job-finalize", "job-dismiss"] {
        let note = note.clone();
        qemu = qemu.on(name, move |request| note(request));
    }
    (qemu, asked)
}

/// H36: a job that the case has already seen become ready can be run to its end like any other.
#[tokio::test(start_paused = true)]
async fn a_job_that_was_awaited_until_it_is_ready_is_seen_through() {
    for wait_first in [true, false] {
        let (qemu, asked) = obedient();
        let (mut job, qemu) = started(qemu, false).await;
        qemu.event(status("ready"));
        if wait_first {
            job.wait_ready().await.unwrap();
        }
        job.run().await.unwrap();
        let asked = asked.lock().unwrap();
        assert_eq!(*asked, ["job-complete", "job-finalize", "job-dismiss"]);
    }
}

/// A job that failed is not dismissed as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn dismissing_a_job_that_failed_tells_its_error() {
    for error in [None, Some("No space left on device")] {
        let mut concluded = json!({"id": "j", "status": "concluded"});
        if let Some(error) = error {
            concluded["error"] = error.into();
        }
        let qemu = jobs(&[concluded]).on("job-dismiss", |_| Answer::empty());
        let (job, qemu) = started(qemu, false).await;
        let dismissed = job.dismiss().await.map(drop);
        let asked = dismissed.map_err(|failure| failure.message().contains(error.unwrap_or("?")));
        assert_eq!(asked, error.map_or(Ok(()), |_| Err(true)));
        assert_eq!(qemu.requests().last().unwrap().name, "job-dismiss");
    }
}
