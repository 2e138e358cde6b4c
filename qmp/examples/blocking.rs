//! A program without async: commands, an event, and a job.
//!
//! `cargo run --example blocking [qemu-storage-daemon]`

mod support;

use std::error::Error;
use std::process::Stdio;

use qmp::types::{BlockdevCreate, BlockdevCreateOptions, BlockdevCreateOptionsFile};
use qmp::{Matcher, Options, blocking};
use serde_json::json;

#[allow(dead_code)]
fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "qemu-storage-daemon".into());
    run(&program)
}

pub(crate) fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (_qemu, socket) = support::start(program, &[], Stdio::null())?;
    let client = blocking::Client::from_fd(socket, Options::default())?;
    println!("QEMU {}", client.greeting().version);

    // By name, or typed.
    let nodes = client.execute("query-named-block-nodes", json!({"flat": true}))?;
    println!("block nodes: {nodes}");

    // Subscribe to an event before sending the command that causes it, and follow a job before it
    // starts. `wait` runs anything that the async client can do.
    let mut events = client.subscribe(Matcher::event("JOB_STATUS_CHANGE"));
    let mut job = client.as_async().job("create");
    let file = folder.path().join("disk");
    let file = BlockdevCreateOptionsFile::new(file.display().to_string(), 1_u64 << 20);
    let options = BlockdevCreateOptions::File(Box::new(file));
    client.call(BlockdevCreate::new("create", options))?;
    if let Some(event) = events.next() {
        println!("the job is {}", event?.text("status").unwrap_or("unknown"));
    }
    client.wait(job.wait_completed())?;
    client.wait(job.dismiss())?;
    println!("the file exists: {}", folder.path().join("disk").exists());

    client.quit()?;
    Ok(())
}
