//! Records a session with a storage daemon, then replays it without one.
//!
//! `cargo run --example replay_transcript [qemu-storage-daemon]`

mod support;

use std::error::Error;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use qmp::mock::Replay;
use qmp::{Client, Options, transcript};
use serde_json::{Value, json};

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "qemu-storage-daemon".into());
    run(&program).await
}

pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let file = Arc::new(Mutex::new(String::new()));
    let recorder = {
        let file = Arc::clone(&file);
        move |entry: &transcript::Entry| {
            if let Ok(line) = serde_json::to_string(entry) {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.push_str(&line);
                file.push('\n');
            }
        }
    };
    let (_qemu, socket) = support::start(program, &[], Stdio::null())?;
    let client = Client::from_fd(socket, Options::default().record(recorder)).await?;
    let live = session(&client).await?;

    let text = file.lock().unwrap_or_else(PoisonError::into_inner).clone();
    print!("{text}");
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let replay = tokio::spawn(Replay::new(transcript::parse(&text)?).serve(theirs));
    let client = Client::from_stream(ours, Options::default()).await?;
    let replayed = session(&client).await?;
    replay.await??;

    println!("the replay matches: {}", live == replayed);
    if live == replayed {
        Ok(())
    } else {
        Err("the replay differs".into())
    }
}

async fn session(client: &Client) -> Result<Value, qmp::Error> {
    let node = json!({"driver": "null-co", "node-name": "n0"});
    client.execute("blockdev-add", node).await?;
    let nodes = client.execute("query-named-block-nodes", json!({"flat": true})).await?;
    client.quit().await?;
    Ok(nodes)
}
