//! Tests a program that speaks QMP without QEMU: the mock monitor negotiates and queues as QEMU
//! does, and answers as the test specifies.
//!
//! `cargo run --features mock --example mock_monitor`

use std::error::Error;

use qmp::mock::{Answer, Monitor};
use qmp::{Client, Event, Options};
use serde_json::json;

/// The code under test: stops the guest if it is running, and returns whether it did.
async fn stop(client: &Client) -> Result<bool, qmp::Error> {
    let status = client.execute("query-status", ()).await?;
    if status["running"] != true {
        return Ok(false);
    }
    client.execute("stop", ()).and_event("STOP").await?;
    Ok(true)
}

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // A running guest.
    let (ours, theirs) = tokio::io::duplex(4096);
    let monitor = Monitor::new()
        .on("query-status", |_| Answer::value(json!({"running": true})))
        .on("stop", |_| Answer::empty().event(Event::new("STOP")))
        .spawn(theirs);
    let client = Client::from_stream(ours, Options::default()).await?;
    assert!(stop(&client).await?);
    for request in monitor.requests() {
        println!("it was asked to execute {}", request.name);
    }

    // One that QEMU refuses to stop.
    let (ours, theirs) = tokio::io::duplex(4096);
    let _monitor = Monitor::new()
        .on("query-status", |_| Answer::value(json!({"running": true})))
        .on("stop", |_| {
            Answer::error("Guest is waiting for an incoming migration")
        })
        .spawn(theirs);
    let client = Client::from_stream(ours, Options::default()).await?;
    match stop(&client).await {
        Err(error) if error.command().is_some() => println!("refused: {}", error.report()),
        other => return Err(format!("expected a refusal, got {other:?}").into()),
    }
    Ok(())
}
