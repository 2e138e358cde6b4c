//! Connects to a storage daemon, adds a node, asks about it, raw and typed, and handles an error.
//!
//! `cargo run --example connect_and_query [qemu-storage-daemon]`

mod support;

use std::error::Error;
use std::process::Stdio;

use qmp::types::{
    BlockdevAdd, BlockdevDel, BlockdevOptions, BlockdevOptionsNull, BlockdevOptionsVariant,
    QueryNamedBlockNodes,
};
use qmp::{Client, Options, Schema};
use serde_json::json;

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "qemu-storage-daemon".into());
    run(&program).await
}

pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let (_qemu, socket) = support::start(program, &[], Stdio::null())?;
    let client = Client::from_fd(socket, Options::default()).await?;
    println!(
        "QEMU {}, out of band: {}",
        client.greeting().version,
        client.oob_enabled()
    );

    // By name, with any arguments that serialize.
    client
        .execute(
            "blockdev-add",
            json!({"driver": "null-co", "node-name": "raw", "size": 4096}),
        )
        .await?;
    // The same, typed.
    let null = BlockdevOptionsVariant::NullCo(Box::new(BlockdevOptionsNull::new().size(8192)));
    let add = BlockdevAdd(BlockdevOptions::new(null).node_name("typed"));
    client.call(add).await?;

    for node in client.call(QueryNamedBlockNodes::new().flat(true)).await? {
        println!(
            "{}: {} bytes",
            node.node_name.unwrap_or_default(),
            node.image.virtual_size
        );
    }

    // An error keeps its class and description.
    if let Err(error) = client.call(BlockdevDel::new("missing")).await
        && let Some(class) = error.class()
    {
        println!("{error} (class {class})");
    }

    // What can this QEMU do?
    let schema = Schema::query(&client).await?;
    let path = "blockdev-add/arg-type/+qcow2/discard-no-unref";
    println!("{path}: {}", schema.has(path));

    client.quit().await?;
    Ok(())
}
