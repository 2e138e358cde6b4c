//! Executes a program in a guest, and reads a file there. Without a guest, against the mock.
//!
//! `cargo run --features agent,mock --example guest_exec [SOCKET]`

use std::error::Error;

use qmp::agent::{Agent, Exec};
use qmp::mock::{Answer, Monitor};
use qmp::{Client, Options};
use serde_json::json;

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(socket) => talk(Agent::connect_unix(socket, Options::default()).await?).await,
        None => run().await,
    }
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (ours, theirs) = tokio::io::duplex(4096);
    let _guest = Monitor::agent()
        .on("guest-exec", |_| Answer::value(json!({"pid": 7})))
        .on("guest-exec-status", |_| {
            Answer::value(json!({"exited": true, "exitcode": 0, "out-data": "Ni4xLjAK"}))
        })
        .on("guest-file-open", |_| Answer::value(json!(1)))
        .on("guest-file-read", |_| {
            Answer::value(json!({"count": 6, "buf-b64": "Z3Vlc3QK", "eof": true}))
        })
        .on("guest-file-close", |_| Answer::value(json!({})))
        .spawn(theirs);
    let client = Client::from_stream(ours, Options::default().guest_agent()).await?;
    talk(Agent::new(client)).await
}

async fn talk(agent: Agent) -> Result<(), Box<dyn Error>> {
    let output = agent.exec(Exec::new("uname").arg("-r")).await?;
    if !output.success() {
        return Err(format!("uname failed: {:?}", output.code).into());
    }
    print!("the kernel is {}", String::from_utf8_lossy(&output.stdout));
    let name = agent.read_file("/etc/hostname").await?;
    print!("the guest is {}", String::from_utf8_lossy(&name));
    Ok(())
}
