//! Uses the crate's public face: a session with the mock, a typed command, an event.

use qmp::mock::{Answer, Monitor};
use qmp::types::QueryJobs;
use qmp::{Client, Event, Options};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), qmp::Error> {
    let (ours, theirs) = tokio::io::duplex(4096);
    let monitor = Monitor::new()
        .on("query-jobs", |_| Answer::value(json!([])).event(Event::new("STOP")))
        .spawn(theirs);
    let client = Client::from_stream(ours, Options::default()).await?;
    let (jobs, event) = client.call(QueryJobs::new()).and_event("STOP").await?;
    assert!(jobs.is_empty());
    assert_eq!(event.name, "STOP");
    assert_eq!(monitor.requests().len(), 1);
    client.quit().await
}
